import { RemovalPolicy } from 'aws-cdk-lib';
import * as dynamodb from 'aws-cdk-lib/aws-dynamodb';
import type { Construct } from 'constructs';
import { TABLE_NAME } from './names.ts';

/** Finds what is kept of a user and not under the user's own key. */
const ITEMS_BY_OWNER = 'items-by-owner';

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
      {
        // Sparse too: Slack links, conversations and their messages name their owner. Keys alone, which is
        // all that it takes to delete them: what people said is in the table and nowhere else.
        indexName: ITEMS_BY_OWNER,
        partitionKey: { name: 'owner', type: dynamodb.AttributeType.STRING },
        projectionType: dynamodb.ProjectionType.KEYS_ONLY,
      },
    ],
    encryption: dynamodb.TableEncryptionV2.awsManagedKey(),
    pointInTimeRecoverySpecification: { pointInTimeRecoveryEnabled: true },
    deletionProtection: true,
    removalPolicy: RemovalPolicy.RETAIN,
  });
}

/** The index in which a user's belongings are found. */
export function itemsByOwner(table: dynamodb.ITable): string {
  return `${table.tableArn}/index/${ITEMS_BY_OWNER}`;
}

/**
 * Condition of a grant: only items whose partition key begins with one of these. Every read and write of
 * a whole item names its key, so there is no request without one, which the condition would let pass.
 */
export function itemsOf(...prefixes: string[]): Record<string, Record<string, unknown>> {
  return { 'ForAllValues:StringLike': { 'dynamodb:LeadingKeys': prefixes.map((prefix) => `${prefix}*`) } };
}
