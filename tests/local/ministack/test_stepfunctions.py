"""The role of a state machine, its timeout, the names of executions."""

import json
import time

import botocore.exceptions
import pytest

from support import allow, arn, eventually


def task(resource, **arguments):
    return {
        "Only": {
            "Type": "Task",
            "Resource": f"arn:aws:states:::{resource}",
            "Arguments": arguments,
            "End": True,
        }
    }


@pytest.fixture(scope="module")
def integrations(aws):
    """Per integration: the task, the permission it needs, the error that its lack ends in."""
    function = aws.function()
    url, queue = aws.queue()
    table = aws.name("table")
    aws.dynamodb.create_table(
        TableName=table,
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    table_arn = arn("dynamodb", f"table/{table}")
    topic = aws.sns.create_topic(Name=aws.name("topic"))["TopicArn"]
    bus = aws.name("bus")
    aws.events.create_event_bus(Name=bus)
    child = aws.machine({"Only": {"Type": "Succeed"}})
    item = {"pk": {"S": "a"}}
    event = {"EventBusName": bus, "Source": "s", "DetailType": "d", "Detail": {}}
    parameter = aws.name("parameter")
    return {
        "lambda": (
            task("lambda:invoke", FunctionName=function, Payload={}),
            allow("lambda:InvokeFunction", resource=function),
            "Lambda.AWSLambdaException",
        ),
        "sqs": (
            task("sqs:sendMessage", QueueUrl=url, MessageBody={"a": 1}),
            allow("sqs:SendMessage", resource=queue),
            "SQS.AmazonSQSException",
        ),
        "sns": (
            task("sns:publish", TopicArn=topic, Message="x"),
            allow("sns:Publish", resource=topic),
            "SNS.AuthorizationErrorException",
        ),
        "dynamodb": (
            task("dynamodb:putItem", TableName=table, Item=item),
            allow("dynamodb:PutItem", resource=table_arn),
            "DynamoDB.AmazonDynamoDBException",
        ),
        "events": (
            task("events:putEvents", Entries=[event]),
            allow("events:PutEvents", resource=arn("events", f"event-bus/{bus}")),
            "EventBridge.AWSEventBridgeException",
        ),
        "startExecution": (
            task("states:startExecution", StateMachineArn=child, Input={}),
            allow("states:StartExecution", resource=child),
            "StepFunctions.AWSStepFunctionsException",
        ),
        "sdk dynamodb": (
            task("aws-sdk:dynamodb:putItem", TableName=table, Item=item),
            allow("dynamodb:PutItem", resource=table_arn),
            "DynamoDb.AccessDeniedException",
        ),
        "sdk ssm": (
            task("aws-sdk:ssm:putParameter", Name=parameter, Value="x", Type="String"),
            allow(
                "ssm:PutParameter",
                resource=arn("ssm", f"parameter/{parameter}"),
            ),
            "Ssm.AccessDeniedException",
        ),
    }


NAMES = ["lambda", "sqs", "sns", "dynamodb", "events", "startExecution", "sdk dynamodb", "sdk ssm"]


@pytest.mark.parametrize("name", NAMES)
def test_a_task_runs_under_the_role_of_its_machine(aws, integrations, name):
    states, permission, error = integrations[name]
    assert aws.run(aws.machine(states, permission))["status"] == "SUCCEEDED"
    refused = aws.run(aws.machine(states))
    assert (refused["status"], refused["error"]) == ("FAILED", error)
    assert "is not authorized to perform: " + permission["Action"][0] in refused["cause"]


def test_a_role_that_step_functions_may_not_assume_runs_no_task(aws, integrations):
    states, permission, error = integrations["lambda"]
    role = aws.role("lambda.amazonaws.com", permission)
    refused = aws.run(aws.machine(states, role=role))
    assert refused["error"] == error
    assert "states.amazonaws.com is not authorized to perform: sts:AssumeRole" in refused["cause"]


def test_a_machine_past_its_timeout_is_timed_out_and_stays_so(aws):
    function = aws.function()
    states = task(
        "lambda:invoke", FunctionName=function, Payload={"do": "fail", "type": "E", "message": ""}
    )
    retry = {"ErrorEquals": ["E"], "IntervalSeconds": 1, "MaxAttempts": 9, "BackoffRate": 1}
    states["Only"]["Retry"] = [retry]
    machine = aws.machine(states, allow("lambda:InvokeFunction"), TimeoutSeconds=1)
    execution = aws.start(machine)
    ended = aws.ended(execution)
    assert (ended["status"], ended["error"]) == ("TIMED_OUT", "States.Timeout")

    def history():
        events = aws.stepfunctions.get_execution_history(executionArn=execution)["events"]
        return [event["type"] for event in events]

    before = history()
    time.sleep(1.2)  # As long as the next attempt would have taken to come.
    assert history() == before
    assert aws.stepfunctions.describe_execution(executionArn=execution)["status"] == "TIMED_OUT"


def test_what_a_task_answers_after_the_end_is_not_in_the_history(aws):
    call = {"FunctionName": aws.function(), "Payload": {"do": "sleep", "seconds": 3}}
    states = task("lambda:invoke", **call)
    execution = aws.start(aws.machine(states, allow("lambda:InvokeFunction"), TimeoutSeconds=1))
    assert aws.ended(execution)["status"] == "TIMED_OUT"
    time.sleep(3.2)  # Longer than the task takes.
    events = aws.stepfunctions.get_execution_history(executionArn=execution)["events"]
    assert [event["type"] for event in events][-1] == "ExecutionTimedOut"
    assert aws.stepfunctions.describe_execution(executionArn=execution)["status"] == "TIMED_OUT"


def test_a_stopped_execution_makes_no_further_attempt(aws):
    payload = {"do": "fail", "type": "E", "message": ""}
    states = task("lambda:invoke", FunctionName=aws.function(), Payload=payload)
    states["Only"]["Retry"] = [{"ErrorEquals": ["E"], "IntervalSeconds": 3, "MaxAttempts": 1}]
    execution = aws.start(aws.machine(states, allow("lambda:InvokeFunction")))

    def history():
        events = aws.stepfunctions.get_execution_history(executionArn=execution)["events"]
        return [event["type"] for event in events]

    eventually(lambda: "TaskFailed" in history(), "the first attempt has failed")
    aws.stepfunctions.stop_execution(executionArn=execution, error="Mine", cause="enough")
    time.sleep(3.2)  # As long as the second attempt would have taken to come.
    ended = aws.stepfunctions.describe_execution(executionArn=execution)
    assert (ended["status"], ended["error"]) == ("ABORTED", "Mine")
    assert history().count("TaskScheduled") == 1


def test_a_running_name_with_the_same_input_is_the_same_execution(aws):
    machine = aws.machine({"Only": {"Type": "Wait", "Seconds": 30, "End": True}})
    first = aws.start(machine, name="event-1", a=1)
    assert aws.start(machine, name="event-1", a=1) == first
    with pytest.raises(botocore.exceptions.ClientError, match="ExecutionAlreadyExists"):
        aws.start(machine, name="event-1", a=2)
    aws.stepfunctions.stop_execution(executionArn=first)
    with pytest.raises(botocore.exceptions.ClientError, match="ExecutionAlreadyExists"):
        aws.start(machine, name="event-1", a=1)


def test_a_wait_ends_with_its_execution(aws):
    machine = aws.machine({"Only": {"Type": "Wait", "Seconds": 30, "End": True}}, TimeoutSeconds=1)
    ended = aws.run(machine)
    assert ended["status"] == "TIMED_OUT"
    assert json.loads(ended["input"]) == {}


def test_a_start_can_be_answered_by_another_start(aws):
    """Each status change is an event on the default bus, put while the execution is started."""
    answer = aws.machine({"Only": {"Type": "Succeed"}})
    asked = aws.machine({"Only": {"Type": "Succeed"}})
    pattern = {"source": ["aws.states"], "detail": {"stateMachineArn": [asked]}}
    aws.events.put_rule(Name="answer", EventPattern=json.dumps(pattern))
    role = aws.role("events.amazonaws.com", allow("states:StartExecution", resource=answer))
    target = {"Id": "it", "Arn": answer, "RoleArn": role}
    aws.events.put_targets(Rule="answer", Targets=[target])
    aws.run(asked)

    def statuses():
        found = aws.stepfunctions.list_executions(stateMachineArn=answer)["executions"]
        return {execution["status"] for execution in found} == {"SUCCEEDED"} and len(found) == 2

    eventually(statuses, "one answer to RUNNING and one to SUCCEEDED")
    aws.events.remove_targets(Rule="answer", Ids=["it"])


NESTED = "states:startExecution.sync:2"


def may_wait_for(child):
    """What a machine needs to start another and hear of its end."""
    executions = child.replace(":stateMachine:", ":execution:") + ":*"
    rule = arn("events", "rule/StepFunctionsGetEventsForStepFunctionsExecutionRule")
    return (
        allow("states:StartExecution", resource=child),
        allow("states:DescribeExecution", resource=executions),
        allow("events:PutTargets", "events:PutRule", "events:DescribeRule", resource=rule),
    )


def test_a_nested_execution_runs_under_its_own_role_and_hands_its_output_back(aws):
    function = aws.function()
    own = allow("lambda:InvokeFunction", resource=function)
    child = aws.machine(task("lambda:invoke", FunctionName=function, Payload={"a": 1}), own)
    waiting = task(NESTED, StateMachineArn=child, Input={"b": 2})
    ended = aws.run(aws.machine(waiting, *may_wait_for(child)))
    assert json.loads(ended["output"])["Output"]["Payload"]["event"] == {"a": 1}
    assert aws.run(aws.machine(waiting, *may_wait_for(child)[:2]))["status"] == "FAILED"


def test_a_nested_execution_that_fails_is_a_failed_task_that_tells_its_error(aws):
    child = aws.machine({"Only": {"Type": "Fail", "Error": "NotToday", "Cause": "it rains"}})
    waiting = task(NESTED, StateMachineArn=child, Input={"b": 2})
    ended = aws.run(aws.machine(waiting, *may_wait_for(child)))
    assert (ended["status"], ended["error"]) == ("FAILED", "States.TaskFailed")
    described = json.loads(ended["cause"])
    told = [described[name] for name in ("Status", "Error", "Cause", "Input", "StateMachineArn")]
    assert told == ["FAILED", "NotToday", "it rains", '{"b": 2}', child]


@pytest.mark.parametrize("status", ["ABORTED", "TIMED_OUT"])
def test_an_execution_that_is_cut_off_is_an_event_that_starts_another(aws, status):
    """MiniStack says so itself; what the patches add is that an execution can be timed out."""
    successor = aws.machine({"Only": {"Type": "Succeed"}})
    waits = {"Only": {"Type": "Wait", "Seconds": 30, "End": True}}
    machine = aws.machine(waits, TimeoutSeconds=1 if status == "TIMED_OUT" else 60)
    pattern = {
        "source": ["aws.states"],
        "detail-type": ["Step Functions Execution Status Change"],
        "detail": {"status": ["ABORTED", "TIMED_OUT"], "stateMachineArn": [machine]},
    }
    rule = aws.name("rule")
    aws.events.put_rule(Name=rule, EventPattern=json.dumps(pattern))
    role = aws.role("events.amazonaws.com", allow("states:StartExecution", resource=successor))
    aws.events.put_targets(Rule=rule, Targets=[{"Id": "it", "Arn": successor, "RoleArn": role}])
    execution = aws.start(machine, a=1)
    if status == "ABORTED":
        aws.stepfunctions.stop_execution(executionArn=execution)

    def started():
        return aws.stepfunctions.list_executions(stateMachineArn=successor)["executions"]

    (found,) = eventually(started, f"{status} has started the successor")
    described = aws.stepfunctions.describe_execution(executionArn=found["executionArn"])
    event = json.loads(described["input"])
    assert (event["source"], event["resources"]) == ("aws.states", [execution])
    detail = event["detail"]
    assert (detail["executionArn"], detail["name"]) == (execution, execution.rsplit(":", 1)[-1])
    assert (detail["status"], detail["stateMachineArn"]) == (status, machine)
    assert json.loads(detail["input"]) == {"a": 1}
    assert detail["inputDetails"] == {"included": True}
    assert isinstance(detail["startDate"], int) and isinstance(detail["stopDate"], int)
    aws.events.remove_targets(Rule=rule, Ids=["it"])
