"""What a request is about, where a policy narrows a grant by it.

AWS compares the partition keys that a request to DynamoDB names with `dynamodb:LeadingKeys`, and
the source and type of an event that is put with `events:source` and `events:detail-type`. MiniStack
knows none of these condition keys, and a `ForAllValues` of a key that is not there is always met.

https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/specifying-conditions.html
https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-use-conditions.html
"""

import json

from ministack.core import iam_actions
from ministack.services import dynamodb

from . import seam


def apply(settings):
    @seam.around(iam_actions, "dynamodb_service_context", "0f0021bdc8a3")
    def dynamodb_service_context(original, body):
        context = original(body)
        seam.expect("dynamodb:LeadingKeys" not in context, "dynamodb:LeadingKeys is there already")
        keys = leading_keys(body)
        return {**context, "dynamodb:LeadingKeys": keys} if keys else context

    @seam.around(iam_actions, "request_tag_context", "d46adb816e02")
    def request_tag_context(original, service, iam_action, body, params):
        context = original(service, iam_action, body, params)
        return {**context, **events_put(body)} if iam_action == "events:PutEvents" else context


def events_put(body):
    """The source and type of every event that is put."""
    entries = parsed(body).get("Entries")
    entries = [entry for entry in entries or [] if isinstance(entry, dict)]
    names = {"events:source": "Source", "events:detail-type": "DetailType"}
    return {key: [entry.get(name, "") for entry in entries] for key, name in names.items()}


def leading_keys(body):
    """The partition keys of every item that is named. A query names its own in an expression."""
    return [str(key) for table, item in named(parsed(body)) for key in partition_key(table, item)]


def parsed(body):
    try:
        data = json.loads(body or b"{}")
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def named(data):
    """(table, item or key) of every part of a request."""
    if not isinstance(data, dict):
        return
    for part in ("Item", "Key"):
        yield data.get("TableName"), data.get(part)
    for transacted in data.get("TransactItems") or []:
        for part in transacted.values():
            yield from named(part)
    for table, requests in (data.get("RequestItems") or {}).items():
        for key in requests.get("Keys", []) if isinstance(requests, dict) else []:
            yield table, key
        for request in requests if isinstance(requests, list) else []:
            for part in request.values():
                yield from named({"TableName": table, **part})
    condition = data.get("KeyConditionExpression")
    if isinstance(condition, str):
        values = data.get("ExpressionAttributeValues") or {}
        names = data.get("ExpressionAttributeNames") or {}
        for comparison in condition.split(" AND "):
            name, equals, value = (side.strip(" ()") for side in comparison.partition("="))
            if equals and value in values:
                yield data.get("TableName"), {names.get(name, name): values[value]}


def partition_key(table, item):
    schema = (dynamodb._tables.get(str(table).rsplit("/", 1)[-1]) or {}).get("KeySchema", [])
    for attribute in schema:
        if attribute.get("KeyType") == "HASH" and isinstance(item, dict):
            yield from (item.get(attribute["AttributeName"]) or {}).values()
