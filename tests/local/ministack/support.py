"""The vocabulary of the tests."""

import itertools
import json
import sys
import time
import zipfile
from io import BytesIO
from pathlib import Path

import botocore.session
from botocore.config import Config

REGION = "us-east-1"
ACCOUNT = "000000000000"
BOOTSTRAP = Path(__file__).resolve().parent / "function_under_test.py"


def client(endpoint, service, key, secret, token):
    session = botocore.session.Session()
    session.set_credentials(key, secret, token)
    return session.create_client(
        service,
        region_name=REGION,
        endpoint_url=endpoint,
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
    )


def eventually(condition, what, seconds=10.0):
    """The first true answer of `condition`, or a failure that shows the last one."""
    deadline = time.monotonic() + seconds
    while True:
        seen = condition()
        if seen:
            return seen
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}; last seen {seen!r}"
        time.sleep(0.02)


def allow(*actions, resource="*"):
    return {"Effect": "Allow", "Action": list(actions), "Resource": resource}


def arn(service, resource):
    return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{resource}"


class Account:
    """The account under test, by what a test wants from it."""

    def __init__(self, stack):
        self._stack = stack
        self._clients = {}
        self._numbers = itertools.count(1)

    def __getattr__(self, service):
        name = service.replace("_", "-")
        if name not in self._clients:
            self._clients[name] = self._stack.client(name)
        return self._clients[name]

    def name(self, kind):
        return f"{kind}-{next(self._numbers)}"

    def role(self, service, *statements):
        name = self.name("role")
        trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": service}}
        arn = self.iam.create_role(
            RoleName=name, AssumeRolePolicyDocument=json.dumps({"Statement": [trust]})
        )["Role"]["Arn"]
        if statements:
            self.iam.put_role_policy(
                RoleName=name,
                PolicyName="granted",
                PolicyDocument=json.dumps({"Statement": list(statements)}),
            )
        return arn

    def user(self, *statements):
        """Clients of an IAM user with just these permissions."""
        name = self.name("user")
        self.iam.create_user(UserName=name)
        self.iam.put_user_policy(
            UserName=name,
            PolicyName="granted",
            PolicyDocument=json.dumps({"Statement": list(statements)}),
        )
        key = self.iam.create_access_key(UserName=name)["AccessKey"]
        return lambda service: self._stack.client(
            service, key["AccessKeyId"], key["SecretAccessKey"]
        )

    def function(self, *statements, timeout=30, environment=None):
        """A deployed function that does what its event says (see function_under_test.py)."""
        content = BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            bootstrap = zipfile.ZipInfo("bootstrap", (2020, 1, 1, 0, 0, 0))
            bootstrap.external_attr = 0o755 << 16
            archive.writestr(bootstrap, f"#!{sys.executable}\n{BOOTSTRAP.read_text()}")
        name = self.name("function")
        arn = self.lambda_.create_function(
            FunctionName=name,
            Runtime="provided.al2023",
            Handler="bootstrap",
            Role=self.role("lambda.amazonaws.com", *statements),
            Code={"ZipFile": content.getvalue()},
            Timeout=timeout,
            Environment={"Variables": environment or {}},
        )["FunctionArn"]
        eventually(
            lambda: (
                self.lambda_.get_function(FunctionName=name)["Configuration"]["State"] == "Active"
            ),
            f"{name} is active",
        )
        return arn

    @property
    def lambda_(self):
        return self.__getattr__("lambda")

    def invoke(self, function, **event):
        """What the function returned, or the error document it ended with."""
        response = self.lambda_.invoke(FunctionName=function, Payload=json.dumps(event))
        return json.loads(response["Payload"].read())

    def queue(self, *statements):
        """(url, arn) of a queue that lets EventBridge send, unless other statements are given."""
        name = self.name("queue")
        queue = arn("sqs", name)
        statements = statements or (
            {
                "Effect": "Allow",
                "Principal": {"Service": "events.amazonaws.com"},
                "Action": "sqs:SendMessage",
                "Resource": queue,
            },
        )
        policy = json.dumps({"Statement": list(statements)})
        url = self.sqs.create_queue(QueueName=name, Attributes={"Policy": policy})["QueueUrl"]
        return url, queue

    def message(self, url):
        """The next message, waited for."""
        found = eventually(
            lambda: self.sqs.receive_message(QueueUrl=url, MessageAttributeNames=["All"]).get(
                "Messages"
            ),
            f"a message in {url}",
        )
        return found[0]

    def machine(self, states, *statements, role=None, **definition):
        """A state machine of these states, the first of which it starts at."""
        document = {
            "QueryLanguage": "JSONata",
            "StartAt": next(iter(states)),
            "States": states,
            **definition,
        }
        return self.stepfunctions.create_state_machine(
            name=self.name("machine"),
            definition=json.dumps(document),
            roleArn=role or self.role("states.amazonaws.com", *statements),
        )["stateMachineArn"]

    def start(self, machine, name=None, **data):
        named = {"name": name} if name else {}
        return self.stepfunctions.start_execution(
            stateMachineArn=machine, input=json.dumps(data), **named
        )["executionArn"]

    def ended(self, execution):
        def status():
            found = self.stepfunctions.describe_execution(executionArn=execution)
            return found if found["status"] != "RUNNING" else None

        return eventually(status, f"{execution} has ended")

    def run(self, machine, **data):
        return self.ended(self.start(machine, **data))

    def rule(self, target):
        """A bus with one rule that sends everything to `target`; the answer puts an event."""
        bus = self.name("bus")
        self.events.create_event_bus(Name=bus)
        rule = self.events.put_rule(
            Name="all",
            EventBusName=bus,
            EventPattern=json.dumps({"detail-type": [{"exists": True}]}),
        )["RuleArn"]
        self.events.put_targets(Rule="all", EventBusName=bus, Targets=[{"Id": "it", **target}])

        def put(**detail):
            entry = {
                "EventBusName": bus,
                "Source": "test",
                "DetailType": "Test",
                "Detail": json.dumps(detail),
            }
            assert self.events.put_events(Entries=[entry])["FailedEntryCount"] == 0

        put.rule_arn = rule
        return put
