import { readFileSync } from 'node:fs';
import { ArnFormat, Duration, RemovalPolicy, Stack, Validations } from 'aws-cdk-lib';
import * as events from 'aws-cdk-lib/aws-events';
import * as targets from 'aws-cdk-lib/aws-events-targets';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as logs from 'aws-cdk-lib/aws-logs';
import * as sfn from 'aws-cdk-lib/aws-stepfunctions';
import type { Construct } from 'constructs';
import type { RustFunction } from '../rust-function.ts';
import type { DeadLetters } from './dead-letters.ts';

export interface WorkflowProps {
  /** The file `statemachines/<name>.asl.json`. The machine is called `carapace-<name>`. */
  readonly name: string;
  /** What stands in the file for each name it leaves open. */
  readonly substitutions: Readonly<Record<string, string>>;
  /** The functions it invokes. */
  readonly functions: readonly RustFunction[];
  /** Where it leaves events that it could not serve. */
  readonly deadLetters: DeadLetters;
}

/**
 * One of our state machines: the file, a log of its states, and a role that may invoke its functions,
 * leave dead letters and nothing else until it is granted more.
 */
export function workflow(scope: Construct, id: string, props: WorkflowProps): sfn.StateMachine {
  const machineName = `carapace-${props.name}`;
  const definition = new URL(`../../../statemachines/${props.name}.asl.json`, import.meta.url);
  const role = new iam.Role(scope, `${id}Role`, {
    description: `The state machine ${machineName}`,
    // For this machine alone: Step Functions works for everybody, and must not take up this role for
    // anybody else. By its name, because the machine itself needs the role first.
    assumedBy: new iam.ServicePrincipal('states.amazonaws.com', {
      conditions: {
        StringEquals: { 'aws:SourceAccount': Stack.of(scope).account },
        ArnLike: {
          'aws:SourceArn': Stack.of(scope).formatArn({
            service: 'states',
            resource: 'stateMachine',
            resourceName: machineName,
            arnFormat: ArnFormat.COLON_RESOURCE_NAME,
          }),
        },
      },
    }),
  });
  role.addToPolicy(
    new iam.PolicyStatement({
      actions: ['lambda:InvokeFunction'],
      resources: props.functions.map(({ fn }) => fn.functionArn),
    }),
  );
  role.addToPolicy(
    new iam.PolicyStatement({ actions: ['sqs:SendMessage'], resources: [props.deadLetters.queue.queueArn] }),
  );
  Validations.of(role).acknowledge({
    id: 'AwsSolutions-IAM5[Resource::*]',
    reason: 'X-Ray and the delivery of logs know no resources.',
  });

  return new sfn.StateMachine(scope, id, {
    stateMachineName: machineName,
    // In the template and not in a bucket: what changes in a workflow shows in `cdk diff`. Its time
    // limits are in the definition, where CDK's own `timeout` would not reach.
    definitionBody: sfn.DefinitionBody.fromString(readFileSync(definition, 'utf8')),
    definitionSubstitutions: { ...props.substitutions },
    role,
    tracingEnabled: true,
    logs: {
      destination: new logs.LogGroup(scope, `${id}Log`, {
        // The prefix keeps Step Functions from adding every group's name to one resource policy
        // that has no room for many.
        logGroupName: `/aws/vendedlogs/states/${machineName}`,
        retention: logs.RetentionDays.THREE_MONTHS,
        removalPolicy: RemovalPolicy.DESTROY,
      }),
      level: sfn.LogLevel.ALL,
      // States and errors are enough to follow an execution; who asked is nobody's business here.
      includeExecutionData: false,
    },
  });
}

export interface StartProps {
  readonly machine: sfn.StateMachine;
  /** The machine's name, for whoever reads the role's description. */
  readonly name: string;
  /** Undefined: the account's default bus, on which AWS itself speaks. */
  readonly bus?: events.IEventBus;
  readonly description: string;
  readonly eventPattern: events.EventPattern;
  /** How long starting it is tried. */
  readonly maxEventAge: Duration;
  readonly deadLetters: DeadLetters;
}

/** Starts a machine with each event of a pattern, or leaves the event in its dead-letter queue. */
export function startOn(scope: Construct, id: string, props: StartProps): void {
  const role = new iam.Role(scope, `${id}Role`, {
    description: `The rule that starts carapace-${props.name}`,
    assumedBy: new iam.ServicePrincipal('events.amazonaws.com', {
      conditions: { StringEquals: { 'aws:SourceAccount': Stack.of(scope).account } },
    }),
  });
  new events.Rule(scope, id, {
    ...(props.bus && { eventBus: props.bus }),
    description: props.description,
    eventPattern: props.eventPattern,
    targets: [
      new targets.SfnStateMachine(props.machine, {
        role,
        deadLetterQueue: props.deadLetters.queue,
        maxEventAge: props.maxEventAge,
        retryAttempts: 185,
      }),
    ],
  });
}
