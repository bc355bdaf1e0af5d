"""The types that MiniStack's templates lack: created, updated in place, replaced, deleted."""

import json
from dataclasses import dataclass, field

import botocore.exceptions
import pytest

from support import ACCOUNT, arn, eventually


@dataclass
class Case:
    """One resource `It`, in a template that also has what it refers to."""

    type: str
    properties: dict
    # Properties whose change keeps the resource, and properties whose change replaces it.
    changed: dict
    replacing: dict | None
    attribute: str | None
    others: dict = field(default_factory=dict)


VPC = {"Vpc": {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.0.0.0/16"}}}
SUBNET = {
    "Type": "AWS::EC2::Subnet",
    "Properties": {"VpcId": {"Ref": "Vpc"}, "CidrBlock": {"Fn::GetAtt": "Vpc.CidrBlock"}},
}
GROUP = {
    "Type": "AWS::EC2::SecurityGroup",
    "Properties": {"GroupDescription": "g", "VpcId": {"Ref": "Vpc"}},
}
CLUSTER = {
    "Role": {
        "Type": "AWS::IAM::Role",
        "Properties": {"AssumeRolePolicyDocument": {"Statement": []}},
    },
    "Cluster": {
        "Type": "AWS::EKS::Cluster",
        "Properties": {
            "Name": "carapace",
            "RoleArn": {"Fn::GetAtt": "Role.Arn"},
            "ResourcesVpcConfig": {"SubnetIds": []},
        },
    },
}
GIVEN = "{{resolve:secretsmanager:given:SecretString:client_secret::}}"
IN_CLUSTER = {"ClusterName": {"Ref": "Cluster"}}
ALARM = {
    "Type": "AWS::CloudWatch::Alarm",
    "Properties": {
        "AlarmName": "child",
        "Namespace": "Own",
        "MetricName": "m",
        "ComparisonOperator": "GreaterThanThreshold",
        "EvaluationPeriods": 1,
        "Period": 60,
        "Statistic": "Sum",
        "Threshold": 1,
    },
}
TAGS = {"Tags": [{"Key": "k", "Value": "v"}]}

LOGS = {
    "Bucket": {"Type": "AWS::S3::Bucket"},
    "Policy": {
        "Type": "AWS::S3::BucketPolicy",
        "Properties": {
            "Bucket": {"Ref": "Bucket"},
            "PolicyDocument": {
                "Statement": [
                    {
                        "Effect": "Allow",
                        "Principal": {"Service": "cloudtrail.amazonaws.com"},
                        "Action": "s3:GetBucketAcl",
                        "Resource": {"Fn::GetAtt": "Bucket.Arn"},
                    },
                    {
                        "Effect": "Allow",
                        "Principal": {"Service": "cloudtrail.amazonaws.com"},
                        "Action": "s3:PutObject",
                        "Resource": {"Fn::Sub": f"${{Bucket.Arn}}/AWSLogs/{ACCOUNT}/*"},
                        "Condition": {
                            "StringEquals": {"s3:x-amz-acl": "bucket-owner-full-control"}
                        },
                    },
                    {
                        "Effect": "Deny",
                        "Principal": "*",
                        "Action": "s3:*",
                        "Resource": {"Fn::Sub": "${Bucket.Arn}/*"},
                        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                    },
                ]
            },
        },
    },
}

CASES = [
    Case("AWS::EC2::EIP", {"Domain": "vpc"}, TAGS, None, "AllocationId"),
    Case(
        "AWS::EC2::NatGateway",
        {"SubnetId": {"Ref": "Subnet"}, "AllocationId": {"Fn::GetAtt": "Eip.AllocationId"}},
        TAGS,
        {"ConnectivityType": "private"},
        "NatGatewayId",
        {**VPC, "Subnet": SUBNET, "Eip": {"Type": "AWS::EC2::EIP"}},
    ),
    Case(
        "AWS::EC2::SecurityGroupIngress",
        {"GroupId": {"Ref": "Group"}, "IpProtocol": "tcp", "FromPort": 443, "ToPort": 443,
         "CidrIp": "10.0.0.0/8"},
        {"Description": "to the API"},
        {"ToPort": 444},
        "Id",
        {**VPC, "Group": GROUP},
    ),
    Case(
        "AWS::EC2::SecurityGroupEgress",
        {"GroupId": {"Ref": "Group"}, "IpProtocol": "tcp", "FromPort": 443, "ToPort": 443,
         "CidrIp": "10.0.0.0/8"},
        {"Description": "to the API"},
        {"CidrIp": "10.1.0.0/16"},
        "Id",
        {**VPC, "Group": GROUP},
    ),
    Case(
        "AWS::EC2::FlowLog",
        {"ResourceId": {"Ref": "Vpc"}, "ResourceType": "VPC", "TrafficType": "ALL",
         "LogDestination": "arn:aws:s3:::flow", "LogDestinationType": "s3"},
        TAGS,
        {"TrafficType": "REJECT"},
        "Id",
        VPC,
    ),
    Case(
        "AWS::EKS::AccessEntry",
        {**IN_CLUSTER, "PrincipalArn": {"Fn::GetAtt": "Role.Arn"}, "KubernetesGroups": ["a"]},
        {"KubernetesGroups": ["a", "b"]},
        {"PrincipalArn": f"arn:aws:iam::{ACCOUNT}:role/other"},
        "AccessEntryArn",
        CLUSTER,
    ),
    Case(
        "AWS::EKS::Addon",
        {**IN_CLUSTER, "AddonName": "vpc-cni"},
        {"ConfigurationValues": "{}"},
        {"AddonName": "coredns"},
        "Arn",
        CLUSTER,
    ),
    Case(
        "AWS::EKS::PodIdentityAssociation",
        {**IN_CLUSTER, "Namespace": "n", "ServiceAccount": "s",
         "RoleArn": {"Fn::GetAtt": "Role.Arn"}},
        {"RoleArn": f"arn:aws:iam::{ACCOUNT}:role/other"},
        {"ServiceAccount": "t"},
        "AssociationId",
        CLUSTER,
    ),
    Case(
        "AWS::CloudTrail::Trail",
        {"S3BucketName": {"Ref": "Bucket"}, "IsLogging": True, "EnableLogFileValidation": True,
         "EventSelectors": [{"IncludeManagementEvents": True, "ReadWriteType": "WriteOnly"}]},
        {"IsMultiRegionTrail": True},
        {"TrailName": "renamed"},
        "Arn",
        LOGS,
    ),
    Case(
        "AWS::Cognito::UserPoolIdentityProvider",
        {"UserPoolId": {"Ref": "Pool"}, "ProviderName": "Corp", "ProviderType": "OIDC",
         "ProviderDetails": {"oidc_issuer": "https://corp.example", "client_secret": GIVEN},
         "AttributeMapping": {"email": "email"}},
        {"AttributeMapping": {"email": "mail"}},
        {"ProviderName": "Other"},
        None,
        {"Pool": {"Type": "AWS::Cognito::UserPool", "Properties": {}}},
    ),
    Case(
        "AWS::Events::Archive",
        {"SourceArn": {"Fn::GetAtt": "Bus.Arn"}, "EventPattern": {"source": ["a"]}},
        {"RetentionDays": 30},
        {"ArchiveName": "renamed"},
        "Arn",
        {"Bus": {"Type": "AWS::Events::EventBus", "Properties": {"Name": "archived"}}},
    ),
    Case(
        "AWS::CloudWatch::CompositeAlarm",
        {"AlarmRule": 'ALARM("child")'},
        {"AlarmRule": 'OK("child")'},
        {"AlarmName": "renamed"},
        "Arn",
        {"Child": ALARM},
    ),
    Case(
        "AWS::IAM::OIDCProvider",
        {"Url": "https://a.example", "ClientIdList": ["sts.amazonaws.com"]},
        {"ClientIdList": ["other"]},
        {"Url": "https://b.example"},
        "Arn",
    ),
    Case(
        "AWS::SecretsManager::ResourcePolicy",
        {"SecretId": {"Ref": "Secret"}, "ResourcePolicy": {"Statement": []}},
        {"ResourcePolicy": {"Version": "2012-10-17", "Statement": []}},
        None,
        "Id",
        {"Secret": {"Type": "AWS::SecretsManager::Secret", "Properties": {"SecretString": "x"}}},
    ),
]  # fmt: skip


class Deployment:
    """A CloudFormation stack of one template after the other."""

    def __init__(self, aws, others):
        self.aws = aws
        self.others = others
        self.name = aws.name("deployment")

    def deploy(self, resource, properties, attribute=None, update=False):
        """(physical id, attribute) of the resource once the stack has settled."""
        # A composite alarm names its children in a sentence, where no reference orders them, and a
        # trail does not name its bucket's policy at all.
        before = [name for name in ("Child", "Policy") if name in self.others]
        value = {"Fn::GetAtt": ["It", attribute]} if attribute else {"Ref": "It"}
        template = {
            "Resources": {
                **self.others,
                "It": {"Type": resource, "Properties": properties, "DependsOn": before},
            },
            "Outputs": {"Attribute": {"Value": value}},
        }
        verb = "update_stack" if update else "create_stack"
        getattr(self.aws.cloudformation, verb)(
            StackName=self.name,
            TemplateBody=json.dumps(template),
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        stack = eventually(self.settled, f"{self.name} has settled")
        expected = "UPDATE_COMPLETE" if update else "CREATE_COMPLETE"
        assert stack["StackStatus"] == expected, self.failures()
        found = self.aws.cloudformation.describe_stack_resource(
            StackName=self.name, LogicalResourceId="It"
        )["StackResourceDetail"]
        return found["PhysicalResourceId"], stack["Outputs"][0]["OutputValue"]

    def settled(self):
        stack = self.aws.cloudformation.describe_stacks(StackName=self.name)["Stacks"][0]
        return None if stack["StackStatus"].endswith("IN_PROGRESS") else stack

    def failures(self):
        events = self.aws.cloudformation.describe_stack_events(StackName=self.name)
        reasons = [e.get("ResourceStatusReason") for e in events["StackEvents"]]
        return [reason for reason in reasons if reason]

    def delete(self):
        self.aws.cloudformation.delete_stack(StackName=self.name)
        eventually(self.gone, f"{self.name} is gone")

    def gone(self):
        try:
            stack = self.settled()
        except botocore.exceptions.ClientError:
            return True
        assert stack is None or stack["StackStatus"] == "DELETE_COMPLETE", self.failures()
        return stack is not None


@pytest.fixture(scope="module", autouse=True)
def given(aws):
    secret = json.dumps({"client_secret": "s3cret"})
    aws.secretsmanager.create_secret(Name="given", SecretString=secret)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.type)
def test_a_type(case, aws):
    deployment = Deployment(aws, case.others)
    properties = case.properties
    created, attribute = deployment.deploy(case.type, properties, case.attribute)
    assert created
    assert attribute
    properties = {**properties, **case.changed}
    assert deployment.deploy(case.type, properties, case.attribute, update=True) == (
        created,
        attribute,
    )
    if case.replacing:
        properties = {**properties, **case.replacing}
        replaced, _ = deployment.deploy(case.type, properties, case.attribute, update=True)
        assert replaced != created
    deployment.delete()
    # Nothing is left in the way of doing it again.
    again = Deployment(aws, case.others)
    again.deploy(case.type, case.properties, case.attribute)
    again.delete()


def test_an_identity_provider_has_the_secret_that_its_template_refers_to(aws):
    case = next(case for case in CASES if case.type.endswith("IdentityProvider"))
    deployment = Deployment(aws, case.others)
    deployment.deploy(case.type, case.properties)
    pool = aws.cloudformation.describe_stack_resource(
        StackName=deployment.name, LogicalResourceId="Pool"
    )["StackResourceDetail"]["PhysicalResourceId"]
    found = aws.cognito_idp.describe_identity_provider(UserPoolId=pool, ProviderName="Corp")
    assert found["IdentityProvider"]["ProviderDetails"]["client_secret"] == "s3cret"
    deployment.delete()


def test_an_access_entry_brings_its_policies_and_its_groups(aws):
    deployment = Deployment(aws, CLUSTER)
    principal = f"arn:aws:iam::{ACCOUNT}:role/claims"
    view, edit = (
        {
            "PolicyArn": f"arn:aws:eks::aws:cluster-access-policy/AmazonEKS{name}Policy",
            "AccessScope": {"Type": "namespace", "Namespaces": ["agents"]},
        }
        for name in ("View", "Edit")
    )
    entry = {**IN_CLUSTER, "PrincipalArn": principal, "KubernetesGroups": ["carapace:claim"]}
    where = {"clusterName": "carapace", "principalArn": principal}

    def policies():
        found = aws.eks.list_associated_access_policies(**where)["associatedAccessPolicies"]
        return {policy["policyArn"]: policy["accessScope"] for policy in found}

    of_type = "AWS::EKS::AccessEntry"
    deployment.deploy(of_type, {**entry, "AccessPolicies": [view]}, "AccessEntryArn")
    described = aws.eks.describe_access_entry(**where)["accessEntry"]
    assert described["kubernetesGroups"] == ["carapace:claim"]
    assert policies() == {view["PolicyArn"]: {"type": "namespace", "namespaces": ["agents"]}}
    changed = {**entry, "KubernetesGroups": [], "AccessPolicies": [edit]}
    deployment.deploy(of_type, changed, "AccessEntryArn", update=True)
    assert aws.eks.describe_access_entry(**where)["accessEntry"]["kubernetesGroups"] == []
    assert list(policies()) == [edit["PolicyArn"]]
    deployment.delete()


def test_a_rule_of_a_security_group_comes_and_goes_with_its_resource(aws):
    deployment = Deployment(aws, {**VPC, "Group": GROUP})
    rule = {"GroupId": {"Ref": "Group"}, "IpProtocol": "tcp", "CidrIp": "10.0.0.0/8"}

    def ports():
        group = aws.cloudformation.describe_stack_resource(
            StackName=deployment.name, LogicalResourceId="Group"
        )["StackResourceDetail"]["PhysicalResourceId"]
        found = aws.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]
        return [permission["FromPort"] for permission in found["IpPermissions"]]

    of_type = "AWS::EC2::SecurityGroupIngress"
    deployment.deploy(of_type, {**rule, "FromPort": 443, "ToPort": 443}, "Id")
    assert ports() == [443]
    deployment.deploy(of_type, {**rule, "FromPort": 80, "ToPort": 80}, "Id", update=True)
    assert ports() == [80]
    deployment.delete()


def test_the_cluster_has_the_api_server_s_address_when_its_stack_is_complete(aws, kube):
    deployment = Deployment(aws, {"Role": CLUSTER["Role"]})
    cluster = CLUSTER["Cluster"]["Properties"]
    _, endpoint = deployment.deploy("AWS::EKS::Cluster", cluster, "Endpoint")
    assert endpoint == kube["KUBE_API_URL"]
    deployment.delete()


def test_cdk_s_own_custom_resources_do_their_work(aws):
    group = {"Fn::GetAtt": ["Vpc", "DefaultSecurityGroup"]}
    deployment = Deployment(aws, VPC)
    restricted, _ = deployment.deploy(
        "Custom::VpcRestrictDefaultSG",
        {"ServiceToken": arn("lambda", "function:cdk"), "DefaultSecurityGroupId": group},
    )
    found = aws.ec2.describe_security_groups(GroupIds=[restricted])["SecurityGroups"][0]
    assert found["IpPermissions"] == found["IpPermissionsEgress"] == []
    deployment.delete()
    bucket = aws.name("bucket")
    aws.s3.create_bucket(Bucket=bucket)
    tag = {"Key": "aws-cdk:auto-delete-objects", "Value": "true"}
    aws.s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [tag]})
    aws.s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for body in (b"one", b"two"):
        aws.s3.put_object(Bucket=bucket, Key="k", Body=body)
    deployment = Deployment(aws, {})
    properties = {"ServiceToken": arn("lambda", "function:cdk"), "BucketName": bucket}
    deployment.deploy("Custom::S3AutoDeleteObjects", properties)
    deployment.delete()
    aws.s3.delete_bucket(Bucket=bucket)


