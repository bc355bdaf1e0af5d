use proptest::prelude::*;

use super::*;

/// A part that is short enough to be seen in a test.
const MOST: usize = 24;

fn ts(number: usize) -> MessageTs {
    MessageTs::parse(format!("1700000000.{number:06}")).unwrap()
}

fn step(reply: &Reply, text: &str, whole: bool) -> Option<Step> {
    Layout {
        text,
        whole,
        most: MOST,
    }
    .next(reply)
}

#[derive(Debug)]
struct Posted {
    text: String,
    open: bool,
}

/// A thread, as strict as Slack.
#[derive(Debug, Default)]
struct Thread {
    messages: Vec<Posted>,
    calls: usize,
}

#[derive(Debug, PartialEq, Eq)]
struct NotStreaming;

impl Thread {
    fn open(&mut self) -> MessageTs {
        self.post("", true)
    }

    fn post(&mut self, text: &str, open: bool) -> MessageTs {
        self.calls += 1;
        self.messages.push(Posted {
            text: text.to_owned(),
            open,
        });
        ts(self.messages.len() - 1)
    }

    fn message(&mut self, ts: &MessageTs) -> &mut Posted {
        self.calls += 1;
        let (_, number) = ts.as_str().split_once('.').unwrap();
        &mut self.messages[number.parse::<usize>().unwrap()]
    }

    fn make(&mut self, reply: &Reply, step: &Step) -> Result<(), NotStreaming> {
        let part = |part: &usize| reply.parts[*part].ts.clone();
        match step {
            Step::Open => unreachable!("opened elsewhere"),
            Step::Append { part: at, text, .. } => {
                assert!(!text.trim().is_empty(), "Slack takes no blank text");
                let message = self.message(&part(at));
                if !message.open {
                    return Err(NotStreaming);
                }
                message.text.push_str(text);
            }
            Step::Close { part: at, text, .. } => {
                let message = self.message(&part(at));
                if !message.open {
                    return Err(NotStreaming);
                }
                message.text.push_str(text.as_deref().unwrap_or_default());
                message.open = false;
            }
            Step::Update { part: at, text, .. } => {
                assert!(!text.trim().is_empty(), "Slack takes no blank text");
                let message = self.message(&part(at));
                assert!(!message.open, "an open message can't be replaced");
                message.text.clone_from(text);
            }
        }
        Ok(())
    }

    /// What there is to read, without the space that parts may be divided at.
    fn shown(&self) -> String {
        let said = self.messages.iter().filter(|m| m.text != PLACEHOLDER);
        said.map(|message| squeezed(&message.text)).collect()
    }
}

fn squeezed(text: &str) -> String {
    text.split_whitespace().collect()
}

/// Says the whole text without any mishap; how many calls that took.
fn say(reply: &mut Reply, thread: &mut Thread, text: &str) -> usize {
    let before = thread.calls;
    while let Some(step) = step(reply, text, true) {
        reply.begin(&step);
        if step == Step::Open {
            let from = reply.said();
            reply.opened(thread.open(), Mode::Stream, from);
        } else if let Err(NotStreaming) = thread.make(reply, &step) {
            let (Step::Append { part, .. } | Step::Close { part, .. }) = step else {
                unreachable!("{step:?}");
            };
            reply.not_streaming(part);
        } else {
            reply.succeeded(&step);
        }
        let calls = thread.calls - before;
        assert!(
            calls < 20 + text.len(),
            "it never ends: {reply:?}, {step:?}"
        );
    }
    thread.calls - before
}

#[test]
fn a_reply_is_opened_appended_to_and_closed() {
    let (mut reply, mut thread) = (Reply::default(), Thread::default());
    assert_eq!(step(&reply, "", false), None);
    assert_eq!(step(&reply, " \n", false), None);
    assert_eq!(step(&reply, "Hel", false), Some(Step::Open));
    reply.opened(thread.open(), Mode::Stream, reply.said());
    let append = step(&reply, "Hello", false).unwrap();
    let hello = Step::Append {
        part: 0,
        text: "Hello".into(),
        to: 5,
    };
    assert_eq!(append, hello);
    reply.begin(&append);
    assert!(reply.is_under_way());
    thread.make(&reply, &append).unwrap();
    reply.succeeded(&append);
    assert!(!reply.is_under_way());
    assert_eq!(step(&reply, "Hello", false), None);
    assert_eq!(say(&mut reply, &mut thread, "Hello you"), 1);
    assert_eq!(thread.shown(), "Helloyou");
    assert!(!thread.messages[0].open);
}

#[test]
fn an_empty_reply_opens_nothing_and_closes_what_is_open() {
    let (mut reply, mut thread) = (Reply::default(), Thread::default());
    assert_eq!(say(&mut reply, &mut thread, " \n "), 0);
    reply.opened(thread.open(), Mode::Stream, 0);
    assert_eq!(say(&mut reply, &mut thread, ""), 1);
    assert!(!thread.messages[0].open);
}

