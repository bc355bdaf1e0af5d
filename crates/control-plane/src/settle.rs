//! Load, decide, save; again if somebody was faster.

use std::time::Duration;

use carapace_core::{
    UserKey,
    agent::{Input, decide},
    ports::{Clock, Ledger, Saved, Trouble},
};

use crate::fault::Moment;

/// How often somebody else may be faster. Each time, whoever it was has finished a step for the
/// same user, and an event has only a handful of steps.
const ROUNDS: u32 = 40;

/// Brings an input to the agent's record and returns what to do now. `point` is called before and
/// after the write, which is where a test may kill the function.
pub async fn settle<I: Input>(
    ledger: &impl Ledger,
    clock: &impl Clock,
    user: &UserKey,
    input: &I,
    point: impl Fn(Moment),
) -> Result<I::Act, Trouble> {
    for round in 0..ROUNDS {
        let known = ledger.load(user, input.event()).await?;
        let decision = decide(&known, input, clock.now());
        let Some(change) = decision.change else {
            return Ok(decision.act);
        };
        point(Moment::Before);
        match ledger.save(&change).await? {
            Saved::Yes => {
                point(Moment::After);
                return Ok(decision.act);
            }
            Saved::Overtaken => {
                tracing::debug!(round, "somebody else was faster");
                clock.sleep(Duration::from_millis(5) * round.min(20)).await;
            }
        }
    }
    Err(Trouble::Unavailable {
        service: "the record of the agent",
        why: format!("others wrote it {ROUNDS} times in a row"),
    })
}
