import * as eks from 'aws-cdk-lib/aws-eks-v2';
import * as iam from 'aws-cdk-lib/aws-iam';
import { Validations } from 'aws-cdk-lib';
import { Construct } from 'constructs';

/**
 * What every node runs, kept up to date by EKS. EKS puts unmanaged copies of kube-proxy, the VPC CNI
 * and CoreDNS into a new cluster; an add-on takes its copy over.
 *
 * CoreDNS is taken over only on request. In strict mode a pod has no network before a NetworkPolicy
 * gives it one, CoreDNS included, and no policy can be there before the cluster is. CloudFormation
 * would wait for a healthy CoreDNS until it gave up and rolled the cluster back; the unmanaged copy
 * nobody waits for starts serving once its policy is applied. From then on `manageCoreDns` is safe.
 */
export class Addons extends Construct {
  /** Without these no node becomes ready. */
  readonly beforeNodes: Construct[];
  /** Without a node these do not become healthy. */
  readonly afterNodes: Construct[];

  constructor(
    scope: Construct,
    id: string,
    props: { readonly cluster: eks.ICluster; readonly manageCoreDns: boolean },
  ) {
    super(scope, id);
    const { cluster } = props;

    const podIdentity = addon(this, 'PodIdentityAgent', cluster, 'eks-pod-identity-agent');
    const kubeProxy = addon(this, 'KubeProxy', cluster, 'kube-proxy');
    const vpcCni = addon(this, 'VpcCni', cluster, 'vpc-cni', {
      configurationValues: JSON.stringify({
        enableNetworkPolicy: 'true',
        // In standard mode a new pod talks to anybody until its policies arrive: long enough for
        // an agent to reach what it must never reach.
        env: { NETWORK_POLICY_ENFORCING_MODE: 'strict' },
      }),
      podIdentityAssociations: [{ serviceAccount: 'aws-node', roleArn: vpcCniRole(this).roleArn }],
    });
    // The CNI gets its credentials from the agent.
    vpcCni.node.addDependency(podIdentity);

    this.beforeNodes = [podIdentity, kubeProxy, vpcCni];
    this.afterNodes = props.manageCoreDns ? [addon(this, 'CoreDns', cluster, 'coredns')] : [];
  }
}

function addon(
  scope: Construct,
  id: string,
  cluster: eks.ICluster,
  addonName: string,
  options: Pick<eks.CfnAddonProps, 'configurationValues' | 'podIdentityAssociations'> = {},
): eks.CfnAddon {
  return new eks.CfnAddon(scope, id, {
    clusterName: cluster.clusterName,
    addonName,
    resolveConflicts: 'OVERWRITE',
    ...options,
  });
}

/** The CNI's own role: were these rights the node's, every pod with the host's network would have them. */
function vpcCniRole(scope: Construct): iam.Role {
  const role = new iam.Role(scope, 'VpcCniRole', {
    description: 'The VPC CNI of the cluster carapace: attaches network interfaces and addresses to nodes',
    assumedBy: new iam.SessionTagsPrincipal(new iam.ServicePrincipal('pods.eks.amazonaws.com')),
    managedPolicies: [iam.ManagedPolicy.fromAwsManagedPolicyName('AmazonEKS_CNI_Policy')],
  });
  Validations.of(role).acknowledge({
    id: 'AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/AmazonEKS_CNI_Policy]',
    reason: 'AWS keeps it in step with the add-on that EKS updates; a copy of ours would fall behind.',
  });
  return role;
}
