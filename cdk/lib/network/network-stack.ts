import { CfnOutput, Fn, RemovalPolicy, Stack, Tags, Validations } from 'aws-cdk-lib';
import * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as logs from 'aws-cdk-lib/aws-logs';
import type { Construct } from 'constructs';
import { CLUSTER_NAME } from '../cluster/names.ts';
import type { Config } from '../config.ts';
import { FUNCTIONS, NODES, SUBNET_MASKS } from './subnets.ts';

/** The VPC in which nodes run agents, and functions call the cluster. */
export class NetworkStack extends Stack {
  readonly vpc: ec2.Vpc;
  private readonly zones: readonly string[];

  constructor(scope: Construct, id: string, props: { readonly config: Config }) {
    const { env, vpc } = props.config;
    super(scope, id, { env, description: 'Carapace: the VPC of the cluster and of the functions that call it' });
    this.zones = vpc.availabilityZones;

    this.vpc = new ec2.Vpc(this, 'Vpc', {
      ipAddresses: ec2.IpAddresses.cidr(vpc.cidr),
      maxAzs: this.availabilityZones.length,
      natGateways: vpc.natGateways,
      subnetConfiguration: [
        // Every pod takes an address of its node's subnet.
        { name: NODES, subnetType: ec2.SubnetType.PRIVATE_WITH_EGRESS, cidrMask: SUBNET_MASKS.nodes },
        // Apart from the nodes, so that a NetworkPolicy can admit the control plane by address
        // without admitting a single pod.
        { name: FUNCTIONS, subnetType: ec2.SubnetType.PRIVATE_WITH_EGRESS, cidrMask: SUBNET_MASKS.functions },
        {
          name: 'Public',
          subnetType: ec2.SubnetType.PUBLIC,
          cidrMask: SUBNET_MASKS.public,
          mapPublicIpOnLaunch: false,
        },
      ],
      gatewayEndpoints: {
        // The layers of images come from S3, every record of an agent is in DynamoDB: through these
        // neither pays for NAT.
        S3: { service: ec2.GatewayVpcEndpointAwsService.S3 },
        DynamoDb: { service: ec2.GatewayVpcEndpointAwsService.DYNAMODB },
      },
      // It would take a Lambda of CDK's with rights on security groups to empty a group nothing uses.
      restrictDefaultSecurityGroup: false,
      flowLogs: {
        All: {
          trafficType: ec2.FlowLogTrafficType.ALL,
          destination: ec2.FlowLogDestination.toCloudWatchLogs(
            new logs.LogGroup(this, 'FlowLogs', {
              retention: logs.RetentionDays.THREE_MONTHS,
              removalPolicy: RemovalPolicy.DESTROY,
            }),
          ),
        },
      },
    });

    Validations.of(this.vpc).acknowledge({
      id: 'CloudFormation-Validate::W3010',
      reason: 'Zones are named only where an operator named them, because EKS does not run in all of a region.',
    });
    for (const subnet of this.vpc.selectSubnets({ subnetGroupName: NODES }).subnets) {
      // What a NodeClass of Karpenter's selects its subnets by, should Karpenter make the agents' nodes.
      Tags.of(subnet).add('karpenter.sh/discovery', CLUSTER_NAME);
    }
    const functions = this.vpc.selectSubnets({ subnetGroupName: FUNCTIONS }).subnets;
    for (const subnet of functions) {
      // The cluster tags all private subnets as places for load balancers. Not here: whatever had
      // an address in these subnets would pass for the control plane.
      Tags.of(subnet).remove('kubernetes.io/role/internal-elb', { priority: 300 });
    }
    new CfnOutput(this, 'FunctionCidrs', {
      value: functions.map((subnet) => subnet.ipv4CidrBlock).join(','),
      description: 'From where functions call agents: controlPlane.cidrs of the agents chart',
    });
  }

  /** Never looked up: a synth needs no credentials and gives the same template everywhere. */
  override get availabilityZones(): string[] {
    return this.zones.length > 0 ? [...this.zones] : [0, 1, 2].map((index) => Fn.select(index, Fn.getAzs()));
  }
}
