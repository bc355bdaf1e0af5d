//! The daemon in a sandbox, with an agent that says what it is told to, word by word.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr};

use carapace_core::{
    ConversationId, SandboxName, TurnId, UserKey,
    agentd::{ErrorBody, ErrorName, TurnEvent, TurnRequest},
    ports::{TurnStream, TurnTrouble, Turns},
};
use jiff::{SignedDuration, Timestamp};

use super::world::World;

/// A turn that was taken on.
pub(super) struct Turn {
    conversation: ConversationId,
    /// What is told, and when.
    script: Vec<(Timestamp, TurnEvent)>,
}

#[derive(Default)]
pub(super) struct Daemon {
    turns: BTreeMap<TurnId, Turn>,
    /// The turns that were taken on, in order.
    pub(super) ran: Vec<(TurnId, String)>,
    /// What the next calls are answered with.
    pub(super) refusals: Vec<TurnTrouble>,
    /// After how many events the line breaks, once per entry.
    pub(super) breaks: Vec<usize>,
    /// After how many events it breaks each time.
    pub(super) always_breaks: Option<usize>,
    /// Nobody answers until then.
    pub(super) away_until: Option<Timestamp>,
}

/// What an agent makes of a message:
/// `SLOW n` says n words a quarter of a second apart, `MODEL` fails, `HALF` says something and
/// fails, `BACK` takes back what it said, `LONG n` says n lines at once, `MUTE` says nothing;
/// anything is repeated in the end.
fn script(text: &str, begun: Timestamp) -> Vec<(Timestamp, TurnEvent)> {
    const TICK: SignedDuration = SignedDuration::from_millis(250);
    let delta = |text: String| TurnEvent::Delta { text };
    let failed = || {
        TurnEvent::Error(ErrorBody {
            error: ErrorName::ModelUnavailable,
            message: "no".into(),
        })
    };
    let (word, n) = text.split_once(' ').unwrap_or((text, ""));
    let n: i32 = n.split(' ').next().unwrap_or_default().parse().unwrap_or(0);
    let mut events = Vec::new();
    let mut at = begun;
    let mut said = String::new();
    match word {
        "MODEL" => return vec![(begun + TICK, failed())],
        "MUTE" => {
            return vec![(
                begun + TICK,
                TurnEvent::Done {
                    text: String::new(),
                },
            )];
        }
        "HALF" => {
            let half = (begun + TICK, delta("half of it".into()));
            return vec![half, (begun + TICK * 8, failed())];
        }
        "BACK" => {
            events.push((begun + TICK, delta("what nobody meant to say".into())));
            at += TICK * 12;
            let text = "instead, ".to_owned();
            said.clone_from(&text);
            events.push((at, TurnEvent::Text { text }));
        }
        "LONG" => {
            for line in 0..n {
                writeln!(said, "line {line} of an answer that is rather long").unwrap();
            }
            events.push((at, delta(said.clone())));
        }
        _ => {
            for word in 0..n {
                at += TICK;
                let text = format!("w{word} ");
                said.push_str(&text);
                events.push((at, delta(text)));
            }
        }
    }
    let last = format!("You said: {text}");
    said.push_str(&last);
    at += TICK;
    events.push((at, delta(last)));
    events.push((at, TurnEvent::Done { text: said }));
    events
}

/// What an agent has answered when it has said all.
pub(super) fn answer(text: &str) -> String {
    match script(text, Timestamp::UNIX_EPOCH).pop() {
        Some((_, TurnEvent::Done { text })) => text,
        other => panic!("{other:?}"),
    }
}

/// What comes of a turn.
pub(super) struct Told {
    world: World,
    id: TurnId,
    next: usize,
    /// How many more are told before the line breaks.
    left: Option<usize>,
}

impl TurnStream for Told {
    async fn next(&mut self) -> Result<Option<(u64, TurnEvent)>, TurnTrouble> {
        loop {
            let next = self.next;
            let (now, away) = self
                .world
                .look_at(|state, now| (now, state.daemon.is_away(now)));
            if away || self.left == Some(0) {
                return Err(unreachable());
            }
            let event = self.world.look(|state| {
                let turn = state.daemon.turns.get(&self.id);
                turn.map(|turn| turn.script.get(next).cloned())
            });
            let Some(event) = event else {
                return Err(unreachable());
            };
            let Some((at, event)) = event else {
                return Ok(None);
            };
            if at <= now {
                // Whoever drops this future must not lose the event.
                self.world.others().await;
                self.next += 1;
                self.left = self.left.map(|left| left - 1);
                return Ok(Some((self.next as u64, event)));
            }
            // No longer than it takes to notice that nobody is there any more.
            let soon = now + SignedDuration::from_secs(1);
            self.world.until(at.min(soon)).await;
        }
    }
}

impl Daemon {
    fn is_away(&self, now: Timestamp) -> bool {
        self.away_until.is_some_and(|until| now < until)
    }

    /// Another daemon takes its place, which knows of nothing.
    pub(super) fn forget(&mut self) {
        self.turns.clear();
    }
}

fn unreachable() -> TurnTrouble {
    TurnTrouble::Unreachable("nobody answers".into())
}

impl Turns for World {
    type Stream = Told;

    async fn begin(
        &self,
        sandbox: &SandboxName,
        _: IpAddr,
        user: &UserKey,
        request: &TurnRequest,
    ) -> Result<Told, TurnTrouble> {
        self.others().await;
        let left = self.look_at(|state, now| {
            // I3: what somebody says is told to nobody else's agent.
            assert_eq!(state.sandboxes.get(sandbox), Some(user));
            let daemon = &mut state.daemon;
            if daemon.is_away(now) {
                return Err(unreachable());
            }
            if !daemon.refusals.is_empty() {
                return Err(daemon.refusals.remove(0));
            }
            if !daemon.turns.contains_key(&request.id) {
                daemon.admit(request, now)?;
            }
            let once = (!daemon.breaks.is_empty()).then(|| daemon.breaks.remove(0));
            Ok(once.or(daemon.always_breaks))
        })?;
        self.others().await;
        Ok(Told {
            world: self.clone(),
            id: request.id.clone(),
            next: 0,
            left,
        })
    }

    async fn attach(
        &self,
        _: &SandboxName,
        _: IpAddr,
        _: &UserKey,
        _: &TurnId,
        _: u64,
    ) -> Result<Told, TurnTrouble> {
        panic!("a turn is followed by beginning it again")
    }
}

impl Daemon {
    fn admit(&mut self, request: &TurnRequest, now: Timestamp) -> Result<(), TurnTrouble> {
        let busy = self.turns.values().any(|turn| {
            let ends = turn.script.last().map_or(now, |(at, _)| *at);
            turn.conversation == request.conversation && now < ends
        });
        if busy {
            return Err(refusal(ErrorName::TurnInProgress));
        }
        self.ran.push((request.id.clone(), request.text.clone()));
        let turn = Turn {
            conversation: request.conversation.clone(),
            script: script(&request.text, now),
        };
        self.turns.insert(request.id.clone(), turn);
        Ok(())
    }
}

pub(super) fn refusal(error: ErrorName) -> TurnTrouble {
    TurnTrouble::Refused(ErrorBody {
        error,
        message: "no".into(),
    })
}
