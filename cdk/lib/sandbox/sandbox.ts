import { Duration } from 'aws-cdk-lib';
import type * as dynamodb from 'aws-cdk-lib/aws-dynamodb';
import type * as events from 'aws-cdk-lib/aws-events';
import type * as kms from 'aws-cdk-lib/aws-kms';
import type * as sfn from 'aws-cdk-lib/aws-stepfunctions';
import { Construct } from 'constructs';
import { admit, type ClusterAccess, clusterEnvironment, network } from '../cluster/access.ts';
import { GROUPS } from '../cluster/names.ts';
import { itemsOf } from '../control-plane/agents-table.ts';
import type { Alarms } from '../control-plane/alarms.ts';
import { capabilityFunction, output, outputFunction } from '../control-plane/capability.ts';
import { DeadLetters } from '../control-plane/dead-letters.ts';
import { startOn, workflow } from '../control-plane/workflow.ts';
import type { RustFunction } from '../rust-function.ts';

/** The workflow's name. */
export const SANDBOX_CREATE = 'sandbox-create';

/** Whole items by their key, written in transactions: nothing is updated in part, deleted, queried or scanned. */
const READ = ['dynamodb:GetItem'];
const READ_AND_WRITE = ['dynamodb:GetItem', 'dynamodb:PutItem'];

export interface SandboxProps extends ClusterAccess {
  readonly bus: events.IEventBus;
  readonly table: dynamodb.ITable;
  readonly signingKey: kms.IKey;
  readonly modelGatewaySecretArn: string;
  readonly alarms: Alarms;
}

/** From `Sandbox Requested` to a bound and announced sandbox, and what takes it away for good. */
export class Sandbox extends Construct {
  /** The machine, for others that want a sandbox and wait for it. */
  readonly create: sfn.StateMachine;
  /** For the machine that offboards users. */
  readonly retire: RustFunction;
  readonly announce: RustFunction;

  constructor(scope: Construct, id: string, props: SandboxProps) {
    super(scope, id);
    const claim = claimFunction(this, props);
    const bind = bindFunction(this, props);
    const announce = announceFunction(this, props);
    const retire = retireFunction(this, props);
    this.announce = announce;
    this.retire = retire;
    admit(this, 'ClaimAccess', props.cluster, claim, GROUPS.sandboxClaim);
    admit(this, 'BindAccess', props.cluster, bind, GROUPS.sandboxBind);
    admit(this, 'RetireAccess', props.cluster, retire, GROUPS.sandboxRetire);

    const { alarms } = props;
    const name = SANDBOX_CREATE;
    const deadLetters = new DeadLetters(this, 'CreateDeadLetters', { alarms, of: name });
    this.create = workflow(this, 'Create', {
      name,
      substitutions: {
        SandboxClaimArn: claim.fn.functionArn,
        SandboxBindArn: bind.fn.functionArn,
        SandboxAnnounceArn: announce.fn.functionArn,
        SandboxCreateDlqUrl: deadLetters.queue.queueUrl,
      },
      functions: [claim, bind, announce],
      deadLetters,
    });
    startOn(this, 'Requested', {
      machine: this.create,
      name,
      bus: props.bus,
      description: 'Sandbox Requested, whoever asks: create a sandbox',
      eventPattern: { detailType: ['Sandbox Requested'] },
      // A quarter of an hour outlives any throttling; a sandbox asked for earlier is no longer waited for.
      maxEventAge: Duration.minutes(15),
      deadLetters,
    });
    alarms.onAny(
      this,
      'CreateFailedAlarm',
      this.create.metricFailed(),
      'A sandbox could not be created: see the execution, or the Sandbox Failed event.',
    );
    alarms.onAny(
      this,
      'CreateTimedOutAlarm',
      this.create.metricTimedOut(),
      'The creation of a sandbox was cut off: its user was told nothing.',
    );

    outputFunction(this, 'SandboxClaim', claim);
    outputFunction(this, 'SandboxBind', bind);
    outputFunction(this, 'SandboxAnnounce', announce);
    outputFunction(this, 'SandboxRetire', retire);
    output(this, 'SandboxCreateArn', this.create.stateMachineArn);
    output(this, 'SandboxCreateDlqUrl', deadLetters.queue.queueUrl);
    output(this, 'SandboxCreateDlqAlarmName', deadLetters.alarm.alarmName);
  }
}

