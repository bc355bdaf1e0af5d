"""Signing up with a PreSignUp trigger, and coming in through an identity provider."""

import base64
import json
import re
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

import botocore.exceptions
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

PASSWORD = "Correct-horse-1"
CALLBACK = "http://localhost:8400/callback"


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


def admin_create_user(aws, pool_id, name, **more):
    attributes = [{"Name": "email", "Value": "ann@corp.example"}]
    return aws.cognito_idp.admin_create_user(
        UserPoolId=pool_id, Username=name, UserAttributes=attributes, **more
    )["User"]


def test_an_administrator_is_refused_in_the_words_of_the_function(aws):
    function = aws.function(environment={"AT_START": "error"})
    created = aws.cognito_idp.create_user_pool(
        PoolName=aws.name("pool"), LambdaConfig={"PreSignUp": function}
    )["UserPool"]
    error = error_of(admin_create_user, aws, created["Id"], "ann")
    assert error["Code"] == "UnexpectedLambdaException"
    permit(aws, function, created["Arn"])
    error = error_of(admin_create_user, aws, created["Id"], "ann")
    assert error["Code"] == "UserLambdaValidationException"
    assert error["Message"] == "PreSignUp failed with error no TABLE_NAME."
    assert aws.cognito_idp.list_users(UserPoolId=created["Id"])["Users"] == []


def test_an_administrator_makes_an_account_whose_name_is_its_sub(aws):
    function = aws.function()
    created = aws.cognito_idp.create_user_pool(
        PoolName=aws.name("pool"),
        UsernameAttributes=["email"],
        LambdaConfig={"PreSignUp": function},
    )["UserPool"]
    permit(aws, function, created["Arn"])
    user = admin_create_user(aws, created["Id"], "ann@corp.example")
    attributes = {a["Name"]: a["Value"] for a in user["Attributes"]}
    assert user["Username"] == attributes["sub"]
    # Nobody is asked about an account that is there.
    aws.lambda_.delete_function(FunctionName=function)
    again = admin_create_user(aws, created["Id"], "ann@corp.example", MessageAction="RESEND")
    assert again["Username"] == user["Username"]


class IdentityProvider:
    """Answers the token endpoint with the claims that a test wants, signed, and shows its key."""

    def __init__(self):
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.signing = self.key
        self.claims = {}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.answer(provider.shown(self.path))

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.answer({"id_token": provider.token(), "access_token": "a"})

            def answer(self, value):
                body = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def shown(self, path):
        if path == "/.well-known/openid-configuration":
            return {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/jwks",
            }
        numbers = self.key.public_key().public_numbers()
        n, e = encoded(numbers.n.to_bytes(256)), encoded(numbers.e.to_bytes(3))
        return {"keys": [{"kty": "RSA", "kid": "one", "alg": "RS256", "n": n, "e": e}]}

    def token(self):
        usual = {"iss": self.issuer, "aud": "us", "sub": "00u1", "exp": time.time() + 60}
        parts = ({"alg": "RS256", "kid": "one"}, {**usual, **self.claims})
        text = ".".join(encoded(json.dumps(part).encode()) for part in parts)
        signature = self.signing.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{text}.{encoded(signature)}"


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Federated:
    """A pool that trusts a provider: what becomes of who comes through it."""

    def __init__(self, aws, stack, provider):
        self.aws, self.stack, self.provider = aws, stack, provider
        self.function = aws.function()
        created = aws.cognito_idp.create_user_pool(
            PoolName=aws.name("pool"), LambdaConfig={"PreSignUp": self.function}
        )["UserPool"]
        self.pool_id, self.arn = created["Id"], created["Arn"]
        self.client = aws.cognito_idp.create_user_pool_client(
            UserPoolId=self.pool_id,
            ClientName="web",
            CallbackURLs=[CALLBACK],
            AllowedOAuthFlows=["code"],
            AllowedOAuthScopes=["openid"],
            AllowedOAuthFlowsUserPoolClient=True,
            SupportedIdentityProviders=["Corp"],
        )["UserPoolClient"]["ClientId"]
        aws.cognito_idp.create_identity_provider(
            UserPoolId=self.pool_id,
            ProviderName="Corp",
            ProviderType="OIDC",
            ProviderDetails={
                "oidc_issuer": provider.issuer,
                "client_id": "us",
                "client_secret": "s3cret",
                "authorize_scopes": "openid email",
            },
            AttributeMapping={"email": "mail", "email_verified": "proven"},
        )

    def comes_back(self, **claims):
        """The parameters with which the client sees whoever has these claims again."""
        self.provider.claims = claims
        asked = {
            "identity_provider": "Corp",
            "client_id": self.client,
            "response_type": "code",
            "redirect_uri": CALLBACK,
            "scope": "openid",
            "state": "of the client",
        }
        endpoint = self.stack.endpoint
        begun = query(location(f"{endpoint}/oauth2/authorize?{urlencode(asked)}"))
        came = urlencode({"code": "c", "state": begun["state"]})
        back = location(f"{endpoint}/oauth2/idpresponse?{came}")
        assert back.startswith(f"{CALLBACK}?")
        parameters = query(back)
        assert parameters.pop("state") == "of the client"
        return parameters

    def users(self):
        found = self.aws.cognito_idp.list_users(UserPoolId=self.pool_id)["Users"]
        return {
            user["Username"]: {a["Name"]: a["Value"] for a in user["Attributes"]} for user in found
        }


