"""Attributes (`Fn::GetAtt`) that a type has on AWS and lacks in MiniStack."""

from ministack.services import ec2
from ministack.services.cloudformation import provisioners

from .. import seam


def apply():
    # An interface endpoint's security group lets the VPC's own addresses in.
    complete(
        "AWS::EC2::VPC",
        lambda vpc: {"CidrBlock": ec2._vpcs[vpc]["CidrBlock"]},
        create=("_ec2_vpc_create", "4920746a7825"),
        update=("_ec2_vpc_update", "4e762c188f54"),
    )


def complete(resource, attributes, **handlers):
    registered = provisioners._RESOURCE_HANDLERS[resource]
    for verb, (function, source) in handlers.items():
        handler = seam.shaped(provisioners, function, source)
        seam.expect(registered[verb] is handler, f"{resource} has another {verb} handler")
        registered[verb] = completed(handler, attributes)


def completed(handler, attributes):
    def run(*args):
        physical_id, known = handler(*args)
        return physical_id, {**attributes(physical_id), **known}

    return run
