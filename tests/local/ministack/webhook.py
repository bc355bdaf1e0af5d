"""The token webhook's address, known before either side runs.

The API server reads its webhook kubeconfig once, at its start, and it starts before MiniStack
and long before anybody creates the EKS cluster. So the path, secret included, follows from
values that the caller knows: account, region, cluster name and KUBE_WEBHOOK_SECRET.
"""

import base64
import hashlib
import hmac


def token(secret, account, region, cluster):
    """The last segment of the webhook's path: bound to one cluster, and not the secret itself."""
    message = f"{account}/{region}/{cluster}".encode()
    mac = hmac.new(secret.encode(), message, hashlib.sha256).digest()
    return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


def url(endpoint, secret, account, region, cluster):
    path = f"{account}/{region}/{cluster}/{token(secret, account, region, cluster)}"
    return f"{endpoint.rstrip('/')}/_ministack/eks-auth/{path}"


def kubeconfig(server):
    """For kube-apiserver's --authentication-token-webhook-config-file."""
    return f"""\
apiVersion: v1
kind: Config
clusters:
- name: aws-iam
  cluster:
    server: {server}
users:
- name: kube-apiserver
contexts:
- name: webhook
  context:
    cluster: aws-iam
    user: kube-apiserver
current-context: webhook
"""
