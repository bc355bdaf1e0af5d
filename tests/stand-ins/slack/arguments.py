"""Describes the arguments of Slack's Web API, for the stand-in to be checked against.

Usage: arguments.py FILE

They are those of Slack's own SDK: a method of its client names them, says which are required, and
shows in what form they are sent. Nothing is sent to anybody.
"""

import inspect
import json
import sys
import warnings
from pathlib import Path

from slack_sdk import WebClient
from slack_sdk.version import __version__


class Recorder(WebClient):
    """Keeps what would be sent."""

    def api_call(self, api_method, *, http_verb="POST", **sent):
        # A query is as good as a form; only methods that write are sent JSON.
        form = "json" if "json" in sent else "form"
        self.call = {"method": api_method, "verb": http_verb, "form": form}
        return {}


def describe(client, name):
    parameters = inspect.signature(getattr(WebClient, name)).parameters.values()
    named = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    required = [p.name for p in named if p.default is p.empty]
    client.call = None
    try:
        getattr(client, name)(**dict.fromkeys(required, "text"))
    except (ValueError, TypeError, AttributeError):
        return None
    if client.call is None:
        return None
    optional = sorted(p.name for p in named if p.default is not p.empty)
    return client.call | {"required": sorted(required), "optional": optional}


def main():
    # It advises against messages without blocks.
    warnings.simplefilter("ignore")
    client = Recorder()
    methods = {}
    for name in vars(WebClient):
        if name.startswith(("auth_", "users_", "chat_", "assistant_threads_")):
            call = describe(client, name)
            # Helpers, such as chat_stream, call nobody by themselves.
            if call:
                methods[call.pop("method")] = call
    document = {"version": __version__, "methods": methods}
    Path(sys.argv[1]).write_text(json.dumps(document, indent=1, sort_keys=True))


main()
