"""What Step Functions enforces on AWS: the role, the machine's timeout, the execution's name.

- Every task runs under the state machine's role. A refused `lambda:invoke` is
  `Lambda.AWSLambdaException`, as on AWS; a refused SDK integration is what that service answers.
- `TimeoutSeconds` of the machine ends the execution as TIMED_OUT, and an execution that has ended
  (timed out or stopped) starts no further attempt, has no further step in its history and does not
  change its status again.
- `StartExecution` with the name and input of a running execution returns that execution.
- A throttled function is `Lambda.TooManyRequestsException`, not `Lambda.Unknown`.
- A nested execution that fails is `States.TaskFailed` to the one that waits for it, with the nested
  execution's description as the cause, not the nested execution's own error.
"""

import contextlib
import contextvars
import json
import re
import threading

from ministack import app
from ministack.core.responses import get_account_id, get_region, json_response, new_uuid, now_iso
from ministack.services import stepfunctions as sfn

from . import authority, seam

SERVICE = "states.amazonaws.com"

_current = contextvars.ContextVar("local_sfn_run", default=None)
_runs = {}
# Reentrant: a start is itself an event, and a rule may answer it by starting another machine.
_starting = threading.RLock()


class Run:
    """One execution while it runs."""

    def __init__(self, execution, machine):
        self.execution = execution
        self.role_arn = machine["roleArn"]
        self.ended = threading.Event()

    def require(self, needs):
        session = self.session()
        for action, resource in needs:
            session.require(action, resource)

    def session(self):
        return authority.assume(self.role_arn, SERVICE, self.execution["stateMachineArn"])

    def stop_if_ended(self):
        if self.execution["status"] != "RUNNING":
            raise Ended


class Ended(BaseException):
    """Unwinds an execution that has already ended; not an error that a state could catch."""


def apply(settings):
    _run_under_role_and_timeout()
    _authorize_tasks()
    _name_executions_once()
    _name_throttling()
    _name_nested_failures()


def _run_under_role_and_timeout():
    @seam.around(sfn, "_run_execution", "996dff84e0e0")
    def run_execution(original, arn):
        execution = sfn._executions.get(arn)
        machine = execution and sfn._state_machines.get(execution["stateMachineArn"])
        if not machine:
            return original(arn)
        run = _runs[arn] = Run(execution, machine)
        token = _current.set(run)
        clock = _timeout_clock(run, machine)
        try:
            return original(arn)
        except Ended:
            return None
        finally:
            clock.cancel()
            _current.reset(token)
            _runs.pop(arn, None)

    @seam.around(sfn, "_add_event", "b1db143ccd21")
    def add_event(original, execution, event_type, details=None):
        run = _current.get()
        if run and run.execution is execution and not event_type.startswith("Execution"):
            run.stop_if_ended()
        return original(execution, event_type, details)

    @seam.around(sfn, "_fail_execution", "e6da895fa0b7")
    def fail_execution(original, execution, error, cause):
        if execution["status"] == "RUNNING":
            original(execution, error, cause)

    @seam.around(sfn, "_stop_execution", "44d2d84ccd5c")
    def stop_execution(original, data):
        response = original(data)
        run = _runs.get(data.get("executionArn"))
        if run and run.execution["status"] != "RUNNING":
            run.ended.set()
        return response

    @seam.around(sfn, "_scaled_sleep", "5ed19df2efa9")
    def scaled_sleep(original, seconds):
        run = _current.get()
        if run is None:
            return original(seconds)
        if run.ended.wait(max(0.0, seconds * sfn._SFN_WAIT_SCALE)):
            raise Ended
        return None


def _timeout_clock(run, machine):
    try:
        seconds = json.loads(machine["definition"]).get("TimeoutSeconds")
    except ValueError:
        seconds = None  # MiniStack ends the execution with its own error.

    def expire():
        execution = run.execution
        if execution["status"] != "RUNNING":
            return
        execution.update(status="TIMED_OUT", stopDate=now_iso(), error="States.Timeout")
        details = {"error": "States.Timeout"}
        sfn._add_event(execution, "ExecutionTimedOut", {"executionTimedOutEventDetails": details})
        sfn._emit_execution_status_event(execution)
        run.ended.set()

    # The event goes out for the account and region of the execution.
    scope = contextvars.copy_context()
    clock = threading.Timer((seconds or 0) * sfn._SFN_WAIT_SCALE, scope.run, (expire,))
    clock.daemon = True
    if seconds:
        clock.start()
    return clock


def _authorize_tasks():
    @seam.around(sfn, "_invoke_resource", "a85d2be9a858")
    def invoke_resource(original, resource, data):
        with _authorized(resource, data):
            return original(resource, data)

    @seam.around(sfn, "_invoke_with_callback", "bbb38423156a")
    def invoke_with_callback(original, resource, data, token, state):
        with _authorized(resource, data):
            return original(resource, data, token, state)

    # The only way the SDK integrations take to a service. They bring the whole wire request, so
    # it goes through the front door, under the role, and MiniStack's own rules decide.
    @seam.around(app, "call_service_handler_sync", "64e0d7e63500")
    def call_service_handler_sync(
        original, handler, method, path, headers, body, query, timeout=None
    ):
        run = _current.get()
        if run is None or not app.AUTH:
            return original(handler, method, path, headers, body, query, timeout)
        try:
            key = run.session().access_key
        except authority.Refused as refused:
            raise sfn._ExecutionError("States.Runtime", str(refused)) from refused
        signed = re.sub(r"Credential=[^/]+", f"Credential={key}", headers["authorization"])

        async def front_door(*request):
            return await app._dispatch_service_request(*request, new_uuid())

        headers = {**headers, "authorization": signed}
        return original(front_door, method, path, headers, body, query, timeout)


