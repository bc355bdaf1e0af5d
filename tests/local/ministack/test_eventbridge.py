"""Where an event goes that a rule's target does not get."""

import json
import threading
from types import SimpleNamespace

import pytest

from support import allow, eventually


@pytest.fixture
def machine(aws):
    return aws.machine({"Only": {"Type": "Succeed"}})


def executions(aws, machine):
    return aws.stepfunctions.list_executions(stateMachineArn=machine)["executions"]


def attributes(message):
    return {name: a["StringValue"] for name, a in message["MessageAttributes"].items()}


def test_a_target_with_a_role_that_may_start_it_gets_the_event(aws, machine):
    role = aws.role("events.amazonaws.com", allow("states:StartExecution", resource=machine))
    aws.rule({"Arn": machine, "RoleArn": role})(a=1)
    execution = eventually(lambda: executions(aws, machine), "an execution")[0]
    described = aws.stepfunctions.describe_execution(executionArn=execution["executionArn"])
    assert json.loads(described["input"])["detail"] == {"a": 1}


@pytest.mark.parametrize(
    ("service", "permissions"),
    [
        ("events.amazonaws.com", []),
        ("lambda.amazonaws.com", [allow("states:StartExecution")]),
    ],
    ids=["a role without permission", "a role that EventBridge may not assume"],
)
def test_what_the_role_forbids_goes_to_the_dead_letter_queue(aws, machine, service, permissions):
    url, queue = aws.queue()
    target = {"Arn": machine, "DeadLetterConfig": {"Arn": queue}}
    put = aws.rule({**target, "RoleArn": aws.role(service, *permissions)})
    put(a=1)
    message = aws.message(url)
    event = json.loads(message["Body"])
    assert (event["detail-type"], event["detail"]) == ("Test", {"a": 1})
    found = attributes(message)
    assert found["ERROR_CODE"] == "NO_PERMISSIONS"
    assert found["RULE_ARN"] == put.rule_arn
    assert found["TARGET_ARN"] == machine
    assert found["RETRY_ATTEMPTS"] == "0"
    assert executions(aws, machine) == []


def test_a_role_that_trusts_only_another_rule_starts_nothing(aws, machine):
    url, queue = aws.queue()
    role = aws.role("events.amazonaws.com", allow("states:StartExecution"))
    put = aws.rule({"Arn": machine, "RoleArn": role, "DeadLetterConfig": {"Arn": queue}})
    for trusted, started in ((put.rule_arn + "-2", 0), (put.rule_arn, 1)):
        statement = {
            "Effect": "Allow",
            "Action": "sts:AssumeRole",
            "Principal": {"Service": "events.amazonaws.com"},
            "Condition": {"ArnEquals": {"aws:SourceArn": trusted}},
        }
        aws.iam.update_assume_role_policy(
            RoleName=role.rsplit("/", 1)[-1],
            PolicyDocument=json.dumps({"Statement": [statement]}),
        )
        put(a=1)
        assert len(executions(aws, machine)) == started
    assert attributes(aws.message(url))["ERROR_CODE"] == "NO_PERMISSIONS"


def test_the_message_is_the_event_and_not_what_the_target_would_have_got(aws, machine):
    url, queue = aws.queue()
    target = {"Arn": machine, "DeadLetterConfig": {"Arn": queue}, "Input": '{"fixed": true}'}
    aws.rule({**target, "RoleArn": aws.role("events.amazonaws.com")})(a=1)
    assert json.loads(aws.message(url)["Body"])["detail"] == {"a": 1}


def test_an_event_for_a_target_that_is_gone_goes_to_the_dead_letter_queue(aws, machine):
    url, queue = aws.queue()
    role = aws.role("events.amazonaws.com", allow("states:StartExecution"))
    target = {"Arn": machine, "RoleArn": role, "DeadLetterConfig": {"Arn": queue}}
    put = aws.rule(target)
    aws.stepfunctions.delete_state_machine(stateMachineArn=machine)
    put(a=1)
    assert attributes(aws.message(url))["ERROR_CODE"] == "RESOURCE_NOT_FOUND"


