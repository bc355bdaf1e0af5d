import { readFileSync } from 'node:fs';
import { ArnFormat, CfnOutput, Duration, RemovalPolicy, Stack, Validations } from 'aws-cdk-lib';
import type * as dynamodb from 'aws-cdk-lib/aws-dynamodb';
import type * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as eks from 'aws-cdk-lib/aws-eks-v2';
import * as events from 'aws-cdk-lib/aws-events';
import * as targets from 'aws-cdk-lib/aws-events-targets';
import * as iam from 'aws-cdk-lib/aws-iam';
import type * as kms from 'aws-cdk-lib/aws-kms';
import * as logs from 'aws-cdk-lib/aws-logs';
import * as sfn from 'aws-cdk-lib/aws-stepfunctions';
import { Construct } from 'constructs';
import { GROUPS } from '../cluster/names.ts';
import type { Config } from '../config.ts';
import type { Alarms } from '../control-plane/alarms.ts';
import { DeadLetters } from '../control-plane/dead-letters.ts';
import { FUNCTIONS } from '../network/subnets.ts';
import { RustFunction, type RustFunctionProps } from '../rust-function.ts';

const MACHINE_NAME = 'carapace-sandbox-create';
const DEFINITION = new URL('../../../statemachines/sandbox-create.asl.json', import.meta.url);

/** Whole items by their key, written in transactions: nothing is updated in part, deleted, queried or scanned. */
const READ = ['dynamodb:GetItem'];
const READ_AND_WRITE = ['dynamodb:GetItem', 'dynamodb:PutItem'];

export interface SandboxProps {
  readonly config: Config;
  readonly vpc: ec2.IVpc;
  readonly cluster: eks.ICluster;
  readonly clusterClients: ec2.ISecurityGroup;
  readonly bus: events.IEventBus;
  readonly table: dynamodb.ITable;
  readonly signingKey: kms.IKey;
  readonly modelGatewaySecretArn: string;
  readonly alarms: Alarms;
}

/** From `Sandbox Requested` to a bound and announced sandbox. */
export class Sandbox extends Construct {
  constructor(scope: Construct, id: string, props: SandboxProps) {
    super(scope, id);
    const functions = {
      claim: claimFunction(this, props),
      bind: bindFunction(this, props),
      announce: announceFunction(this, props),
    };
    admit(this, 'ClaimAccess', props.cluster, functions.claim, GROUPS.sandboxClaim);
    admit(this, 'BindAccess', props.cluster, functions.bind, GROUPS.sandboxBind);

    const { alarms } = props;
    const deadLetters = new DeadLetters(this, 'CreateDeadLetters', { alarms, of: 'sandbox-create' });
    const machine = createMachine(this, functions, deadLetters);
    startOnRequest(this, props.bus, machine, deadLetters);
    alarms.onAny(
      this,
      'CreateFailedAlarm',
      machine.metricFailed(),
      'A sandbox could not be created: see the execution, or the Sandbox Failed event.',
    );
    alarms.onAny(
      this,
      'CreateTimedOutAlarm',
      machine.metricTimedOut(),
      'The creation of a sandbox was cut off: its user was told nothing.',
    );

    const stack = Stack.of(this);
    const output = (name: string, value: string) => new CfnOutput(stack, name, { value });
    output('SandboxClaimFunctionName', functions.claim.fn.functionName);
    output('SandboxClaimRoleName', functions.claim.role.roleName);
    output('SandboxBindFunctionName', functions.bind.fn.functionName);
    output('SandboxBindRoleName', functions.bind.role.roleName);
    output('SandboxAnnounceFunctionName', functions.announce.fn.functionName);
    output('SandboxAnnounceRoleName', functions.announce.role.roleName);
    output('SandboxCreateArn', machine.stateMachineArn);
    output('SandboxCreateDlqUrl', deadLetters.queue.queueUrl);
    output('SandboxCreateDlqAlarmName', deadLetters.alarm.alarmName);
  }
}

