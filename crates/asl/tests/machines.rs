//! What is accepted, what is refused and why, and what drawings look like.

#![allow(
    clippy::expect_used,
    reason = "all of it is test code, helpers included"
)]

use std::collections::BTreeMap;
use std::path::Path;

use carapace_asl::{
    History, Machine, draw_execution, mermaid, parse, parse_directory, replace_block,
};
use serde_json::{Value, json};

const DELIVER_PARCEL: &str = include_str!("machines/deliver-parcel.asl.json");
const SORT_POST: &str = include_str!("machines/sort-post.asl.json");

fn deliver_parcel() -> Machine {
    parse("deliver-parcel.asl.json", DELIVER_PARCEL).expect("a machine")
}

fn sort_post() -> Machine {
    parse("tests/machines/sort-post.asl.json", SORT_POST).expect("a machine")
}

/// What is said against a machine in which one piece of text is replaced.
fn findings(source: &str, what: &str, by: &str) -> Vec<String> {
    assert!(source.contains(what), "{what:?} is not in the machine");
    match parse("x.asl.json", &source.replacen(what, by, 1)) {
        Ok(_) => Vec::new(),
        Err(rejected) => rejected.to_string().lines().map(str::to_owned).collect(),
    }
}

#[test]
fn a_machine_has_the_name_of_its_file_and_the_states_in_the_authors_order() {
    let machine = sort_post();
    assert_eq!(machine.name, "sort-post");
    assert_eq!(machine.timeout_seconds, 900);
    assert_eq!(
        machine.substitutions.iter().collect::<Vec<_>>(),
        ["BoxesTable"]
    );
    let states: Vec<_> = machine
        .root
        .states
        .iter()
        .map(|state| (state.name.as_str(), state.line))
        .collect();
    assert_eq!(
        states,
        [
            ("CountLetters", 7),
            ("ChooseWay", 13),
            ("SortTogether", 30),
            ("SortAlone", 60),
            ("HeapSorted", 82),
            ("HeapFellOver", 83)
        ]
    );
}

#[test]
fn the_errors_that_a_machine_deals_with_are_known() {
    let machine = deliver_parcel();
    let errors: Vec<_> = machine.handled_errors().into_iter().collect();
    let expected = [
        "Lambda.ServiceException",
        "NoRoomYet",
        "ParcelRejected",
        "States.ALL",
        "States.Timeout",
    ];
    assert_eq!(errors, expected);
}

