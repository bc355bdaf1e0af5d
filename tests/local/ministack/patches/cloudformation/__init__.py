"""CloudFormation resource types whose API MiniStack has, but which its templates cannot use.

A CDK app with a VPC, an EKS cluster and a few alarms is refused as a whole ("Unrecognized
resource types") for want of them. Each type below maps its properties to the calls that
CloudFormation makes, with the attributes, the replacement rules and the physical id of its
reference page, https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/.
"""

from ministack.services.cloudformation import provisioners

from .. import seam
from . import attributes, cdk, cloudtrail, ec2, eks, identity_providers, other

TYPES = {
    **cdk.TYPES,
    **cloudtrail.TYPES,
    **ec2.TYPES,
    **eks.TYPES,
    **identity_providers.TYPES,
    **other.TYPES,
}


def apply(settings):
    attributes.apply()
    for name, resource in TYPES.items():
        seam.expect(name not in provisioners._RESOURCE_HANDLERS, f"MiniStack has {name} now")
        provisioners._RESOURCE_HANDLERS[name] = {
            "create": resource.create,
            "update": resource.update,
            "delete": resource.delete,
        }
        # An update that touches one of these creates the successor and then deletes this one.
        provisioners._REPLACING_PROPERTIES[name] = resource.create_only