def test_a_trail_logs_what_its_template_says(aws):
    deployment = Deployment(aws, LOGS)
    selectors = [{"IncludeManagementEvents": True, "ReadWriteType": "WriteOnly"}]
    properties = {"S3BucketName": {"Ref": "Bucket"}, "IsLogging": True}
    of_type = "AWS::CloudTrail::Trail"
    trail, trail_arn = deployment.deploy(
        of_type, {**properties, "EventSelectors": selectors}, "Arn"
    )
    assert trail_arn == arn("cloudtrail", f"trail/{trail}")
    assert aws.cloudtrail.get_trail_status(Name=trail)["IsLogging"]
    found = aws.cloudtrail.get_event_selectors(TrailName=trail)["EventSelectors"]
    assert found[0]["ReadWriteType"] == "WriteOnly"
    deployment.deploy(of_type, {**properties, "IsLogging": False}, "Arn", update=True)
    assert not aws.cloudtrail.get_trail_status(Name=trail)["IsLogging"]
    found = aws.cloudtrail.get_event_selectors(TrailName=trail)["EventSelectors"]
    assert found[0]["ReadWriteType"] == "All"
    deployment.delete()
    assert aws.cloudtrail.describe_trails()["trailList"] == []


def test_a_trail_whose_bucket_does_not_let_it_write_is_refused(aws):
    bucket = {"Bucket": LOGS["Bucket"]}
    properties = {"S3BucketName": {"Ref": "Bucket"}, "IsLogging": True}
    deployment = Deployment(aws, bucket)
    with pytest.raises(AssertionError, match="InsufficientS3BucketPolicyException"):
        deployment.deploy("AWS::CloudTrail::Trail", properties)
    deployment = Deployment(aws, {})
    with pytest.raises(AssertionError, match="S3BucketDoesNotExistException"):
        deployment.deploy("AWS::CloudTrail::Trail", {**properties, "S3BucketName": "nowhere"})
