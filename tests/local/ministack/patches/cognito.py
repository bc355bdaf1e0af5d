"""User pool triggers: permission, fixed codes, the words of a refusal.

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
"""

import ast
import os
import secrets

from ministack.core.responses import error_response_json
from ministack.services import cognito

from . import authority, seam

SERVICE = "cognito-idp.amazonaws.com"


class TriggerDenied(Exception):
    """Cognito may not invoke the trigger."""


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
            return error_response_json(
                "UnexpectedLambdaException",
                "PreSignUp invocation failed due to error AccessDeniedException.",
                400,
            )

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