/// A case, the text that it changes in `deliver-parcel`, and into what.
const MISTAKES: &[(&str, &str, &str)] = &[
    ("01 no JSON", "\"States\": {", "\"States\" {"),
    (
        "02 another query language",
        "\"QueryLanguage\": \"JSONata\"",
        "\"QueryLanguage\": \"JSONPath\"",
    ),
    (
        "03 no comment on the machine",
        "\"Comment\": \"Delivers a parcel, or says why it could not.\",",
        "",
    ),
    ("04 no machine timeout", "\"TimeoutSeconds\": 600,", ""),
    (
        "05 no first state",
        "\"StartAt\": \"LoadParcel\"",
        "\"StartAt\": \"LoadParcels\"",
    ),
    (
        "06 unknown field",
        "\"Type\": \"Succeed\"",
        "\"Type\": \"Succeed\", \"Timeout\": 3",
    ),
    (
        "07 a field of another type",
        "\"Type\": \"Succeed\"",
        "\"Type\": \"Succeed\", \"Next\": \"DriveVan\"",
    ),
    (
        "08 unknown type",
        "\"Type\": \"Succeed\"",
        "\"Type\": \"Success\"",
    ),
    (
        "09 JSONPath field",
        "\"TimeoutSeconds\": 60,",
        "\"TimeoutSeconds\": 60, \"ResultPath\": \"$.x\",",
    ),
    (
        "10 JSONPath argument",
        "\"van\": \"{% $exists",
        "\"van.$\": \"{% $exists",
    ),
    (
        "11 no target",
        "\"Next\": \"ParcelDelivered\"",
        "\"Next\": \"ParcelDeliverd\"",
    ),
    (
        "12 no target in a catch",
        "\"Next\": \"UnloadParcel\"",
        "\"Next\": \"UnloadParcels\"",
    ),
    (
        "13 unreachable",
        "\"Next\": \"DriveVan\"",
        "\"Next\": \"ParcelDelivered\"",
    ),
    (
        "14 no end",
        "\"Next\": \"ReturnParcel\"\n    },",
        "\"Next\": \"UnloadParcel\"\n    },",
    ),
    (
        "15 neither next nor end",
        "\"Next\": \"ParcelDelivered\",",
        "",
    ),
    (
        "16 next and end",
        "\"Next\": \"ParcelDelivered\",",
        "\"Next\": \"ParcelDelivered\", \"End\": true,",
    ),
    (
        "17 an end that is none",
        "\"Next\": \"ParcelDelivered\",",
        "\"End\": false,",
    ),
    ("18 no timeout on a task", "\"TimeoutSeconds\": 60,", ""),
    (
        "19 a timeout of nothing",
        "\"TimeoutSeconds\": 60,",
        "\"TimeoutSeconds\": 0,",
    ),
    (
        "20 no resource",
        "\"Resource\": \"arn:aws:states:::lambda:invoke\",",
        "",
    ),
    (
        "21 an odd resource",
        "\"arn:aws:states:::lambda:invoke\"",
        "\"lambda:invoke\"",
    ),
    (
        "22 States.ALL in company",
        "[\"States.ALL\"]",
        "[\"States.ALL\", \"X\"]",
    ),
    (
        "23 States.ALL too early",
        "[\"ParcelRejected\"]",
        "[\"States.ALL\"]",
    ),
    (
        "24 no such reserved error",
        "\"States.Timeout\"",
        "\"States.TimedOut\"",
    ),
    ("25 an error twice", "\"States.Timeout\"", "\"NoRoomYet\""),
    ("26 no errors", "[\"NoRoomYet\"]", "[]"),
    (
        "27 no back-off",
        "\"BackoffRate\": 1.5",
        "\"BackoffRate\": 0.5",
    ),
    (
        "28 attempts in words",
        "\"MaxAttempts\": 20",
        "\"MaxAttempts\": \"20\"",
    ),
    (
        "29 unknown field of a retrier",
        "\"MaxAttempts\": 20",
        "\"MaxAttempt\": 20",
    ),
    (
        "30 an expression that is none",
        "{'van': $van}])",
        "{'van': $van})",
    ),
    (
        "31 an expression without an end",
        "{% $failure.Error %}",
        "{% $failure.Error",
    ),
    (
        "32 text around an expression",
        "{% $failure.Error %}",
        "Error: {% $failure.Error %}",
    ),
    ("33 no such function", "$merge(", "$merged("),
    (
        "34 an unknown variable",
        "$failure.Error",
        "$failures.Error",
    ),
    (
        "35 a variable of another way",
        "{'van': $van}",
        "{'van': $failure}",
    ),
    (
        "36 a result before the work",
        "$states.input.detail",
        "$states.result.detail",
    ),
    (
        "37 an error without one",
        "{% $failure.Cause %}",
        "{% $states.errorOutput.Cause %}",
    ),
    (
        "38 no such member",
        "$states.input.detail",
        "$states.inputs.detail",
    ),
    (
        "39 a variable called states",
        "\"Assign\": { \"van\"",
        "\"Assign\": { \"states\"",
    ),
    (
        "40 no comment on a state",
        "\"Comment\": \"Nothing is left to do.\"",
        "\"Comment\": \" \"",
    ),
    (
        "41 not VerbNoun",
        "\"StartAt\": \"LoadParcel\"",
        "\"StartAt\": \"load\"",
    ),
    (
        "42 a field twice",
        "\"TimeoutSeconds\": 600,",
        "\"TimeoutSeconds\": 600, \"TimeoutSeconds\": 5,",
    ),
    ("43 a state twice", "\"UnloadParcel\": {", "\"DriveVan\": {"),
    ("44 a placeholder without a name", "${DriveVanArn}", "${}"),
    (
        "45 a placeholder without an end",
        "${DriveVanArn}",
        "${DriveVanArn",
    ),
    (
        "46 states that are none",
        "\"Type\": \"Succeed\",\n      \"Comment\": \"Nothing is left to do.\"",
        "",
    ),
];

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let mut said = BTreeMap::new();
    for &(case, what, by) in MISTAKES {
        // Where a case needs a second change to be about one thing only.
        let source = match case.get(..2) {
            Some("41") => DELIVER_PARCEL.replace("\"LoadParcel\": {", "\"load\": {"),
            _ => DELIVER_PARCEL.to_owned(),
        };
        let findings = findings(&source, what, by);
        assert!(!findings.is_empty(), "{case} was accepted");
        said.insert(case, findings);
    }
    insta::assert_json_snapshot!(said);
}

