"""aws:SecureTransport on loopback."""

import json

from support import allow


def test_a_bucket_that_insists_on_tls_takes_requests_from_loopback(aws):
    bucket = aws.name("bucket")
    aws.s3.create_bucket(Bucket=bucket)
    only_tls = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    aws.s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Statement": [only_tls]}))
    aws.user(allow("s3:*"))("s3").put_object(Bucket=bucket, Key="asset", Body=b"x")


def test_it_refuses_what_came_over_a_network_without_tls(monkeypatch):
    from ministack import app
    from ministack.core import iam_evaluator

    from patches import transport

    # What the patch replaces is put back afterwards.
    monkeypatch.setattr(app, "pin_request_origin", app.pin_request_origin)
    monkeypatch.setattr(iam_evaluator, "_request_origin", iam_evaluator._request_origin)
    transport.apply(None)
    app.pin_request_origin("192.0.2.1", False)
    assert iam_evaluator._request_origin.get() == ("192.0.2.1", False)
    app.pin_request_origin("127.0.0.1", False)
    assert iam_evaluator._request_origin.get() == ("127.0.0.1", True)
