"""User pool triggers: permission, fixed codes, the words of a refusal; identity providers.

- AWS invokes a trigger only if the function's resource policy lets `cognito-idp.amazonaws.com`
  do so for this pool; otherwise SignUp fails with `UnexpectedLambdaException`. MiniStack does
  not look at the policy.
- A refusal by the PreSignUp function reaches the caller as "PreSignUp failed with error <its
  errorMessage>."; MiniStack passes on the printed form of a Python dict.
- Every sign-up code is 123456. AWS's are random, and only the mailbox has them: here, too, a test
  must read the message that was sent (GET /_ministack/ses/messages).
- A code that came back proves the mailbox it was sent to: AWS then says `email_verified: true`
  where the pool verifies addresses by itself. MiniStack leaves it unsaid.
- A failing PreTokenGeneration function fails the sign-in. MiniStack has a switch for that.
- AdminCreateUser asks PreSignUp like SignUp does. MiniStack makes the account unasked.
- A disabled user does not come in through an identity provider. MiniStack looks where there is a
  password or a refresh token.
- Of an identity provider's ID token the mapped claims become attributes, once it is known that the
  provider has signed it, for this client. MiniStack takes every claim of any token.
- Who comes back from an identity provider and is not let in is sent on to the client, with `error`
  and `error_description`. MiniStack answers their browser with its error document.

https://docs.aws.amazon.com/cognito/latest/developerguide/cognito-user-pools-oidc-flow.html
https://docs.aws.amazon.com/cognito/latest/developerguide/federation-endpoint-idp-responses.html
"""

import ast
import base64
import contextlib
import contextvars
import json
import os
import secrets
import time
import urllib.request
from urllib.parse import urlencode

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from ministack.core.responses import error_response_json, new_uuid
from ministack.services import cognito

from . import authority, seam

SERVICE = "cognito-idp.amazonaws.com"
NOT_INVOKED = "PreSignUp invocation failed due to error AccessDeniedException."
DISABLED = "User is disabled."

# The sign-in through an identity provider that is being served, as it was begun.
_sign_in = contextvars.ContextVar("local_federated_sign_in", default=None)
# The name of the account that is being made.
_username = contextvars.ContextVar("local_username", default=None)


def still(pool):
    """The pool with the users of this moment: the same users, in a table that nobody adds to."""
    return {**pool, "_users": dict(pool["_users"])}


class TriggerDenied(Exception):
    """Cognito may not invoke the trigger."""


class SentBack(Exception):
    """Who comes from an identity provider is not let in; the message is for the client."""


def apply(settings):
    os.environ.setdefault("MINISTACK_COGNITO_PRETOKEN_STRICT", "1")

    @seam.around(cognito, "_apply_presignup_trigger", "3a8e61e0cad3")
    def apply_presignup_trigger(original, pool_id, *args, **kwargs):
        pool = cognito._user_pools.get(pool_id) or {}
        trigger = (pool.get("LambdaConfig") or {}).get("PreSignUp")
        if trigger and not authority.function_lets(trigger, SERVICE, pool["Arn"]):
            raise TriggerDenied(trigger)
        try:
            return original(pool_id, *args, **kwargs)
        except cognito._PreSignUpRejected as rejected:
            raise cognito._PreSignUpRejected(refusal(str(rejected))) from rejected

    @seam.around(cognito, "_sign_up", "7c18b40cc080")
    def sign_up(original, data):
        try:
            return original(data)
        except TriggerDenied:
            return error_response_json("UnexpectedLambdaException", NOT_INVOKED, 400)

    @seam.around(cognito, "new_uuid", "1a88ffd41fb7")
    def new_uuid_of(original):
        return _username.get() or original()

    @seam.around(cognito, "_admin_create_user", "b6be9f9333ac")
    def admin_create_user(original, data):
        pool, name = cognito._user_pools.get(data.get("UserPoolId")), data.get("Username")
        again = (data.get("MessageAction") or "").upper() == "RESEND"
        if pool is None or not name or again or cognito._resolve_user(pool, name)[0]:
            return original(data)
        attributes = cognito._attr_list_to_dict(data.get("UserAttributes") or [])
        alias = cognito._username_alias_attribute(pool, name)
        username = name
        if alias:
            # Cognito draws the name, which is the `sub` too.
            username = new_uuid()
            attributes.setdefault(alias, name)
        try:
            cognito._apply_presignup_trigger(
                data["UserPoolId"],
                "CLIENT_ID_NOT_APPLICABLE",
                username,
                attributes,
                trigger_source="PreSignUp_AdminCreateUser",
            )
        except TriggerDenied:
            return error_response_json("UnexpectedLambdaException", NOT_INVOKED, 400)
        except cognito._PreSignUpRejected as rejected:
            return error_response_json("UserLambdaValidationException", str(rejected), 400)
        with set_to(_username, username if alias else None):
            return original(data)

    @seam.around(cognito, "_oauth2_idp_response", "16425088f358")
    def oauth2_idp_response(original, method, body, query_params):
        begun = cognito._auth_codes.get(cognito._qp(query_params, "state"))
        if not begun or begun.get("type") != "relay":
            return original(method, body, query_params)
        try:
            with set_to(_sign_in, begun):
                status, headers, answer = original(method, body, query_params)
        except TriggerDenied:
            return sent_back(begun, NOT_INVOKED)
        except SentBack as refused:
            return sent_back(begun, str(refused))
        if status >= 400:
            return sent_back(begun, json.loads(answer)["message"])
        return status, headers, answer

    @seam.around(cognito, "_decode_id_token_unverified", "82e370b56268")
    def decode_id_token(original, id_token):
        begun = _sign_in.get()
        if begun is None:
            # Some other token, of Cognito's own.
            return original(id_token)
        pool = cognito._get_pool_unscoped(begun["pool_id"])
        provider = pool["_identity_providers"][begun["provider_name"]]
        claims = original(id_token)
        check(id_token, claims, provider["ProviderDetails"])
        user = pool["_users"].get(f"{provider['ProviderName']}_{claims['sub']}")
        if user is not None and not user.get("Enabled", True):
            raise SentBack(DISABLED)
        mapped = set(provider.get("AttributeMapping", {}).values())
        return Claims({name: claims[name] for name in {"sub", *mapped} if name in claims})

    # MiniStack answers several calls at once, and one that looks through the users of a pool fails while
    # another adds one.
    @seam.around(cognito, "_resolve_user", "005b45b0326d")
    def resolve_user(original, pool, username):
        return original(still(pool), username)

    @seam.around(cognito, "_user_from_token", "96848c794f98")
    def user_from_token(original, token, pool):
        return original(token, still(pool))

    @seam.around(cognito, "_confirm_sign_up", "e9557b08401a")
    def confirm_sign_up(original, data):
        client, username = data.get("ClientId"), data.get("Username")
        answer = original(data)
        for pool in cognito._user_pools.values():
            verifies = "email" in (pool.get("AutoVerifiedAttributes") or [])
            if client not in pool["_clients"] or not verifies:
                continue
            user, _ = cognito._resolve_user(pool, username)
            if user is not None and user["UserStatus"] == "CONFIRMED":
                attributes = cognito._attr_list_to_dict(user.get("Attributes", []))
                attributes["email_verified"] = "true"
                user["Attributes"] = cognito._dict_to_attr_list(attributes)
        return answer

    @seam.around(cognito, "_send_verification_email", "bceed599b45c")
    def send_verification_email(original, pool, username, attributes, code, attribute_name="email"):
        """Draw the code at the moment it is sent, and keep it where the check looks for it."""
        user = pool["_users"].get(username) or cognito._resolve_user(pool, username)[0]
        kept_in = "_reset_code" if attribute_name == "password" else "_confirmation_code"
        if user is not None and user.get(kept_in) == code:
            code = user[kept_in] = f"{secrets.randbelow(1_000_000):06}"
        return original(pool, username, attributes, code, attribute_name)


