"""What is told of calls that end, lock or unlock an account."""

import json

import botocore.exceptions
import pytest

from support import ACCOUNT, REGION

PASSWORD = "Correct-horse-1"
ADDRESS = "ada@corp.example"


@pytest.fixture
def listen(aws):
    """Hear of calls with such a detail on the default bus: the answer waits for the next event."""
    rules = []

    def listen_for(**detail):
        url, queue = aws.queue()
        rule = aws.name("calls")
        pattern = {
            "source": ["aws.cognito-idp"],
            "detail-type": ["AWS API Call via CloudTrail"],
            "detail": detail,
        }
        aws.events.put_rule(Name=rule, EventPattern=json.dumps(pattern))
        aws.events.put_targets(Rule=rule, Targets=[{"Id": "queue", "Arn": queue}])
        rules.append(rule)

        def next_event():
            message = aws.message(url)
            aws.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            return json.loads(message["Body"])

        return next_event

    yield listen_for
    for rule in rules:
        aws.events.remove_targets(Rule=rule, Ids=["queue"])
        aws.events.delete_rule(Name=rule)


@pytest.fixture
def told(listen):
    """The next call that was told of, as the whole event."""
    return listen(eventSource=["cognito-idp.amazonaws.com"])


@pytest.fixture
def trail(aws):
    """A trail that logs, as one does that CloudFormation made."""
    name = aws.name("trail")
    aws.cloudtrail.create_trail(Name=name, S3BucketName="logs")
    aws.cloudtrail.start_logging(Name=name)
    yield name
    aws.cloudtrail.delete_trail(Name=name)


@pytest.fixture
def person(aws):
    return Person(aws)


class Person:
    """An account, and what can be done to it."""

    def __init__(self, aws):
        self.idp = aws.cognito_idp
        self.pool = self.idp.create_user_pool(PoolName=aws.name("pool"))["UserPool"]["Id"]
        self.name = aws.name("ada")
        self.who = {"UserPoolId": self.pool, "Username": self.name}
        created = self.idp.admin_create_user(
            **self.who,
            MessageAction="SUPPRESS",
            UserAttributes=[{"Name": "email", "Value": ADDRESS}],
        )["User"]
        self.idp.admin_set_user_password(**self.who, Password=PASSWORD, Permanent=True)
        (self.sub,) = [a["Value"] for a in created["Attributes"] if a["Name"] == "sub"]

    def signed_in(self):
        """(client, tokens)"""
        client = self.idp.create_user_pool_client(
            UserPoolId=self.pool,
            ClientName="web",
            ExplicitAuthFlows=["ALLOW_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"],
        )["UserPoolClient"]["ClientId"]
        tokens = self.idp.initiate_auth(
            ClientId=client,
            AuthFlow="USER_PASSWORD_AUTH",
            AuthParameters={"USERNAME": self.name, "PASSWORD": PASSWORD},
        )
        return client, tokens["AuthenticationResult"]

    def token(self):
        return self.signed_in()[1]["AccessToken"]


@pytest.mark.parametrize("call", ["admin_disable_user", "admin_enable_user", "admin_delete_user"])
def test_an_administrator_s_call_is_told_with_the_account_s_sub(person, trail, told, call):
    getattr(person.idp, call)(**person.who)
    event = told()
    assert (event["source"], event["account"], event["region"]) == (
        "aws.cognito-idp",
        ACCOUNT,
        REGION,
    )
    detail = event["detail"]
    name = "".join(word.title() for word in call.split("_"))
    assert (detail["eventSource"], detail["eventName"]) == ("cognito-idp.amazonaws.com", name)
    assert detail["requestParameters"] == {
        "userPoolId": person.pool,
        "username": "HIDDEN_DUE_TO_SECURITY_REASONS",
    }
    assert detail["additionalEventData"] == {"sub": person.sub}
    assert detail["eventID"]
    assert detail["eventTime"].endswith("Z")
    assert (detail["eventType"], detail["managementEvent"], detail["readOnly"]) == (
        "AwsApiCall",
        True,
        False,
    )
    assert "errorCode" not in detail


