import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { asList, ENVIRONMENT, type Json, Synthesised, synthesised } from './synthesised.ts';

const STACK = 'CarapaceControlPlane';
const app = synthesised('aws');
const [, machine] = app.resource(STACK, 'AWS::StepFunctions::StateMachine');
const source: string = machine.Properties.DefinitionString;
const definition: Json = JSON.parse(source);

/** All states, those of nested machines too. */
function states(of: Json): [string, Json][] {
  return Object.entries<Json>(of.States).flatMap(([name, state]) => [
    [name, state] as [string, Json],
    ...[...(state.Branches ?? []), state.ItemProcessor].filter(Boolean).flatMap(states),
  ]);
}
const all = states(definition);
const tasks = all.filter(([, state]) => state.Type === 'Task');
const invocations = tasks.filter(([, state]) => state.Resource === 'arn:aws:states:::lambda:invoke');

/** What stands in the definition for a name like `${SandboxClaimArn}`. */
const filled = (name: string): Json =>
  machine.Properties.DefinitionSubstitutions[/^\$\{(\w+)\}$/.exec(name)?.[1] ?? ''];

/** What says nothing about the work itself: the call did not get through, or its answer did not. */
const TRANSPORT = [
  'Lambda.ServiceException',
  'Lambda.AWSLambdaException',
  'Lambda.SdkClientException',
  'Lambda.ClientExecutionTimeoutException',
  'Lambda.TooManyRequestsException',
  'Lambda.Unknown',
  'Runtime.ExitError',
  'Sandbox.Timedout',
  'States.Timeout',
];

describe('the state machine', () => {
  test('is the file, word for word', () => {
    expect(source).toBe(readFileSync(new URL('../../statemachines/sandbox-create.asl.json', import.meta.url), 'utf8'));
  });

  test('every name the file leaves open is filled, and no other', () => {
    const open = new Set([...source.matchAll(/\$\{(\w+)\}/g)].map(([, name]) => name));
    expect(Object.keys(machine.Properties.DefinitionSubstitutions).sort()).toEqual([...open].sort());
  });

  test('logs every step but not what users sent, and is traced', () => {
    expect(machine.Properties).toMatchObject({
      StateMachineName: 'carapace-sandbox-create',
      LoggingConfiguration: { Level: 'ALL', IncludeExecutionData: false },
      TracingConfiguration: { Enabled: true },
    });
  });

  test('ends by itself', () => {
    expect(definition.TimeoutSeconds).toBeGreaterThan(0);
  });

  test('has tasks', () => {
    expect(invocations.length).toBeGreaterThanOrEqual(3);
  });

  test.each(tasks)('%s gives up in time', (_, task) => {
    expect(task.TimeoutSeconds).toBeGreaterThan(0);
    expect(task.TimeoutSeconds).toBeLessThan(definition.TimeoutSeconds);
  });

  test.each(invocations)('%s waits longer than its function runs, and catches whatever goes wrong', (_, task) => {
    const invoked = filled(task.Arguments.FunctionName)['Fn::GetAtt'][0];
    const { Timeout } = app.resources(STACK, 'AWS::Lambda::Function')[invoked]?.Properties;
    expect(task.TimeoutSeconds).toBeGreaterThan(Timeout);
    expect(task.Catch.flatMap((one: Json) => one.ErrorEquals)).toContain('States.ALL');
  });

  test.each(invocations)('%s is tried again when the call did not get through', (_, task) => {
    const retried: string[] = (task.Retry ?? [])
      .filter((one: Json) => one.MaxAttempts !== 0)
      .flatMap((one: Json) => one.ErrorEquals);
    expect(retried).toEqual(expect.arrayContaining(TRANSPORT));
  });

  test('may invoke what it invokes and send what it sends, and nothing else', () => {
    const invoked = invocations.map(([, task]) => JSON.stringify(filled(task.Arguments.FunctionName)));
    const [, policy] = app.resource(STACK, 'AWS::IAM::Policy', /^SandboxCreateRole/);
    const narrow = policy.Properties.PolicyDocument.Statement.filter(({ Resource }: Json) => Resource !== '*');
    expect(
      narrow.map(({ Action, Resource }: Json) => [
        Action,
        asList<Json>(Resource)
          .map((one) => JSON.stringify(one))
          .sort(),
      ]),
    ).toEqual([
      ['lambda:InvokeFunction', [...new Set(invoked)].sort()],
      [
        'sqs:SendMessage',
        [JSON.stringify({ 'Fn::GetAtt': [machine.Properties.DefinitionSubstitutions.SandboxCreateDlqUrl.Ref, 'Arn'] })],
      ],
    ]);
    const wide = policy.Properties.PolicyDocument.Statement.filter(({ Resource }: Json) => Resource === '*');
    for (const action of wide.flatMap(({ Action }: Json) => asList<string>(Action)))
      expect(action).toMatch(/^(logs|xray):/);
  });

  test('has a role that Step Functions takes up for this machine and for no other', () => {
    const [, bound] = new Synthesised('aws', ENVIRONMENT).resource(STACK, 'AWS::IAM::Role', /^SandboxCreateRole/);
    expect(bound.Properties.AssumeRolePolicyDocument.Statement).toEqual([
      {
        Action: 'sts:AssumeRole',
        Effect: 'Allow',
        Principal: { Service: 'states.amazonaws.com' },
        Condition: {
          StringEquals: { 'aws:SourceAccount': '111122223333' },
          ArnLike: {
            'aws:SourceArn': `arn:aws:states:eu-central-1:111122223333:stateMachine:${machine.Properties.StateMachineName}`,
          },
        },
      },
    ]);
  });

  test('a dead letter goes to the queue that has the alarm, and the last resort is to fail, which has one too', () => {
    const others = tasks.filter(([, task]) => task.Resource !== 'arn:aws:states:::lambda:invoke');
    expect(others.length).toBeGreaterThan(0);
    for (const [, task] of others) {
      expect(task.Resource).toBe('arn:aws:states:::sqs:sendMessage');
      expect(task.Arguments.QueueUrl).toBe('${SandboxCreateDlqUrl}');
      expect(task.Arguments.MessageBody).toBe('{% $string($states.context.Execution.Input) %}');
      expect(task.Retry.flatMap((one: Json) => one.ErrorEquals)).toContain('States.ALL');
    }
  });
});
