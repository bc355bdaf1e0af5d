"""What an AWS service may do on a customer's behalf.

MiniStack checks who calls its endpoint, but its services call each other unchecked. Patches use
this module where AWS would assume a role (a state machine's, a rule target's) or consult a
resource policy (a queue's, a topic's, a function's). With AUTH=false everything is allowed, like
everywhere else in MiniStack.
"""

import contextvars
import hashlib
import json
import secrets

from ministack import app
from ministack.core import iam_evaluator
from ministack.core.iam_actions import identity_denial_message
from ministack.core.responses import (
    get_account_id,
    get_region,
    set_request_account_id,
    set_request_region,
)
from ministack.services import iam, lambda_svc, sts


class Refused(Exception):
    """AWS would refuse the call; the message is the one it gives."""


class Session:
    """Credentials of a role that an AWS service has assumed."""

    def __init__(self, access_key, arn):
        self.access_key = access_key
        self.arn = arn

    def require(self, action, resource):
        """Raise Refused unless the role, its boundary and the resource's policy allow it."""
        service = action.split(":")[0]
        denied = detached(
            lambda: iam_evaluator.enforce(self.access_key, action, service, get_region(), resource)
        )
        if isinstance(denied, iam_evaluator.AuthError):
            raise Refused(denied.message)
        if denied:
            explicit = denied.decision == "Deny"
            raise Refused(identity_denial_message(action, self.arn, resource, explicit))


class Unchecked:
    """Stands for any role while IAM is not enforced."""

    access_key = "test"

    def require(self, action, resource):
        pass


def detached(call):
    """Run `call` for this account and region, but as no part of the request being served.

    What MiniStack pins to a request (its signature, its caller) says nothing about a service that
    acts in consequence of it.
    """
    account, region = get_account_id(), get_region()

    def run():
        set_request_account_id(account)
        set_request_region(region)
        return call()

    return contextvars.Context().run(run)


def assume(role_arn, service, source_arn):
    """The session that AWS's `service` gets for this role on behalf of `source_arn`, or Refused."""
    if not app.AUTH:
        return Unchecked()
    account = get_account_id()
    name = role_arn.rsplit("/", 1)[-1] if role_arn else ""
    role = iam._roles.get_scoped(account, None, name)
    if role is None or role["Arn"] != role_arn:
        raise Refused(f"The role {role_arn or '(none)'} does not exist")
    if not _trusts(role["AssumeRolePolicyDocument"], service, role_arn, source_arn):
        raise Refused(f"{service} is not authorized to perform: sts:AssumeRole on {role_arn}")
    # One session per service and role: MiniStack never forgets one.
    session = service.split(".")[0]
    arn = f"arn:aws:sts::{account}:assumed-role/{name}/{session}"
    key = "ASIA" + hashlib.sha256(f"{service} {arn}".encode()).hexdigest()[:16].upper()
    if key not in sts._sessions:
        sts.register_session(
            key,
            {
                "Arn": arn,
                "UserId": f"{role['RoleId']}:{session}",
                # Nobody outside this process can sign with it.
                "SecretAccessKey": secrets.token_hex(20),
                "SessionToken": secrets.token_hex(20),
            },
        )
    return Session(key, arn)


def _trusts(document, service, role_arn, source_arn):
    context = _service_context("sts:AssumeRole", role_arn, source_arn)
    document = json.loads(document) if isinstance(document, str) else document
    statements = document.get("Statement", [])
    effects = {
        statement.get("Effect")
        for statement in ([statements] if isinstance(statements, dict) else statements)
        if _names(statement, service)
        and iam_evaluator._conditions_met(statement.get("Condition", {}), context)
    }
    return effects == {"Allow"}


def _names(statement, service):
    actions = statement.get("Action", [])
    actions = [actions] if isinstance(actions, str) else actions
    regional = service.replace(".", f".{get_region()}.", 1)
    principal = statement.get("Principal")
    return iam_evaluator._action_matches("sts:AssumeRole", actions, []) and any(
        iam_evaluator._service_principal_matches(principal, name) for name in (service, regional)
    )


def _service_context(action, resource, source_arn):
    account = source_arn.split(":")[4] if source_arn.count(":") >= 5 else ""
    return iam_evaluator.EvalContext(
        principal_arn="*",
        principal_type="Service",
        principal_account="",
        action=action,
        resource_arn=resource,
        region=get_region(),
        service_context={"aws:sourcearn": source_arn, "aws:sourceaccount": account},
    )


def function_lets(function_arn, service, source_arn):
    """Whether a function's resource policy lets an AWS service invoke it for `source_arn`."""
    if not app.AUTH:
        return True
    found = lambda_svc.function_policy_for_arn(function_arn)
    if found is None:
        return False
    context = _service_context("lambda:InvokeFunction", function_arn, source_arn)
    decision = iam_evaluator.evaluate_resource_policy(found[0], context, service=service)
    return decision.decision == "Allow"
