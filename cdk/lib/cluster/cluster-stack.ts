import { CfnOutput, RemovalPolicy, Stack, Validations } from 'aws-cdk-lib';
import * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as eks from 'aws-cdk-lib/aws-eks-v2';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as kms from 'aws-cdk-lib/aws-kms';
import * as logs from 'aws-cdk-lib/aws-logs';
import type { Construct } from 'constructs';
import type { Config } from '../config.ts';
import { NODES } from '../network/subnets.ts';
import { Addons } from './addons.ts';
import { AGENTD_PORT, CLUSTER_NAME } from './names.ts';
import { SystemNodes } from './system-nodes.ts';

export interface ClusterStackProps {
  readonly config: Config;
  readonly vpc: ec2.IVpc;
}

/** The EKS cluster: who may call it, what its nodes run before anything of ours does. */
export class ClusterStack extends Stack {
  readonly cluster: eks.Cluster;
  /** Whoever is in this group may call the API server, agents and the model gateway. */
  readonly clients: ec2.SecurityGroup;

  constructor(scope: Construct, id: string, props: ClusterStackProps) {
    const { config, vpc } = props;
    super(scope, id, { env: config.env, description: 'Carapace: the EKS cluster in which agents run' });

    // EKS would make this group itself, and keep everything in it for ever.
    const log = new logs.LogGroup(this, 'Log', {
      logGroupName: `/aws/eks/${CLUSTER_NAME}/cluster`,
      retention: logs.RetentionDays.THREE_MONTHS,
      removalPolicy: RemovalPolicy.DESTROY,
    });
    const key = new kms.Key(this, 'SecretsKey', {
      alias: `alias/${CLUSTER_NAME}/cluster-secrets`,
      description: 'Encrypts the Secrets of the cluster carapace',
      enableKeyRotation: true,
    });

    this.cluster = new eks.Cluster(this, 'Cluster', {
      clusterName: CLUSTER_NAME,
      version: eks.KubernetesVersion.V1_36,
      role: clusterRole(this),
      vpc,
      vpcSubnets: [{ subnetGroupName: NODES }],
      // Functions and nodes use the private endpoint. The public one is for operators outside the
      // VPC and open only to the networks they named.
      endpointAccess:
        config.cluster.operatorCidrs.length > 0
          ? eks.EndpointAccess.PUBLIC_AND_PRIVATE.onlyFrom(...config.cluster.operatorCidrs)
          : eks.EndpointAccess.PRIVATE,
      secretsEncryptionKey: key,
      clusterLogging: [
        eks.ClusterLoggingTypes.API,
        eks.ClusterLoggingTypes.AUDIT,
        eks.ClusterLoggingTypes.AUTHENTICATOR,
        eks.ClusterLoggingTypes.CONTROLLER_MANAGER,
        eks.ClusterLoggingTypes.SCHEDULER,
      ],
      // The creator is CloudFormation's role, which has no business inside the cluster.
      bootstrapClusterCreatorAdminPermissions: false,
      // No nodes of EKS Auto Mode: it knows no Kata.
      defaultCapacityType: eks.DefaultCapacityType.NODEGROUP,
      defaultCapacity: 0,
    });
    this.cluster.node.addDependency(log);
    Validations.of(this.cluster).acknowledge({
      id: 'CloudFormation-Validate::W9009',
      reason: "CDK's own cluster sets the deprecated property.",
    });
    config.cluster.admins.forEach((role, index) => this.cluster.grantClusterAdmin(`Admin${index}`, role));

    const addons = new Addons(this, 'Addons', { cluster: this.cluster, manageCoreDns: config.cluster.manageCoreDns });
    const nodes = new SystemNodes(this, 'SystemNodes', { cluster: this.cluster, ...config.cluster.systemNodes });
    nodes.node.addDependency(...addons.beforeNodes);
    for (const addon of addons.afterNodes) addon.node.addDependency(nodes);

    this.clients = this.admitClients(vpc, config);

    new CfnOutput(this, 'ClusterName', { value: this.cluster.clusterName });
    new CfnOutput(this, 'ClusterEndpoint', { value: this.cluster.clusterEndpoint });
    new CfnOutput(this, 'ClusterSecurityGroupId', {
      value: this.cluster.clusterSecurityGroupId,
      description: 'Nodes must carry it: it lets functions in to agentd and the model gateway',
    });
    new CfnOutput(this, 'VpcId', { value: vpc.vpcId });
  }

  private admitClients(vpc: ec2.IVpc, config: Config): ec2.SecurityGroup {
    const clients = new ec2.SecurityGroup(this, 'Clients', {
      vpc,
      description: 'Functions that call the cluster',
      allowAllOutbound: false,
    });
    clients.addEgressRule(ec2.Peer.anyIpv4(), ec2.Port.tcp(443), 'AWS APIs and the API server');
    const inCluster: [number, string][] = [
      [AGENTD_PORT, 'agentd'],
      [config.modelGateway.port, 'the model gateway'],
    ];
    // The group EKS makes: API server, nodes and, by way of their nodes, pods are in it.
    const members = this.cluster.clusterSecurityGroup;
    members.addIngressRule(clients, ec2.Port.tcp(443), 'functions to the API server');
    for (const [port, name] of inCluster) {
      // By network and not by group: the model gateway may be behind a load balancer of the VPC.
      clients.addEgressRule(ec2.Peer.ipv4(config.vpc.cidr), ec2.Port.tcp(port), name);
      if (port !== 443) members.addIngressRule(clients, ec2.Port.tcp(port), `functions to ${name}`);
    }
    return clients;
  }
}

function clusterRole(scope: Construct): iam.Role {
  const role = new iam.Role(scope, 'ClusterRole', {
    description: 'The control plane of the cluster carapace',
    assumedBy: new iam.ServicePrincipal('eks.amazonaws.com'),
    managedPolicies: [iam.ManagedPolicy.fromAwsManagedPolicyName('AmazonEKSClusterPolicy')],
  });
  Validations.of(role).acknowledge({
    id: 'AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/AmazonEKSClusterPolicy]',
    reason: 'What the EKS control plane needs is for AWS to say and to change.',
  });
  return role;
}
