"""How a function fails, and what its role lets it do."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import allow, arn

CASES = {
    "aborts in an invocation": ({}, {"do": "abort"}, "Runtime.ExitError"),
    "is killed at start": ({"AT_START": "kill"}, {}, "Runtime.ExitError"),
    "reports an error at start": ({"AT_START": "error"}, {}, "Config.Invalid"),
    "sleeps past its timeout": ({}, {"do": "sleep", "seconds": 30}, "Sandbox.Timedout"),
    "fails": ({}, {"do": "fail", "type": "NotReadyYet", "message": "no"}, "NotReadyYet"),
}


@pytest.fixture(scope="module")
def outcomes(aws):
    def run(case):
        environment, event, _ = CASES[case]
        return aws.invoke(aws.function(timeout=1, environment=environment), **event)

    with ThreadPoolExecutor() as pool:
        return dict(zip(CASES, pool.map(run, CASES), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_a_function_that(case, outcomes):
    assert outcomes[case]["errorType"] == CASES[case][2]


def test_a_start_that_takes_longer_than_the_function_may_run_is_a_timeout(monkeypatch):
    """AWS grants the first start ten seconds, too long for this suite, so the wait is called."""
    from ministack.core import lambda_runtime

    from patches import lambda_failures

    worker = lambda_runtime.ProvidedWorker
    monkeypatch.setattr(worker, "_await_init", worker._await_init)  # Put back afterwards.
    lambda_failures.apply(None)
    monkeypatch.setattr(lambda_runtime, "_PROVIDED_INIT_TIMEOUT", 0.1)
    starting = worker("f", {}, b"")
    starting._proc = subprocess.Popen(["sleep", "60"])
    try:
        with pytest.raises(lambda_runtime.ProvidedInitTimeout):
            starting._await_init()
        with pytest.raises(lambda_runtime.ProvidedRuntimeError, match="after 0.10 s") as raised:
            starting._await_init(0.1)
        assert raised.value.error_type == "Sandbox.Timedout"
    finally:
        starting._proc.kill()
        starting._proc.wait()


def test_a_state_machine_catches_each_failure_by_its_name(aws):
    function = aws.function(timeout=1)
    names = ["Runtime.ExitError", "Sandbox.Timedout", "NotReadyYet"]
    catch = [{"ErrorEquals": [name], "Output": name, "Next": "Caught"} for name in names]
    states = {
        "Try": {
            "Type": "Task",
            "Resource": "arn:aws:states:::lambda:invoke",
            "Arguments": {"FunctionName": function, "Payload": "{% $states.input %}"},
            "Catch": catch,
            "End": True,
        },
        "Caught": {"Type": "Succeed"},
    }
    machine = aws.machine(states, allow("lambda:InvokeFunction", resource=function))
    caught = [
        json.loads(aws.run(machine, **event)["output"])
        for event in (
            {"do": "abort"},
            {"do": "sleep", "seconds": 30},
            {"do": "fail", "type": "NotReadyYet", "message": "no"},
        )
    ]
    assert caught == names


def test_a_throttled_function_has_the_name_aws_gives_it(aws):
    function = aws.function()
    aws.lambda_.put_function_concurrency(FunctionName=function, ReservedConcurrentExecutions=0)
    task = {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Arguments": {"FunctionName": function, "Payload": {}},
        "End": True,
    }
    ended = aws.run(aws.machine({"Try": task}, allow("lambda:InvokeFunction")))
    assert ended["error"] == "Lambda.TooManyRequestsException"


@pytest.fixture(scope="module")
def resources(aws):
    """One resource per service, with the call a function makes on it and the action it needs."""
    table = aws.name("table")
    aws.dynamodb.create_table(
        TableName=table,
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    bus = aws.name("bus")
    aws.events.create_event_bus(Name=bus)
    key = aws.kms.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]
    secret = aws.secretsmanager.create_secret(Name=aws.name("secret"), SecretString="x")["ARN"]
    url, queue = aws.queue()
    event = {"EventBusName": bus, "Source": "s", "DetailType": "d", "Detail": "{}"}
    signing = {"KeyId": key["KeyId"], "Message": "eA==", "SigningAlgorithm": "ECDSA_SHA_256"}
    item = {"TableName": table, "Item": {"pk": {"S": "a"}}}
    return {
        "dynamodb": ("PutItem", item, arn("dynamodb", f"table/{table}")),
        "events": ("PutEvents", {"Entries": [event]}, arn("events", f"event-bus/{bus}")),
        "kms": ("Sign", signing, key["Arn"]),
        "secretsmanager": ("GetSecretValue", {"SecretId": secret}, secret),
        "sqs": ("SendMessage", {"QueueUrl": url, "MessageBody": "x"}, queue),
    }


@pytest.mark.parametrize("service", ["dynamodb", "events", "kms", "secretsmanager", "sqs"])
def test_a_function_may_do_what_its_role_allows_and_nothing_else(aws, resources, service):
    operation, arguments, resource = resources[service]
    call = {"do": "call", "service": service, "operation": operation, "arguments": arguments}
    action = f"{service}:{operation}"
    functions = [
        aws.function(allow(action, resource=resource)),
        aws.function(),
        aws.function(allow(action, resource=f"{resource}-2")),
    ]
    with ThreadPoolExecutor() as pool:
        granted, without, elsewhere = pool.map(lambda f: aws.invoke(f, **call), functions)
    assert granted == {"allowed": True}
    for refused in (without, elsewhere):
        assert not refused["allowed"]
        assert "AccessDenied" in refused["code"]


def test_a_key_policy_can_keep_out_a_role_that_iam_allows(aws):
    trusted = aws.role("lambda.amazonaws.com", allow("kms:Sign"))
    only_trusted = {**allow("kms:Sign"), "Principal": {"AWS": trusted}}
    key = aws.kms.create_key(
        KeySpec="ECC_NIST_P256",
        KeyUsage="SIGN_VERIFY",
        Policy=json.dumps({"Statement": [only_trusted]}),
    )["KeyMetadata"]["KeyId"]
    sign = {"KeyId": key, "Message": "eA==", "SigningAlgorithm": "ECDSA_SHA_256"}
    function = aws.function(allow("kms:Sign"))
    refused = aws.invoke(function, do="call", service="kms", operation="Sign", arguments=sign)
    assert refused["code"] == "AccessDeniedException"
