"""Signing up with a PreSignUp trigger."""

import json
import re
import urllib.request

import botocore.exceptions
import pytest

PASSWORD = "Correct-horse-1"


@pytest.fixture
def pool(aws):
    """A pool whose trigger may not be invoked yet: (pool id, client id, function, pool ARN)."""
    function = aws.function()
    created = aws.cognito_idp.create_user_pool(
        PoolName=aws.name("pool"),
        AutoVerifiedAttributes=["email"],
        LambdaConfig={"PreSignUp": function},
    )["UserPool"]
    client = aws.cognito_idp.create_user_pool_client(
        UserPoolId=created["Id"], ClientName="web", ExplicitAuthFlows=["ALLOW_USER_PASSWORD_AUTH"]
    )["UserPoolClient"]
    return created["Id"], client["ClientId"], function, created["Arn"]


def permit(aws, function, pool_arn):
    aws.lambda_.add_permission(
        FunctionName=function,
        StatementId="cognito",
        Action="lambda:InvokeFunction",
        Principal="cognito-idp.amazonaws.com",
        SourceArn=pool_arn,
    )


def sign_up(aws, client, name, email):
    return aws.cognito_idp.sign_up(
        ClientId=client,
        Username=name,
        Password=PASSWORD,
        UserAttributes=[{"Name": "email", "Value": email}],
    )


def verified(aws, pool_id, name):
    """What the pool says of whether this user's address is verified, if it says anything."""
    user = aws.cognito_idp.admin_get_user(UserPoolId=pool_id, Username=name)
    return [a["Value"] for a in user["UserAttributes"] if a["Name"] == "email_verified"]


def error_of(call, *arguments):
    with pytest.raises(botocore.exceptions.ClientError) as raised:
        call(*arguments)
    return raised.value.response["Error"]


def test_a_trigger_that_cognito_may_not_invoke_fails_the_sign_up(aws, pool):
    _, client, _, _ = pool
    error = error_of(sign_up, aws, client, "ann", "ann@corp.example")
    assert error["Code"] == "UnexpectedLambdaException"
    assert error["Message"] == "PreSignUp invocation failed due to error AccessDeniedException."


def test_a_permission_for_another_pool_does_not_count(aws, pool):
    _, client, function, arn = pool
    permit(aws, function, arn + "x")
    assert error_of(sign_up, aws, client, "a", "a@b.c")["Code"] == "UnexpectedLambdaException"


def test_a_refusal_reaches_the_caller_in_the_words_of_the_function(aws):
    function = aws.function(environment={"AT_START": "error"})
    created = aws.cognito_idp.create_user_pool(
        PoolName=aws.name("pool"), LambdaConfig={"PreSignUp": function}
    )["UserPool"]
    permit(aws, function, created["Arn"])
    client = aws.cognito_idp.create_user_pool_client(UserPoolId=created["Id"], ClientName="web")
    error = error_of(sign_up, aws, client["UserPoolClient"]["ClientId"], "ann", "a@b.c")
    assert error["Code"] == "UserLambdaValidationException"
    assert error["Message"] == "PreSignUp failed with error no TABLE_NAME."


def test_only_the_code_that_was_sent_confirms_the_user(aws, pool, stack):
    _, client, function, arn = pool
    permit(aws, function, arn)
    sign_up(aws, client, "bob", "bob@corp.example")
    with urllib.request.urlopen(f"{stack.endpoint}/_ministack/ses/messages") as response:
        sent = json.load(response)["messages"]["000000000000"]
    (message,) = [m for m in sent if m["To"] == ["bob@corp.example"]]
    code = re.search(r"\b\d{6}\b", message["BodyText"] or message["BodyHtml"]).group()
    wrong = f"{(int(code) + 1) % 1_000_000:06}"

    def confirm(given):
        aws.cognito_idp.confirm_sign_up(ClientId=client, Username="bob", ConfirmationCode=given)

    assert error_of(confirm, wrong)["Code"] == "CodeMismatchException"
    pool_id = pool[0]
    assert "true" not in verified(aws, pool_id, "bob")
    confirm(code)
    assert verified(aws, pool_id, "bob") == ["true"]
    tokens = aws.cognito_idp.initiate_auth(
        ClientId=client,
        AuthFlow="USER_PASSWORD_AUTH",
        AuthParameters={"USERNAME": "bob", "PASSWORD": PASSWORD},
    )
    assert tokens["AuthenticationResult"]["IdToken"]
