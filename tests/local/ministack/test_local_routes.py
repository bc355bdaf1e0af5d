"""Events with an aws.* source, and who may put them."""

import json
import urllib.error
import urllib.request

import pytest


def post(stack, token, **entry):
    request = urllib.request.Request(
        f"{stack.endpoint}/_local/events",
        json.dumps({"Entries": [entry]}).encode(),
        {"Authorization": f"Bearer {token}"},
    )
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


WARNING = {
    "Source": "aws.ec2",
    "DetailType": "EC2 Spot Instance Interruption Warning",
    "Detail": json.dumps({"instance-id": "i-0", "instance-action": "terminate"}),
}


def test_an_operator_can_put_the_events_of_aws(aws, stack):
    url, queue = aws.queue()
    aws.events.put_rule(Name="spot", EventPattern=json.dumps({"source": ["aws.ec2"]}))
    aws.events.put_targets(Rule="spot", Targets=[{"Id": "queue", "Arn": queue}])
    status, body = post(stack, "operator", **WARNING)
    assert (status, body["FailedEntryCount"]) == (200, 0)
    event = json.loads(aws.message(url)["Body"])
    assert (event["source"], event["detail"]["instance-id"]) == ("aws.ec2", "i-0")


def test_customers_cannot_put_them(aws):
    entry = aws.events.put_events(Entries=[WARNING])["Entries"][0]
    assert entry["ErrorCode"] == "NotAuthorizedForSourceException"


@pytest.mark.parametrize("token", ["", "test", "operator2"])
def test_nobody_else_gets_in(stack, token):
    assert post(stack, token, **WARNING)[0] == 401