#[test]
fn what_is_wrong_inside_of_branches_is_found_too() {
    let mut said = BTreeMap::new();
    for (case, what, by) in [
        (
            "a branch's first state",
            "\"StartAt\": \"SortLeft\"",
            "\"StartAt\": \"SortRight\"",
        ),
        (
            "a name in two branches",
            "\"SortRight\": {",
            "\"SortLeft\": {",
        ),
        ("an item's first state", "\"StartAt\": \"SortLetter\",", ""),
        (
            "a way out of a branch",
            "\"End\": true",
            "\"Next\": \"HeapSorted\"",
        ),
        ("no default", ",\n      \"Default\": \"SortAlone\"", ""),
        (
            "a condition in JSONPath",
            "\"Condition\": \"{% $letters = 0 %}\"",
            "\"Variable\": \"$.letters\"",
        ),
        (
            "a condition that is a text",
            "{% $letters = 0 %}",
            "$letters = 0",
        ),
        (
            "a wait for nothing",
            "\"Seconds\": \"{% $letters / 100 %}\",",
            "",
        ),
        ("no processor", "\"ItemProcessor\"", "\"Iterator\""),
        ("no branches", "\"Branches\"", "\"Branch\""),
        (
            "a variable that only a choice assigns",
            "'TOWN#' & $states",
            "$hands & $states",
        ),
        ("no timeout inside", "\"TimeoutSeconds\": 10,", ""),
    ] {
        let findings = findings(SORT_POST, what, by);
        assert!(!findings.is_empty(), "{case} was accepted");
        said.insert(case, findings);
    }
    insta::assert_json_snapshot!(said);
}

