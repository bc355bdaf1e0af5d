/** The cluster's name: functions sign it into their tokens, the nodes' subnets are tagged with it. */
export const CLUSTER_NAME = 'carapace';

/**
 * The Kubernetes groups of the functions: access entries give them, the agents chart binds roles to
 * them (`controlPlane.groups` of its values).
 */
export const GROUPS = {
  sandboxClaim: 'carapace:sandbox-claim',
  sandboxBind: 'carapace:sandbox-bind',
  sandboxRetire: 'carapace:sandbox-retire',
  conversationTurn: 'carapace:conversation-turn',
} as const;

/** Where agentd listens in every agent's pod. */
export const AGENTD_PORT = 18790;
