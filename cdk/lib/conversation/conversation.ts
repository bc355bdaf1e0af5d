import { ArnFormat, Duration, Stack, Validations } from 'aws-cdk-lib';
import type * as cognito from 'aws-cdk-lib/aws-cognito';
import type * as dynamodb from 'aws-cdk-lib/aws-dynamodb';
import type * as events from 'aws-cdk-lib/aws-events';
import * as iam from 'aws-cdk-lib/aws-iam';
import type * as kms from 'aws-cdk-lib/aws-kms';
import type * as ssm from 'aws-cdk-lib/aws-ssm';
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
import { SANDBOX_CREATE, type Sandbox } from '../sandbox/sandbox.ts';
import type { Slack } from '../slack/slack.ts';

const NAME = 'conversation';

export interface ConversationProps extends ClusterAccess {
  readonly bus: events.IEventBus;
  readonly table: dynamodb.ITable;
  readonly users: cognito.IUserPool;
  readonly signUpPolicy: ssm.IStringParameter;
  readonly signingKey: kms.IKey;
  readonly sandbox: Sandbox;
  readonly slack: Slack;
  readonly alarms: Alarms;
}

/** From `Slack Message Received` to the agent's answer in the thread. */
export class Conversation extends Construct {
  constructor(scope: Construct, id: string, props: ConversationProps) {
    super(scope, id);
    const { alarms, sandbox, slack } = props;
    const accept = acceptFunction(this, props);
    const turn = turnFunction(this, props);
    admit(this, 'TurnAccess', props.cluster, turn, GROUPS.conversationTurn);

    const deadLetters = new DeadLetters(this, 'DeadLetters', { alarms, of: NAME });
    const machine = workflow(this, 'Machine', {
      name: NAME,
      substitutions: {
        ConversationAcceptArn: accept.fn.functionArn,
        ConversationTurnArn: turn.fn.functionArn,
        SlackReplyArn: slack.reply.fn.functionArn,
        SandboxCreateArn: sandbox.create.stateMachineArn,
        ConversationDlqUrl: deadLetters.queue.queueUrl,
      },
      functions: [accept, turn, slack.reply],
      deadLetters,
    });
    waitForSandbox(sandbox.create, machine.role as iam.Role);

    startOn(this, 'Received', {
      machine,
      name: NAME,
      bus: props.bus,
      description: 'Slack Message Received: take it to the agent',
      // By its source as well: who may say this is slack-ingress, which has checked Slack's signature.
      eventPattern: { source: ['carapace.slack'], detailType: ['Slack Message Received'] },
      // Longer than an hour nobody looks at a thread for an answer; the message is in the queue then.
      maxEventAge: Duration.hours(1),
      deadLetters,
    });
    startOn(this, 'CutOff', {
      machine,
      name: NAME,
      description: 'An execution of carapace-conversation was stopped or cut off: another takes over its conversation',
      eventPattern: {
        source: ['aws.states'],
        detailType: ['Step Functions Execution Status Change'],
        detail: { status: ['ABORTED', 'TIMED_OUT'], stateMachineArn: [machine.stateMachineArn] },
      },
      maxEventAge: Duration.hours(1),
      deadLetters,
    });
    alarms.onAny(
      this,
      'FailedAlarm',
      machine.metricFailed(),
      'A conversation could not be served to its end: see the execution and the dead-letter queue.',
    );
    alarms.onAny(
      this,
      'TimedOutAlarm',
      machine.metricTimedOut(),
      'A conversation was cut off and taken over by another execution: it went on for hours, or something hangs.',
    );

    outputFunction(this, 'ConversationAccept', accept);
    outputFunction(this, 'ConversationTurn', turn);
    output(this, 'ConversationArn', machine.stateMachineArn);
    output(this, 'ConversationDlqUrl', deadLetters.queue.queueUrl);
    output(this, 'ConversationDlqAlarmName', deadLetters.alarm.alarmName);
  }
}

