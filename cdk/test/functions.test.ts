import { describe, expect, test } from 'vitest';
import { asList, BINARIES, type Json, type Resource, type StackName, synthesised } from './synthesised.ts';

const app = synthesised('aws');
const WHERE: Record<string, StackName> = {
  'sandbox-claim': 'CarapaceControlPlane',
  'sandbox-bind': 'CarapaceControlPlane',
  'sandbox-announce': 'CarapaceControlPlane',
  'sandbox-retire': 'CarapaceControlPlane',
  'slack-ingress': 'CarapaceControlPlane',
  'slack-reply': 'CarapaceControlPlane',
  'conversation-accept': 'CarapaceControlPlane',
  'conversation-turn': 'CarapaceControlPlane',
  'user-onboard': 'CarapaceControlPlane',
  'user-offboard': 'CarapaceControlPlane',
  'pre-sign-up': 'CarapaceIdentity',
  'pre-token': 'CarapaceIdentity',
};

function functionOf(binary: string): Resource {
  const found = Object.values(app.resources(WHERE[binary] as StackName, 'AWS::Lambda::Function')).find(
    ({ Properties }) => Properties.FunctionName === `carapace-${binary}`,
  );
  if (!found) throw new Error(`there is no function carapace-${binary}`);
  return found;
}

function statements(binary: string): Json[] {
  const role = functionOf(binary).Properties.Role['Fn::GetAtt'][0];
  const stack = WHERE[binary] as StackName;
  expect(app.resources(stack, 'AWS::IAM::Role')[role]?.Properties.ManagedPolicyArns).toBeUndefined();
  return Object.values(app.resources(stack, 'AWS::IAM::Policy'))
    .filter(({ Properties }) => Properties.Roles.some((attached: Json) => attached.Ref === role))
    .flatMap(({ Properties }) => Properties.PolicyDocument.Statement);
}

/** The items of the table that a grant is narrowed to, by the beginning of their partition key. */
const items = (Condition: Json): string =>
  asList<string>(Condition?.['ForAllValues:StringLike']?.['dynamodb:LeadingKeys']).join(' ');

/** The logical id in the name that another stack exports a value under. */
const imported = (reference: Json): string =>
  reference['Fn::ImportValue'].replace(/^.*:ExportsOutput(FnGetAtt|Ref)/, '');

/** A logical id without the hash at its end. */
const plain = (id: string): string => id.replace(/[0-9A-F]{8}((Arn)?[0-9A-F]{8})?$/, '');

/** What an ARN ends in that was put together: `table/carapace`. */
const byName = (arn: Json): string =>
  arn['Fn::Join'][1]
    .map((part: Json) => {
      if (typeof part === 'string') return part;
      return part['Fn::GetAtt'] ? plain(part['Fn::GetAtt'][0]) : (part.Ref ?? imported(part));
    })
    .join('')
    .split(':')
    .at(-1);

/** Of all resources, what a function may do on which: `*` aside, and by logical id, with the items of the table. */
function grants(binary: string): Record<string, string[]> {
  const found = statements(binary).filter(({ Effect, Resource }) => Effect === 'Allow' && Resource !== '*');
  const named = found.map(({ Action, Condition, Resource }): [string, string[]] => {
    const id: string = Resource['Fn::Join'] ? byName(Resource) : (Resource['Fn::GetAtt']?.[0] ?? Resource.Ref ?? imported(Resource));
    return [`${plain(id)} ${items(Condition)}`.trim(), asList<string>(Action)];
  });
  expect(new Set(named.map(([name]) => name)).size).toBe(named.length);
  return Object.fromEntries(named);
}

/** The only rights on everything, each with the reason why it cannot be narrower. */
const ON_EVERYTHING: Record<string, string> = {
  'xray:PutTelemetryRecords': 'X-Ray has no resources',
  'xray:PutTraceSegments': 'X-Ray has no resources',
  'ec2:AssignPrivateIpAddresses': 'Lambda makes the network interface, its id is not known before',
  'ec2:CreateNetworkInterface': 'Lambda makes the network interface, its id is not known before',
  'ec2:DeleteNetworkInterface': 'Lambda makes the network interface, its id is not known before',
  'ec2:DescribeNetworkInterfaces': 'EC2 cannot narrow what is described',
  'ec2:DescribeSubnets': 'EC2 cannot narrow what is described',
  'ec2:UnassignPrivateIpAddresses': 'Lambda makes the network interface, its id is not known before',
};