def test_who_deletes_their_own_account_names_no_pool(person, trail, told):
    token = person.token()
    person.idp.delete_user(AccessToken=token)
    event = told()
    detail = event["detail"]
    assert detail["eventName"] == "DeleteUser"
    assert detail["requestParameters"] == {"accessToken": "HIDDEN_DUE_TO_SECURITY_REASONS"}
    assert detail["additionalEventData"] == {"sub": person.sub}
    assert detail["userIdentity"] == {"type": "Unknown", "principalId": "Anonymous"}
    for personal in (token, ADDRESS, person.name):
        assert personal not in json.dumps(event)


def test_a_call_that_failed_is_told_with_its_error(person, trail, told):
    nobody = {**person.who, "Username": "nobody"}
    with pytest.raises(botocore.exceptions.ClientError):
        person.idp.admin_delete_user(**nobody)
    detail = told()["detail"]
    assert detail["errorCode"] == "UserNotFoundException"
    assert detail["errorMessage"]
    assert "additionalEventData" not in detail


def test_nothing_is_told_while_no_trail_logs_what_writes(aws, person, told):
    trail = aws.name("trail")
    calls = (person.idp.admin_disable_user, person.idp.admin_enable_user)

    def unheard():
        for call in calls:
            call(**person.who)

    unheard()
    aws.cloudtrail.create_trail(Name=trail, S3BucketName="logs")
    aws.cloudtrail.stop_logging(Name=trail)
    unheard()
    aws.cloudtrail.start_logging(Name=trail)
    for nothing in (
        {"IncludeManagementEvents": True, "ReadWriteType": "ReadOnly"},
        {"IncludeManagementEvents": False, "ReadWriteType": "All"},
    ):
        aws.cloudtrail.put_event_selectors(TrailName=trail, EventSelectors=[nothing])
        unheard()
    writes = {"IncludeManagementEvents": True, "ReadWriteType": "WriteOnly"}
    aws.cloudtrail.put_event_selectors(TrailName=trail, EventSelectors=[writes])
    person.idp.admin_delete_user(**person.who)
    # The first that is heard of: none of those before it was told.
    assert told()["detail"]["eventName"] == "AdminDeleteUser"
    aws.cloudtrail.delete_trail(Name=trail)


def test_other_calls_are_not_told(person, trail, told):
    person.idp.admin_get_user(**person.who)
    person.idp.admin_user_global_sign_out(**person.who)
    person.idp.admin_delete_user(**person.who)
    assert told()["detail"]["eventName"] == "AdminDeleteUser"


def test_a_rule_can_listen_for_one_pool_and_for_users_who_name_none(aws, trail, listen):
    ours, theirs = Person(aws), Person(aws)
    told = listen(
        **{
            "errorCode": [{"exists": False}, ""],
            "$or": [
                {
                    "eventName": ["AdminDeleteUser", "AdminDisableUser"],
                    "requestParameters": {"userPoolId": [ours.pool]},
                },
                {"eventName": ["DeleteUser"]},
            ],
        }
    )
    theirs.idp.admin_disable_user(**theirs.who)
    with pytest.raises(botocore.exceptions.ClientError):
        ours.idp.admin_delete_user(**{**ours.who, "Username": "nobody"})
    ours.idp.admin_enable_user(**ours.who)
    ours.idp.admin_disable_user(**ours.who)
    # Of all those it is the only one to be heard.
    assert told()["detail"]["additionalEventData"] == {"sub": ours.sub}
    theirs.idp.admin_enable_user(**theirs.who)
    theirs.idp.delete_user(AccessToken=theirs.token())
    assert told()["detail"]["eventName"] == "DeleteUser"
