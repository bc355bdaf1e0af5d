"""The end of a Cognito account, as CloudTrail tells EventBridge of it.

While a trail logs management events, AWS puts each of them on the default bus, as `AWS API Call via
CloudTrail`. MiniStack keeps calls to be looked up, if it is asked to; it puts none of them on a
bus and does not know whose account a call was about.

Here the calls after which somebody can sign in no more, or again, are put there, in Cognito's form:
what names a person is hidden, `additionalEventData.sub` says whose account it is, and a
`DeleteUser`, to which a user's own token is the key, names no pool. A call that failed is
there with its `errorCode`; whose account it would have been is said if there is that account.

https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-service-event-cloudtrail.html
https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html
https://docs.aws.amazon.com/cognito/latest/developerguide/logging-using-cloudtrail.html
"""

import json
import threading
import time
import uuid

from ministack.core.arn import parse_arn
from ministack.core.responses import (
    get_account_id,
    set_request_account_id,
    set_request_region,
)
from ministack.services import cloudtrail, cognito, eventbridge

from . import seam

SOURCE = "cognito-idp.amazonaws.com"
HIDDEN = "HIDDEN_DUE_TO_SECURITY_REASONS"
# What each call names: its parameters as CloudTrail spells them, and which it hides.
BY_AN_ADMINISTRATOR = {"UserPoolId": False, "Username": True}
CALLS = {
    "AdminDeleteUser": BY_AN_ADMINISTRATOR,
    "AdminDisableUser": BY_AN_ADMINISTRATOR,
    "AdminEnableUser": BY_AN_ADMINISTRATOR,
    "DeleteUser": {"AccessToken": True},
}


def apply(settings):
    seam.shaped(eventbridge, "_put_events", "ebcda0f38061")

    @seam.around(cognito, "_dispatch_idp", "eff61c61ce4d")
    async def dispatch_idp(original, action, data):
        if action not in CALLS:
            return await original(action, data)
        # Looked up first: afterwards the account may be gone.
        pool, sub = account(data)
        status, headers, body = await original(action, data)
        where = parse_arn(pool["Arn"]) if pool else None
        region = where.region if where else settings.region
        if logged(region):
            tell(record(action, data, region, sub, status, body), region)
        return status, headers, body


def account(data):
    """(pool, sub) of the account that a call is about, as far as there are any."""
    if "UserPoolId" in data:
        pool = cognito._user_pools.get(data["UserPoolId"])
        user = cognito._resolve_user(pool, data.get("Username"))[0] if pool else None
    else:
        user, pool = cognito._user_pool_for_access_token(data.get("AccessToken") or "")
    attributes = cognito._attr_list_to_dict(user.get("Attributes", [])) if user else {}
    return pool, attributes.get("sub")


def logged(region):
    """Whether a trail logs management events that write, of this region."""
    for home, name, trail in cloudtrail._account_trail_items():
        here = home == region or trail.get("IsMultiRegionTrail")
        selectors = cloudtrail._event_selectors.get_scoped(get_account_id(), home, name)
        if here and trail.get("IsLogging") and any(map(selects, selectors or [{}])):
            return True
    return False


def selects(selector):
    writes = selector.get("ReadWriteType", "All") in ("All", "WriteOnly")
    # CloudFormation passes booleans as they stand in the template, which may be as words.
    return writes and str(selector.get("IncludeManagementEvents", True)).lower() == "true"


def record(action, data, region, sub, status, body):
    """The call as CloudTrail writes it down."""
    written = {
        "eventVersion": "1.08",
        "userIdentity": caller(action),
        "eventTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "eventSource": SOURCE,
        "eventName": action,
        "awsRegion": region,
        "sourceIPAddress": "127.0.0.1",
        "userAgent": "local",
        "requestParameters": {
            name[0].lower() + name[1:]: HIDDEN if hidden else data[name]
            for name, hidden in CALLS[action].items()
            if name in data
        },
        "responseElements": None,
        "requestID": str(uuid.uuid4()),
        "eventID": str(uuid.uuid4()),
        "readOnly": False,
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "recipientAccountId": get_account_id(),
        "eventCategory": "Management",
    }
    if status >= 400:
        error = json.loads(body)
        written["errorCode"] = error["__type"].rsplit("#", 1)[-1]
        written["errorMessage"] = error.get("message", "")
    if sub:
        written["additionalEventData"] = {"sub": sub}
    return written


def caller(action):
    if action == "DeleteUser":
        return {"type": "Unknown", "principalId": "Anonymous"}
    account = get_account_id()
    return {"type": "Root", "principalId": account, "arn": f"arn:aws:iam::{account}:root"}


def tell(written, region):
    """Put it on the default bus; whoever made the call does not wait for that."""
    entry = {
        "Source": "aws.cognito-idp",
        "DetailType": "AWS API Call via CloudTrail",
        "Detail": json.dumps(written),
    }
    account = get_account_id()

    # A thread begins with a context of its own: nothing of the request being served is in it.
    def put():
        set_request_account_id(account)
        set_request_region(region)
        eventbridge._put_events({"Entries": [entry]}, allow_aws_source=True)

    threading.Thread(target=put, name="cloudtrail", daemon=True).start()
