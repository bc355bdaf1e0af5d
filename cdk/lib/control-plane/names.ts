/**
 * Names of what a stack uses that is deployed before CarapaceControlPlane: the user pool's triggers
 * write to the table and put events on the bus, while the control plane's functions ask the user pool.
 */
export const TABLE_NAME = 'carapace';
export const BUS_NAME = 'carapace';
