import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { asList, ENVIRONMENT, type Json, Synthesised, synthesised } from './synthesised.ts';

const STACK = 'CarapaceControlPlane';
const app = synthesised('aws');
const bound = new Synthesised('aws', ENVIRONMENT);

const LAMBDA = 'arn:aws:states:::lambda:invoke';
const SQS = 'arn:aws:states:::sqs:sendMessage';
const NESTED = 'arn:aws:states:::states:startExecution.sync:2';

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

/** All states, those of nested machines too. */
function states(of: Json): [string, Json][] {
  return Object.entries<Json>(of.States).flatMap(([name, state]) => [
    [name, state] as [string, Json],
    ...[...(state.Branches ?? []), state.ItemProcessor].filter(Boolean).flatMap(states),
  ]);
}

/** How long a machine waits beside its steps, in seconds. Conversations are not here: another execution goes on with them. */
const WAITS: Record<string, number> = {
  // For a sandbox to be ready, at the longest that can be asked for.
  'sandbox-create': 900,
  'user-onboard': 0,
  // For data to be deleted, round after round.
  'user-offboard': 3600,
};

/** The longest a state can take, in seconds: every try to its timeout, every pause between them. */
function longest({ Retry = [], Seconds = 0, TimeoutSeconds = 0 }: Json): number {
  return Retry.reduce((sum: number, { ErrorEquals, IntervalSeconds, BackoffRate, MaxAttempts }: Json) => {
    // Its function has a deadline of its own.
    if (ErrorEquals[0] === 'NotReadyYet') return sum;
    const pauses = Array.from({ length: MaxAttempts }, (_, n) => IntervalSeconds * BackoffRate ** n);
    // A call that Lambda refuses to take never began, so it costs its pause alone.
    const refused = ErrorEquals.length === 1 && ErrorEquals[0] === 'Lambda.TooManyRequestsException';
    return pauses.reduce((all, pause) => all + pause, sum) + (refused ? 0 : MaxAttempts * TimeoutSeconds);
    // What the deployment fills is below a minute.
  }, (typeof Seconds === 'number' ? Seconds : 60) + TimeoutSeconds);
}

function machineOf(name: string, id: RegExp) {
  const [logicalId, machine] = app.resource(STACK, 'AWS::StepFunctions::StateMachine', id);
  const source: string = machine.Properties.DefinitionString;
  const definition: Json = JSON.parse(source);
  const tasks = states(definition).filter(([, state]) => state.Type === 'Task');
  return {
    name,
    logicalId,
    properties: machine.Properties,
    source,
    definition,
    tasks,
    invocations: tasks.filter(([, state]) => state.Resource === LAMBDA),
    /** What stands in the definition for a name like `${SandboxClaimArn}`. */
    filled: (open: string): Json =>
      machine.Properties.DefinitionSubstitutions[/^\$\{(\w+)\}$/.exec(open)?.[1] ?? ''],
  };
}

const MACHINES = [
  { ...machineOf('sandbox-create', /^SandboxCreate/), role: /^SandboxCreateRole/, queue: 'SandboxCreateDlqUrl' },
  { ...machineOf('conversation', /^Conversation/), role: /^ConversationMachineRole/, queue: 'ConversationDlqUrl' },
  { ...machineOf('user-onboard', /^UserOnboarding/), role: /^UserOnboardingRole/, queue: 'UserOnboardDlqUrl' },
  { ...machineOf('user-offboard', /^UserOffboarding/), role: /^UserOffboardingRole/, queue: 'UserOffboardDlqUrl' },
];