describe('every function', () => {
  test('there are twelve, and no other', () => {
    const all = (['CarapaceNetwork', 'CarapaceCluster', 'CarapaceControlPlane', 'CarapaceIdentity'] as const).flatMap(
      (stack) =>
        Object.values(app.resources(stack, 'AWS::Lambda::Function')).map(({ Properties }) => Properties.FunctionName),
    );
    expect(all.sort()).toEqual(BINARIES.map((binary) => `carapace-${binary}`).sort());
  });

  test.each(BINARIES)('%s is a traced binary with a log that does not last for ever', (binary) => {
    const { Properties } = functionOf(binary);
    expect(Properties).toMatchObject({
      Runtime: 'provided.al2023',
      Architectures: ['x86_64'],
      MemorySize: 256,
      TracingConfig: { Mode: 'Active' },
    });
    const log = app.resources(WHERE[binary] as StackName, 'AWS::Logs::LogGroup')[Properties.LoggingConfig.LogGroup.Ref];
    expect(log?.Properties).toMatchObject({ LogGroupName: `/aws/lambda/carapace-${binary}`, RetentionInDays: 90 });
  });

  test.each(BINARIES)('%s has no right on everything without a reason', (binary) => {
    const wide = statements(binary).filter(
      ({ Effect, Resource }) =>
        Effect === 'Allow' && asList<Json>(Resource).some((one) => JSON.stringify(one).includes('*')),
    );
    const actions = wide.flatMap(({ Action }) => asList<string>(Action));
    expect(Object.keys(ON_EVERYTHING)).toEqual(expect.arrayContaining(actions));
    expect(
      statements(binary)
        .flatMap(({ Action }) => asList<string>(Action))
        .filter((action) => action.includes('*')),
    ).toEqual([]);
  });

  test('one that calls the cluster may not use the rights Lambda needs for its network', () => {
    for (const binary of BINARIES) {
      const network = (effect: string) =>
        statements(binary)
          .filter(({ Effect }) => Effect === effect)
          .flatMap(({ Action }) => asList<string>(Action))
          .filter((action) => action.startsWith('ec2:'));
      expect(network('Deny')).toEqual(network('Allow'));
      expect(network('Deny').length > 0).toBe(functionOf(binary).Properties.VpcConfig !== undefined);
    }
  });
});

