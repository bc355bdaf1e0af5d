"""Trails.

CloudTrail refuses a trail whose bucket is not there, or does not let it look and write; MiniStack
takes every trail. A template in which the trail does not wait for its bucket's policy would pass
here and fail on AWS, so the policy is asked.

https://docs.aws.amazon.com/awscloudtrail/latest/userguide/create-s3-bucket-policy-for-cloudtrail.html
"""

from ministack import app
from ministack.core import iam_evaluator
from ministack.core.responses import get_account_id, get_region
from ministack.services import cloudtrail, s3

from .resource import Resource, answered, only, physical_name, tags

SERVICE = "cloudtrail.amazonaws.com"


class Trail(Resource):
    create_only = ("TrailName",)
    changeable = (
        "S3BucketName",
        "S3KeyPrefix",
        "SnsTopicName",
        "IncludeGlobalServiceEvents",
        "IsMultiRegionTrail",
        "IsOrganizationTrail",
        "EnableLogFileValidation",
        "CloudWatchLogsLogGroupArn",
        "CloudWatchLogsRoleArn",
    )

    def create(self, logical_id, properties, stack):
        name = properties.get("TrailName") or physical_name(stack, logical_id, 128)
        check(name, properties)
        answered(
            cloudtrail._create_trail({"Name": name, **self._request(properties)}), "CreateTrail"
        )
        return name, self._set(name, {}, properties)

    def update(self, physical_id, before, after, stack):
        check(physical_id, after)
        request = {"Name": physical_id, **self._request(after)}
        answered(cloudtrail._update_trail(request), "UpdateTrail")
        return physical_id, self._set(physical_id, before, after)

    def delete(self, physical_id, properties):
        arn = cloudtrail._trail_arn(physical_id)
        cloudtrail._trail_tags.pop(arn, None)
        cloudtrail._delete_trail({"Name": physical_id})

    def _request(self, properties):
        request = {
            name: truth(value) if value in ("true", "false") else value
            for name, value in only(properties, *self.changeable).items()
        }
        if "KMSKeyId" in properties:
            request["KmsKeyId"] = properties["KMSKeyId"]
        return request

    @staticmethod
    def _set(name, before, after):
        """What has calls of its own: what is logged, whether anything is, and tags."""
        if after.get("AdvancedEventSelectors"):
            raise ValueError("PutEventSelectors: MiniStack has no AdvancedEventSelectors")
        if after.get("EventSelectors") or before.get("EventSelectors"):
            selectors = after.get("EventSelectors") or cloudtrail._DEFAULT_EVENT_SELECTORS
            request = {"TrailName": name, "EventSelectors": selectors}
            answered(cloudtrail._put_event_selectors(request), "PutEventSelectors")
        call = cloudtrail._start_logging if truth(after["IsLogging"]) else cloudtrail._stop_logging
        answered(call({"Name": name}), "StartLogging or StopLogging")
        arn = cloudtrail._trail_arn(name)
        cloudtrail._trail_tags[arn] = tags(after)
        return {"Arn": arn, "SnsTopicArn": after.get("SnsTopicName", "")}


def truth(value):
    """A boolean, which a template may write as a word."""
    return str(value).lower() == "true"


def check(name, properties):
    """Raise unless the bucket is there and lets CloudTrail write the trail's logs."""
    bucket = properties["S3BucketName"]
    if bucket not in s3._buckets:
        raise ValueError(f"S3BucketDoesNotExistException: bucket {bucket} does not exist")
    folder = "/".join(filter(None, (properties.get("S3KeyPrefix"), "AWSLogs", get_account_id())))
    needed = {
        "s3:GetBucketAcl": f"arn:aws:s3:::{bucket}",
        "s3:PutObject": f"arn:aws:s3:::{bucket}/{folder}/CloudTrail",
    }
    for action, resource in needed.items():
        if app.AUTH and not lets(s3._bucket_policies.get(bucket), action, resource, name):
            raise ValueError(
                "InsufficientS3BucketPolicyException: Incorrect S3 bucket policy is detected for "
                f"bucket: {bucket} ({action} on {resource})"
            )


def lets(policy, action, resource, trail):
    context = iam_evaluator.EvalContext(
        principal_arn="*",
        principal_type="Service",
        principal_account="",
        action=action,
        resource_arn=resource,
        region=get_region(),
        service_context={
            "aws:sourcearn": cloudtrail._trail_arn(trail),
            "aws:sourceaccount": get_account_id(),
            "s3:x-amz-acl": "bucket-owner-full-control",
            "aws:securetransport": "true",
        },
    )
    if not policy:
        return False
    decision = iam_evaluator.evaluate_resource_policy(policy, context, service=SERVICE)
    return decision.decision == "Allow"


TYPES = {"AWS::CloudTrail::Trail": Trail()}
