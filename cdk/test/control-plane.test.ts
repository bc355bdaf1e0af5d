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

  test('Sandbox Requested from anybody starts the machine, with a role that can do nothing else', () => {
    const [machine] = app.resource(STACK, 'AWS::StepFunctions::StateMachine');
    const [rule, { Properties }] = app.resource(STACK, 'AWS::Events::Rule');
    expect(Properties.EventPattern).toEqual({ 'detail-type': ['Sandbox Requested'] });
    expect(Properties.Targets.map((target: Json) => [target.Arn, target.Input, target.InputTransformer])).toEqual([
      [{ Ref: machine }, undefined, undefined],
    ]);
    const [, policy] = app.resource(STACK, 'AWS::IAM::Policy', /^SandboxRequestedRole/);
    expect(policy.Properties.PolicyDocument.Statement).toEqual([
      { Effect: 'Allow', Action: 'states:StartExecution', Resource: { Ref: machine } },
    ]);
    // Of all rules only this one may leave letters.
    const [, queuePolicy] = app.resource(STACK, 'AWS::SQS::QueuePolicy');
    const allowed = queuePolicy.Properties.PolicyDocument.Statement.filter(({ Effect }: Json) => Effect === 'Allow');
    expect(allowed.map(({ Condition }: Json) => Condition)).toEqual([
      { ArnEquals: { 'aws:SourceArn': { 'Fn::GetAtt': [rule, 'Arn'] } } },
    ]);
  });
});

describe('dead letters', () => {
  const queues = app.resources(STACK, 'AWS::SQS::Queue');

  test('every queue is one, is encrypted, takes nothing over plain HTTP, and waits for two weeks', () => {
    expect(Object.keys(queues)).toEqual(targets.map((target) => target.DeadLetterConfig.Arn['Fn::GetAtt'][0]));
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
  test.each(['ExecutionsFailed', 'ExecutionsTimedOut'])('%s of sandbox-create raises one', (MetricName) => {
    const [machine] = app.resource(STACK, 'AWS::StepFunctions::StateMachine');
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
  test('the table: keys, index, expiry, and no way to lose it by accident', () => {
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

  test('the master key of the model gateway is generated where nobody sees it', () => {
    const [, { Properties }] = app.resource(STACK, 'AWS::SecretsManager::Secret');
    expect(Properties.SecretString).toBeUndefined();
    expect(Properties.GenerateSecretString).toMatchObject({
      SecretStringTemplate: '{}',
      GenerateStringKey: 'master_key',
      ExcludePunctuation: true,
      PasswordLength: 48,
    });
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
    'TableName',
  ]);
  expect(names('CarapaceIdentity')).toEqual(['PreSignUpFunctionName', 'UserPoolClientId', 'UserPoolId']);
});
