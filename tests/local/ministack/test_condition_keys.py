"""Roles that may touch some items of a table only, or put some events only."""

import pytest

from support import arn


@pytest.fixture(scope="module")
def table(aws):
    table = aws.name("table")
    attributes = {"pk": "HASH", "sk": "RANGE"}
    aws.dynamodb.create_table(
        TableName=table,
        KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in attributes.items()],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in attributes],
        BillingMode="PAY_PER_REQUEST",
    )
    return table


@pytest.fixture(scope="module")
def function(aws, table):
    """May read and write what begins with `MINE#`."""
    actions = ["GetItem", "PutItem", "UpdateItem", "Query", "BatchGetItem", "BatchWriteItem"]
    condition = {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["MINE#*"]}}
    return aws.function(
        {
            "Effect": "Allow",
            "Action": [f"dynamodb:{action}" for action in actions],
            "Resource": arn("dynamodb", f"table/{table}"),
            "Condition": condition,
        }
    )


def key(pk):
    return {"pk": {"S": pk}, "sk": {"S": "x"}}


def calls(table, pk):
    put = {"TableName": table, "Item": key(pk)}
    update = {
        "TableName": table,
        "Key": key(pk),
        "UpdateExpression": "SET a = :a",
        "ExpressionAttributeValues": {":a": {"S": "a"}},
    }
    return {
        "GetItem": {"TableName": table, "Key": key(pk)},
        "PutItem": put,
        "UpdateItem": update,
        "Query": {
            "TableName": table,
            "KeyConditionExpression": "#p = :p AND begins_with(sk, :s)",
            "ExpressionAttributeNames": {"#p": "pk"},
            "ExpressionAttributeValues": {":p": {"S": pk}, ":s": {"S": "x"}},
        },
        "TransactWriteItems": {"TransactItems": [{"Put": put}]},
        "BatchGetItem": {"RequestItems": {table: {"Keys": [key(pk)]}}},
        "BatchWriteItem": {"RequestItems": {table: [{"PutRequest": {"Item": key(pk)}}]}},
    }


@pytest.mark.parametrize("operation", calls("", ""))
def test_only_items_with_a_key_of_the_condition_are_touched(aws, table, function, operation):
    for pk, allowed in (("MINE#1", True), ("YOURS#1", False)):
        arguments = calls(table, pk)[operation]
        answer = aws.invoke(
            function, do="call", service="dynamodb", operation=operation, arguments=arguments
        )
        assert answer["allowed"] is allowed, (pk, answer)


def test_one_foreign_item_in_a_transaction_refuses_it(aws, table, function):
    items = [{"Put": {"TableName": table, "Item": key(pk)}} for pk in ("MINE#1", "YOURS#1")]
    answer = aws.invoke(
        function,
        do="call",
        service="dynamodb",
        operation="TransactWriteItems",
        arguments={"TransactItems": items},
    )
    assert answer == {"allowed": False, "code": "AccessDeniedException"}


def test_only_events_of_the_condition_are_put(aws):
    bus = aws.name("bus")
    aws.events.create_event_bus(Name=bus)
    condition = {"events:source": "mine", "events:detail-type": "Said"}
    function = aws.function(
        {
            "Effect": "Allow",
            "Action": "events:PutEvents",
            "Resource": arn("events", f"event-bus/{bus}"),
            "Condition": {"ForAllValues:StringEquals": condition},
        }
    )

    def put(*events):
        entries = [
            {"EventBusName": bus, "Source": source, "DetailType": kind, "Detail": "{}"}
            for source, kind in events
        ]
        arguments = {"Entries": entries}
        return aws.invoke(
            function, do="call", service="events", operation="PutEvents", arguments=arguments
        )["allowed"]

    assert put(("mine", "Said"))
    assert not put(("yours", "Said"))
    assert not put(("mine", "Asked"))
    assert not put(("mine", "Said"), ("yours", "Said"))