describe.each(MACHINES)('the state machine $name', (machine) => {
  const { definition, filled, invocations, name, properties, queue, role, source, tasks } = machine;

  test('is the file, word for word', () => {
    expect(source).toBe(readFileSync(new URL(`../../statemachines/${name}.asl.json`, import.meta.url), 'utf8'));
  });

  test('every name the file leaves open is filled, and no other', () => {
    const open = new Set([...source.matchAll(/\$\{(\w+)\}/g)].map(([, name]) => name));
    expect(Object.keys(properties.DefinitionSubstitutions).sort()).toEqual([...open].sort());
  });

  test('logs every step but not what users sent, and is traced', () => {
    expect(properties).toMatchObject({
      StateMachineName: `carapace-${name}`,
      LoggingConfiguration: { Level: 'ALL', IncludeExecutionData: false },
      TracingConfiguration: { Enabled: true },
    });
  });

  test('ends by itself', () => {
    expect(definition.TimeoutSeconds).toBeGreaterThan(0);
  });

  const wait = WAITS[name];
  if (wait !== undefined) {
    test('outlasts all its steps with all their retries: its timeout would end in silence', () => {
      const all = states(definition).reduce((sum, [, state]) => sum + longest(state), 0);
      expect(definition.TimeoutSeconds).toBeGreaterThan(all + wait);
    });
  }

  test('has tasks', () => {
    expect(invocations.length).toBeGreaterThan(0);
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

  test('may invoke what it invokes and send what it sends, and nothing else but wait for what it starts', () => {
    const invoked = invocations.map(([, task]) => JSON.stringify(filled(task.Arguments.FunctionName)));
    const started = tasks.filter(([, task]) => task.Resource === NESTED);
    const [, policy] = app.resource(STACK, 'AWS::IAM::Policy', role);
    const narrow = policy.Properties.PolicyDocument.Statement.filter(({ Resource }: Json) => Resource !== '*');
    expect(
      narrow
        .slice(0, 2)
        .map(({ Action, Resource }: Json) => [
          Action,
          asList<Json>(Resource)
            .map((one) => JSON.stringify(one))
            .sort(),
        ]),
    ).toEqual([
      ['lambda:InvokeFunction', [...new Set(invoked)].sort()],
      ['sqs:SendMessage', [JSON.stringify({ 'Fn::GetAtt': [properties.DefinitionSubstitutions[queue].Ref, 'Arn'] })]],
    ]);
    expect(narrow.slice(2).map(({ Action }: Json) => Action)).toEqual(
      started.length === 0
        ? []
        : [
            'states:StartExecution',
            'states:DescribeExecution',
            ['events:DescribeRule', 'events:PutRule', 'events:PutTargets'],
          ],
    );
    const wide = policy.Properties.PolicyDocument.Statement.filter(({ Resource }: Json) => Resource === '*');
    for (const action of wide.flatMap(({ Action }: Json) => asList<string>(Action)))
      expect(action).toMatch(/^(logs|xray):/);
  });

  test('has a role that Step Functions takes up for this machine and for no other', () => {
    const [, { Properties }] = bound.resource(STACK, 'AWS::IAM::Role', role);
    expect(Properties.AssumeRolePolicyDocument.Statement).toEqual([
      {
        Action: 'sts:AssumeRole',
        Effect: 'Allow',
        Principal: { Service: 'states.amazonaws.com' },
        Condition: {
          StringEquals: { 'aws:SourceAccount': '111122223333' },
          ArnLike: {
            'aws:SourceArn': `arn:aws:states:eu-central-1:111122223333:stateMachine:${properties.StateMachineName}`,
          },
        },
      },
    ]);
  });

  test('a dead letter goes to the queue that has the alarm, and the last resort is to fail, which has one too', () => {
    const letters = tasks.filter(([, task]) => task.Resource === SQS);
    expect(letters.length).toBeGreaterThan(0);
    for (const [, task] of letters) {
      expect(task.Arguments.QueueUrl).toBe(`\${${queue}}`);
      expect(task.Retry.flatMap((one: Json) => one.ErrorEquals)).toContain('States.ALL');
    }
    expect(letters.map(([, task]) => task.Arguments.MessageBody)).toContain(
      '{% $string($states.context.Execution.Input) %}',
    );
  });

  test('does nothing that is not told here', () => {
    expect([LAMBDA, SQS, NESTED]).toEqual(expect.arrayContaining([...new Set(tasks.map(([, task]) => task.Resource))]));
  });
});

describe('the conversation', () => {
  const [create, conversation] = MACHINES.map(({ logicalId }) => logicalId);
  const machine = MACHINES.find(({ name }) => name === 'conversation');
  const task = (name: string): Json => machine?.definition.States[name];

  test('wakes the agent as an event would, each time under an id of its own', () => {
    const { Arguments, Resource } = task('WakeAgent');
    expect(Resource).toBe(NESTED);
    expect(machine?.filled(Arguments.StateMachineArn)).toEqual({ Ref: create });
    expect(Arguments.Input).toMatchObject({
      source: 'carapace.conversation',
      'detail-type': 'Sandbox Requested',
      detail: { version: 1 },
    });
    for (const own of ['$event_id', '$wakes', '$states.context.Execution.Name'])
      expect(Arguments.Input.detail.id).toContain(own);
  });

  test('knows of an agent that did not wake by whatever name', () => {
    const caught = task('WakeAgent').Catch;
    expect(caught.flatMap((one: Json) => one.ErrorEquals)).toEqual(['States.TaskFailed', 'States.Timeout', 'States.ALL']);
    for (const one of caught) expect([one.Assign.failure.Error, one.Next]).toEqual(['AgentNotWoken', 'AbandonMessage']);
  });

  test('gives up waking before its hold on the conversation runs out, which is after 20 minutes', () => {
    expect(task('WakeAgent').TimeoutSeconds).toBeLessThan(20 * 60);
  });

  test('may start and wait for sandbox-create alone', () => {
    const [, policy] = bound.resource(STACK, 'AWS::IAM::Policy', /^ConversationMachineRole/);
    const of = (action: string) =>
      policy.Properties.PolicyDocument.Statement.find(({ Action }: Json) => asList<string>(Action).includes(action))
        .Resource;
    const arn = 'eu-central-1:111122223333';
    expect(of('states:StartExecution')).toEqual({ Ref: create });
    expect(of('states:DescribeExecution')).toBe(`arn:aws:states:${arn}:execution:carapace-sandbox-create:*`);
    expect(of('events:PutRule')).toBe(
      `arn:aws:events:${arn}:rule/StepFunctionsGetEventsForStepFunctionsExecutionRule`,
    );
  });

  test('is taken over when its execution is stopped or cut off', () => {
    const [, { Properties }] = app.resource(STACK, 'AWS::Events::Rule', /^ConversationCutOff/);
    expect(Properties).toMatchObject({
      EventPattern: {
        source: ['aws.states'],
        'detail-type': ['Step Functions Execution Status Change'],
        detail: { status: ['ABORTED', 'TIMED_OUT'], stateMachineArn: [{ Ref: conversation }] },
      },
      Targets: [{ Arn: { Ref: conversation } }],
    });
    // AWS speaks on the account's own bus, whatever other buses there are.
    expect(Properties.EventBusName).toBeUndefined();
  });
});

describe('offboarding', () => {
  const machine = MACHINES.find(({ name }) => name === 'user-offboard');
  const state = (name: string): Json => machine?.definition.States[name];

  test('says that an agent is retired only after its sandbox, its keys and its data are gone', () => {
    // With these words: whatever else leads to the announcement is an end that was recorded before.
    const ways = states(machine?.definition).flatMap(([name, { Choices, Next }]) => [
      ...(Next === 'AnnounceRetired' ? [name] : []),
      ...(Choices ?? []).filter((one: Json) => one.Next === 'AnnounceRetired').map((one: Json) => one.Condition),
    ]);
    expect(ways).toEqual([
      "{% $states.input.next = 'announce' %}",
      "{% $states.input.more = false and $next = 'retire' %}",
    ]);
    const released = state('RouteRetired').Choices.filter((one: Json) => one.Condition.includes('released = true'));
    expect(released.map((one: Json) => one.Next)).toEqual(['WaitForWriters']);
  });

  test('purges when nobody writes any more who saw the agent before it was locked', () => {
    const delay = Number(machine?.filled('${PurgeDelaySeconds}'));
    expect(state('WaitForWriters').Seconds).toBe("{% $number('${PurgeDelaySeconds}') %}");
    // Who makes links and messages. Whatever else writes changes what is there, and nothing when it is gone.
    const [, { Properties }] = app.resource(STACK, 'AWS::Lambda::Function', /^ConversationAccept/);
    expect(delay).toBeGreaterThanOrEqual(Properties.Timeout + 10);
  });

  test('purges nothing once the user may be back', () => {
    const [left] = state('RouteRetired').Choices.filter((one: Json) => one.Condition.includes('released = false'));
    expect(state(left.Next).Type).toBe('Succeed');
  });

  test('takes no answer for done that it does not know', () => {
    for (const name of ['RouteRemoval', 'RouteRetired', 'RoutePurged'])
      expect([state(name).Assign.failure.Error, state(name).Default]).toEqual(['OutcomeUnknown', 'DeadLetterEvent']);
  });

  test('hears of accounts that are deleted or disabled by whatever way, of this pool and of calls that went through', () => {
    const [, { Properties }] = app.resource(STACK, 'AWS::Events::Rule', /^UserAccountRemoved/);
    // AWS speaks on the account's own bus, whatever other buses there are.
    expect(Properties.EventBusName).toBeUndefined();
    expect(Properties.EventPattern).toEqual({
      source: ['aws.cognito-idp'],
      'detail-type': ['AWS API Call via CloudTrail'],
      detail: {
        eventSource: ['cognito-idp.amazonaws.com'],
        errorCode: [{ exists: false }, ''],
        $or: [
          {
            eventName: ['AdminDeleteUser', 'AdminDisableUser'],
            requestParameters: {
              userPoolId: [{ 'Fn::ImportValue': expect.stringMatching(/^CarapaceIdentity:ExportsOutputRefUsers/) }],
            },
          },
          { eventName: ['DeleteUser'] },
        ],
      },
    });
  });

  test('hears of nothing that no trail logs: the app keeps one of calls that change something', () => {
    const [bucket] = app.resource(STACK, 'AWS::S3::Bucket', /^TrailBucket/);
    const [, { Properties }] = app.resource(STACK, 'AWS::CloudTrail::Trail');
    expect(Properties).toMatchObject({
      IsLogging: true,
      S3BucketName: { Ref: bucket },
      EnableLogFileValidation: true,
      IsMultiRegionTrail: false,
      EventSelectors: [{ IncludeManagementEvents: true, ReadWriteType: 'WriteOnly' }],
    });
    app.template(STACK).hasResource('AWS::S3::Bucket', {
      DeletionPolicy: 'Retain',
      Properties: {
        BucketEncryption: { ServerSideEncryptionConfiguration: [{ ServerSideEncryptionByDefault: { SSEAlgorithm: 'AES256' } }] },
        PublicAccessBlockConfiguration: {
          BlockPublicAcls: true,
          BlockPublicPolicy: true,
          IgnorePublicAcls: true,
          RestrictPublicBuckets: true,
        },
      },
    });
  });

  test('leaves the trail out where the account has one', () => {
    const without = new Synthesised('aws', { trail: 'false' });
    expect(without.resources(STACK, 'AWS::CloudTrail::Trail')).toEqual({});
    expect(without.resources(STACK, 'AWS::S3::Bucket')).toEqual({});
    expect(Object.keys(without.resources(STACK, 'AWS::Events::Rule'))).toEqual(
      Object.keys(app.resources(STACK, 'AWS::Events::Rule')),
    );
  });
});
