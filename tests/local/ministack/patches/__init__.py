"""The patches, in the order in which they are applied.

Each module holds one concern: its docstring says what AWS does and MiniStack does not, and its
`apply` checks that this is still so before it changes anything.
"""

import importlib

from . import seam

ORDER = (
    "latency",
    "transport",
    "lambda_failures",
    "cognito",
    "condition_keys",
    "http_api",
    "stepfunctions",
    "eventbridge",
    "cloudtrail",
    "alarms",
    "eks",
    "cloudformation",
    "local_routes",
)


def apply(settings):
    for name in ORDER:
        try:
            seam.expect_version()
            importlib.import_module(f".{name}", __package__).apply(settings)
        except (seam.Misfit, AttributeError, ImportError, KeyError) as misfit:
            # The last three: something that the patch uses without replacing it is gone.
            raise SystemExit(f"ministack patch '{name}' does not fit: {misfit}") from misfit
