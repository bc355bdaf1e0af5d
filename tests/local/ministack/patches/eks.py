"""One EKS cluster, backed by an API server that is already running.

MiniStack would start k3s in a container. Here a cluster's creation only hands out the running API
server's address and certificate authority, and its deletion leaves the API server alone. The
token webhook's secret follows from the environment (see webhook.py) instead of being drawn at
creation. What is left as it is: verifying a token's signature, finding the access entry, and
binding EKS access policies to roles, which MiniStack does with kubectl inside its container and
here with kubectl against the API server.

There is one API server, so there is one cluster: creating another name is refused, since its
tokens would not be accepted anywhere.
"""

import os
import subprocess
import time

from ministack.core.responses import get_account_id, get_region
from ministack.services import ec2, eks
from ministack.services.cloudformation import provisioners

import webhook

from . import seam

# MiniStack looks the container up by this id.
CONTAINER = "kube-apiserver"
CA_IN_CONTAINER = "cat /var/lib/rancher/k3s/server/tls/server-ca.crt"
ACTIVE_WITHIN_SECONDS = 10.0


def apply(settings):
    _tell_cloudformation_when_active()
    _give_clusters_their_security_group()
    if settings.kube:
        _use_running_api_server(settings)


def _use_running_api_server(settings):
    kube = settings.kube
    seam.shaped(eks, "_k3s_exec", "7dee6e24f028")
    seam.shaped(eks, "_extract_ca_cert", "7f1b3452a4a1")
    seam.shaped(eks, "_authenticate_token_review", "4e4fd8503927")
    docker = Docker(kube)

    @seam.around(eks, "_get_docker", "7436d66f3fb4")
    def get_docker(original):
        return docker

    @seam.around(eks, "_cluster_endpoint", "d71770cf07fd")
    def cluster_endpoint(original, port):
        return kube.url

    @seam.around(eks, "_create_cluster", "7c6cfd442ddb")
    def create_cluster(original, body, creator_arn=None):
        name = body.get("name", "")
        if name and name != kube.cluster:
            message = f"This stack's API server belongs to the cluster {kube.cluster}, not {name}"
            return eks._error(400, "ResourceLimitExceededException", message)
        response = original(body, creator_arn)
        if response[0] >= 400:
            return response
        cluster = eks._clusters[name]
        cluster["_auth_token"] = webhook.token(
            kube.webhook_secret, get_account_id(), get_region(), name
        )
        return response


def _tell_cloudformation_when_active():
    """CloudFormation completes a cluster when it is ACTIVE; its attributes are empty before."""
    handlers = provisioners._RESOURCE_HANDLERS["AWS::EKS::Cluster"]
    create = seam.shaped(provisioners, "_eks_cluster_create", "048c444ae7fd")
    seam.expect(handlers["create"] is create, "AWS::EKS::Cluster has another create handler")

    def create_and_wait(logical_id, properties, stack):
        name, _ = create(logical_id, properties, stack)
        cluster = eks._clusters[name]
        deadline = time.monotonic() + ACTIVE_WITHIN_SECONDS
        while cluster["status"] == "CREATING":
            if time.monotonic() > deadline:
                raise ValueError(f"AWS::EKS::Cluster {name} is not ACTIVE after creation")
            time.sleep(0.01)
        return name, provisioners._eks_cluster_attrs(cluster)

    handlers["create"] = create_and_wait


def _give_clusters_their_security_group():
    """EKS creates the cluster's security group in its VPC; MiniStack invents an id for none."""

    @seam.around(eks, "_create_cluster", "7c6cfd442ddb")
    def create_cluster(original, body, creator_arn=None):
        response = original(body, creator_arn)
        if response[0] >= 400:
            return response
        cluster = eks._clusters[body["name"]]
        vpc = cluster["resourcesVpcConfig"]
        subnets = (ec2._subnets.get(subnet) for subnet in vpc["subnetIds"])
        vpc["vpcId"] = next((s["VpcId"] for s in subnets if s), vpc["vpcId"])
        group = vpc["clusterSecurityGroupId"]
        ec2._security_groups[group] = {
            "GroupId": group,
            "GroupName": f"eks-cluster-sg-{body['name']}",
            "Description": "EKS created security group",
            "VpcId": vpc["vpcId"],
            "OwnerId": get_account_id(),
            "IpPermissions": [],
            "IpPermissionsEgress": [],
        }
        return response

    @seam.around(eks, "_delete_cluster", "f90e5be0d2e2")
    def delete_cluster(original, name):
        cluster = eks._clusters.get(name)
        response = original(name)
        if cluster and response[0] < 400:
            group = cluster["resourcesVpcConfig"]["clusterSecurityGroupId"]
            ec2._security_groups.pop(group, None)
        return response


class Docker:
    """As much of docker-py as MiniStack's EKS uses, with the API server as the only container."""

    def __init__(self, kube):
        self.containers = self
        self._container = Container(kube)

    def create(self, **_):
        return self._container

    run = create

    def get(self, _):
        return self._container

    def list(self, **_):
        return []


class Container:
    id = CONTAINER

    def __init__(self, kube):
        self._kube = kube
        # kubectl needs no more than the path to find a shell's own tools.
        directory = os.path.dirname(os.path.abspath(kube.kubectl))
        self._environment = {
            "KUBECONFIG": str(kube.admin_kubeconfig),
            "PATH": f"{directory}:{os.environ['PATH']}",
            "HOME": os.environ.get("HOME", "/"),
        }

    @property
    def attrs(self):
        return {"NetworkSettings": {"Networks": {}}}

    def put_archive(self, path, data):
        """The webhook's kubeconfig: the API server has read its own long before."""

    def start(self):
        """It runs."""

    def stop(self, **_):
        """It is not ours to stop."""

    remove = stop

    def exec_run(self, command):
        if command == CA_IN_CONTAINER:
            return 0, self._kube.ca_file.read_bytes()
        done = subprocess.run(
            command, capture_output=True, env=self._environment, timeout=60, check=False
        )
        return done.returncode, done.stdout if done.returncode == 0 else done.stderr
