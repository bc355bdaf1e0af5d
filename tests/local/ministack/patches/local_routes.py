"""Routes that AWS has no counterpart for, for whoever runs the stack.

POST /_local/events publishes events as AWS services do, with an `aws.*` source, which PutEvents
refuses to customers. It takes PutEvents' own body. The caller shows LOCAL_ADMIN_TOKEN; without
that variable the route does not exist, so a function under test can never reach it.

Messages that Cognito and SES "sent" need no route of ours: GET /_ministack/ses/messages.
"""

import hmac
import json

from ministack import app
from ministack.core.responses import set_request_account_id, set_request_region
from ministack.services import eventbridge

from . import seam

PREFIX = "/_local/"
LONGEST_BODY = 1024 * 1024


def apply(settings):
    seam.shaped(eventbridge, "_put_events", "ebcda0f38061")

    @seam.around(app, "app", "ab1297bd6cd5")
    async def with_local_routes(original, scope, receive, send):
        if scope["type"] == "http" and scope["path"].startswith(PREFIX):
            status, body = await answer(settings, scope, receive)
            await reply(send, status, body)
        else:
            await original(scope, receive, send)


async def answer(settings, scope, receive):
    if settings.admin_token is None or (scope["method"], scope["path"]) != (
        "POST",
        PREFIX + "events",
    ):
        return 404, {"message": f"No route for {scope['method']} {scope['path']}"}
    shown = dict(scope["headers"]).get(b"authorization", b"")
    if not hmac.compare_digest(shown, f"Bearer {settings.admin_token}".encode()):
        return 401, {"message": "Authorization must be Bearer LOCAL_ADMIN_TOKEN"}
    try:
        data = json.loads(await read(receive))
    except ValueError as malformed:
        return 400, {"message": str(malformed)}
    set_request_account_id(settings.account)
    set_request_region(settings.region)
    status, _, body = eventbridge._put_events(data, allow_aws_source=True)
    return status, json.loads(body)


async def read(receive):
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > LONGEST_BODY:
            raise ValueError(f"The body is longer than {LONGEST_BODY} bytes")
        if not message.get("more_body"):
            return body


async def reply(send, status, body):
    content = json.dumps(body).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