@contextlib.contextmanager
def _authorized(resource, data):
    run = _current.get()
    if run is not None:
        run.stop_if_ended()
        try:
            run.require(needed(resource, data if isinstance(data, dict) else {}))
        except authority.Refused as refused:
            raise sfn._ExecutionError(refused_error(resource), str(refused)) from refused
    yield


def needed(resource, data):
    """The permissions an integration needs besides those its own wire request is checked for.

    https://docs.aws.amazon.com/step-functions/latest/dg/service-integration-iam-templates.html
    """
    if ":function:" in resource:
        return [("lambda:InvokeFunction", resource)]
    integration = resource.split(":::", 1)[-1].split(".")[0]
    if integration == "lambda:invoke":
        return [("lambda:InvokeFunction", _arn("lambda", "function:", data.get("FunctionName")))]
    if integration == "sqs:sendMessage":
        queue = str(data.get("QueueUrl", "")).rsplit("/", 1)[-1]
        return [("sqs:SendMessage", _arn("sqs", "", queue))]
    if integration == "sns:publish":
        return [("sns:Publish", data.get("TopicArn") or data.get("TargetArn") or "*")]
    if integration == "events:putEvents":
        buses = {entry.get("EventBusName", "default") for entry in data.get("Entries", [])}
        return [("events:PutEvents", _arn("events", "event-bus/", bus)) for bus in buses]
    if integration.startswith("dynamodb:"):
        operation = integration.removeprefix("dynamodb:")
        action = f"dynamodb:{operation[:1].upper()}{operation[1:]}"
        return [(action, _arn("dynamodb", "table/", data.get("TableName")))]
    if integration == "states:startExecution":
        machine = data.get("StateMachineArn", "")
        if ".sync" not in resource:
            return [("states:StartExecution", machine)]
        rule = "rule/StepFunctionsGetEventsForStepFunctionsExecutionRule"
        return [
            ("states:StartExecution", machine),
            ("states:DescribeExecution", machine.replace(":stateMachine:", ":execution:") + ":*"),
            ("events:PutTargets", _arn("events", "", rule)),
            ("events:PutRule", _arn("events", "", rule)),
        ]
    return []


def _arn(service, prefix, name):
    name = str(name or "")
    if name.startswith("arn:"):
        return name
    return f"arn:aws:{service}:{get_region()}:{get_account_id()}:{prefix}{name}"


def refused_error(resource):
    """The error name a refused integration ends with."""
    if ":function:" in resource or "lambda:invoke" in resource:
        return "Lambda.AWSLambdaException"
    names = {
        "sqs:": "SQS.AmazonSQSException",
        "sns:": "SNS.AuthorizationErrorException",
        "dynamodb:": "DynamoDB.AmazonDynamoDBException",
        "events:": "EventBridge.AWSEventBridgeException",
        "states:": "StepFunctions.AWSStepFunctionsException",
    }
    integration = resource.split(":::", 1)[-1]
    return next(
        (name for prefix, name in names.items() if integration.startswith(prefix)),
        "States.TaskFailed",
    )


def _name_executions_once():
    @seam.around(sfn, "_start_execution", "9923282fc76c")
    def start_execution(original, data):
        # One at a time: of two calls with one name the second must find the first.
        with _starting:
            running = _running_twin(data)
            if running:
                return json_response(
                    {
                        "executionArn": running["executionArn"],
                        "startDate": running["startDate"],
                    }
                )
            return original(data)


def _running_twin(data):
    if not data.get("name"):
        return None
    arn = sfn._resolve_state_machine_arn(data.get("stateMachineArn", ""))
    machine = arn and sfn._state_machines.get(arn)
    if not machine or machine.get("type") == "EXPRESS":
        return None
    execution = sfn._executions.get(
        f"{arn.replace(':stateMachine:', ':execution:')}:{data['name']}"
    )
    same = (
        execution
        and execution["status"] == "RUNNING"
        and execution["input"] == data.get("input", "{}")
    )
    return execution if same else None


def _name_throttling():
    @seam.around(sfn, "_call_lambda", "25830369b126")
    def call_lambda(original, function, event):
        try:
            return original(function, event)
        except sfn._ExecutionError as error:
            if error.error == "Lambda.Unknown" and "ConcurrentInvocationLimit" in error.cause:
                throttled = "Lambda.TooManyRequestsException"
                raise sfn._ExecutionError(throttled, error.cause) from error
            raise


def _name_nested_failures():
    @seam.around(sfn, "_nested_execution_failure", "aa53a760707b")
    def nested_execution_failure(original, payload):
        arn = payload.get("executionArn", "")
        ended = sfn._executions.get(arn) or {}
        described = {
            "Cause": ended.get("cause"),
            "Error": ended.get("error"),
            "ExecutionArn": arn,
            "Input": payload.get("input"),
            "InputDetails": {"Included": True},
            "Name": payload.get("name"),
            "StartDate": payload.get("startDate"),
            "StateMachineArn": payload.get("stateMachineArn"),
            "Status": payload.get("status"),
            "StopDate": payload.get("stopDate"),
        }
        described = {name: value for name, value in described.items() if value is not None}
        return "States.TaskFailed", json.dumps(described)
