"""A function that dies gets the error type that AWS reports.

AWS: a process that exits, whether while it starts or in an invocation, is `Runtime.ExitError`;
one that is still starting when the function's timeout passes is `Sandbox.Timedout`; an error the
function itself posts to the Runtime API's init endpoint keeps its own `errorType`. MiniStack has
the first two right within an invocation and says `Runtime.Unknown` for all of them during init.
State machines match these names in Retry, so a crash at start must not look different.
"""

from ministack.core.lambda_runtime import (
    ProvidedInitTimeout,
    ProvidedRuntimeError,
    ProvidedWorker,
)

from . import seam


def apply(settings):
    # What `invoke` itself reports is what the patch relies on.
    seam.shaped(ProvidedWorker, "invoke", "00d96a1a25c6")

    @seam.around(ProvidedWorker, "_await_init", "9e315b5a2be1")
    def await_init(original, worker, init_timeout=None):
        try:
            original(worker, init_timeout)
        except ProvidedInitTimeout as late:
            if init_timeout is None:
                raise  # AWS runs init once more, under the function's own timeout.
            seconds = f"{float(init_timeout):.2f}"
            raise ProvidedRuntimeError(
                f"Task timed out after {seconds} seconds", "Sandbox.Timedout"
            ) from late
        except RuntimeError as failed:
            posted = worker._init_error
            if isinstance(posted, dict) and posted.get("errorType"):
                raise ProvidedRuntimeError(
                    posted.get("errorMessage", ""), posted["errorType"]
                ) from failed
            raise ProvidedRuntimeError(str(failed), "Runtime.ExitError") from failed
