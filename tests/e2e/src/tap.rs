//! A tap on the bus: a rule and a queue of its own that see every event of one pattern.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::aws;
use crate::{Platform, eventually};

/// Sees what is put on the bus, of one pattern. The rule and the queue go when it is dropped.
#[derive(Debug)]
pub struct Tap<'a> {
    platform: &'a Platform,
    rule: String,
    queue_url: String,
    seen: RefCell<Vec<Value>>,
}

impl<'a> Tap<'a> {
    pub(crate) fn open(platform: &'a Platform, pattern: &Value) -> Result<Self> {
        let rule = format!("tap-{}", ulid::Ulid::generate());
        let queue = platform
            .aws
            .call(aws::SQS, "CreateQueue", &json!({ "QueueName": rule }))?;
        let queue_url = aws::string(&queue, "/QueueUrl")?;
        let arn = format!(
            "arn:aws:sqs:{}:{}:{rule}",
            platform.info.region, platform.info.account
        );
        let policy = json!({
            "Version": "2012-10-17",
            "Statement": [{
                "Effect": "Allow",
                "Principal": { "Service": "events.amazonaws.com" },
                "Action": "sqs:SendMessage",
                "Resource": arn,
            }],
        });
        let attributes =
            json!({ "QueueUrl": queue_url, "Attributes": { "Policy": policy.to_string() } });
        platform
            .aws
            .call(aws::SQS, "SetQueueAttributes", &attributes)?;
        let bus = platform.control_plane("BusName")?;
        let input =
            json!({ "Name": rule, "EventBusName": bus, "EventPattern": pattern.to_string() });
        platform.aws.call(aws::EVENTS, "PutRule", &input)?;
        let targets =
            json!({ "Rule": rule, "EventBusName": bus, "Targets": [{ "Id": "tap", "Arn": arn }] });
        platform.aws.call(aws::EVENTS, "PutTargets", &targets)?;
        Ok(Self {
            platform,
            rule,
            queue_url,
            seen: RefCell::default(),
        })
    }

    /// Every event of this type that was seen so far, oldest first.
    pub fn seen(&self, detail_type: &str) -> Result<Vec<Value>> {
        self.drain()?;
        Ok(self
            .seen
            .borrow()
            .iter()
            .filter(|e| e["detail-type"] == detail_type)
            .cloned()
            .collect())
    }

    /// Waits for the first event of this type and returns it whole.
    pub fn expect(&self, detail_type: &str, within: Duration) -> Result<Value> {
        let seen = eventually(
            &format!("`{detail_type}` on the bus"),
            within,
            || {
                self.drain()?;
                Ok(self.seen.borrow().clone())
            },
            |events| events.iter().any(|e| e["detail-type"] == detail_type),
        )?;
        Ok(seen
            .into_iter()
            .find(|e| e["detail-type"] == detail_type)
            .unwrap_or_default())
    }

    fn drain(&self) -> Result<()> {
        loop {
            let input = json!({ "QueueUrl": self.queue_url, "MaxNumberOfMessages": 10 });
            let answer = self.platform.aws.call(aws::SQS, "ReceiveMessage", &input)?;
            let Some(messages) = answer["Messages"].as_array().filter(|m| !m.is_empty()) else {
                return Ok(());
            };
            for message in messages {
                self.seen
                    .borrow_mut()
                    .push(serde_json::from_str(&aws::string(message, "/Body")?)?);
                let receipt = json!({ "QueueUrl": self.queue_url, "ReceiptHandle": message["ReceiptHandle"] });
                self.platform
                    .aws
                    .call(aws::SQS, "DeleteMessage", &receipt)?;
            }
        }
    }
}

impl Drop for Tap<'_> {
    /// Best effort: what is left goes with the stack.
    fn drop(&mut self) {
        let aws = &self.platform.aws;
        if let Ok(bus) = self.platform.control_plane("BusName") {
            let targets = json!({ "Rule": self.rule, "EventBusName": bus, "Ids": ["tap"] });
            let _ = aws.call(aws::EVENTS, "RemoveTargets", &targets);
            let _ = aws.call(
                aws::EVENTS,
                "DeleteRule",
                &json!({ "Name": self.rule, "EventBusName": bus }),
            );
        }
        let _ = aws.call(
            aws::SQS,
            "DeleteQueue",
            &json!({ "QueueUrl": self.queue_url }),
        );
    }
}
