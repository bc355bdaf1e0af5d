import { Match } from 'aws-cdk-lib/assertions';
import { describe, expect, test } from 'vitest';
import { type Json, STACKS, synthesised } from './synthesised.ts';

const STACK = 'CarapaceControlPlane';
const app = synthesised('aws');
const template = app.template(STACK);

const targets = STACKS.flatMap((stack) =>
  Object.values(app.resources(stack, 'AWS::Events::Rule')).flatMap(({ Properties }) => Properties.Targets as Json[]),
);

describe('the bus', () => {
  test('keeps every fact for 30 days', () => {
    template.hasResourceProperties('AWS::Events::EventBus', { Name: 'carapace' });
    template.hasResourceProperties('AWS::Events::Archive', { ArchiveName: 'carapace', RetentionDays: 30 });
  });

  test('every target retries, and then leaves the event in a dead-letter queue', () => {
    expect(targets).not.toEqual([]);
    for (const target of targets) {
      expect(target.RetryPolicy).toEqual({
        MaximumEventAgeInSeconds: expect.any(Number),
        MaximumRetryAttempts: expect.any(Number),
      });
      expect(target.RetryPolicy.MaximumRetryAttempts).toBeGreaterThan(0);
      expect(target.DeadLetterConfig.Arn['Fn::GetAtt'][0]).toMatch(/DeadLettersQueue/);
      expect(target.RoleArn).toBeDefined();
    }
  });

  test.each([
    ['SandboxRequested', /^SandboxCreate/, { 'detail-type': ['Sandbox Requested'] }],
    [
      'ConversationReceived',
      /^Conversation/,
      { source: ['carapace.slack'], 'detail-type': ['Slack Message Received'] },
    ],
    ['ConversationCutOff', /^Conversation/, undefined],
    ['UserSignedIn', /^UserOnboarding/, { source: ['carapace.signup'], 'detail-type': ['User Signed In'] }],
    ['UserDeleted', /^UserOffboarding/, { source: ['carapace.signup'], 'detail-type': ['User Deleted'] }],
    ['UserAccountRemoved', /^UserOffboarding/, undefined],
  ])('%s starts its machine with the whole event, with a role that can do nothing else', (id, which, pattern) => {
    const [machine] = app.resource(STACK, 'AWS::StepFunctions::StateMachine', which);
    const [, { Properties }] = app.resource(STACK, 'AWS::Events::Rule', new RegExp(`^${id}`));
    if (pattern !== undefined) expect(Properties.EventPattern).toEqual(pattern);
    expect(Properties.Targets.map((target: Json) => [target.Arn, target.Input, target.InputTransformer])).toEqual([
      [{ Ref: machine }, undefined, undefined],
    ]);
    const [, policy] = app.resource(STACK, 'AWS::IAM::Policy', new RegExp(`^${id}Role`));
    expect(policy.Properties.PolicyDocument.Statement).toEqual([
      { Effect: 'Allow', Action: 'states:StartExecution', Resource: { Ref: machine } },
    ]);
  });

  test('of all rules only those that start a machine may leave letters in its queue', () => {
    for (const [id, { Properties }] of Object.entries(app.resources(STACK, 'AWS::SQS::QueuePolicy'))) {
      const queue = Properties.Queues[0].Ref;
      const rules = Object.entries(app.resources(STACK, 'AWS::Events::Rule'))
        .filter(([, rule]) => rule.Properties.Targets[0].DeadLetterConfig.Arn['Fn::GetAtt'][0] === queue)
        .map(([rule]) => rule);
      const allowed = Properties.PolicyDocument.Statement.filter(({ Effect }: Json) => Effect === 'Allow');
      expect(rules.length, id).toBeGreaterThan(0);
      expect(allowed.map(({ Condition }: Json) => Condition)).toEqual(
        expect.arrayContaining(
          rules.map((rule) => ({ ArnEquals: { 'aws:SourceArn': { 'Fn::GetAtt': [rule, 'Arn'] } } })),
        ),
      );
      expect(allowed).toHaveLength(rules.length);
    }
  });
});

describe('dead letters', () => {
  const queues = app.resources(STACK, 'AWS::SQS::Queue');

  test('every queue is one, is encrypted, takes nothing over plain HTTP, and waits for two weeks', () => {
    const used = new Set(targets.map((target) => target.DeadLetterConfig.Arn['Fn::GetAtt'][0]));
    expect(Object.keys(queues).sort()).toEqual([...used].sort());
    for (const [id, { Properties }] of Object.entries(queues)) {
      expect(Properties).toEqual({ SqsManagedSseEnabled: true, MessageRetentionPeriod: 1_209_600 });
      const policy = Object.values(app.resources(STACK, 'AWS::SQS::QueuePolicy')).find(
        ({ Properties }) => Properties.Queues[0].Ref === id,
      );
      expect(policy?.Properties.PolicyDocument.Statement).toContainEqual(
        expect.objectContaining({
          Effect: 'Deny',
          Action: 'sqs:*',
          Condition: { Bool: { 'aws:SecureTransport': 'false' } },
        }),
      );
    }
  });

  test('the first letter raises an alarm', () => {
    const [topic] = app.resource(STACK, 'AWS::SNS::Topic');
    for (const id of Object.keys(queues)) {
      template.hasResourceProperties('AWS::CloudWatch::Alarm', {
        Namespace: 'AWS/SQS',
        MetricName: 'ApproximateNumberOfMessagesVisible',
        Dimensions: [{ Name: 'QueueName', Value: { 'Fn::GetAtt': [id, 'QueueName'] } }],
        Statistic: 'Maximum',
        Period: 60,
        EvaluationPeriods: 1,
        Threshold: 0,
        ComparisonOperator: 'GreaterThanThreshold',
        TreatMissingData: 'notBreaching',
        AlarmActions: [{ Ref: topic }],
      });
    }
  });
});