function claimFunction(scope: Construct, props: SandboxProps): RustFunction {
  const claim = sandboxFunction(scope, 'Claim', props, {
    binary: 'sandbox-claim',
    description: 'Claims a sandbox for a user, or releases the claim again',
    // It waits 20 seconds for a sandbox; the rest is for slow calls before and after.
    timeout: Duration.seconds(45),
    network: network(props),
    // Each writes to the API server: more at once would slow everybody down. Who has to wait is
    // retried by the state machine.
    maxConcurrency: props.config.maxConcurrentClaims,
    environment: {
      ...clusterAccess(props),
      TABLE_NAME: props.table.tableName,
      WARM_POOL: props.config.agents.warmPool,
    },
  });
  claim.grant(READ_AND_WRITE, props.table.tableArn);
  return claim;
}

function bindFunction(scope: Construct, props: SandboxProps): RustFunction {
  const bind = sandboxFunction(scope, 'Bind', props, {
    binary: 'sandbox-bind',
    description: 'Hands a claimed sandbox to its user',
    timeout: Duration.seconds(30),
    network: network(props),
    environment: {
      ...clusterAccess(props),
      TABLE_NAME: props.table.tableName,
      SIGNING_KEY_ID: props.signingKey.keyId,
      MODEL_GATEWAY_URL: props.config.modelGateway.url,
      MODEL_GATEWAY_SECRET_ARN: props.modelGatewaySecretArn,
    },
  });
  bind.grant(READ, props.table.tableArn);
  bind.grant(['kms:Sign'], props.signingKey.keyArn);
  bind.grant(['secretsmanager:GetSecretValue'], props.modelGatewaySecretArn);
  return bind;
}

function announceFunction(scope: Construct, props: SandboxProps): RustFunction {
  const announce = sandboxFunction(scope, 'Announce', props, {
    binary: 'sandbox-announce',
    description: 'Records how the creation of a sandbox ended, and says so once',
    // Less than the ten seconds for which an announcement is one execution's alone.
    timeout: Duration.seconds(9),
    environment: { TABLE_NAME: props.table.tableName, BUS_NAME: props.bus.eventBusName },
  });
  announce.grant(READ_AND_WRITE, props.table.tableArn);
  // It speaks for its own capability and for no other.
  announce.grant(['events:PutEvents'], props.bus.eventBusArn, {
    'ForAllValues:StringEquals': { 'events:source': 'carapace.sandbox' },
  });
  return announce;
}

function sandboxFunction(
  scope: Construct,
  id: string,
  { config }: SandboxProps,
  props: Omit<RustFunctionProps, 'lambdaDir'>,
): RustFunction {
  const { faultDir, lambdaDir } = config;
  const environment = { ...props.environment, ...(faultDir !== undefined && { CARAPACE_FAULT_DIR: faultDir }) };
  return new RustFunction(scope, id, { ...props, lambdaDir, environment });
}

function network(props: SandboxProps) {
  return { vpc: props.vpc, subnets: { subnetGroupName: FUNCTIONS }, securityGroup: props.clusterClients };
}

function clusterAccess({ cluster, config }: SandboxProps): Record<string, string> {
  return {
    CLUSTER_NAME: cluster.clusterName,
    CLUSTER_ENDPOINT: cluster.clusterEndpoint,
    CLUSTER_CA: cluster.clusterCertificateAuthorityData,
    AGENTS_NAMESPACE: config.agents.namespace,
  };
}

/** Lets a function into the cluster as a member of one group; what the group may do is the chart's to say. */
function admit(scope: Construct, id: string, cluster: eks.ICluster, who: RustFunction, group: string): void {
  new eks.CfnAccessEntry(scope, id, {
    clusterName: cluster.clusterName,
    principalArn: who.role.roleArn,
    type: 'STANDARD',
    kubernetesGroups: [group],
  });
}