#[test]
fn a_long_reply_is_cut_where_a_line_ends_or_a_word() {
    let (mut reply, mut thread) = (Reply::default(), Thread::default());
    let text = "A first line of words\nand a second that is longer. \u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}\u{1f980}";
    say(&mut reply, &mut thread, text);
    let parts: Vec<&str> = thread.messages.iter().map(|m| m.text.trim()).collect();
    insta::assert_debug_snapshot!(parts, @r#"
    [
        "A first line of words",
        "and a second that is",
        "longer. 🦀🦀🦀🦀",
        "🦀🦀🦀🦀🦀🦀",
        "🦀🦀🦀",
    ]
    "#);
}

#[test]
fn a_message_is_never_longer_than_slack_takes() {
    let (mut reply, mut thread) = (Reply::default(), Thread::default());
    let text = "crab \u{1f980}".repeat(6_000);
    reply.opened(thread.open(), Mode::Stream, 0);
    let step = next(&reply, &text, false).unwrap();
    let Step::Close {
        text: Some(said), ..
    } = &step
    else {
        panic!("{step:?}");
    };
    assert!((9_990..=10_000).contains(&said.len()), "{}", said.len());
}

#[test]
fn a_follower_that_has_not_caught_up_changes_nothing() {
    let (mut reply, mut thread) = (Reply::default(), Thread::default());
    reply.opened(thread.open(), Mode::Stream, 0);
    let append = step(&reply, "Hello you", false).unwrap();
    reply.begin(&append);
    thread.make(&reply, &append).unwrap();
    reply.succeeded(&append);
    for text in ["", "Hel", "Hello yo", "Hello you"] {
        assert_eq!(step(&reply, text, false), None, "{text}");
    }
    let more = step(&reply, "Hello you!", false);
    assert!(matches!(more, Some(Step::Append { text, .. }) if text == "!"));
}

#[test]
fn what_the_agent_takes_back_is_replaced() {
    let (mut reply, mut thread) = (Reply::default(), Thread::default());
    say(
        &mut reply,
        &mut thread,
        "One line of some words\nand another line",
    );
    assert_eq!(thread.messages.len(), 2);
    say(
        &mut reply,
        &mut thread,
        "Two lines of some words\nand another line",
    );
    assert_eq!(thread.shown(), "Twolinesofsomewordsandanotherline");
    assert_eq!(thread.messages.len(), 2);
    say(&mut reply, &mut thread, "Nothing.");
    let parts: Vec<&str> = thread.messages.iter().map(|m| m.text.as_str()).collect();
    assert_eq!(parts, ["Nothing.", PLACEHOLDER]);
    say(&mut reply, &mut thread, PLACEHOLDER);
    assert_eq!(thread.messages.len(), 2);
    assert_eq!(thread.messages[0].text, "…");
}

#[test]
fn a_call_that_was_refused_is_made_again() {
    let (mut reply, mut thread) = (Reply::default(), Thread::default());
    reply.opened(thread.open(), Mode::Stream, 0);
    let append = step(&reply, "Hello", false).unwrap();
    reply.begin(&append);
    reply.refused(&append);
    assert!(!reply.is_under_way());
    assert_eq!(step(&reply, "Hello", false), Some(append));
}

#[test]
fn a_call_that_may_have_been_made_is_not_made_again() {
    let (mut reply, mut thread) = (Reply::default(), Thread::default());
    reply.opened(thread.open(), Mode::Stream, 0);
    let append = step(&reply, "Hello", false).unwrap();
    reply.begin(&append);
    thread.make(&reply, &append).unwrap();
    let stored = serde_json::to_string(&reply).unwrap();
    let mut reply: Reply = serde_json::from_str(&stored).unwrap();
    assert!(reply.is_under_way());
    reply.resume();
    assert_eq!(reply.parts[0].mode, Mode::Update);
    // Stopped first, then replaced.
    assert_eq!(say(&mut reply, &mut thread, "Hello you"), 2);
    assert_eq!(thread.messages.len(), 1);
    assert_eq!(thread.messages[0].text, "Hello you");
}

#[test]
fn what_is_stored_stays_what_it_is() {
    let mut reply = Reply::default();
    reply.opened(ts(1), Mode::Stream, 0);
    let append = step(&reply, "Hello", false).unwrap();
    reply.begin(&append);
    insta::assert_snapshot!(
        serde_json::to_string(&reply).unwrap(),
        @r#"{"parts":[{"ts":"1700000000.000001","from":0,"said":0,"saying":5,"mode":"Stream","digest":14695981039346656037}]}"#
    );
}

/// What goes wrong, drawn beforehand; when nothing is left, nothing goes wrong any more.
struct Fate(std::vec::IntoIter<u8>);

impl Fate {
    fn draw(&mut self, of: u8) -> u8 {
        self.0.next().unwrap_or_default() % of
    }

    fn is_spent(&self) -> bool {
        self.0.len() == 0
    }
}

/// One process: loads what is stored and goes on until it dies or the fate is spent.
fn live(stored: &mut String, thread: &mut Thread, versions: &[String], fate: &mut Fate) {
    let mut reply: Reply = serde_json::from_str(stored).unwrap();
    reply.resume();
    let mut version = 0;
    // It is told the text from its beginning.
    let mut told = 0;
    while !fate.is_spent() {
        let text = &versions[version];
        told = text.ceil_char_boundary((told + usize::from(fate.draw(12))).min(text.len()));
        let ended = version + 1 == versions.len() && told == text.len();
        if told == text.len() && !ended {
            version += 1;
            told = told.min(versions[version].len());
            told = versions[version].ceil_char_boundary(told);
        }
        let text = &versions[version][..told];
        let Some(step) = step(&reply, text, ended) else {
            continue;
        };
        reply.begin(&step);
        if fate.draw(16) == 1 {
            return;
        }
        *stored = serde_json::to_string(&reply).unwrap();
        match fate.draw(16) {
            1 => return,
            2 => {
                reply.refused(&step);
                continue;
            }
            3 => {
                reply.resume();
                continue;
            }
            4 => {
                // Slack closes streams by itself.
                thread
                    .messages
                    .iter_mut()
                    .for_each(|message| message.open = false);
            }
            _ => {}
        }
        if step == Step::Open {
            let from = reply.said();
            let (ts, mode) = if fate.draw(4) == 1 {
                (thread.post(PLACEHOLDER, false), Mode::Update)
            } else {
                (thread.open(), Mode::Stream)
            };
            if fate.draw(16) == 1 {
                return;
            }
            reply.opened(ts, mode, from);
            *stored = serde_json::to_string(&reply).unwrap();
            continue;
        }
        let made = thread.make(&reply, &step);
        match fate.draw(16) {
            1 => return,
            2 => {
                reply.resume();
                continue;
            }
            _ => {}
        }
        match (made, &step) {
            (Ok(()), _) => reply.succeeded(&step),
            (Err(NotStreaming), Step::Append { part, .. } | Step::Close { part, .. }) => {
                reply.not_streaming(*part);
            }
            (Err(NotStreaming), _) => unreachable!("{step:?}"),
        }
        if versions.len() == 1 {
            let whole = squeezed(&versions[0]);
            assert!(whole.starts_with(&thread.shown()), "{thread:?} for {whole}");
        }
        // What was said may be stored together with what is said next.
        if fate.draw(2) == 0 {
            *stored = serde_json::to_string(&reply).unwrap();
        }
        if fate.draw(16) == 1 {
            return;
        }
    }
}

fn comes_to_show(versions: &[String], fates: Vec<u8>) {
    let mut fate = Fate(fates.into_iter());
    let mut thread = Thread::default();
    let mut stored = serde_json::to_string(&Reply::default()).unwrap();
    while !fate.is_spent() {
        live(&mut stored, &mut thread, versions, &mut fate);
    }
    let mut reply: Reply = serde_json::from_str(&stored).unwrap();
    reply.resume();
    let text = versions.last().unwrap();
    say(&mut reply, &mut thread, text);
    assert_eq!(thread.shown(), squeezed(text), "{thread:?}, {reply:?}");
    assert_eq!(step(&reply, text, true), None);
    for (number, message) in thread.messages.iter().enumerate() {
        let ours = reply.parts.iter().any(|part| part.ts == ts(number));
        assert!(message.text.len() <= MOST, "{message:?}");
        assert!(!ours || !message.open, "{number} is still open: {thread:?}");
        // Of an opener that died before it stored the name.
        assert!(ours || squeezed(&message.text).trim_matches('…').is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn the_thread_shows_the_text_once_and_in_order_whatever_breaks(
        text in "([a-zé🦀]{1,9}[ \n]{0,2}){0,30}", fates in proptest::collection::vec(any::<u8>(), 0..400)
    ) {
        comes_to_show(&[text], fates);
    }

    #[test]
    fn the_thread_shows_the_last_version_of_a_text_that_is_taken_back(
        versions in proptest::collection::vec("([a-c…]{1,9}[ \n]{0,2}){0,20}", 2..4),
        fates in proptest::collection::vec(any::<u8>(), 0..400)
    ) {
        comes_to_show(&versions, fates);
    }

    #[test]
    fn no_reply_that_is_stored_is_a_panic(
        parts in proptest::collection::vec((0..40_usize, 0..40_usize, 0..40_usize, any::<Option<u8>>(), 0..3_u8), 0..4),
        text in "[a🦀 \n]{0,40}", whole in any::<bool>()
    ) {
        let mode = |mode| [Mode::Stream, Mode::Update, Mode::Closed][usize::from(mode)];
        let parts = parts.into_iter().enumerate().map(|(number, (from, said, saying, digest, m))| Part {
            ts: ts(number), from, said, saying, mode: mode(m), digest: digest.map(|_| NOTHING),
        });
        let mut reply = Reply { parts: parts.collect() };
        reply.resume();
        if let Some(step) = step(&reply, &text, whole) {
            reply.begin(&step);
            reply.succeeded(&step);
        }
    }
}
