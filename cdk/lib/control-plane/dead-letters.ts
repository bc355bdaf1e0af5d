import { Duration, Validations } from 'aws-cdk-lib';
import type * as cloudwatch from 'aws-cdk-lib/aws-cloudwatch';
import * as sqs from 'aws-cdk-lib/aws-sqs';
import { Construct } from 'constructs';
import type { Alarms } from './alarms.ts';

/**
 * A queue of the events nobody could serve, and the alarm that says so: a dead letter that nobody
 * hears of is a lost event.
 */
export class DeadLetters extends Construct {
  readonly queue: sqs.Queue;
  readonly alarm: cloudwatch.Alarm;

  constructor(scope: Construct, id: string, props: { readonly alarms: Alarms; readonly of: string }) {
    super(scope, id);
    this.queue = new sqs.Queue(this, 'Queue', {
      // SQS's own key: EventBridge could not use one of ours without a grant per rule.
      encryption: sqs.QueueEncryption.SQS_MANAGED,
      enforceSSL: true,
      // The longest there is: time for a person to come back from a holiday.
      retentionPeriod: Duration.days(14),
    });
    Validations.of(this.queue).acknowledge({
      id: 'AwsSolutions-SQS3',
      reason:
        'It is a dead-letter queue, of EventBridge rules and state machines: the check knows only those of other queues.',
    });
    this.alarm = props.alarms.onAny(
      this,
      'Alarm',
      this.queue.metricApproximateNumberOfMessagesVisible({ statistic: 'Maximum' }),
      `Events that ${props.of} could not serve wait in its dead-letter queue. Find out why, put them back on the bus, then delete them from the queue: docs/operations.md.`,
    );
  }
}