#[test]
fn every_finding_of_a_file_is_reported_at_once() {
    let rejected =
        parse("x.asl.json", r#"{ "States": { "a": { "Type": "Pass" } } }"#).expect_err("rejected");
    insta::assert_snapshot!(rejected.to_string());
}

#[test]
fn our_own_machines_are_sound() {
    let directory = Path::new(env!("CARAPACE_ROOT")).join("statemachines");
    match parse_directory(&directory) {
        Ok(machines) => assert!(
            !machines.is_empty(),
            "no state machine in {}",
            directory.display()
        ),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_directory_is_read_as_a_whole_or_everything_is_said_against_it() {
    let fixtures = Path::new(env!("CARAPACE_ROOT")).join("crates/asl/tests/machines");
    let machines = parse_directory(&fixtures).expect("machines");
    let names: Vec<_> = machines
        .iter()
        .map(|machine| machine.name.as_str())
        .collect();
    assert_eq!(names, ["deliver-parcel", "sort-post"]);

    let error = parse_directory(&fixtures.join("nowhere"))
        .expect_err("no directory")
        .to_string();
    assert!(error.contains("nowhere"), "{error}");

    let directory = tempfile::tempdir().expect("a directory");
    for name in ["b.asl.json", "a.asl.json", "notes.md"] {
        std::fs::write(directory.path().join(name), "[]").expect("a file");
    }
    let error = parse_directory(directory.path())
        .expect_err("no machines")
        .to_string();
    let files: Vec<_> = error
        .lines()
        .map(|line| line.contains("a.asl.json:1: has to be an object"))
        .collect();
    assert_eq!(files, [true, false], "{error}");
}

#[test]
fn diagrams_show_every_way() {
    insta::assert_snapshot!("deliver_parcel_mermaid", mermaid(&deliver_parcel()));
    insta::assert_snapshot!("sort_post_mermaid", mermaid(&sort_post()));
}

#[test]
fn a_drawing_replaces_only_its_own_block() {
    let document = "# A\n<!-- generated: statemachine a -->\nold\n<!-- /generated -->\nB\n\
                    <!-- generated: statemachine b -->\nkept\n<!-- /generated -->\n";
    let replaced = replace_block(document, "statemachine a", "new\n").expect("a block");
    insta::assert_snapshot!(replaced);
    assert_eq!(
        replace_block(&replaced, "statemachine a", "new").expect("a block"),
        replaced
    );
}

#[test]
fn a_document_without_the_block_or_its_end_is_an_error() {
    let begin = "<!-- generated: statemachine a -->";
    let other = "<!-- generated: statemachine b -->\n<!-- /generated -->";
    for document in [String::new(), begin.to_owned(), format!("{begin}\n{other}")] {
        let error = replace_block(&document, "statemachine a", "new").expect_err("no block");
        assert!(error.to_string().contains("statemachine a"), "{error}");
    }
}

/// Builds the answer to `GetExecutionHistory` from steps: milliseconds, type, details.
fn history(steps: &[(u32, &str, Value)]) -> History {
    let events: Vec<Value> = steps
        .iter()
        .enumerate()
        .map(|(index, (milliseconds, event_type, details))| {
            let mut event = json!({
                "id": index + 1,
                "previousEventId": index,
                "timestamp": 1_780_000_000.0 + f64::from(*milliseconds) / 1000.0,
                "type": event_type,
            });
            let members = event.as_object_mut().expect("an object");
            members.extend(details.as_object().cloned().unwrap_or_default());
            event
        })
        .collect();
    serde_json::from_value(json!({ "events": events })).expect("a history")
}

fn entered(name: &str) -> Value {
    json!({ "stateEnteredEventDetails": { "name": name, "input": "{}" } })
}

fn exited(name: &str) -> Value {
    json!({ "stateExitedEventDetails": { "name": name, "output": "{}" } })
}

fn task_failed(error: &str) -> Value {
    json!({ "taskFailedEventDetails": { "error": error, "cause": "", "resource": "invoke" } })
}

fn after_two_retries() -> History {
    history(&[
        (
            0,
            "ExecutionStarted",
            json!({ "executionStartedEventDetails": { "input": "{}" } }),
        ),
        (1, "TaskStateEntered", entered("LoadParcel")),
        (
            2,
            "TaskScheduled",
            json!({ "taskScheduledEventDetails": { "resource": "invoke" } }),
        ),
        (20, "TaskFailed", task_failed("NoRoomYet")),
        (1020, "TaskScheduled", Value::Null),
        (1040, "TaskFailed", task_failed("NoRoomYet")),
        (2540, "TaskScheduled", Value::Null),
        (2600, "TaskSucceeded", Value::Null),
        (2601, "TaskStateExited", exited("LoadParcel")),
        (2602, "TaskStateEntered", entered("DriveVan")),
        (2603, "TaskScheduled", Value::Null),
        (2701, "TaskSucceeded", Value::Null),
        (2702, "TaskStateExited", exited("DriveVan")),
        (2702, "SucceedStateEntered", entered("ParcelDelivered")),
        (2703, "SucceedStateExited", exited("ParcelDelivered")),
        (
            2703,
            "ExecutionSucceeded",
            json!({ "executionSucceededEventDetails": { "output": "{}" } }),
        ),
    ])
}

#[test]
fn an_execution_that_succeeds_shows_its_way_times_and_retries() {
    let drawing = draw_execution(&deliver_parcel(), &after_two_retries().events, false);
    let history = after_two_retries();
    let entered: Vec<_> = history
        .events
        .iter()
        .filter_map(|event| event.entered())
        .collect();
    assert_eq!(entered, ["LoadParcel", "DriveVan", "ParcelDelivered"]);
    insta::assert_snapshot!(drawing);
    assert!(!drawing.contains('\u{1b}'));
}

#[test]
fn colours_dim_what_was_not_visited() {
    let drawing = draw_execution(&deliver_parcel(), &after_two_retries().events, true);
    let line = |name: &str| {
        drawing
            .lines()
            .find(|line| line.contains(name))
            .expect(name)
            .to_owned()
    };
    assert!(
        line("mDriveVan").starts_with("  \u{1b}[32m✓\u{1b}[0m \u{1b}[1mDriveVan"),
        "{drawing}"
    );
    assert!(
        line("mUnloadParcel").starts_with("  \u{1b}[2m·"),
        "{drawing}"
    );
    let plain = draw_execution(&deliver_parcel(), &after_two_retries().events, false);
    let stripped: String = drawing
        .split('\u{1b}')
        .enumerate()
        .map(|(index, part)| {
            if index == 0 {
                part
            } else {
                part.split_once('m').expect("a code").1
            }
        })
        .collect();
    let trimmed = |text: &str| {
        text.lines()
            .map(str::trim_end)
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(
        trimmed(&stripped),
        trimmed(&plain),
        "the colours change nothing but colours"
    );
}

#[test]
fn an_execution_that_fails_shows_what_was_caught_and_where_it_ended() {
    let failed = history(&[
        (0, "ExecutionStarted", Value::Null),
        (1, "TaskStateEntered", entered("LoadParcel")),
        (2, "TaskScheduled", Value::Null),
        (3, "TaskSucceeded", Value::Null),
        (4, "TaskStateExited", exited("LoadParcel")),
        (5, "TaskStateEntered", entered("DriveVan")),
        (6, "TaskScheduled", Value::Null),
        (
            90,
            "TaskTimedOut",
            json!({ "taskTimedOutEventDetails": { "error": "States.Timeout" } }),
        ),
        (91, "TaskStateExited", exited("DriveVan")),
        (92, "TaskStateEntered", entered("UnloadParcel")),
        (93, "TaskScheduled", Value::Null),
        (100, "TaskSucceeded", Value::Null),
        (101, "TaskStateExited", exited("UnloadParcel")),
        (102, "FailStateEntered", entered("ReturnParcel")),
        (
            103,
            "ExecutionFailed",
            json!({ "executionFailedEventDetails": { "error": "States.Timeout", "cause": "The van broke down.\nTwice." } }),
        ),
    ]);
    insta::assert_snapshot!(draw_execution(&deliver_parcel(), &failed.events, false));
}

#[test]
fn an_execution_at_work_is_drawn_as_far_as_it_came() {
    let mut running = after_two_retries();
    running.events.truncate(4);
    insta::assert_snapshot!(draw_execution(&deliver_parcel(), &running.events, false));
}

#[test]
fn branches_are_drawn_below_the_state_that_holds_them() {
    let sorted = history(&[
        (0, "ExecutionStarted", Value::Null),
        (1, "PassStateEntered", entered("CountLetters")),
        (2, "PassStateExited", exited("CountLetters")),
        (3, "ChoiceStateEntered", entered("ChooseWay")),
        (4, "ChoiceStateExited", exited("ChooseWay")),
        (5, "MapStateEntered", entered("SortAlone")),
        (6, "TaskStateEntered", entered("SortLetter")),
        (16, "TaskStateExited", exited("SortLetter")),
        (17, "TaskStateEntered", entered("SortLetter")),
        (27, "TaskStateExited", exited("SortLetter")),
        (28, "MapStateExited", exited("SortAlone")),
        (29, "SucceedStateEntered", entered("HeapSorted")),
        (30, "SucceedStateExited", exited("HeapSorted")),
        (30, "ExecutionSucceeded", Value::Null),
    ]);
    insta::assert_snapshot!(draw_execution(&sort_post(), &sorted.events, false));
}

#[test]
fn times_are_read_as_seconds_and_as_dates() {
    let event = |timestamp: Value| json!({ "events": [{ "type": "ExecutionStarted", "timestamp": timestamp }] });
    let read = |timestamp: Value| serde_json::from_value::<History>(event(timestamp));
    let seconds = read(json!(1_780_000_000.25)).expect("seconds").events[0].timestamp;
    let date = read(json!("2026-05-28T20:26:40.250Z"))
        .expect("a date")
        .events[0]
        .timestamp;
    assert_eq!(seconds, date);
    assert!(read(json!("yesterday")).is_err());
    assert!(read(json!(1e300)).is_err());
}
