"""The code of every function in these tests: a custom runtime that does what its event says."""

import json
import os
import signal
import time
import urllib.request

API = f"http://{os.environ.get('AWS_LAMBDA_RUNTIME_API')}/2018-06-01/runtime"


def post(path, body):
    urllib.request.urlopen(f"{API}/{path}", json.dumps(body).encode()).close()


def call(service, operation, arguments):
    import botocore.exceptions
    import botocore.session

    client = botocore.session.Session().create_client(
        service, endpoint_url=os.environ["AWS_ENDPOINT_URL"]
    )
    try:
        client._make_api_call(operation, arguments)
        return {"allowed": True}
    except botocore.exceptions.ClientError as error:
        return {"allowed": False, "code": error.response["Error"]["Code"]}


def handle(event):
    # A service's own event says nothing of what to do; the environment does.
    event = {**json.loads(os.environ.get("EVENT", "{}")), **event}
    do = event.get("do")
    if do == "abort":
        os.abort()
    if do == "sleep":
        time.sleep(event["seconds"])
    if do == "environment":
        return dict(os.environ)
    if do == "call":
        return call(event["service"], event["operation"], event["arguments"])
    return {"event": event, "pid": os.getpid()}


def main():
    start = os.environ.get("AT_START")
    if start == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if start == "error":
        post("init/error", {"errorType": "Config.Invalid", "errorMessage": "no TABLE_NAME"})
        raise SystemExit(1)
    while True:
        with urllib.request.urlopen(f"{API}/invocation/next") as invocation:
            identifier = invocation.headers["Lambda-Runtime-Aws-Request-Id"]
            event = json.load(invocation)
        if event.get("do") == "fail":
            error = {"errorType": event["type"], "errorMessage": event["message"]}
            post(f"invocation/{identifier}/error", error)
        else:
            post(f"invocation/{identifier}/response", handle(event))


if __name__ == "__main__":
    main()
