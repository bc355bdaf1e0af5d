import type { App } from 'aws-cdk-lib';
import { ClusterStack } from './cluster/cluster-stack.ts';
import type { Config } from './config.ts';
import { ControlPlaneStack } from './control-plane/control-plane-stack.ts';
import { IdentityStack } from './identity/identity-stack.ts';
import { NetworkStack } from './network/network-stack.ts';

/**
 * The whole product. A stack is a part with a life of its own: the network outlives clusters, the
 * control plane is deployed many times a day, the user pool must survive everything else.
 */
export function carapace(app: App, config: Config): void {
  const { vpc } = new NetworkStack(app, 'CarapaceNetwork', { config });
  const { cluster, clients } = new ClusterStack(app, 'CarapaceCluster', { config, vpc });
  const { users, signUpPolicy } = new IdentityStack(app, 'CarapaceIdentity', { config });
  new ControlPlaneStack(app, 'CarapaceControlPlane', {
    config,
    vpc,
    cluster,
    clusterClients: clients,
    users,
    signUpPolicy,
  });
}