describe('alarms', () => {
  test.each([
    ['ExecutionsFailed', 'sandbox-create', /^SandboxCreate/],
    ['ExecutionsTimedOut', 'sandbox-create', /^SandboxCreate/],
    ['ExecutionsFailed', 'conversation', /^Conversation/],
    ['ExecutionsTimedOut', 'conversation', /^Conversation/],
    ['ExecutionsFailed', 'user-onboard', /^UserOnboarding/],
    ['ExecutionsTimedOut', 'user-onboard', /^UserOnboarding/],
    ['ExecutionsFailed', 'user-offboard', /^UserOffboarding/],
    ['ExecutionsTimedOut', 'user-offboard', /^UserOffboarding/],
  ])('%s of %s raises one', (MetricName, _, which) => {
    const [machine] = app.resource(STACK, 'AWS::StepFunctions::StateMachine', which);
    const [topic] = app.resource(STACK, 'AWS::SNS::Topic');
    template.hasResourceProperties('AWS::CloudWatch::Alarm', {
      Namespace: 'AWS/States',
      MetricName,
      Dimensions: [{ Name: 'StateMachineArn', Value: { Ref: machine } }],
      Statistic: 'Sum',
      Threshold: 0,
      AlarmActions: [{ Ref: topic }],
    });
  });

  test.each(['SignInSignalsLost', 'TokensWithoutUserKey'])('%s, which pre-token counts, raises one', (MetricName) => {
    const [topic] = app.resource(STACK, 'AWS::SNS::Topic');
    template.hasResourceProperties('AWS::CloudWatch::Alarm', {
      Namespace: 'Carapace',
      MetricName,
      // Without one: that is how they are counted.
      Dimensions: Match.absent(),
      Statistic: 'Sum',
      Threshold: 0,
      AlarmActions: [{ Ref: topic }],
    });
  });

  test('an answer to Slack that is a server error raises one', () => {
    const [api] = app.resource(STACK, 'AWS::ApiGatewayV2::Api');
    template.hasResourceProperties('AWS::CloudWatch::Alarm', {
      Namespace: 'AWS/ApiGateway',
      MetricName: '5xx',
      Dimensions: [{ Name: 'ApiId', Value: { Ref: api } }],
      Threshold: 0,
    });
  });

  test('reach the topic: CloudWatch may publish to it and use its key', () => {
    const sender = { Service: 'cloudwatch.amazonaws.com' };
    const [key] = app.resource(STACK, 'AWS::KMS::Key', /^AlarmsKey/);
    const [topic, { Properties }] = app.resource(STACK, 'AWS::SNS::Topic');
    expect(Properties.KmsMasterKeyId).toEqual({ 'Fn::GetAtt': [key, 'Arn'] });
    const statement = (Statement: Json[]) => Statement.find(({ Principal }) => Principal.Service === sender.Service);
    const [, topicPolicy] = app.resource(STACK, 'AWS::SNS::TopicPolicy');
    expect(statement(topicPolicy.Properties.PolicyDocument.Statement)).toMatchObject({
      Effect: 'Allow',
      Action: 'sns:Publish',
      Resource: { Ref: topic },
    });
    expect(statement(app.resources(STACK, 'AWS::KMS::Key')[key]?.Properties.KeyPolicy.Statement)).toMatchObject({
      Effect: 'Allow',
      Action: ['kms:Decrypt', 'kms:GenerateDataKey'],
    });
  });
});