function acceptFunction(scope: Construct, props: ConversationProps): RustFunction {
  const { config, signUpPolicy, slack, table, users } = props;
  const accept = capabilityFunction(scope, 'Accept', config, {
    binary: 'conversation-accept',
    description: "Finds a Slack message's user and puts it into the conversation's inbox",
    timeout: Duration.seconds(30),
    environment: {
      TABLE_NAME: table.tableName,
      USER_POOL_ID: users.userPoolId,
      SIGN_UP_POLICY_PARAMETER: signUpPolicy.parameterName,
      SLACK_BOT_TOKEN_SECRET_ARN: slack.botTokenSecretArn,
      SLACK_API_URL: config.slack.apiUrl,
    },
  });
  // Whether the agent is ready, and whose mailbox an address is, is read, and is others' to change.
  accept.grant(['dynamodb:GetItem'], table.tableArn, itemsOf('IDENTITY#', 'USER#'));
  accept.grant(
    ['dynamodb:GetItem', 'dynamodb:PutItem'],
    table.tableArn,
    itemsOf('CONV#', 'HOLDER#', 'ONCE#slack.', 'SLACK#'),
  );
  accept.grant(['ssm:GetParameter'], signUpPolicy.parameterArn);
  // That mailbox's one account: nothing here asks who exists.
  accept.grant(['cognito-idp:AdminGetUser'], users.userPoolArn);
  accept.grant(['secretsmanager:GetSecretValue'], slack.botTokenSecretArn);
  return accept;
}

function turnFunction(scope: Construct, props: ConversationProps): RustFunction {
  const { config, signingKey, slack, table } = props;
  const turn = capabilityFunction(scope, 'Turn', config, {
    binary: 'conversation-turn',
    description: "Takes a conversation's messages to the agent and streams its answers into the thread",
    // A slice ends by itself. The minute is for what is under way then: a call to Slack, a wait that
    // Slack asks for.
    timeout: Duration.seconds(config.turnSliceSeconds + 60),
    network: network(props),
    environment: {
      ...clusterEnvironment(props),
      TABLE_NAME: table.tableName,
      SIGNING_KEY_ID: signingKey.keyId,
      SLACK_BOT_TOKEN_SECRET_ARN: slack.botTokenSecretArn,
      SLACK_API_URL: config.slack.apiUrl,
      TURN_SLICE_SECONDS: String(config.turnSliceSeconds),
    },
  });
  // An agent's record is read together with the outcome of the event it is read for.
  turn.grant(['dynamodb:GetItem'], table.tableArn, itemsOf('ONCE#slack.', 'USER#'));
  turn.grant(['dynamodb:GetItem', 'dynamodb:PutItem'], table.tableArn, itemsOf('CONV#'));
  turn.grant(['kms:Sign'], signingKey.keyArn);
  turn.grant(['secretsmanager:GetSecretValue'], slack.botTokenSecretArn);
  return turn;
}

/**
 * Lets the machine have a sandbox created and wait for it. Step Functions hears of the other's end by a
 * rule that it keeps in the account. Not states:StopExecution, with which it would stop what a stopped
 * execution waits for: a request for a sandbox ends with an outcome, whoever still waits for it.
 * https://docs.aws.amazon.com/step-functions/latest/dg/connect-stepfunctions.html
 */
function waitForSandbox(create: sfn.StateMachine, role: iam.Role): void {
  const arn = (service: string, resource: string, resourceName: string, arnFormat: ArnFormat) =>
    Stack.of(create).formatArn({ service, resource, resourceName, arnFormat });
  const executions = arn('states', 'execution', `carapace-${SANDBOX_CREATE}:*`, ArnFormat.COLON_RESOURCE_NAME);
  const endings = 'StepFunctionsGetEventsForStepFunctionsExecutionRule';
  const rule = arn('events', 'rule', endings, ArnFormat.SLASH_RESOURCE_NAME);
  const allow = (actions: string[], resource: string) =>
    role.addToPolicy(new iam.PolicyStatement({ actions, resources: [resource] }));
  allow(['states:StartExecution'], create.stateMachineArn);
  allow(['states:DescribeExecution'], executions);
  allow(['events:DescribeRule', 'events:PutRule', 'events:PutTargets'], rule);
  Validations.of(role).acknowledge({
    id: `AwsSolutions-IAM5[Resource::arn:<AWS::Partition>:states:<AWS::Region>:<AWS::AccountId>:execution:carapace-${SANDBOX_CREATE}:*]`,
    reason: 'Step Functions names the execution that it waits for, so all of that one machine are meant.',
  });
}
