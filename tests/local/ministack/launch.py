"""MiniStack with our patches.

    launch.py                                       serve until SIGTERM or SIGINT
    launch.py webhook-kubeconfig --cluster NAME     print the API server's token webhook kubeconfig
    launch.py digest MODULE[.CLASS].FUNCTION …      print the digests a patch names

README.md says which environment it reads.
"""

import argparse
import asyncio
import os
import pkgutil
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import settings as configuration
import webhook

# Seconds that open requests get to finish after a signal, and then child processes to exit.
GRACE_SECONDS = 1.0
CHILD_GRACE_SECONDS = 1.0


def main():
    parser = argparse.ArgumentParser(prog="launch.py", description="MiniStack with our patches")
    commands = parser.add_subparsers(dest="command")
    kubeconfig = commands.add_parser("webhook-kubeconfig")
    kubeconfig.add_argument("--cluster", required=True)
    kubeconfig.add_argument("--account", default="000000000000")
    kubeconfig.add_argument("--region", default="us-east-1")
    kubeconfig.add_argument(
        "--endpoint",
        default=os.environ.get("AWS_ENDPOINT_URL"),
        help="how the API server reaches this endpoint (default: AWS_ENDPOINT_URL)",
    )
    digest = commands.add_parser("digest")
    digest.add_argument("function", nargs="+")
    arguments = parser.parse_args()
    try:
        if arguments.command == "webhook-kubeconfig":
            print_webhook_kubeconfig(arguments)
        elif arguments.command == "digest":
            print_digests(arguments.function)
        else:
            serve(configuration.take())
    except configuration.Invalid as invalid:
        raise SystemExit(f"launch.py: {invalid}") from invalid


def print_webhook_kubeconfig(arguments):
    if not arguments.endpoint:
        raise configuration.Invalid("set AWS_ENDPOINT_URL or give --endpoint")
    server = webhook.url(
        arguments.endpoint,
        configuration.webhook_secret(),
        arguments.account,
        arguments.region,
        arguments.cluster,
    )
    print(webhook.kubeconfig(server), end="")


def print_digests(names):
    from patches import seam

    for name in names:
        print(name, seam.digest(pkgutil.resolve_name(name)))


def serve(settings):
    # The code of functions is unpacked here. The environment is left alone: functions get it, too.
    tempfile.tempdir = tempfile.mkdtemp(prefix="ministack-")
    # Imported only now: MiniStack reads the environment and the directory at import.
    from hypercorn.asyncio import serve as hypercorn_serve
    from hypercorn.config import Config
    from ministack import app

    import patches

    patches.apply(settings)
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    config = Config()
    config.bind = [f"{settings.bind_host}:{settings.port}"]
    config.keep_alive_timeout = 75
    config.graceful_timeout = GRACE_SECONDS
    config.loglevel = app.LOG_LEVEL

    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    status = 1
    try:
        loop.run_until_complete(hypercorn_serve(app.app, config, shutdown_trigger=stop.wait))
        status = 0
    except OSError as error:
        print(f"launch.py: cannot listen on {config.bind[0]}: {error}", file=sys.stderr)
    finally:
        end_children()
        shutil.rmtree(tempfile.tempdir, ignore_errors=True)
        sys.stdout.flush()
        sys.stderr.flush()
        # Worker threads may still wait for a function that has just been killed.
        os._exit(status)


def end_children():
    """Terminate, then kill, every process we started, and reap each: no orphan, no zombie."""
    deadline = time.monotonic() + CHILD_GRACE_SECONDS
    while True:
        try:
            reaped, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if reaped:
            continue
        late = time.monotonic() > deadline
        for pid in children():
            # Not reaped yet, so the id cannot have passed to a stranger.
            os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        time.sleep(0.02)


def children():
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # "pid (name) state ppid …": the name may contain anything, parentheses too.
            parent = stat.read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == os.getpid():
            found.append(int(stat.parent.name))
    return found


if __name__ == "__main__":
    main()
