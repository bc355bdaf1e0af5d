"""The EKS cluster and the webhook that authenticates against it."""

import base64
import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import botocore.exceptions
import botocore.session
import pytest
from botocore.signers import RequestSigner

from support import REGION, eventually

LAUNCH = Path(__file__).resolve().parent / "launch.py"
VIEW = "arn:aws:eks::aws:cluster-access-policy/AmazonEKSViewPolicy"


@pytest.fixture(scope="module")
def cluster(aws):
    role = aws.role("eks.amazonaws.com")
    created = aws.eks.create_cluster(
        name="carapace",
        roleArn=role,
        resourcesVpcConfig={"subnetIds": []},
        accessConfig={"bootstrapClusterCreatorAdminPermissions": False},
    )
    assert created["cluster"]["endpoint"] == "https://127.0.0.1:6443"

    def described():
        found = aws.eks.describe_cluster(name="carapace")["cluster"]
        return found if found["status"] == "ACTIVE" else None

    yield eventually(described, "the cluster is active", seconds=1)
    aws.eks.delete_cluster(name="carapace")


@pytest.fixture(scope="module")
def webhook(stack, kube):
    """The URL in the kubeconfig that the API server is started with."""
    printed = subprocess.run(
        [sys.executable, LAUNCH, "webhook-kubeconfig", "--cluster", "carapace"],
        env={
            "PATH": os.environ["PATH"],
            "AWS_ENDPOINT_URL": stack.endpoint,
            "KUBE_WEBHOOK_SECRET": kube["KUBE_WEBHOOK_SECRET"],
        },
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "current-context: webhook" in printed
    assert kube["KUBE_WEBHOOK_SECRET"] not in printed
    return re.search(r"server: (\S+)", printed).group(1)


class Principal:
    """A role's session, as a function has it."""

    def __init__(self, aws):
        trust = {"AWS": "arn:aws:iam::000000000000:root"}
        statement = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": trust}
        self.arn = aws.iam.create_role(
            RoleName=aws.name("principal"),
            AssumeRolePolicyDocument=json.dumps({"Statement": [statement]}),
        )["Role"]["Arn"]
        session = aws.sts.assume_role(RoleArn=self.arn, RoleSessionName="function")["Credentials"]
        self._keys = (session["AccessKeyId"], session["SecretAccessKey"], session["SessionToken"])

    def token(self, cluster="carapace", secret=None):
        key, own, session_token = self._keys
        session = botocore.session.Session()
        session.set_credentials(key, secret or own, session_token)
        signer = RequestSigner(
            session.get_service_model("sts").service_id,
            REGION,
            "sts",
            "v4",
            session.get_credentials(),
            session.get_component("event_emitter"),
        )
        host = f"https://sts.{REGION}.amazonaws.com/"
        url = signer.generate_presigned_url(
            {
                "method": "GET",
                "url": f"{host}?Action=GetCallerIdentity&Version=2011-06-15",
                "body": {},
                "headers": {"x-k8s-aws-id": cluster},
                "context": {},
            },
            region_name=REGION,
            expires_in=60,
            operation_name="",
        )
        return "k8s-aws-v1." + base64.urlsafe_b64encode(url.encode()).decode().rstrip("=")


def review(webhook, token):
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token},
    }
    request = urllib.request.Request(
        webhook, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    return json.load(urllib.request.urlopen(request))["status"]


@pytest.fixture(scope="module")
def principal(aws, cluster):
    principal = Principal(aws)
    aws.eks.create_access_entry(
        clusterName="carapace",
        principalArn=principal.arn,
        kubernetesGroups=["carapace:sandbox-claim"],
    )
    return principal


def test_the_cluster_is_the_running_api_server(cluster, kube):
    authority = base64.b64decode(cluster["certificateAuthority"]["data"]).decode()
    assert authority.strip() == Path(kube["KUBE_CA_FILE"]).read_text().strip()


def test_the_groups_of_an_access_entry_come_back_in_the_review(principal, webhook):
    status = review(webhook, principal.token())
    assert status["authenticated"] is True
    assert set(status["user"]["groups"]) == {"system:authenticated", "carapace:sandbox-claim"}
    assert "assumed-role" in status["user"]["username"]


def test_a_role_without_an_access_entry_is_nobody(aws, cluster, webhook):
    assert review(webhook, Principal(aws).token()) == {"authenticated": False}


def test_a_token_for_another_cluster_or_with_another_key_is_nobody(principal, webhook):
    assert review(webhook, principal.token(cluster="other")) == {"authenticated": False}
    assert review(webhook, principal.token(secret="x" * 40)) == {"authenticated": False}


def test_a_review_that_does_not_know_the_secret_path_is_answered_no(principal, webhook):
    guessed = re.sub(r"[^/]+$", "x" * 43, webhook)
    assert review(guessed, principal.token()) == {"authenticated": False}


def test_an_access_policy_becomes_a_binding_in_the_cluster(aws, principal, webhook, kube):
    aws.eks.associate_access_policy(
        clusterName="carapace",
        principalArn=principal.arn,
        policyArn=VIEW,
        accessScope={"type": "namespace", "namespaces": ["agents"]},
    )
    applied = Path(kube["KUBECTL"]).parent / "applied.json"

    def binding():
        items = json.loads(applied.read_text())["items"] if applied.exists() else []
        return next((i for i in items if i["kind"] == "RoleBinding"), None)

    found = eventually(binding, "a RoleBinding is applied")
    assert found["metadata"]["namespace"] == "agents"
    status = review(webhook, principal.token())
    assert found["subjects"][0]["name"] in status["user"]["groups"]
    aws.eks.disassociate_access_policy(
        clusterName="carapace", principalArn=principal.arn, policyArn=VIEW
    )


def test_another_cluster_is_refused_since_there_is_one_api_server(aws, cluster):
    with pytest.raises(botocore.exceptions.ClientError, match="belongs to the cluster carapace"):
        aws.eks.create_cluster(
            name="second", roleArn=cluster["roleArn"], resourcesVpcConfig={"subnetIds": []}
        )


def test_a_cluster_can_go_and_come_back_with_the_same_webhook(aws, principal, cluster, webhook):
    aws.eks.delete_cluster(name="carapace")
    assert review(webhook, principal.token()) == {"authenticated": False}
    aws.eks.create_cluster(
        name="carapace", roleArn=cluster["roleArn"], resourcesVpcConfig={"subnetIds": []}
    )
    assert review(webhook, principal.token()) == {"authenticated": False}
    aws.eks.create_access_entry(
        clusterName="carapace", principalArn=principal.arn, kubernetesGroups=["again"]
    )
    assert "again" in review(webhook, principal.token())["user"]["groups"]