function claimFunction(scope: Construct, props: SandboxProps): RustFunction {
  const claim = capabilityFunction(scope, 'Claim', props.config, {
    binary: 'sandbox-claim',
    description: 'Claims a sandbox for a user, or releases the claim again',
    // It waits 20 seconds for a sandbox; the rest is for slow calls before and after.
    timeout: Duration.seconds(45),
    network: network(props),
    // Each writes to the API server: more at once would slow everybody down. Who has to wait is
    // retried by the state machine.
    maxConcurrency: props.config.maxConcurrentClaims,
    environment: {
      ...clusterEnvironment(props),
      TABLE_NAME: props.table.tableName,
      WARM_POOL: props.config.agents.warmPool,
    },
  });
  claim.grant(READ_AND_WRITE, props.table.tableArn);
  return claim;
}

function bindFunction(scope: Construct, props: SandboxProps): RustFunction {
  const bind = capabilityFunction(scope, 'Bind', props.config, {
    binary: 'sandbox-bind',
    description: 'Hands a claimed sandbox to its user',
    timeout: Duration.seconds(30),
    network: network(props),
    environment: {
      ...clusterEnvironment(props),
      TABLE_NAME: props.table.tableName,
      SIGNING_KEY_ID: props.signingKey.keyId,
      MODEL_GATEWAY_URL: props.config.modelGateway.url,
      MODEL_GATEWAY_SECRET_ARN: props.modelGatewaySecretArn,
      // For users who have none of their own.
      ALLOWANCE: JSON.stringify(props.config.allowance),
    },
  });
  bind.grant(READ, props.table.tableArn);
  bind.grant(['kms:Sign'], props.signingKey.keyArn);
  bind.grant(['secretsmanager:GetSecretValue'], props.modelGatewaySecretArn);
  return bind;
}

function retireFunction(scope: Construct, props: SandboxProps): RustFunction {
  const retire = capabilityFunction(scope, 'Retire', props.config, {
    binary: 'sandbox-retire',
    description: "Takes a user's sandbox and keys away for good",
    // It waits 20 seconds for a sandbox to be gone; the rest is for slow calls before and after.
    timeout: Duration.seconds(45),
    network: network(props),
    environment: {
      ...clusterEnvironment(props),
      TABLE_NAME: props.table.tableName,
      MODEL_GATEWAY_URL: props.config.modelGateway.url,
      MODEL_GATEWAY_SECRET_ARN: props.modelGatewaySecretArn,
    },
  });
  // Whether the agent is still to be retired; that it is was decided and written before.
  retire.grant(READ, props.table.tableArn, itemsOf('ONCE#', 'USER#'));
  retire.grant(['secretsmanager:GetSecretValue'], props.modelGatewaySecretArn);
  return retire;
}

function announceFunction(scope: Construct, props: SandboxProps): RustFunction {
  const announce = capabilityFunction(scope, 'Announce', props.config, {
    binary: 'sandbox-announce',
    description: 'Records what became of a sandbox, and says so once',
    // Less than the ten seconds for which an announcement is one execution's alone.
    timeout: Duration.seconds(9),
    environment: { TABLE_NAME: props.table.tableName, BUS_NAME: props.bus.eventBusName },
  });
  announce.grant(READ_AND_WRITE, props.table.tableArn);
  // It speaks for its own capability and for no other.
  announce.grant(['events:PutEvents'], props.bus.eventBusArn, {
    'ForAllValues:StringEquals': {
      'events:source': 'carapace.sandbox',
      'events:detail-type': ['Sandbox Ready', 'Sandbox Failed', 'Sandbox Retired'],
    },
  });
  return announce;
}
