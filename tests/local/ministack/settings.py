"""What the caller sets in the environment, read once.

MiniStack's own variables (BIND_HOST, GATEWAY_PORT, AUTH, …) are left in the environment for it
to read. Ours are taken out: MiniStack hands its whole environment to every function it runs, and
a function must not find the cluster's admin kubeconfig or the webhook's secret there.
"""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class KubeApi:
    """The API server that backs the one EKS cluster of this stack."""

    url: str
    ca_file: Path
    admin_kubeconfig: Path
    kubectl: str
    webhook_secret: str
    cluster: str


@dataclass(frozen=True)
class Settings:
    endpoint: str
    bind_host: str
    port: int
    account: str
    region: str
    kube: KubeApi | None
    admin_token: str | None
    sqs_metric_seconds: float


OURS = (
    "KUBE_API_URL",
    "KUBE_CA_FILE",
    "KUBE_ADMIN_KUBECONFIG",
    "KUBECTL",
    "KUBE_WEBHOOK_SECRET",
    "KUBE_CLUSTER",
    "LOCAL_ADMIN_TOKEN",
    "SQS_METRIC_SECONDS",
)

# Anything shorter could be guessed; MiniStack's route for the webhook asks for as many, too.
SHORTEST_SECRET = 16


class Invalid(Exception):
    """The environment cannot be used as it is."""


def take(environ=os.environ):
    ours = {name: environ.pop(name) for name in OURS if name in environ}
    try:
        port = int(environ.get("GATEWAY_PORT", ""))
    except ValueError:
        raise Invalid("GATEWAY_PORT must be the port to listen on") from None
    host = environ.get("BIND_HOST", "127.0.0.1")
    # MiniStack would listen on every interface by default.
    environ["BIND_HOST"] = host
    return Settings(
        endpoint=environ.setdefault("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}"),
        bind_host=host,
        port=port,
        account=environ.get("MINISTACK_ACCOUNT_ID", "000000000000"),
        region=environ.get("MINISTACK_REGION", "us-east-1"),
        kube=_kube(ours),
        admin_token=ours.get("LOCAL_ADMIN_TOKEN") or None,
        sqs_metric_seconds=_seconds(ours.get("SQS_METRIC_SECONDS", "1")),
    )


def _kube(ours):
    if "KUBE_API_URL" not in ours:
        return None
    required = (
        "KUBE_CA_FILE",
        "KUBE_ADMIN_KUBECONFIG",
        "KUBECTL",
        "KUBE_WEBHOOK_SECRET",
    )
    missing = [name for name in required if not ours.get(name)]
    if missing:
        raise Invalid(f"KUBE_API_URL is set, so these must be too: {', '.join(missing)}")
    return KubeApi(
        url=ours["KUBE_API_URL"],
        ca_file=Path(ours["KUBE_CA_FILE"]),
        admin_kubeconfig=Path(ours["KUBE_ADMIN_KUBECONFIG"]),
        kubectl=ours["KUBECTL"],
        webhook_secret=webhook_secret(ours),
        cluster=ours.get("KUBE_CLUSTER", "carapace"),
    )


def webhook_secret(ours=os.environ):
    secret = ours.get("KUBE_WEBHOOK_SECRET", "")
    if len(secret) < SHORTEST_SECRET:
        raise Invalid(f"KUBE_WEBHOOK_SECRET must have at least {SHORTEST_SECRET} characters")
    return secret


def _seconds(text):
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise Invalid(f"SQS_METRIC_SECONDS must be a positive number of seconds, not {text!r}")
    return seconds
