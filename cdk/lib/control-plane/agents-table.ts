import { RemovalPolicy } from 'aws-cdk-lib';
import * as dynamodb from 'aws-cdk-lib/aws-dynamodb';
import type { Construct } from 'constructs';
import { TABLE_NAME } from './names.ts';

/**
 * Agents, their history and the outcomes of events. Keys and items are described where they are
 * written: crates/control-plane.
 */
export function agentsTable(scope: Construct): dynamodb.TableV2 {
  return new dynamodb.TableV2(scope, 'Table', {
    tableName: TABLE_NAME,
    partitionKey: { name: 'pk', type: dynamodb.AttributeType.STRING },
    sortKey: { name: 'sk', type: dynamodb.AttributeType.STRING },
    timeToLiveAttribute: 'ttl',
    globalSecondaryIndexes: [
      {
        // Sparse: of all items only an agent's own record has a state. No function queries it yet; an
        // operator finds here which agents are in a state.
        indexName: 'agents-by-state',
        partitionKey: { name: 'state', type: dynamodb.AttributeType.STRING },
        sortKey: { name: 'updated_at', type: dynamodb.AttributeType.STRING },
      },
    ],
    encryption: dynamodb.TableEncryptionV2.awsManagedKey(),
    pointInTimeRecoverySpecification: { pointInTimeRecoveryEnabled: true },
    deletionProtection: true,
    removalPolicy: RemovalPolicy.RETAIN,
  });
}

/**
 * Condition of a grant: only items whose partition key begins with one of these. Every read and write of
 * a whole item names its key, so there is no request without one, which the condition would let pass.
 */
export function itemsOf(...prefixes: string[]): Record<string, Record<string, unknown>> {
  return { 'ForAllValues:StringLike': { 'dynamodb:LeadingKeys': prefixes.map((prefix) => `${prefix}*`) } };
}
