"""Delivery to rule targets: permission, retries, dead-letter queue.

AWS starts a state machine with the target's role and needs the resource policy of a function,
queue or topic. What it cannot deliver for lack of permission, or because the target is gone, goes
to the target's dead-letter queue at once; throttling and server errors are retried under the
target's RetryPolicy first. The message is the event as it came in, with the reason in its
attributes; a queue whose policy does not let the rule send is not written to. MiniStack checks
nothing and drops what it cannot deliver.

https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-event-delivery.html
"""

import contextvars
import json
import logging
import random
import threading
import time

from ministack.core.arn import ArnParseError, parse_arn
from ministack.services import eventbridge, lambda_svc, sns, sqs
from ministack.services import stepfunctions as sfn

from . import authority, seam

SERVICE = "events.amazonaws.com"
DEFAULT_RETRIES = 185
DEFAULT_AGE_SECONDS = 24 * 60 * 60
FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 300.0
RETRIABLE = {
    "InternalException",
    "ServiceUnavailable",
    "ThrottlingException",
    "TooManyRequestsException",
}

logger = logging.getLogger("events")


class Undeliverable(Exception):
    def __init__(self, code, message, retriable=False):
        super().__init__(message)
        self.code = code
        self.message = message
        self.retriable = retriable


def apply(settings):
    @seam.around(eventbridge, "_invoke_target", "550e304af080")
    def invoke_target(original, target, event, rule, view=None):
        view = view or eventbridge._pattern_event_view(event)
        Delivery(original, target, event, rule, view).attempt()

    @seam.around(eventbridge, "_dispatch_to_stepfunctions", "d36195e1c480")
    def dispatch_to_stepfunctions(original, arn, payload):
        status, _, body = sfn._start_execution({"stateMachineArn": arn, "input": payload})
        if status >= 400:
            error = json.loads(body)
            code = error.get("__type", "").rsplit("#", 1)[-1]
            retriable = status >= 500 or code in RETRIABLE
            # MiniStack's dispatcher swallows exceptions, so the failure is left for Delivery.
            _failure.set(Undeliverable(code, error.get("message", ""), retriable))

    @seam.around(eventbridge, "_dispatch_to_lambda", "1f95adbaed3a")
    def dispatch_to_lambda(original, arn, payload):
        """Invoke asynchronously, which includes Lambda's own retries and failure destination."""
        function, config, _ = lambda_svc._get_func_record_for_ref(arn)
        record = lambda_svc._execution_record_for_config(function, config)
        lambda_svc.invoke_async_with_retry(record, json.loads(payload))


_failure = contextvars.ContextVar("local_events_failure", default=None)


class Delivery:
    """One event on its way to one target."""

    def __init__(self, send, target, event, rule, view):
        self.send = send
        self.target = target
        self.event = event
        self.rule = rule
        self.view = view
        policy = target.get("RetryPolicy") or {}
        self.retries_allowed = int(policy.get("MaximumRetryAttempts", DEFAULT_RETRIES))
        age = int(policy.get("MaximumEventAgeInSeconds", DEFAULT_AGE_SECONDS))
        self.deadline = time.monotonic() + age
        self.retries = 0

    def attempt(self):
        try:
            self.check()
            _failure.set(None)
            self.send(self.target, self.event, self.rule, self.view)
            failure = _failure.get()
        except Undeliverable as undeliverable:
            failure = undeliverable
        if failure is None:
            return
        exhausted = self.exhausted(failure)
        if exhausted is not None:
            self.give_up(failure, exhausted)
            return
        delay = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2**self.retries)
        self.retries += 1
        again = contextvars.copy_context()
        timer = threading.Timer(random.uniform(0, delay), again.run, (self.attempt,))
        timer.daemon = True
        timer.start()

    def exhausted(self, failure):
        """Why there is no further attempt, or None. Empty: none was ever due."""
        if not failure.retriable:
            return ""
        if self.retries >= self.retries_allowed:
            return "MaximumRetryAttempts"
        return "MaximumEventAgeInSeconds" if time.monotonic() >= self.deadline else None

    def check(self):
        arn = self.target.get("Arn", "")
        try:
            kind = parse_arn(arn).service
        except ArnParseError as malformed:
            raise Undeliverable("INVALID_PARAMETER", str(malformed)) from malformed
        source = self.rule.get("Arn", "")
        if kind == "states":
            machine = sfn._resolve_state_machine_arn(arn)
            exists(machine, f"State Machine Does Not Exist: '{arn}'")
            self.require("states:StartExecution", arn)
        elif kind == "events" and self.target.get("RoleArn"):
            self.require("events:PutEvents", arn)
        elif kind == "lambda":
            exists(lambda_svc._get_func_record_for_ref(arn)[0], f"Function not found: {arn}")
            permits(authority.function_lets(arn, SERVICE, source), "lambda:InvokeFunction", arn)
        elif kind == "sqs":
            exists(sqs._queue_by_arn(arn), f"The queue {arn} does not exist")
            permits(queue_lets(arn, source), "sqs:SendMessage", arn)
        elif kind == "sns":
            exists(sns._topics.get(arn), f"Topic does not exist: {arn}")
            permits(
                sns.topic_policy_allows(arn, SERVICE, source, _account(source)),
                "sns:Publish",
                arn,
            )

    def require(self, action, resource):
        try:
            role, source = self.target.get("RoleArn", ""), self.rule.get("Arn", "")
            authority.assume(role, SERVICE, source).require(action, resource)
        except authority.Refused as refused:
            raise Undeliverable("NO_PERMISSIONS", str(refused)) from refused

    def give_up(self, failure, exhausted):
        queue = (self.target.get("DeadLetterConfig") or {}).get("Arn")
        source = self.rule.get("Arn", "")
        if not queue or not sqs._queue_by_arn(queue) or not queue_lets(queue, source):
            logger.warning("event dropped for %s: %s", self.target.get("Arn"), failure.message)
            return
        attributes = {
            "RULE_ARN": source,
            "TARGET_ARN": self.target.get("Arn", ""),
            "ERROR_CODE": failure.code,
            "ERROR_MESSAGE": failure.message,
            "RETRY_ATTEMPTS": str(self.retries),
            "EXHAUSTED_RETRY_CONDITION": exhausted,
        }
        message = {
            "MessageBody": json.dumps(self.view.event_with_detail()),
            "MessageAttributes": {
                name: {"DataType": "String", "StringValue": value}
                for name, value in attributes.items()
                if value
            },
        }
        send_as_service(queue, message)


def exists(found, otherwise):
    if not found:
        raise Undeliverable("RESOURCE_NOT_FOUND", otherwise)


def permits(allowed, action, resource):
    if not allowed:
        message = f"{SERVICE} is not authorized to perform: {action} on resource: {resource}"
        raise Undeliverable("NO_PERMISSIONS", message)


def queue_lets(queue_arn, source_arn):
    return sqs.queue_policy_allows(queue_arn, SERVICE, source_arn, _account(source_arn))


def send_as_service(queue_arn, message):
    """Send, leaving the caller of PutEvents out of it: the queue's policy was asked about us."""
    url = sqs._queue_url(parse_arn(queue_arn).resource)
    authority.detached(lambda: sqs._act_send_message({**message, "QueueUrl": url}, url))


def _account(arn):
    return arn.split(":")[4] if arn.count(":") >= 5 else ""
