"""Start-up checks, speed, and the end of the process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import Account, eventually

HERE = Path(__file__).resolve().parent


def launch(*arguments, **environment):
    return subprocess.run(
        [sys.executable, HERE / "launch.py", *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
    )


def test_a_patched_function_that_has_changed_stops_the_start_and_names_the_patch():
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from ministack.services import stepfunctions as sfn\n"
        "def _start_execution(data): return None\n"
        "sfn._start_execution = _start_execution\n"
        "import patches, settings\n"
        "patches.ORDER = ('stepfunctions',)\n"
        "patches.apply(settings.take({'GATEWAY_PORT': '1'}))\n"
    )
    found = HERE / "changed_for_this_test.py"
    found.write_text(code)
    try:
        done = subprocess.run([sys.executable, found], cwd=HERE, capture_output=True, text=True)
    finally:
        found.unlink()
    assert done.returncode == 1
    assert "ministack patch 'stepfunctions' does not fit" in done.stderr
    assert "_start_execution has changed" in done.stderr


def test_another_version_of_ministack_stops_the_start(monkeypatch):
    import patches
    from patches import seam

    monkeypatch.setattr(seam, "MINISTACK", "1.5.32")
    with pytest.raises(SystemExit, match=r"'latency' does not fit: written for ministack 1\.5\.32"):
        patches.apply(None)


def test_a_cluster_without_its_certificate_authority_stops_the_start():
    done = launch(GATEWAY_PORT="1", KUBE_API_URL="https://127.0.0.1:6443")
    assert done.returncode == 1
    assert "KUBE_CA_FILE, KUBE_ADMIN_KUBECONFIG, KUBECTL" in done.stderr


def test_a_warm_invocation_does_not_wait_for_the_network_or_the_log(aws):
    function = aws.function()
    aws.invoke(function)

    def seconds():
        begin = time.perf_counter()
        aws.invoke(function)
        return time.perf_counter() - begin

    # Without the patch each one takes more than 50 ms.
    assert min(seconds() for _ in range(10)) < 0.04


def test_an_execution_starts_at_once(aws):
    machine = aws.machine({"Only": {"Type": "Succeed"}})

    def seconds():
        ended = aws.run(machine)
        return (ended["stopDate"] - ended["startDate"]).total_seconds()

    # Without the patch each one sleeps 150 ms first.
    assert min(seconds() for _ in range(5)) < 0.1


def test_a_function_does_not_see_the_secrets_of_the_stack(aws):
    seen = aws.invoke(aws.function(), do="environment")
    assert seen["AWS_LAMBDA_FUNCTION_NAME"].startswith("function-")
    ours = ("KUBE_", "KUBECTL", "LOCAL_")
    assert [name for name in seen if name.startswith(ours)] == []


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_the_process_and_every_function(start, name):
    stack = start()
    account = Account(stack)
    pids = [account.invoke(account.function())["pid"] for _ in range(2)]
    busy = account.function(timeout=60)
    event = json.dumps({"do": "sleep", "seconds": 50})
    account.lambda_.invoke(FunctionName=busy, InvocationType="Event", Payload=event)
    running = eventually(
        lambda: (found := children_of(stack.process.pid)) and len(found) == 3 and found,
        "three functions run",
    )
    assert set(pids) < set(running)
    begin = time.monotonic()
    stack.process.send_signal(getattr(signal, name))
    assert stack.process.wait(timeout=10) == 0
    assert time.monotonic() - begin < 5
    assert [pid for pid in running if Path(f"/proc/{pid}").exists()] == []


def children_of(pid):
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout
    return [int(line) for line in listed.split()]
