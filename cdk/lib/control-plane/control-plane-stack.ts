import { CfnOutput, Duration, RemovalPolicy, Stack, Validations } from 'aws-cdk-lib';
import * as cloudwatch from 'aws-cdk-lib/aws-cloudwatch';
import type * as cognito from 'aws-cdk-lib/aws-cognito';
import type * as ec2 from 'aws-cdk-lib/aws-ec2';
import type * as eks from 'aws-cdk-lib/aws-eks-v2';
import * as events from 'aws-cdk-lib/aws-events';
import * as kms from 'aws-cdk-lib/aws-kms';
import * as secretsmanager from 'aws-cdk-lib/aws-secretsmanager';
import * as ssm from 'aws-cdk-lib/aws-ssm';
import type { Construct } from 'constructs';
import type { Config } from '../config.ts';
import { Conversation } from '../conversation/conversation.ts';
import { Sandbox } from '../sandbox/sandbox.ts';
import { Slack } from '../slack/slack.ts';
import { accountTrail } from '../user/account-trail.ts';
import { User } from '../user/user.ts';
import { agentsTable } from './agents-table.ts';
import { Alarms } from './alarms.ts';
import { BUS_NAME, TABLE_NAME } from './names.ts';

export interface ControlPlaneStackProps {
  readonly config: Config;
  readonly vpc: ec2.IVpc;
  readonly cluster: eks.ICluster;
  readonly clusterClients: ec2.ISecurityGroup;
  readonly users: cognito.IUserPool;
  readonly signUpPolicy: ssm.IStringParameter;
}

/** The bus, what is remembered and kept secret, and the capabilities that work with both. */
export class ControlPlaneStack extends Stack {
  constructor(scope: Construct, id: string, props: ControlPlaneStackProps) {
    const { config } = props;
    super(scope, id, { env: config.env, description: 'Carapace: the event-driven control plane' });

    const bus = factBus(this);
    const table = agentsTable(this);
    const signingKey = agentdSigningKey(this);
    const modelGatewaySecretArn = modelGatewayMasterKey(this);
    const alarms = new Alarms(this, 'Alarms', { email: config.alarmEmail });

    new CfnOutput(this, 'BusName', { value: bus.eventBusName });
    new CfnOutput(this, 'TableName', { value: table.tableName });
    new CfnOutput(this, 'AgentdSigningKeyArn', { value: signingKey.keyArn });
    new CfnOutput(this, 'ModelGatewaySecretArn', { value: modelGatewaySecretArn });
    new CfnOutput(this, 'AlarmTopicArn', { value: alarms.topic.topicArn });

    signInAlarms(this, alarms);

    const sandbox = new Sandbox(this, 'Sandbox', { ...props, bus, table, signingKey, modelGatewaySecretArn, alarms });
    const slack = new Slack(this, 'Slack', { config, bus, table, alarms });
    new Conversation(this, 'Conversation', { ...props, bus, table, signingKey, sandbox, slack, alarms });
    new User(this, 'User', { ...props, bus, table, sandbox, alarms });
    if (config.trail) accountTrail(this);
    operatorsParameter(this, { user_pool_id: props.users.userPoolId, bus_name: BUS_NAME, table_name: TABLE_NAME });
  }
}

/**
 * What pre-token counts when it must not keep a sign-in waiting. Here and not beside the function, whose
 * stack comes before there is anybody to hear of an alarm.
 */
function signInAlarms(scope: Construct, alarms: Alarms): void {
  const counted = (metricName: string) =>
    new cloudwatch.Metric({ namespace: 'Carapace', metricName, statistic: 'Sum' });
  alarms.onAny(
    scope,
    'SignInSignalsLostAlarm',
    counted('SignInSignalsLost'),
    'Somebody signed in and the bus was not told: see the log of pre-token. The next sign-in tells it again.',
  );
  alarms.onAny(
    scope,
    'TokensWithoutUserKeyAlarm',
    counted('TokensWithoutUserKey'),
    'Tokens were made that do not say whose they are: see the log of pre-token.',
  );
}

/**
 * Where `clawctl` finds what it works on. Of what is here nothing is a secret: what an operator may do with
 * it is for the operator's own role to say.
 */
function operatorsParameter(scope: Construct, settings: Record<string, string>): void {
  new ssm.StringParameter(scope, 'Clawctl', {
    parameterName: '/carapace/clawctl',
    description: 'What clawctl works on. Written by the CDK app',
    stringValue: Stack.of(scope).toJsonString(settings),
  });
}

/** The one bus on which everything that happens is said. */
function factBus(scope: Construct): events.EventBus {
  const bus = new events.EventBus(scope, 'Bus', {
    eventBusName: BUS_NAME,
    description: 'Facts about agents: docs/events.md',
  });
  bus.archive('Archive', {
    archiveName: 'carapace',
    description: 'Every event of the last 30 days, to be replayed',
    eventPattern: { account: [Stack.of(scope).account] },
    retention: Duration.days(30),
  });
  return bus;
}

/**
 * Signs the tokens with which functions call agentd. The private half never leaves KMS, so a token
 * can only come from a function that may call kms:Sign.
 */
function agentdSigningKey(scope: Construct): kms.Key {
  return new kms.Key(scope, 'AgentdSigningKey', {
    alias: 'alias/carapace/agentd',
    description: 'Signs the tokens with which the control plane calls agentd',
    keySpec: kms.KeySpec.ECC_NIST_P256,
    keyUsage: kms.KeyUsage.SIGN_VERIFY,
    removalPolicy: RemovalPolicy.RETAIN,
  });
}

/**
 * The model gateway's master key as {"master_key": "<random>"}. The gateway wants it to begin with
 * `sk-`, which Secrets Manager cannot generate: whoever reads it puts `sk-` in front. Returns the
 * secret's ARN.
 */
function modelGatewayMasterKey(scope: Construct): string {
  const secret = new secretsmanager.Secret(scope, 'ModelGatewayMasterKey', {
    description: 'Master key of the model gateway: makes and revokes the keys of users',
    generateSecretString: {
      secretStringTemplate: '{}',
      generateStringKey: 'master_key',
      passwordLength: 48,
      excludePunctuation: true,
    },
    removalPolicy: RemovalPolicy.RETAIN,
  });
  Validations.of(secret).acknowledge({
    id: 'AwsSolutions-SMG4',
    reason:
      'The gateway reads it at its start only: rotating it is a deployment of the gateway, not something Secrets Manager can do alone.',
  });
  // Not `secretArn`, a Ref: on AWS that is the same, but to the emulator it is the secret's name.
  return (secret.node.defaultChild as secretsmanager.CfnSecret).attrId;
}