class Unfollowed(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def location(url):
    with pytest.raises(urllib.error.HTTPError) as answered:
        urllib.request.build_opener(Unfollowed).open(url)
    assert answered.value.code == 302, answered.value.read()
    return answered.value.headers["Location"]


def query(url):
    return {name: value for name, (value,) in parse_qs(urlsplit(url).query).items()}


@pytest.fixture(scope="module")
def provider():
    provider = IdentityProvider()
    yield provider
    provider.server.shutdown()


@pytest.fixture
def federated(aws, stack, provider):
    provider.signing = provider.key
    return Federated(aws, stack, provider)


ANN = {"mail": "ann@corp.example", "proven": True, "department": "sales"}


def test_who_comes_through_a_provider_has_the_mapped_attributes_and_a_sub_that_stays(
    aws, federated
):
    permit(aws, federated.function, federated.arn)
    assert list(federated.comes_back(**ANN)) == ["code"]
    (attributes,) = federated.users().values()
    sub, identities = attributes.pop("sub"), json.loads(attributes.pop("identities"))
    assert [(one["providerName"], one["issuer"]) for one in identities] == [("Corp", None)]
    assert attributes == {"email": "ann@corp.example", "email_verified": "true"}
    assert sub != "00u1"
    assert list(federated.comes_back(**ANN)) == ["code"]
    assert federated.users()["Corp_00u1"]["sub"] == sub


@pytest.mark.parametrize(
    ("claims", "because"),
    [
        ({"iss": "http://evil.example"}, "Bad id_token issuer http://evil.example"),
        ({"aud": "them"}, "Bad id_token audience them"),
        ({"exp": 1}, "The id_token has expired"),
    ],
)
def test_a_token_that_is_not_for_us_lets_nobody_in(aws, federated, claims, because):
    permit(aws, federated.function, federated.arn)
    sent_back = federated.comes_back(**ANN, **claims)
    assert sent_back == {"error": "invalid_request", "error_description": because}
    assert federated.users() == {}


def test_a_token_that_somebody_else_has_signed_lets_nobody_in(aws, federated, provider):
    permit(aws, federated.function, federated.arn)
    provider.signing = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    described = federated.comes_back(**ANN)["error_description"]
    assert described.startswith(f"The id_token is not signed by {provider.issuer}")
    assert federated.users() == {}


def test_who_is_denied_is_sent_back_to_the_client_in_the_words_of_the_function(aws, federated):
    said = "PreSignUp invocation failed due to error AccessDeniedException."
    assert federated.comes_back(**ANN)["error_description"] == said
    denying = aws.function(environment={"AT_START": "error"})
    aws.cognito_idp.update_user_pool(
        UserPoolId=federated.pool_id, LambdaConfig={"PreSignUp": denying}
    )
    permit(aws, denying, federated.arn)
    assert federated.comes_back(**ANN) == {
        "error": "invalid_request",
        "error_description": "PreSignUp failed with error no TABLE_NAME.",
    }
    assert federated.users() == {}


def test_a_disabled_user_does_not_come_through_a_provider_either(aws, federated):
    permit(aws, federated.function, federated.arn)
    federated.comes_back(**ANN)
    aws.cognito_idp.admin_disable_user(UserPoolId=federated.pool_id, Username="Corp_00u1")
    assert federated.comes_back(**ANN)["error_description"] == "User is disabled."


def test_a_trigger_can_call_aws_while_somebody_comes_through_a_provider(aws, federated):
    call = {"do": "call", "service": "sqs", "operation": "ListQueues", "arguments": {}}
    asking = aws.function(environment={"EVENT": json.dumps(call)})
    aws.cognito_idp.update_user_pool(
        UserPoolId=federated.pool_id, LambdaConfig={"PreSignUp": asking}
    )
    permit(aws, asking, federated.arn)
    assert list(federated.comes_back(**ANN)) == ["code"]