function createMachine(
  scope: Construct,
  functions: Record<'claim' | 'bind' | 'announce', RustFunction>,
  deadLetters: DeadLetters,
): sfn.StateMachine {
  const { claim, bind, announce } = functions;
  const role = new iam.Role(scope, 'CreateRole', {
    description: `The state machine ${MACHINE_NAME}`,
    // For this machine alone: Step Functions works for everybody, and must not take up this role for
    // anybody else. By its name, because the machine itself needs the role first.
    assumedBy: new iam.ServicePrincipal('states.amazonaws.com', {
      conditions: {
        StringEquals: { 'aws:SourceAccount': Stack.of(scope).account },
        ArnLike: {
          'aws:SourceArn': Stack.of(scope).formatArn({
            service: 'states',
            resource: 'stateMachine',
            resourceName: MACHINE_NAME,
            arnFormat: ArnFormat.COLON_RESOURCE_NAME,
          }),
        },
      },
    }),
  });
  role.addToPolicy(
    new iam.PolicyStatement({
      actions: ['lambda:InvokeFunction'],
      resources: [claim.fn.functionArn, bind.fn.functionArn, announce.fn.functionArn],
    }),
  );
  role.addToPolicy(new iam.PolicyStatement({ actions: ['sqs:SendMessage'], resources: [deadLetters.queue.queueArn] }));
  Validations.of(role).acknowledge({
    id: 'AwsSolutions-IAM5[Resource::*]',
    reason: 'X-Ray and the delivery of logs know no resources.',
  });

  return new sfn.StateMachine(scope, 'Create', {
    stateMachineName: MACHINE_NAME,
    // In the template and not in a bucket: what changes in a workflow shows in `cdk diff`. Its time
    // limits are in the definition, where CDK's own `timeout` would not reach.
    definitionBody: sfn.DefinitionBody.fromString(readFileSync(DEFINITION, 'utf8')),
    definitionSubstitutions: {
      SandboxClaimArn: claim.fn.functionArn,
      SandboxBindArn: bind.fn.functionArn,
      SandboxAnnounceArn: announce.fn.functionArn,
      SandboxCreateDlqUrl: deadLetters.queue.queueUrl,
    },
    role,
    tracingEnabled: true,
    logs: {
      destination: new logs.LogGroup(scope, 'CreateLog', {
        // The prefix keeps Step Functions from adding every group's name to one resource policy
        // that has no room for many.
        logGroupName: `/aws/vendedlogs/states/${MACHINE_NAME}`,
        retention: logs.RetentionDays.THREE_MONTHS,
        removalPolicy: RemovalPolicy.DESTROY,
      }),
      level: sfn.LogLevel.ALL,
      // States and errors are enough to follow an execution; who asked is nobody's business here.
      includeExecutionData: false,
    },
  });
}

function startOnRequest(
  scope: Construct,
  bus: events.IEventBus,
  machine: sfn.StateMachine,
  deadLetters: DeadLetters,
): void {
  const role = new iam.Role(scope, 'RequestedRole', {
    description: `The rule that starts ${MACHINE_NAME}`,
    assumedBy: new iam.ServicePrincipal('events.amazonaws.com', {
      conditions: { StringEquals: { 'aws:SourceAccount': Stack.of(scope).account } },
    }),
  });
  new events.Rule(scope, 'Requested', {
    eventBus: bus,
    description: 'Sandbox Requested, whoever asks: create a sandbox',
    eventPattern: { detailType: ['Sandbox Requested'] },
    targets: [
      new targets.SfnStateMachine(machine, {
        role,
        deadLetterQueue: deadLetters.queue,
        // A quarter of an hour outlives any throttling; a sandbox asked for earlier is no longer waited for.
        maxEventAge: Duration.minutes(15),
        retryAttempts: 185,
      }),
    ],
  });
}
