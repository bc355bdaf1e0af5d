import { RemovalPolicy, Tags, Validations } from 'aws-cdk-lib';
import * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as eks from 'aws-cdk-lib/aws-eks-v2';
import * as iam from 'aws-cdk-lib/aws-iam';
import { Construct } from 'constructs';
import { NODES } from '../network/subnets.ts';
import { CLUSTER_NAME } from './names.ts';

const MANAGED_POLICIES = ['AmazonEKSWorkerNodePolicy', 'AmazonEC2ContainerRegistryPullOnly'];

/**
 * Nodes of the system's own pods: CoreDNS, and the controllers an operator installs. Agents never run
 * here, since these have no Kata; their nodes are not part of this app.
 */
export class SystemNodes extends Construct {
  constructor(
    scope: Construct,
    id: string,
    props: { readonly cluster: eks.ICluster; readonly instanceType: string; readonly count: number },
  ) {
    super(scope, id);
    const role = new iam.Role(this, 'Role', {
      description: 'Nodes of the system pods of the cluster carapace',
      assumedBy: new iam.ServicePrincipal('ec2.amazonaws.com'),
      managedPolicies: MANAGED_POLICIES.map((name) => iam.ManagedPolicy.fromAwsManagedPolicyName(name)),
    });
    for (const name of MANAGED_POLICIES) {
      Validations.of(role).acknowledge({
        id: `AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/${name}]`,
        reason: 'What a kubelet needs changes with Kubernetes; AWS keeps this policy in step.',
      });
    }

    const template = new ec2.LaunchTemplate(this, 'Template', {
      requireImdsv2: true,
      // One hop ends at the node: a pod that asks for the node's credentials gets no answer.
      httpPutResponseHopLimit: 1,
      blockDevices: [
        {
          deviceName: '/dev/xvda',
          volume: ec2.BlockDeviceVolume.ebs(50, { encrypted: true, volumeType: ec2.EbsDeviceVolumeType.GP3 }),
        },
      ],
    });
    Tags.of(template).add('Name', `${CLUSTER_NAME}-system`);

    new eks.Nodegroup(this, 'Nodes', {
      cluster: props.cluster,
      nodeRole: role,
      subnets: { subnetGroupName: NODES },
      amiType: eks.NodegroupAmiType.AL2023_X86_64_STANDARD,
      instanceTypes: [new ec2.InstanceType(props.instanceType)],
      minSize: props.count,
      desiredSize: props.count,
      // Room for one more, so that an update can replace a node before it drains it.
      maxSize: props.count + 1,
      maxUnavailable: 1,
      enableNodeAutoRepair: true,
      labels: { 'carapace.dev/role': 'system' },
      launchTemplateSpec: { id: template.launchTemplateId as string, version: template.latestVersionNumber },
      removalPolicy: RemovalPolicy.DESTROY,
    });
  }
}