def refusal(reported):
    """The caller's message for what MiniStack took from the failed invocation."""
    try:
        reported = ast.literal_eval(reported)["errorMessage"]
    except (ValueError, SyntaxError, TypeError, KeyError):
        pass  # Not a function's error document: already a sentence.
    return f"PreSignUp failed with error {reported}."


class Claims(dict):
    """What becomes attributes. The subject names the account and is none of them."""

    def items(self):
        return [(name, spelt(value)) for name, value in super().items() if name != "sub"]


def spelt(value):
    return json.dumps(value) if isinstance(value, bool) else value


@contextlib.contextmanager
def set_to(variable, value):
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def sent_back(begun, description):
    """The answer that leads a browser back to the client whose sign-in this was."""
    asked = {"error_description": description, "error": "invalid_request"}
    if begun.get("state"):
        asked["state"] = begun["state"]
    uri = begun["redirect_uri"]
    location = f"{uri}{'&' if '?' in uri else '?'}{urlencode(asked)}"
    return 302, {"Location": location, "Content-Type": "text/html"}, b""


def check(id_token, claims, details):
    """What OpenID Connect has a relying party do with an ID token, in 3.1.3.7 of its core."""
    issuer, client = details["oidc_issuer"], details["client_id"]
    if claims.get("iss") != issuer:
        raise SentBack(f"Bad id_token issuer {claims.get('iss')}")
    audience = claims.get("aud")
    if client not in (audience if isinstance(audience, list) else [audience]):
        raise SentBack(f"Bad id_token audience {audience}")
    if not isinstance(claims.get("exp"), (int, float)) or claims["exp"] <= time.time():
        raise SentBack("The id_token has expired")
    try:
        keys = details.get("jwks_uri") or fetched(f"{issuer}/{DISCOVERY}")["jwks_uri"]
        signed(id_token, fetched(keys)["keys"])
    except (KeyError, OSError, ValueError, InvalidSignature) as error:
        raise SentBack(f"The id_token is not signed by {issuer}: {error!r}") from error


DISCOVERY = ".well-known/openid-configuration"


def fetched(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def signed(id_token, keys):
    """Raise unless one of the keys, the one that the token names, has signed it."""
    text, _, signature = id_token.rpartition(".")
    header = json.loads(decoded(text.partition(".")[0]))
    (key,) = [key for key in keys if key.get("kid") == header.get("kid")]
    message, signature = text.encode(), decoded(signature)
    if header["alg"] == "ES256":
        half = len(signature) // 2
        r, s = (int.from_bytes(part) for part in (signature[:half], signature[half:]))
        point = ec.EllipticCurvePublicNumbers(number(key["x"]), number(key["y"]), ec.SECP256R1())
        algorithm = ec.ECDSA(hashes.SHA256())
        point.public_key().verify(utils.encode_dss_signature(r, s), message, algorithm)
    elif header["alg"] == "RS256":
        public = rsa.RSAPublicNumbers(number(key["e"]), number(key["n"])).public_key()
        public.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
    else:
        raise ValueError(header["alg"])


def number(text):
    return int.from_bytes(decoded(text))


def decoded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
