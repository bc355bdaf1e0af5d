import { Duration } from 'aws-cdk-lib';
import type * as cognito from 'aws-cdk-lib/aws-cognito';
import type * as dynamodb from 'aws-cdk-lib/aws-dynamodb';
import type * as events from 'aws-cdk-lib/aws-events';
import type * as ssm from 'aws-cdk-lib/aws-ssm';
import type * as sfn from 'aws-cdk-lib/aws-stepfunctions';
import { Construct } from 'constructs';
import type { Config } from '../config.ts';
import { itemsByOwner, itemsOf } from '../control-plane/agents-table.ts';
import type { Alarms } from '../control-plane/alarms.ts';
import { capabilityFunction, output, outputFunction } from '../control-plane/capability.ts';
import { DeadLetters } from '../control-plane/dead-letters.ts';
import { startOn, workflow } from '../control-plane/workflow.ts';
import type { RustFunction } from '../rust-function.ts';
import type { Sandbox } from '../sandbox/sandbox.ts';

const ONBOARD = 'user-onboard';
const OFFBOARD = 'user-offboard';

/** The longest that EventBridge tries. Nobody waits for either machine, and neither event is out of date by then. */
const A_DAY = Duration.hours(24);

export interface UserProps {
  readonly config: Config;
  readonly bus: events.IEventBus;
  readonly table: dynamodb.ITable;
  readonly users: cognito.IUserPool;
  readonly signUpPolicy: ssm.IStringParameter;
  readonly sandbox: Sandbox;
  readonly alarms: Alarms;
}

/** From the first sign-in to an agent with a budget, and from a deleted or disabled account to nothing that is left. */
export class User extends Construct {
  constructor(scope: Construct, id: string, props: UserProps) {
    super(scope, id);
    this.onboarding(props);
    this.offboarding(props);
  }

  private onboarding(props: UserProps): void {
    const onboard = onboardFunction(this, props);
    const deadLetters = new DeadLetters(this, 'OnboardingDeadLetters', { alarms: props.alarms, of: ONBOARD });
    const machine = workflow(this, 'Onboarding', {
      name: ONBOARD,
      substitutions: { UserOnboardArn: onboard.fn.functionArn, UserOnboardDlqUrl: deadLetters.queue.queueUrl },
      functions: [onboard],
      deadLetters,
    });
    startOn(this, 'SignedIn', {
      machine,
      name: ONBOARD,
      bus: props.bus,
      description: 'User Signed In: make a user of whoever is none yet',
      // By its source as well: who may say this is pre-token, to which Cognito has said who signs in.
      eventPattern: { source: ['carapace.signup'], detailType: ['User Signed In'] },
      maxEventAge: A_DAY,
      deadLetters,
    });
    this.watch('Onboarding', machine, props.alarms, {
      failed: 'Somebody signed in and was not made a user: see the execution and the dead-letter queue.',
      timedOut: 'Making somebody a user was cut off: their next sign-in tries again.',
    });

    outputFunction(this, 'UserOnboard', onboard);
    outputMachine(this, 'UserOnboard', machine, deadLetters);
  }

  private offboarding(props: UserProps): void {
    const { sandbox, users } = props;
    const offboard = offboardFunction(this, props);
    const deadLetters = new DeadLetters(this, 'OffboardingDeadLetters', { alarms: props.alarms, of: OFFBOARD });
    const machine = workflow(this, 'Offboarding', {
      name: OFFBOARD,
      substitutions: {
        UserOffboardArn: offboard.fn.functionArn,
        SandboxRetireArn: sandbox.retire.fn.functionArn,
        SandboxAnnounceArn: sandbox.announce.fn.functionArn,
        UserOffboardDlqUrl: deadLetters.queue.queueUrl,
        PurgeDelaySeconds: String(props.config.stage.purgeDelaySeconds),
      },
      functions: [offboard, sandbox.retire, sandbox.announce],
      deadLetters,
    });
    startOn(this, 'Deleted', {
      machine,
      name: OFFBOARD,
      bus: props.bus,
      description: 'User Deleted: take everything from a user whom an operator removed',
      eventPattern: { source: ['carapace.signup'], detailType: ['User Deleted'] },
      maxEventAge: A_DAY,
      deadLetters,
    });
    startOn(this, 'AccountRemoved', {
      machine,
      name: OFFBOARD,
      description: 'An account of the user pool was deleted or disabled, by whatever way: take everything from its user',
      // The function checks all of it again, and asks the pool whether it is so.
      eventPattern: {
        source: ['aws.cognito-idp'],
        detailType: ['AWS API Call via CloudTrail'],
        detail: {
          eventSource: ['cognito-idp.amazonaws.com'],
          // A call that was refused changed nothing. Some of Cognito's records have the field and say nothing in it.
          errorCode: [{ exists: false }, ''],
          $or: [
            {
              eventName: ['AdminDeleteUser', 'AdminDisableUser'],
              requestParameters: { userPoolId: [users.userPoolId] },
            },
            // Users who delete themselves name no pool: their token does.
            { eventName: ['DeleteUser'] },
          ],
        },
      },
      maxEventAge: A_DAY,
      deadLetters,
    });
    this.watch('Offboarding', machine, props.alarms, {
      failed: 'A user who is gone still has an agent, a key or data: see the execution and the dead-letter queue.',
      timedOut: 'Taking everything from a user who is gone was cut off: see where it stood, and start it again.',
    });

    outputFunction(this, 'UserOffboard', offboard);
    outputMachine(this, 'UserOffboard', machine, deadLetters);
  }