def test_a_dead_letter_queue_whose_policy_forbids_it_stays_empty(aws, machine):
    closed = {"Effect": "Deny", "Principal": "*", "Action": "sqs:SendMessage", "Resource": "*"}
    url, queue = aws.queue(closed)
    target = {"Arn": machine, "DeadLetterConfig": {"Arn": queue}}
    aws.rule({**target, "RoleArn": aws.role("events.amazonaws.com")})(a=1)
    assert "Messages" not in aws.sqs.receive_message(QueueUrl=url, WaitTimeSeconds=1)


def test_a_queue_that_refuses_plain_http_still_takes_what_a_service_sends(aws, machine):
    open_to_rules = {
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": "*",
    }
    only_tls = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "sqs:*",
        "Resource": "*",
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    url, queue = aws.queue(open_to_rules, only_tls)
    target = {"Arn": machine, "DeadLetterConfig": {"Arn": queue}}
    aws.rule({**target, "RoleArn": aws.role("events.amazonaws.com")})(a=1)
    assert aws.message(url)


def test_a_function_is_invoked_only_if_its_policy_lets_the_rule(aws):
    function = aws.function()
    group = f"/aws/lambda/{function.rsplit(':', 1)[-1]}"
    aws.logs.create_log_group(logGroupName=group)

    def invocations():
        found = aws.logs.filter_log_events(logGroupName=group, filterPattern="START")
        return len(found["events"])

    url, queue = aws.queue()
    put = aws.rule({"Arn": function, "DeadLetterConfig": {"Arn": queue}})
    put(a=1)
    assert attributes(aws.message(url))["ERROR_CODE"] == "NO_PERMISSIONS"
    assert invocations() == 0
    aws.lambda_.add_permission(
        FunctionName=function,
        StatementId="rule",
        Action="lambda:InvokeFunction",
        Principal="events.amazonaws.com",
        SourceArn=put.rule_arn,
    )
    put(a=2)
    eventually(lambda: invocations() == 1, "one invocation")


def test_a_function_that_fails_sends_the_event_to_its_own_destination(aws):
    function = aws.function(environment={"AT_START": "error"})
    url, failed = aws.queue()
    aws.lambda_.put_function_event_invoke_config(
        FunctionName=function,
        MaximumRetryAttempts=0,
        DestinationConfig={"OnFailure": {"Destination": failed}},
    )
    put = aws.rule({"Arn": function})
    aws.lambda_.add_permission(
        FunctionName=function,
        StatementId="rule",
        Action="lambda:InvokeFunction",
        Principal="events.amazonaws.com",
        SourceArn=put.rule_arn,
    )
    put(a=1)
    assert json.loads(aws.message(url)["Body"])["requestPayload"]["detail"] == {"a": 1}


@pytest.mark.parametrize(
    ("policy", "failures", "retries", "condition"),
    [
        ({"MaximumRetryAttempts": 3}, 2, 2, None),
        ({"MaximumRetryAttempts": 2}, 9, 2, "MaximumRetryAttempts"),
        ({"MaximumEventAgeInSeconds": 0}, 9, 0, "MaximumEventAgeInSeconds"),
    ],
    ids=["delivered at last", "retries ran out", "grew too old"],
)
def test_throttling_is_retried_under_the_target_s_policy(
    monkeypatch, policy, failures, retries, condition
):
    """A throttled target cannot be had from MiniStack, so this one drives the delivery itself."""
    from patches import eventbridge

    monkeypatch.setattr(eventbridge, "FIRST_DELAY_SECONDS", 0.01)
    attempts = []
    done = threading.Event()

    def send(*_):
        attempts.append(1)
        if len(attempts) <= failures:
            throttled = eventbridge.Undeliverable("ThrottlingException", "slow down", True)
            eventbridge._failure.set(throttled)
        else:
            done.set()

    given_up = []

    def give_up(self, failure, exhausted):
        given_up.append((failure.code, exhausted))
        done.set()

    monkeypatch.setattr(eventbridge.Delivery, "give_up", give_up)
    target = {"Arn": "arn:aws:firehose:us-east-1:000000000000:x", "RetryPolicy": policy}
    delivery = eventbridge.Delivery(send, target, {}, {}, SimpleNamespace())
    delivery.attempt()
    assert done.wait(5)
    assert len(attempts) == retries + 1
    assert given_up == ([("ThrottlingException", condition)] if condition else [])
