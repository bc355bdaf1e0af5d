"""Waits that AWS does not have.

- The Lambda Runtime API answers in two writes; with Nagle's algorithm on, the second one waits
  for a delayed acknowledgement, about 40 ms per invocation.
- After each invocation the worker waits up to 50 ms for a first log line.
- Every Step Functions execution sleeps 150 ms before its first state.
"""

import socketserver

from ministack.core import lambda_runtime
from ministack.services import stepfunctions

from . import seam


def apply(settings):
    seam.expect(
        not socketserver.StreamRequestHandler.disable_nagle_algorithm,
        "stream handlers already disable Nagle's algorithm",
    )
    socketserver.StreamRequestHandler.disable_nagle_algorithm = True

    # A line that comes later is not lost: it is reported with the next invocation.
    drain = seam.shaped(lambda_runtime.Worker, "_drain_stderr_bounded", "3fd7cc742872")
    seam.expect(drain.__defaults__ == (0.05, 0.005, 0.25), "the log drain has other defaults")
    drain.__defaults__ = (0.002, 0.002, 0.25)

    seam.with_constant(stepfunctions, "_run_execution", "996dff84e0e0", old=0.15, new=0.0)