  private watch(of: string, machine: sfn.StateMachine, alarms: Alarms, says: { failed: string; timedOut: string }) {
    alarms.onAny(this, `${of}FailedAlarm`, machine.metricFailed(), says.failed);
    alarms.onAny(this, `${of}TimedOutAlarm`, machine.metricTimedOut(), says.timedOut);
  }
}

function outputMachine(scope: Construct, name: string, machine: sfn.StateMachine, deadLetters: DeadLetters): void {
  output(scope, `${name}Arn`, machine.stateMachineArn);
  output(scope, `${name}DlqUrl`, deadLetters.queue.queueUrl);
  output(scope, `${name}DlqAlarmName`, deadLetters.alarm.alarmName);
}

function onboardFunction(scope: Construct, props: UserProps): RustFunction {
  const { config, signUpPolicy, table, users } = props;
  const onboard = capabilityFunction(scope, 'Onboard', config, {
    binary: 'user-onboard',
    description: 'Makes a user of whoever signs in for the first time',
    timeout: Duration.seconds(30),
    environment: {
      TABLE_NAME: table.tableName,
      USER_POOL_ID: users.userPoolId,
      SIGN_UP_POLICY_PARAMETER: signUpPolicy.parameterName,
      ALLOWANCE: JSON.stringify(config.allowance),
    },
  });
  // An agent's record is read together with the outcome of the event it is read for.
  onboard.grant(['dynamodb:GetItem'], table.tableArn, itemsOf('ONCE#'));
  onboard.grant(['dynamodb:GetItem', 'dynamodb:PutItem'], table.tableArn, itemsOf('USER#'));
  onboard.grant(['ssm:GetParameter'], signUpPolicy.parameterArn);
  // The event knows an account by its `sub`, by which Cognito finds it in a list only.
  onboard.grant(['cognito-idp:ListUsers'], users.userPoolArn);
  return onboard;
}

function offboardFunction(scope: Construct, props: UserProps): RustFunction {
  const { config, table, users } = props;
  const offboard = capabilityFunction(scope, 'Offboard', config, {
    binary: 'user-offboard',
    description: 'Locks the agent of a user who is gone, and deletes what is kept of the user',
    // It purges for 20 seconds at a time; the rest is for slow calls before and after.
    timeout: Duration.seconds(45),
    environment: { TABLE_NAME: table.tableName, USER_POOL_ID: users.userPoolId },
  });
  offboard.grant(['dynamodb:GetItem'], table.tableArn, itemsOf('ONCE#'));
  offboard.grant(
    ['dynamodb:DeleteItem', 'dynamodb:GetItem', 'dynamodb:PutItem'],
    table.tableArn,
    itemsOf('USER#'),
  );
  // What belongs to the user is found by the index, which holds keys alone, and is not read.
  offboard.grant(['dynamodb:Query'], itemsByOwner(table));
  offboard.grant(['dynamodb:DeleteItem'], table.tableArn, itemsOf('CONV#', 'IDENTITY#', 'SLACK#'));
  // Whether the account is gone is asked and not believed; one that was never entered is looked for.
  offboard.grant(['cognito-idp:AdminGetUser', 'cognito-idp:ListUsers'], users.userPoolArn);
  return offboard;
}