describe('what is kept', () => {
  test('the table: keys, indexes, expiry, and no way to lose it by accident', () => {
    template.hasResource('AWS::DynamoDB::GlobalTable', {
      DeletionPolicy: 'Retain',
      Properties: {
        BillingMode: 'PAY_PER_REQUEST',
        KeySchema: [
          { AttributeName: 'pk', KeyType: 'HASH' },
          { AttributeName: 'sk', KeyType: 'RANGE' },
        ],
        GlobalSecondaryIndexes: [
          {
            IndexName: 'agents-by-state',
            KeySchema: [
              { AttributeName: 'state', KeyType: 'HASH' },
              { AttributeName: 'updated_at', KeyType: 'RANGE' },
            ],
            Projection: { ProjectionType: 'ALL' },
          },
          {
            // No attribute: what people said is not copied out of the table.
            IndexName: 'items-by-owner',
            KeySchema: [{ AttributeName: 'owner', KeyType: 'HASH' }],
            Projection: { ProjectionType: 'KEYS_ONLY' },
          },
        ],
        TimeToLiveSpecification: { AttributeName: 'ttl', Enabled: true },
        SSESpecification: { SSEEnabled: true },
        Replicas: [
          { DeletionProtectionEnabled: true, PointInTimeRecoverySpecification: { PointInTimeRecoveryEnabled: true } },
        ],
      },
    });
  });

  test('the key that signs for agentd can only sign, on the curve of ES256', () => {
    template.hasResource('AWS::KMS::Key', {
      DeletionPolicy: 'Retain',
      Properties: { KeySpec: 'ECC_NIST_P256', KeyUsage: 'SIGN_VERIFY' },
    });
    template.hasResourceProperties('AWS::KMS::Alias', { AliasName: 'alias/carapace/agentd' });
  });

  test.each([
    ['the master key of the model gateway is', /^ModelGatewayMasterKey/, 'master_key'],
    ["in place of Slack's signing secret a text is", /^SlackSigningSecret/, 'signing_secret'],
    ["in place of the bot's token a text is", /^SlackBotToken/, 'bot_token'],
  ])('%s generated where nobody sees it', (_, id, key) => {
    const [, { Properties, ...secret }] = app.resource(STACK, 'AWS::SecretsManager::Secret', id);
    expect(secret).toMatchObject({ DeletionPolicy: 'Retain' });
    expect(Properties.SecretString).toBeUndefined();
    expect(Properties.GenerateSecretString).toMatchObject({
      SecretStringTemplate: '{}',
      GenerateStringKey: key,
      ExcludePunctuation: true,
      PasswordLength: 48,
    });
  });
});

test('operators find what clawctl works on, and no secret, in one parameter', () => {
  const [, { Properties }] = app.resource(STACK, 'AWS::SSM::Parameter');
  const [pool] = app.resource('CarapaceIdentity', 'AWS::Cognito::UserPool');
  expect(Properties).toMatchObject({ Name: '/carapace/clawctl', Type: 'String' });
  const [, parts] = Properties.Value['Fn::Join'];
  const filled = parts.map((part: Json) => {
    if (typeof part === 'string') return part;
    return part['Fn::ImportValue'].includes(pool) ? 'the pool' : 'something else';
  });
  expect(JSON.parse(filled.join(''))).toEqual({
    user_pool_id: 'the pool',
    bus_name: 'carapace',
    table_name: 'carapace',
  });
});

test('the outputs are those that tools read', () => {
  const names = (stack: (typeof STACKS)[number]) =>
    Object.keys(app.json(stack).Outputs)
      .filter((name) => !name.startsWith('ExportsOutput'))
      .sort();
  expect(names('CarapaceNetwork')).toEqual(['FunctionCidrs']);
  expect(names('CarapaceCluster')).toEqual(['ClusterEndpoint', 'ClusterName', 'ClusterSecurityGroupId', 'VpcId']);
  expect(names('CarapaceControlPlane')).toEqual([
    'AgentdSigningKeyArn',
    'AlarmTopicArn',
    'BusName',
    'ConversationAcceptFunctionName',
    'ConversationAcceptRoleName',
    'ConversationArn',
    'ConversationDlqAlarmName',
    'ConversationDlqUrl',
    'ConversationTurnFunctionName',
    'ConversationTurnRoleName',
    'ModelGatewaySecretArn',
    'SandboxAnnounceFunctionName',
    'SandboxAnnounceRoleName',
    'SandboxBindFunctionName',
    'SandboxBindRoleName',
    'SandboxClaimFunctionName',
    'SandboxClaimRoleName',
    'SandboxCreateArn',
    'SandboxCreateDlqAlarmName',
    'SandboxCreateDlqUrl',
    'SandboxRetireFunctionName',
    'SandboxRetireRoleName',
    'SlackBotTokenSecretArn',
    'SlackEventsUrl',
    'SlackIngressFunctionName',
    'SlackIngressRoleName',
    'SlackReplyFunctionName',
    'SlackReplyRoleName',
    'SlackSigningSecretArn',
    'TableName',
    'UserOffboardArn',
    'UserOffboardDlqAlarmName',
    'UserOffboardDlqUrl',
    'UserOffboardFunctionName',
    'UserOffboardRoleName',
    'UserOnboardArn',
    'UserOnboardDlqAlarmName',
    'UserOnboardDlqUrl',
    'UserOnboardFunctionName',
    'UserOnboardRoleName',
  ]);
  expect(names('CarapaceIdentity')).toEqual([
    'PreSignUpFunctionName',
    'PreSignUpRoleName',
    'PreTokenFunctionName',
    'PreTokenRoleName',
    'SignUpPolicyParameterName',
    'UserPoolClientId',
    'UserPoolId',
  ]);
});
