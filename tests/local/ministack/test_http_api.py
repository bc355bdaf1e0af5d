"""An HTTP API with a function behind one route."""

import base64
import http.client
import json

import pytest


@pytest.fixture
def api(aws, stack):
    """Deploys a function behind POST /in; the answer calls a path of it."""

    def deploy(function, permitted="/*/*/in"):
        api = aws.apigatewayv2.create_api(Name=aws.name("api"), ProtocolType="HTTP")["ApiId"]
        integration = aws.apigatewayv2.create_integration(
            ApiId=api,
            IntegrationType="AWS_PROXY",
            IntegrationUri=function,
            PayloadFormatVersion="2.0",
        )["IntegrationId"]
        aws.apigatewayv2.create_route(
            ApiId=api, RouteKey="POST /in", Target=f"integrations/{integration}"
        )
        aws.apigatewayv2.create_stage(ApiId=api, StageName="$default", AutoDeploy=True)
        if permitted:
            aws.lambda_.add_permission(
                FunctionName=function,
                StatementId="api",
                Action="lambda:InvokeFunction",
                Principal="apigateway.amazonaws.com",
                SourceArn=f"arn:aws:execute-api:us-east-1:000000000000:{api}{permitted}",
            )

        def call(body, path="/in", **headers):
            connection = http.client.HTTPConnection("127.0.0.1", stack.port)
            headers = {name.replace("_", "-"): value for name, value in headers.items()}
            host = f"{api}.execute-api.localhost:{stack.port}"
            connection.request("POST", path, body, {"Host": host, **headers})
            response = connection.getresponse()
            return response.status, json.loads(response.read())

        return call

    return deploy


def test_json_arrives_as_it_was_sent_and_headers_in_lower_case(aws, api):
    call = api(aws.function())
    body = '{ "a":1,\t"b": "ö \\u00f6" }'
    status, answer = call(body.encode(), Content_Type="application/json", X_Signed="v0=AB")
    assert status == 200
    event = answer["event"]
    assert (event["body"], event["isBase64Encoded"]) == (body, False)
    assert event["headers"]["x-signed"] == "v0=AB"
    assert event["requestContext"]["http"]["path"] == event["rawPath"] == "/in"


def test_what_is_no_text_arrives_in_base64(aws, api):
    status, answer = api(aws.function())(b"a=1&b=\xff", Content_Type="application/octet-stream")
    assert status == 200
    assert answer["event"]["isBase64Encoded"]
    assert base64.b64decode(answer["event"]["body"]) == b"a=1&b=\xff"


def test_only_the_route_is_there(aws, api):
    assert api(aws.function())(b"{}", path="/in/side")[0] == 404


@pytest.mark.parametrize("permitted", [None, "/*/*/out"])
def test_a_function_that_does_not_let_the_api_in_is_not_invoked(aws, api, permitted):
    call = api(aws.function(), permitted)
    assert call(b"{}") == (500, {"message": "Internal Server Error"})


def test_a_function_that_fails_tells_the_caller_nothing(aws, api):
    call = api(aws.function(environment={"AT_START": "error"}))
    assert call(b"{}") == (500, {"message": "Internal Server Error"})


def test_a_body_of_more_than_ten_megabytes_is_refused(aws, api):
    call = api(aws.function())
    most = 10 * 1024 * 1024
    assert call(b"x" * (most + 1)) == (413, {"message": "Request Entity Too Large"})
