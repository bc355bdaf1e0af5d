import type * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as eks from 'aws-cdk-lib/aws-eks-v2';
import type { Construct } from 'constructs';
import type { Config } from '../config.ts';
import { FUNCTIONS } from '../network/subnets.ts';
import type { RustFunction } from '../rust-function.ts';

/** What a function needs that calls the cluster. */
export interface ClusterAccess {
  readonly config: Config;
  readonly vpc: ec2.IVpc;
  readonly cluster: eks.ICluster;
  readonly clusterClients: ec2.ISecurityGroup;
}

/** Where such a function runs: NetworkPolicies admit it to agents by the addresses of these subnets. */
export function network({ vpc, clusterClients }: ClusterAccess) {
  return { vpc, subnets: { subnetGroupName: FUNCTIONS }, securityGroup: clusterClients };
}

/** What such a function is told. */
export function clusterEnvironment({ cluster, config }: ClusterAccess): Record<string, string> {
  return {
    CLUSTER_NAME: cluster.clusterName,
    CLUSTER_ENDPOINT: cluster.clusterEndpoint,
    CLUSTER_CA: cluster.clusterCertificateAuthorityData,
    AGENTS_NAMESPACE: config.agents.namespace,
  };
}

/** Lets a function into the cluster as a member of one group; what the group may do is the chart's to say. */
export function admit(scope: Construct, id: string, cluster: eks.ICluster, who: RustFunction, group: string): void {
  new eks.CfnAccessEntry(scope, id, {
    clusterName: cluster.clusterName,
    principalArn: who.role.roleArn,
    type: 'STANDARD',
    kubernetesGroups: [group],
  });
}
