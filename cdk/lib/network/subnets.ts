/** Names of the subnet groups that others place things in. */
export const NODES = 'Nodes';
export const FUNCTIONS = 'Functions';

/** What each zone takes of the VPC. */
export const SUBNET_MASKS = { nodes: 19, functions: 24, public: 24 } as const;
