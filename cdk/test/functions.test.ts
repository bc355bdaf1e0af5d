import { describe, expect, test } from 'vitest';
import { asList, BINARIES, type Json, type Resource, type StackName, synthesised } from './synthesised.ts';

const app = synthesised('aws');
const WHERE: Record<string, StackName> = {
  'sandbox-claim': 'CarapaceControlPlane',
  'sandbox-bind': 'CarapaceControlPlane',
  'sandbox-announce': 'CarapaceControlPlane',
  'pre-sign-up': 'CarapaceIdentity',
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

/** Of all resources, what a function may do on which: `*` and logs aside, and by logical id. */
function grants(binary: string): Record<string, string[]> {
  const found = statements(binary).filter(({ Effect, Resource }) => Effect === 'Allow' && Resource !== '*');
  return Object.fromEntries(
    found.map(({ Action, Resource }) => [
      Resource['Fn::GetAtt'][0].replace(/[0-9A-F]{8}$/, ''),
      asList<string>(Action),
    ]),
  );
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
  test('there are four, and no other', () => {
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
    ['pre-sign-up', 5, false, undefined],
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
    ['sandbox-bind', [...CLUSTER, 'TABLE_NAME', 'SIGNING_KEY_ID', 'MODEL_GATEWAY_URL', 'MODEL_GATEWAY_SECRET_ARN']],
    ['sandbox-announce', ['TABLE_NAME', 'BUS_NAME']],
    ['pre-sign-up', ['ALLOWED_EMAIL_DOMAINS']],
  ])('%s is told what it uses and no more', (binary, names) => {
    expect(Object.keys(functionOf(binary).Properties.Environment.Variables).sort()).toEqual([...names].sort());
  });

  test('none is told a secret', () => {
    const [secret] = app.resource('CarapaceControlPlane', 'AWS::SecretsManager::Secret');
    for (const binary of BINARIES) {
      for (const [name, value] of Object.entries<Json>(functionOf(binary).Properties.Environment.Variables)) {
        const text = JSON.stringify(value);
        expect(text, name).not.toMatch(/resolve:(secretsmanager|ssm)/);
        // The address of the secret, not what is in it.
        if (text.includes(secret)) expect(value, name).toEqual({ 'Fn::GetAtt': [secret, 'Id'] });
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
      'ForAllValues:StringEquals': { 'events:source': 'carapace.sandbox' },
    });
  });

  test('pre-sign-up writes its log', () => {
    expect(grants('pre-sign-up')).toEqual({ PreSignUpLog: ['logs:CreateLogStream', 'logs:PutLogEvents'] });
  });
});
