"""What an HTTP API does around the function behind a route.

AWS invokes the function only if its resource policy lets `apigateway.amazonaws.com` do so for this
API, stage, method and path. A function that may not be invoked, or that fails, is a 500 that tells
the caller nothing; MiniStack does not look at the policy and answers with the function's own error
document. A body of more than 10 MB is refused before anything runs; MiniStack passes on any.

https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-quotas.html
"""

import contextvars
import json

from ministack.core.responses import get_account_id, get_region
from ministack.services import apigateway, lambda_svc

from . import authority, seam

SERVICE = "apigateway.amazonaws.com"
LONGEST_BODY = 10 * 1024 * 1024

_serving = contextvars.ContextVar("local_http_api", default=False)


def apply(settings):
    @seam.around(apigateway, "_invoke_lambda_proxy", "fbe5024fcd36")
    async def invoke_lambda_proxy(
        original, integration, api_id, stage, path, method, headers, body, *args, **kwargs
    ):
        if len(body or b"") > LONGEST_BODY:
            return answer(413, "Request Entity Too Large")
        uri = integration.get("integrationUri", "")
        function = apigateway._extract_lambda_ref_from_integration_uri(uri)
        source = f"arn:aws:execute-api:{get_region()}:{get_account_id()}:{api_id}"
        if not authority.function_lets(function, SERVICE, f"{source}/{stage}/{method}{path}"):
            return answer(500, "Internal Server Error")
        token = _serving.set(True)
        try:
            return await original(
                integration, api_id, stage, path, method, headers, body, *args, **kwargs
            )
        finally:
            _serving.reset(token)

    @seam.around(lambda_svc, "lambda_execute_result_to_api_proxy_response", "36f0ed215e85")
    def proxy_response(original, result):
        if _serving.get() and result.get("error") and not result.get("throttle"):
            status, headers, body = answer(500, "Internal Server Error")
            return {"statusCode": status, "headers": headers, "body": body.decode()}, None
        return original(result)


def answer(status, message):
    body = json.dumps({"message": message}, separators=(",", ":"))
    return status, {"Content-Type": "application/json"}, body.encode()
