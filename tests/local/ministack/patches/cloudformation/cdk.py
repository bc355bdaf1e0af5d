"""Two custom resources that CDK adds by itself.

Their functions load AWS SDK clients that Lambda's Node.js runtime brings along and MiniStack's
does not (EC2, S3), so they fail before their first line. What they do is done here directly; what
is not exercised is CDK's own code and its role.
"""

from ministack.core.responses import get_account_id
from ministack.services import ec2, s3
from ministack.services.cloudformation import provisioners

from .resource import Resource

AUTO_DELETE_TAG = "aws-cdk:auto-delete-objects"


class RestrictDefaultSecurityGroup(Resource):
    """Takes the default group's rules away, and gives them back when it goes."""

    create_only = ("DefaultSecurityGroupId",)

    def create(self, logical_id, properties, stack):
        self._reconcile(properties, "before", "after")
        return properties["DefaultSecurityGroupId"], {}

    def update(self, physical_id, before, after, stack):
        return physical_id, {}

    def delete(self, physical_id, properties):
        self._reconcile(properties, "after", "before")

    @staticmethod
    def _reconcile(properties, old, new):
        group_id = properties["DefaultSecurityGroupId"]
        group = ec2._security_groups.get(group_id)
        if group is None:
            return  # Deleted together with its VPC.
        everywhere = [{"IpProtocol": "-1", "CidrIp": "0.0.0.0/0"}]
        itself = [
            {
                "IpProtocol": "-1",
                "SourceSecurityGroupId": group_id,
                "SourceSecurityGroupOwnerId": get_account_id(),
            }
        ]
        for direction, rules in (("IpPermissions", itself), ("IpPermissionsEgress", everywhere)):
            permissions = provisioners._ec2_sg_permissions(rules)
            states = {"before": permissions, "after": []}
            provisioners._ec2_sg_reconcile(
                group.setdefault(direction, []), states[old], states[new]
            )


class AutoDeleteObjects(Resource):
    """Empties the bucket before it goes, if it still bears CDK's tag."""

    create_only = ("BucketName",)

    def create(self, logical_id, properties, stack):
        return f"{properties['BucketName']}-auto-delete", {}

    def update(self, physical_id, before, after, stack):
        return physical_id, {}

    def delete(self, physical_id, properties):
        name = properties["BucketName"]
        bucket = s3._buckets.get(name)
        if bucket is None or (s3._bucket_tags.get(name) or {}).get(AUTO_DELETE_TAG) != "true":
            return
        bucket["objects"].clear()
        for store in (s3._object_versions, s3._object_tags, s3._object_acl):
            for key in [key for key in store if key[0] == name]:
                del store[key]


TYPES = {
    "Custom::VpcRestrictDefaultSG": RestrictDefaultSecurityGroup(),
    "Custom::S3AutoDeleteObjects": AutoDeleteObjects(),
}
