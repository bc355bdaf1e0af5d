"""What is deleted by owner: an index of keys, conditions on other items, many at once."""

import botocore.exceptions
import pytest

from support import allow, arn, eventually


@pytest.fixture(scope="module")
def table(aws):
    """A table with an index of keys by owner."""
    table = aws.name("table")
    aws.dynamodb.create_table(
        TableName=table,
        KeySchema=[
            {"AttributeName": "pk", "KeyType": "HASH"},
            {"AttributeName": "sk", "KeyType": "RANGE"},
        ],
        AttributeDefinitions=[
            {"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk", "owner")
        ],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "items-by-owner",
                "KeySchema": [{"AttributeName": "owner", "KeyType": "HASH"}],
                "Projection": {"ProjectionType": "KEYS_ONLY"},
            }
        ],
        BillingMode="PAY_PER_REQUEST",
    )
    return table


def key(pk, sk="x"):
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def owned(table, owner, **more):
    return {
        "TableName": table,
        "IndexName": "items-by-owner",
        "KeyConditionExpression": "#owner = :owner",
        "ExpressionAttributeNames": {"#owner": "owner"},
        "ExpressionAttributeValues": {":owner": {"S": owner}},
        **more,
    }


def test_an_index_of_keys_has_the_keys_of_what_is_owned_and_nothing_else(aws, table):
    for number in range(3):
        item = {**key(f"a{number}"), "owner": {"S": "ada"}, "text": {"S": "private"}}
        aws.dynamodb.put_item(TableName=table, Item=item)
    aws.dynamodb.put_item(TableName=table, Item={**key("b"), "owner": {"S": "bob"}})
    aws.dynamodb.put_item(TableName=table, Item={**key("c"), "text": {"S": "of nobody"}})
    found = aws.dynamodb.query(**owned(table, "ada"))["Items"]
    assert sorted(item["pk"]["S"] for item in found) == ["a0", "a1", "a2"]
    assert {name for item in found for name in item} == {"pk", "sk", "owner"}
    first = aws.dynamodb.query(**owned(table, "ada", Limit=2))
    assert len(first["Items"]) == 2
    rest = aws.dynamodb.query(**owned(table, "ada", ExclusiveStartKey=first["LastEvaluatedKey"]))
    assert len(rest["Items"]) == 1
    assert "LastEvaluatedKey" not in rest


def test_an_index_is_no_consistent_read(aws, table):
    with pytest.raises(botocore.exceptions.ClientError) as raised:
        aws.dynamodb.query(**owned(table, "ada", ConsistentRead=True))
    assert raised.value.response["Error"]["Code"] == "ValidationException"


def test_many_items_are_deleted_at_once(aws, table):
    keys = [key(f"many{number}") for number in range(25)]
    for each in keys:
        aws.dynamodb.put_item(TableName=table, Item={**each, "owner": {"S": "many"}})
    deletes = [{"DeleteRequest": {"Key": each}} for each in keys]
    answer = aws.dynamodb.batch_write_item(RequestItems={table: deletes})
    assert answer.get("UnprocessedItems", {}) == {}
    eventually(lambda: aws.dynamodb.query(**owned(table, "many"))["Count"] == 0, "an empty index")
    one_more = [*deletes, {"DeleteRequest": {"Key": key("one-more")}}]
    with pytest.raises(botocore.exceptions.ClientError) as raised:
        aws.dynamodb.batch_write_item(RequestItems={table: one_more})
    assert raised.value.response["Error"]["Code"] == "ValidationException"


def checked(table, name, condition, **more):
    """A put that holds only if another item does."""
    check = {"TableName": table, "Key": key("agent"), "ConditionExpression": condition, **more}
    put = {"TableName": table, "Item": key(name)}
    return [{"ConditionCheck": check}, {"Put": put}]


def test_a_condition_on_another_item_decides_over_the_whole_transaction(aws, table):
    standing = {
        "condition": "attribute_not_exists(pk) OR NOT #state IN (:going, :gone)",
        "ExpressionAttributeNames": {"#state": "state"},
        "ExpressionAttributeValues": {":going": {"S": "Retiring"}, ":gone": {"S": "Retired"}},
    }

    def put(name):
        aws.dynamodb.transact_write_items(TransactItems=checked(table, name, **standing))

    def there(name):
        return "Item" in aws.dynamodb.get_item(TableName=table, Key=key(name))

    put("before")
    assert there("before")
    aws.dynamodb.put_item(TableName=table, Item={**key("agent"), "state": {"S": "Ready"}})
    put("ready")
    assert there("ready")
    aws.dynamodb.put_item(TableName=table, Item={**key("agent"), "state": {"S": "Retired"}})
    with pytest.raises(botocore.exceptions.ClientError) as raised:
        put("retired")
    reasons = raised.value.response["CancellationReasons"]
    assert [reason["Code"] for reason in reasons] == ["ConditionalCheckFailed", "None"]
    assert not there("retired")


def granted(aws, table, *actions, keys=None, resource=""):
    """A function that may do this, with the items of these keys if any are named."""
    condition = {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": keys}} if keys else {}
    statement = allow(
        *(f"dynamodb:{action}" for action in actions),
        resource=arn("dynamodb", f"table/{table}{resource}"),
    )
    return aws.function({**statement, **({"Condition": condition} if condition else {})})


def allowed(aws, function, operation, arguments):
    answer = aws.invoke(
        function, do="call", service="dynamodb", operation=operation, arguments=arguments
    )
    return answer["allowed"] or answer["code"]


def test_each_part_of_a_transaction_needs_its_own_permission(aws, table):
    items = checked(table, "granted", "attribute_not_exists(nothing)")
    deleting = [*items, {"Delete": {"TableName": table, "Key": key("other")}}]
    denied = "AccessDeniedException"
    for actions, both, with_delete in (
        (["PutItem"], denied, denied),
        (["ConditionCheckItem"], denied, denied),
        (["ConditionCheckItem", "PutItem"], True, denied),
        (["ConditionCheckItem", "PutItem", "DeleteItem"], True, True),
    ):
        function = granted(aws, table, *actions)
        for parts, expected in ((items, both), (deleting, with_delete)):
            arguments = {"TransactItems": parts}
            assert allowed(aws, function, "TransactWriteItems", arguments) == expected, actions


def test_a_condition_on_an_item_of_another_key_is_not_granted(aws, table):
    actions = ["ConditionCheckItem", "PutItem"]
    items = {"TransactItems": checked(table, "mine", "attribute_not_exists(nothing)")}
    for keys, expected in ((["mine", "agent"], True), (["mine"], "AccessDeniedException")):
        function = granted(aws, table, *actions, keys=keys)
        assert allowed(aws, function, "TransactWriteItems", items) == expected


def test_a_grant_on_the_table_is_none_on_its_index(aws, table):
    query = owned(table, "ada")
    of_the_table = granted(aws, table, "Query")
    assert allowed(aws, of_the_table, "Query", query) == "AccessDeniedException"
    of_the_index = granted(aws, table, "Query", resource="/index/items-by-owner")
    assert allowed(aws, of_the_index, "Query", query) is True
