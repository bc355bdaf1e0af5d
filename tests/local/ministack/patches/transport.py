"""`aws:SecureTransport` is true for requests from the loopback interface.

The bucket policy that `cdk bootstrap` writes denies everything over plain HTTP, as do the
policies of buckets and queues with `enforceSSL`. The endpoint here is plain HTTP on loopback,
where nobody else can listen in, so such a request counts as secure. A request from any other
address does not. A call that belongs to no request (a retry, a schedule) is one service calling
another, which AWS does over TLS.
"""

import contextvars
import ipaddress

from ministack import app
from ministack.core import iam_evaluator

from . import seam


def apply(settings):
    origin = iam_evaluator._request_origin.get()
    seam.expect(origin == ("127.0.0.1", False), "calls without a request have another origin")
    iam_evaluator._request_origin = contextvars.ContextVar(
        "ministack_request_origin", default=("127.0.0.1", True)
    )

    @seam.around(app, "pin_request_origin", "de819c1bd9ac")
    def pin_request_origin(original, source_ip, secure_transport):
        original(source_ip, secure_transport or ipaddress.ip_address(source_ip).is_loopback)
