"""Alarms on the depth of a queue."""

import json

import pytest

from support import eventually


@pytest.fixture
def topic(aws):
    """A topic whose messages can be read: (arn, queue url)."""
    arn = aws.sns.create_topic(Name=aws.name("topic"))["TopicArn"]
    anyone = {"Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage", "Resource": "*"}
    url, queue = aws.queue(anyone)
    aws.sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=queue)
    return arn, url


def alarm_on(aws, queue_name, **settings):
    name = aws.name("alarm")
    aws.cloudwatch.put_metric_alarm(
        AlarmName=name,
        Namespace="AWS/SQS",
        MetricName="ApproximateNumberOfMessagesVisible",
        Dimensions=[{"Name": "QueueName", "Value": queue_name}],
        Statistic="Maximum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=1,
        ComparisonOperator="GreaterThanOrEqualToThreshold",
        **settings,
    )

    def in_state(state):
        def check():
            found = aws.cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]
            return found["StateValue"] == state

        eventually(check, f"{name} is {state}")

    return in_state


def test_an_alarm_follows_its_queue_and_tells_its_topic(aws, topic):
    arn, inbox = topic
    url, _ = aws.queue()
    other, _ = aws.queue()
    in_state = alarm_on(aws, url.rsplit("/", 1)[-1], AlarmActions=[arn], OKActions=[arn])
    elsewhere = alarm_on(aws, other.rsplit("/", 1)[-1])
    in_state("OK")
    aws.sqs.send_message(QueueUrl=url, MessageBody="lost")
    in_state("ALARM")
    elsewhere("OK")
    aws.sqs.purge_queue(QueueUrl=url)
    in_state("OK")
    states = []
    while len(states) < 3:
        message = aws.message(inbox)
        aws.sqs.delete_message(QueueUrl=inbox, ReceiptHandle=message["ReceiptHandle"])
        states.append(json.loads(json.loads(message["Body"])["Message"])["NewStateValue"])
    assert states == ["OK", "ALARM", "OK"]


@pytest.mark.parametrize(
    ("treatment", "state"),
    [("missing", "INSUFFICIENT_DATA"), ("breaching", "ALARM"), ("notBreaching", "OK")],
)
def test_a_queue_that_does_not_exist_is_treated_as_the_alarm_says(aws, treatment, state):
    alarm_on(aws, "nobody", TreatMissingData=treatment)(state)


def test_a_topic_that_cloudwatch_may_not_publish_to_hears_nothing(aws, topic):
    arn, inbox = topic
    other = {
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sns:Publish",
        "Resource": arn,
    }
    policy = json.dumps({"Statement": [other]})
    aws.sns.set_topic_attributes(TopicArn=arn, AttributeName="Policy", AttributeValue=policy)
    url, _ = aws.queue()
    in_state = alarm_on(aws, url.rsplit("/", 1)[-1], OKActions=[arn])
    in_state("OK")
    assert "Messages" not in aws.sqs.receive_message(QueueUrl=inbox, WaitTimeSeconds=1)