describe('each function', () => {
  test.each([
    ['sandbox-claim', 45, true, 50],
    ['sandbox-bind', 30, true, undefined],
    ['sandbox-announce', 9, false, undefined],
    ['sandbox-retire', 45, true, undefined],
    ['slack-ingress', 10, false, undefined],
    ['slack-reply', 30, false, undefined],
    ['conversation-accept', 30, false, undefined],
    ['conversation-turn', 300, true, undefined],
    ['user-onboard', 30, false, undefined],
    ['user-offboard', 45, false, undefined],
    ['pre-sign-up', 5, false, undefined],
    ['pre-token', 5, false, undefined],
  ])('%s ends after %i s, is in the VPC: %s, and runs at most %s times at once', (binary, timeout, inVpc, most) => {
    const { Properties } = functionOf(binary);
    expect(Properties.Timeout).toBe(timeout);
    expect(Properties.VpcConfig !== undefined).toBe(inVpc);
    expect(Properties.ReservedConcurrentExecutions).toBe(most);
    if (inVpc)
      expect(JSON.stringify(Properties.VpcConfig.SubnetIds.map((id: Json) => id['Fn::ImportValue']))).toMatch(
        /^(?:[^,]*FunctionsSubnet[^,]*,?){3}$/,
      );
  });

  const CLUSTER = ['CLUSTER_NAME', 'CLUSTER_ENDPOINT', 'CLUSTER_CA', 'AGENTS_NAMESPACE'];
  test.each([
    ['sandbox-claim', [...CLUSTER, 'TABLE_NAME', 'WARM_POOL']],
    [
      'sandbox-bind',
      [...CLUSTER, 'TABLE_NAME', 'SIGNING_KEY_ID', 'MODEL_GATEWAY_URL', 'MODEL_GATEWAY_SECRET_ARN', 'ALLOWANCE'],
    ],
    ['sandbox-announce', ['TABLE_NAME', 'BUS_NAME']],
    ['sandbox-retire', [...CLUSTER, 'TABLE_NAME', 'MODEL_GATEWAY_URL', 'MODEL_GATEWAY_SECRET_ARN']],
    ['slack-ingress', ['BUS_NAME', 'SLACK_SIGNING_SECRET_ARN']],
    ['slack-reply', ['TABLE_NAME', 'SLACK_BOT_TOKEN_SECRET_ARN', 'SLACK_API_URL', 'SIGN_UP_URL']],
    [
      'conversation-accept',
      ['TABLE_NAME', 'USER_POOL_ID', 'SIGN_UP_POLICY_PARAMETER', 'SLACK_BOT_TOKEN_SECRET_ARN', 'SLACK_API_URL'],
    ],
    [
      'conversation-turn',
      [
        ...CLUSTER,
        'TABLE_NAME',
        'SIGNING_KEY_ID',
        'SLACK_BOT_TOKEN_SECRET_ARN',
        'SLACK_API_URL',
        'TURN_SLICE_SECONDS',
      ],
    ],
    ['user-onboard', ['TABLE_NAME', 'USER_POOL_ID', 'SIGN_UP_POLICY_PARAMETER', 'ALLOWANCE']],
    ['user-offboard', ['TABLE_NAME', 'USER_POOL_ID']],
    ['pre-sign-up', ['SIGN_UP_POLICY_PARAMETER', 'TABLE_NAME']],
    ['pre-token', ['BUS_NAME']],
  ])('%s is told what it uses and no more', (binary, names) => {
    expect(Object.keys(functionOf(binary).Properties.Environment.Variables).sort()).toEqual([...names].sort());
  });

  test('what a user may spend is said alike to the function that enters it and to the one that falls back on it', () => {
    for (const binary of ['user-onboard', 'sandbox-bind'])
      expect(JSON.parse(functionOf(binary).Properties.Environment.Variables.ALLOWANCE)).toEqual({
        budget_usd: 20,
        budget_days: 30,
        requests_per_minute: 60,
        tokens_per_minute: 200_000,
      });
  });

  test('none is told a secret', () => {
    const secrets = Object.keys(app.resources('CarapaceControlPlane', 'AWS::SecretsManager::Secret'));
    expect(secrets).toHaveLength(3);
    for (const binary of BINARIES) {
      for (const [name, value] of Object.entries<Json>(functionOf(binary).Properties.Environment.Variables)) {
        const text = JSON.stringify(value);
        expect(text, name).not.toMatch(/resolve:(secretsmanager|ssm)/);
        // The address of the secret, not what is in it.
        for (const secret of secrets) {
          if (text.includes(secret)) expect(value, name).toEqual({ 'Fn::GetAtt': [secret, 'Id'] });
        }
      }
    }
  });

  test('sandbox-claim writes agents', () => {
    expect(grants('sandbox-claim')).toEqual({
      SandboxClaimLog: ['logs:CreateLogStream', 'logs:PutLogEvents'],
      Table: ['dynamodb:GetItem', 'dynamodb:PutItem'],
    });
  });

  test('sandbox-bind reads agents, signs tokens and reads the master key', () => {
    expect(grants('sandbox-bind')).toEqual({
      SandboxBindLog: ['logs:CreateLogStream', 'logs:PutLogEvents'],
      Table: ['dynamodb:GetItem'],
      AgentdSigningKey: ['kms:Sign'],
      ModelGatewayMasterKey: ['secretsmanager:GetSecretValue'],
    });
  });

  test('sandbox-announce writes agents and speaks for carapace.sandbox', () => {
    expect(grants('sandbox-announce')).toEqual({
      SandboxAnnounceLog: ['logs:CreateLogStream', 'logs:PutLogEvents'],
      Table: ['dynamodb:GetItem', 'dynamodb:PutItem'],
      Bus: ['events:PutEvents'],
    });
    expect(statements('sandbox-announce').find(({ Action }) => Action === 'events:PutEvents')?.Condition).toEqual({
      'ForAllValues:StringEquals': {
        'events:source': 'carapace.sandbox',
        'events:detail-type': ['Sandbox Ready', 'Sandbox Failed', 'Sandbox Retired'],
      },
    });
  });

  test('sandbox-retire reads single agents and the master key', () => {
    expect(grants('sandbox-retire')).toEqual({
      SandboxRetireLog: ['logs:CreateLogStream', 'logs:PutLogEvents'],
      'Table ONCE#* USER#*': ['dynamodb:GetItem'],
      ModelGatewayMasterKey: ['secretsmanager:GetSecretValue'],
    });
  });

  test('slack-ingress reads the signing secret and says what Slack says, and nothing else', () => {
    expect(grants('slack-ingress')).toEqual({
      SlackIngressLog: ['logs:CreateLogStream', 'logs:PutLogEvents'],
      SlackSigningSecret: ['secretsmanager:GetSecretValue'],
      Bus: ['events:PutEvents'],
    });
    expect(statements('slack-ingress').find(({ Action }) => Action === 'events:PutEvents')?.Condition).toEqual({
      'ForAllValues:StringEquals': {
        'events:source': 'carapace.slack',
        'events:detail-type': 'Slack Message Received',
      },
    });
  });

  test('slack-reply has the bot speak, and keeps what it has said', () => {
    expect(grants('slack-reply')).toEqual({
      SlackReplyLog: ['logs:CreateLogStream', 'logs:PutLogEvents'],
      'Table ONCE#slack.*': ['dynamodb:GetItem', 'dynamodb:PutItem'],
      SlackBotToken: ['secretsmanager:GetSecretValue'],
    });
  });

  test('conversation-accept looks single users up, reads agents, and writes the inbox', () => {
    expect(grants('conversation-accept')).toEqual({
      ConversationAcceptLog: ['logs:CreateLogStream', 'logs:PutLogEvents'],
      'Table IDENTITY#* USER#*': ['dynamodb:GetItem'],
      'Table CONV#* HOLDER#* ONCE#slack.* SLACK#*': ['dynamodb:GetItem', 'dynamodb:PutItem'],
      parameterSignUpPolicy: ['ssm:GetParameter'],
      Users: ['cognito-idp:AdminGetUser'],
      SlackBotToken: ['secretsmanager:GetSecretValue'],
    });
  });

  test('conversation-turn reads agents, writes the inbox, signs tokens and has the bot speak', () => {
    expect(grants('conversation-turn')).toEqual({
      ConversationTurnLog: ['logs:CreateLogStream', 'logs:PutLogEvents'],
      'Table ONCE#slack.* USER#*': ['dynamodb:GetItem'],
      'Table CONV#*': ['dynamodb:GetItem', 'dynamodb:PutItem'],
      AgentdSigningKey: ['kms:Sign'],
      SlackBotToken: ['secretsmanager:GetSecretValue'],
    });
  });

  test('user-onboard writes agents, reads the policy and looks accounts up', () => {
    expect(grants('user-onboard')).toEqual({
      UserOnboardLog: ['logs:CreateLogStream', 'logs:PutLogEvents'],
      'Table ONCE#*': ['dynamodb:GetItem'],
      'Table USER#*': ['dynamodb:GetItem', 'dynamodb:PutItem'],
      parameterSignUpPolicy: ['ssm:GetParameter'],
      Users: ['cognito-idp:ListUsers'],
    });
  });

  test('user-offboard writes agents, finds and deletes what is kept of users, reads none of it, and changes no account', () => {
    expect(grants('user-offboard')).toEqual({
      UserOffboardLog: ['logs:CreateLogStream', 'logs:PutLogEvents'],
      'Table ONCE#*': ['dynamodb:GetItem'],
      'Table USER#*': ['dynamodb:DeleteItem', 'dynamodb:GetItem', 'dynamodb:PutItem'],
      'Table/index/items-by-owner': ['dynamodb:Query'],
      'Table CONV#* IDENTITY#* SLACK#*': ['dynamodb:DeleteItem'],
      Users: ['cognito-idp:AdminGetUser', 'cognito-idp:ListUsers'],
    });
  });

  test('only user-offboard deletes items or looks for them, and no function scans the table', () => {
    const may = (action: string) =>
      BINARIES.filter((binary) => statements(binary).some(({ Action }) => asList<string>(Action).includes(action)));
    expect(may('dynamodb:DeleteItem')).toEqual(['user-offboard']);
    expect(may('dynamodb:Query')).toEqual(['user-offboard']);
    expect(may('dynamodb:Scan')).toEqual([]);
  });

  test('pre-token speaks for carapace.signup and does nothing else', () => {
    expect(grants('pre-token')).toEqual({
      PreTokenLog: ['logs:CreateLogStream', 'logs:PutLogEvents'],
      'event-bus/carapace': ['events:PutEvents'],
    });
    expect(statements('pre-token').find(({ Action }) => Action === 'events:PutEvents')?.Condition).toEqual({
      'ForAllValues:StringEquals': { 'events:source': 'carapace.signup', 'events:detail-type': 'User Signed In' },
    });
  });

  test('pre-sign-up reads the policy, writes mailboxes and counts, and asks for single accounts', () => {
    expect(grants('pre-sign-up')).toEqual({
      PreSignUpLog: ['logs:CreateLogStream', 'logs:PutLogEvents'],
      parameterSignUpPolicy: ['ssm:GetParameter'],
      'table/carapace IDENTITY#*': ['dynamodb:GetItem', 'dynamodb:PutItem'],
      'table/carapace RATE#*': ['dynamodb:UpdateItem'],
      Users: ['cognito-idp:AdminDeleteUser', 'cognito-idp:AdminGetUser'],
    });
  });
});
