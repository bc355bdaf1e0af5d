"""One MiniStack for the whole suite, started as the local stack starts it."""

import json
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

import support

HERE = Path(__file__).resolve().parent


class Stack:
    """A running launcher: its endpoint, and clients for it."""

    def __init__(self, directory, **environment):
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.log = directory / "ministack.log"
        self.environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(directory),
            "TMPDIR": str(directory),
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self.port),
            "AWS_ENDPOINT_URL": self.endpoint,
            "MINISTACK_HOST": "localhost",
            "IOT_MTLS_ENABLED": "0",
            "AUTH": "true",
            **environment,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, HERE / "launch.py"],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        support.eventually(self.ready, f"{self.endpoint} answers", seconds=20)

    def ready(self):
        assert self.process.poll() is None, self.log.read_text()
        try:
            return urllib.request.urlopen(f"{self.endpoint}/_ministack/health").status == 200
        except OSError:
            return False

    def client(self, service, key="test", secret="test", token=None):
        return support.client(self.endpoint, service, key, secret, token)

    def stop(self):
        self.process.terminate()
        return self.process.wait(timeout=10)


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Start a stack of one's own; it ends with the suite."""
    stacks = []

    def start_one(**environment):
        stack = Stack(tmp_path_factory.mktemp("ministack"), **environment)
        stacks.append(stack)
        return stack

    yield start_one
    for stack in stacks:
        if stack.process.poll() is None:
            stack.stop()


@pytest.fixture(scope="session")
def kube(tmp_path_factory):
    """What the local stack says about its API server, with a kubectl that keeps what it gets."""
    directory = tmp_path_factory.mktemp("kube")
    namespaces = {"items": [{"metadata": {"name": "agents"}}]}
    kubectl = directory / "kubectl"
    kubectl.write_text(
        "#!/bin/sh\n"
        'case "$1 $2" in\n'
        f"  'get namespaces') echo '{json.dumps(namespaces)}' ;;\n"
        "  get*) echo '{\"items\": []}' ;;\n"
        # Whoever reads it reads all of it.
        f"  apply*) cd {directory} && cat > applied.$$ && mv applied.$$ applied.json ;;\n"
        "esac\n"
    )
    kubectl.chmod(0o755)
    (directory / "ca.crt").write_text("-----BEGIN CERTIFICATE-----\nof this stack\n")
    (directory / "admin.kubeconfig").write_text("")
    return {
        "KUBE_API_URL": "https://127.0.0.1:6443",
        "KUBE_CA_FILE": str(directory / "ca.crt"),
        "KUBE_ADMIN_KUBECONFIG": str(directory / "admin.kubeconfig"),
        "KUBECTL": str(kubectl),
        "KUBE_WEBHOOK_SECRET": "a secret of this suite",
    }


@pytest.fixture(scope="session")
def stack(start, kube):
    return start(LOCAL_ADMIN_TOKEN="operator", **kube)


@pytest.fixture(scope="session")
def aws(stack):
    return support.Account(stack)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
