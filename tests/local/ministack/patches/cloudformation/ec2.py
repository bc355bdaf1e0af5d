"""The parts of a VPC with a NAT gateway: records, as all networking in MiniStack is."""

from ministack.services import ec2
from ministack.services.cloudformation import provisioners

from .resource import Resource, element


class Eip(Resource):
    create_only = ("Domain", "NetworkBorderGroup", "Address", "IpamPoolId", "TransferAddress")

    def create(self, logical_id, properties, stack):
        response = ec2._allocate_address({"Domain": [properties.get("Domain", "vpc")]})
        address = element(response, "publicIp", "AllocateAddress")
        allocation = element(response, "allocationId", "AllocateAddress")
        provisioners._ec2_apply_tags(allocation, properties)
        return address, self._attributes(address, allocation)

    def update(self, physical_id, before, after, stack):
        allocation = self._allocation(physical_id)
        provisioners._ec2_apply_tags(allocation, after, before)
        return physical_id, self._attributes(physical_id, allocation)

    def delete(self, physical_id, properties):
        allocation = self._allocation(physical_id)
        if allocation:
            ec2._release_address({"AllocationId": [allocation]})

    @staticmethod
    def _allocation(address):
        return next((key for key, a in ec2._addresses.items() if a["PublicIp"] == address), None)

    @staticmethod
    def _attributes(address, allocation):
        return {"AllocationId": allocation, "PublicIp": address}


class NatGateway(Resource):
    create_only = ("SubnetId", "ConnectivityType", "AllocationId", "PrivateIpAddress", "VpcId")

    def create(self, logical_id, properties, stack):
        request = {
            name: [properties[name]]
            for name in ("SubnetId", "AllocationId", "ConnectivityType")
            if name in properties
        }
        gateway = element(ec2._create_nat_gateway(request), "natGatewayId", "CreateNatGateway")
        provisioners._ec2_apply_tags(gateway, properties)
        return gateway, {"NatGatewayId": gateway}

    def update(self, physical_id, before, after, stack):
        provisioners._ec2_apply_tags(physical_id, after, before)
        return physical_id, {"NatGatewayId": physical_id}

    def delete(self, physical_id, properties):
        ec2._delete_nat_gateway({"NatGatewayId": [physical_id]})


class SecurityGroupRule(Resource):
    """A rule of a group that the template declares apart from the group itself."""

    create_only = (
        "GroupId",
        "GroupName",
        "IpProtocol",
        "FromPort",
        "ToPort",
        "CidrIp",
        "CidrIpv6",
        "SourcePrefixListId",
        "SourceSecurityGroupId",
        "SourceSecurityGroupName",
        "SourceSecurityGroupOwnerId",
        "DestinationPrefixListId",
        "DestinationSecurityGroupId",
    )

    def __init__(self, direction):
        self.direction = direction

    def create(self, logical_id, properties, stack):
        group = ec2._security_groups.get(properties.get("GroupId", ""))
        if group is None:
            raise ValueError(f"The security group '{properties.get('GroupId')}' does not exist")
        rule = provisioners._physical_name(stack, logical_id, lowercase=True)
        rule = f"sgr-{rule[-13:]}"
        group.setdefault(self.direction, []).extend(provisioners._ec2_sg_permissions([properties]))
        return rule, {"Id": rule}

    def update(self, physical_id, before, after, stack):
        self._reconcile(before, after)
        return physical_id, {"Id": physical_id}

    def delete(self, physical_id, properties):
        self._reconcile(properties, None)

    def _reconcile(self, before, after):
        group = ec2._security_groups.get(before.get("GroupId", ""))
        if group is not None:
            provisioners._ec2_sg_reconcile(
                group.setdefault(self.direction, []),
                provisioners._ec2_sg_permissions([before]),
                provisioners._ec2_sg_permissions([after] if after else []),
            )


class FlowLog(Resource):
    create_only = (
        "ResourceId",
        "ResourceType",
        "TrafficType",
        "LogDestination",
        "LogDestinationType",
        "LogGroupName",
        "DeliverLogsPermissionArn",
        "DeliverCrossAccountRole",
        "LogFormat",
        "MaxAggregationInterval",
        "DestinationOptions",
    )

    def create(self, logical_id, properties, stack):
        request = {"ResourceId.1": [properties["ResourceId"]]}
        for name in (
            "ResourceType",
            "TrafficType",
            "LogDestination",
            "LogDestinationType",
            "LogGroupName",
        ):
            if name in properties:
                request[name] = [properties[name]]
        log = element(ec2._create_flow_logs(request), "item", "CreateFlowLogs")
        provisioners._ec2_apply_tags(log, properties)
        return log, {"Id": log}

    def update(self, physical_id, before, after, stack):
        provisioners._ec2_apply_tags(physical_id, after, before)
        return physical_id, {"Id": physical_id}

    def delete(self, physical_id, properties):
        ec2._delete_flow_logs({"FlowLogId.1": [physical_id]})


TYPES = {
    "AWS::EC2::EIP": Eip(),
    "AWS::EC2::NatGateway": NatGateway(),
    "AWS::EC2::SecurityGroupIngress": SecurityGroupRule("IpPermissions"),
    "AWS::EC2::SecurityGroupEgress": SecurityGroupRule("IpPermissionsEgress"),
    "AWS::EC2::FlowLog": FlowLog(),
}
