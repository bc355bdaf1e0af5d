"""Alarms on the depth of a queue, and on the metric they name.

MiniStack publishes no SQS metrics, looks at alarms only when somebody calls PutMetricData, and
then mixes the datapoints of every dimension of a metric. Here each queue's
`ApproximateNumberOfMessagesVisible`, `…NotVisible` and `…Delayed` are sampled from the real
queue, and alarms are evaluated on their own dimensions, period by period, as AWS documents:
M out of N datapoints, missing data treated as the alarm says. A topic is told only if its policy
lets CloudWatch publish.

AWS publishes the SQS metrics once a minute. A minute of an `AWS/SQS` alarm lasts
SQS_METRIC_SECONDS here (one second unless set), so such an alarm changes state after seconds
instead of minutes; alarms on other namespaces keep real time. Metric math and anomaly detection
are not evaluated.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarm-evaluation.html
"""

import logging
import operator
import threading
import time

from ministack.core.responses import (
    get_account_id,
    set_request_account_id,
    set_request_region,
)
from ministack.services import cloudwatch, sns, sqs

from . import seam

SERVICE = "cloudwatch.amazonaws.com"
NAMESPACE = "AWS/SQS"
COUNTS = {
    "ApproximateNumberOfMessagesVisible": "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible": "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed": "ApproximateNumberOfMessagesDelayed",
}
COMPARE = {
    "GreaterThanOrEqualToThreshold": operator.ge,
    "GreaterThanThreshold": operator.gt,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}
# A day of AWS's minutes, and all that an alarm may look back on.
SAMPLES_KEPT = 24 * 60

logger = logging.getLogger("cloudwatch")


def apply(settings):
    clock = Clock(settings.sqs_metric_seconds)

    @seam.around(cloudwatch, "_evaluate_alarm", "a0b0acd3d432")
    def evaluate_alarm(original, alarm):
        if alarm.get("ComparisonOperator") in COMPARE and alarm.get("MetricName"):
            transition(alarm, *clock.judge(alarm))
        else:
            original(alarm)

    @seam.around(cloudwatch, "_dispatch_alarm_actions", "fcf47c0d1e6e")
    def dispatch_alarm_actions(original, alarm, *transition):
        original({**alarm, **permitted(alarm)}, *transition)

    threading.Thread(target=clock.run, name="local-alarms", daemon=True).start()


class Clock:
    def __init__(self, sqs_minute):
        self.sqs_minute = sqs_minute

    def run(self):
        while True:
            time.sleep(self.sqs_minute)
            try:
                self.tick()
            except Exception:
                logger.exception("alarms could not be evaluated")

    def tick(self):
        queues = list(sqs._queues.all_items())
        alarms = list(cloudwatch._alarms.all_items())
        for account, region in {scoped[:2] for scoped, _ in queues + alarms}:
            set_request_account_id(account)
            set_request_region(region)
            for url, queue in list(sqs._queues.items()):
                sample(url, queue)

            cloudwatch._evaluate_all_alarms()

    def judge(self, alarm):
        """The state the alarm belongs in, and why; None where the present one is kept."""
        minute = self.sqs_minute if alarm["Namespace"] == NAMESPACE else 60.0
        period = alarm.get("Period", 60) / 60 * minute
        periods = alarm.get("EvaluationPeriods", 1)
        needed = alarm.get("DatapointsToAlarm") or periods
        values = datapoints(alarm, period, periods)
        breaches = COMPARE[alarm["ComparisonOperator"]]
        threshold = alarm.get("Threshold", 0)
        seen = [value for value in values if value is not None]
        breaching = sum(breaches(value, threshold) for value in seen)
        missing = len(values) - len(seen)
        treatment = alarm.get("TreatMissingData") or "missing"
        if treatment == "breaching":
            breaching += missing
        if breaching >= needed:
            return "ALARM", f"Threshold Crossed: {breaching} datapoints {seen} vs {threshold}"
        if not seen and treatment in ("missing", "ignore"):
            kept = treatment == "ignore"
            return (None, "") if kept else ("INSUFFICIENT_DATA", "Insufficient Data: no datapoints")
        return "OK", f"Threshold Crossed: {breaching} of {needed} datapoints {seen} vs {threshold}"


def sample(url, queue):
    sqs._refresh_counts(queue)
    dimensions = {"QueueName": url.rsplit("/", 1)[-1]}
    for metric, attribute in COUNTS.items():
        value = float(queue["attributes"][attribute])
        cloudwatch.record_metric(NAMESPACE, metric, value, "Count", dimensions)
        points = cloudwatch._metric_bucket((NAMESPACE, metric, cloudwatch._dims_key(dimensions)))
        del points[:-SAMPLES_KEPT]


def datapoints(alarm, period, periods):
    """The statistic of each of the last periods, the oldest first; None where there is no data."""
    wanted = {d["Name"]: d["Value"] for d in alarm.get("Dimensions", [])}
    points = []
    for (namespace, metric, dimensions), found in cloudwatch._metrics.items():
        of_alarm = (namespace, metric) == (alarm["Namespace"], alarm["MetricName"])
        if of_alarm and dimensions == cloudwatch._dims_key(wanted):
            points.extend(found)
    statistic = alarm.get("ExtendedStatistic") or alarm.get("Statistic", "Average")
    now = time.time()
    values = []
    for back in range(periods, 0, -1):
        start = now - back * period
        within = [p for p in points if start < p["Timestamp"] <= start + period]
        stats = cloudwatch._calc_stats(within) if within else None
        values.append(cloudwatch._stat_value(stats, statistic, within) if stats else None)
    return values


def transition(alarm, state, reason):
    before = alarm["StateValue"]
    if state is None or state == before:
        return
    alarm["StateValue"] = state
    alarm["StateReason"] = reason
    alarm["StateUpdatedTimestamp"] = int(time.time())
    cloudwatch._record_history(alarm["AlarmName"], before, state, reason)
    cloudwatch._dispatch_alarm_actions(alarm, before, state, reason)
    cloudwatch._evaluate_parent_alarms(alarm)


def permitted(alarm):
    """The alarm's actions without the topics that CloudWatch may not publish to."""
    source, account = alarm["AlarmArn"], get_account_id()

    def allowed(action):
        if not cloudwatch._is_sns_action_arn(action):
            return True
        allowed = sns.topic_policy_allows(action, SERVICE, source, account)
        if not allowed:
            logger.warning("%s may not publish to %s", source, action)
        return allowed

    lists = ("AlarmActions", "OKActions", "InsufficientDataActions")
    return {name: [a for a in alarm.get(name) or [] if allowed(a)] for name in lists}
