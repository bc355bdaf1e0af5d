//! A machine as a [Mermaid](https://mermaid.js.org) diagram, for documentation.

use std::fmt::Write;

use crate::machine::{Branch, Kind, Machine, State, error_ways};

/// Draws a machine as a `stateDiagram-v2`.
///
/// The same machine always gives the same text. Errors' ways are labelled `✗`, repetitions `↻`; of the
/// latter only those for errors of our own, since every task also repeats what the network did to it.
/// States that end an execution in failure have a dashed border.
pub fn mermaid(machine: &Machine) -> String {
    let mut text = String::from("stateDiagram-v2\n");
    branch(&machine.root, 1, &mut text);
    let mut failures = Vec::new();
    machine.root.visit(&mut |state| {
        if state.kind == Kind::Fail {
            failures.push(state.name.as_str());
        }
    });
    if !failures.is_empty() {
        text.push_str("    classDef failure stroke-dasharray: 5 3, stroke: #b3261e\n");
        line(
            &mut text,
            1,
            &format!("class {} failure", failures.join(",")),
        );
    }
    text
}

fn branch(branch: &Branch, depth: usize, text: &mut String) {
    line(text, depth, &format!("[*] --> {}", branch.start_at));
    for state in &branch.states {
        inner_branches(state, depth, text);
        repetitions(state, depth, text);
        for route in &state.routes {
            let to = route.to.as_deref().unwrap_or("[*]");
            let otherwise = (state.kind == Kind::Choice).then_some("otherwise");
            match route.condition.as_deref().or(otherwise) {
                Some(condition) => arrow(text, depth, &state.name, to, condition),
                None => line(text, depth, &format!("{} --> {to}", state.name)),
            }
        }
        for (errors, goal) in error_ways(state) {
            arrow(text, depth, &state.name, goal, &format!("✗ {errors}"));
        }
        if matches!(state.kind, Kind::Succeed | Kind::Fail) {
            line(text, depth, &format!("{} --> [*]", state.name));
        }
    }
}

fn inner_branches(state: &State, depth: usize, text: &mut String) {
    if state.branches().is_empty() {
        return;
    }
    line(text, depth, &format!("state {} {{", state.name));
    for (index, inner) in state.branches().iter().enumerate() {
        if index > 0 {
            line(text, depth + 1, "--");
        }
        branch(inner, depth + 1, text);
    }
    line(text, depth, "}");
}

fn repetitions(state: &State, depth: usize, text: &mut String) {
    let own = |error: &&String| !error.contains('.');
    let errors: Vec<_> = state
        .retry
        .iter()
        .flat_map(|retrier| &retrier.errors)
        .filter(own)
        .cloned()
        .collect();
    if !errors.is_empty() {
        arrow(
            text,
            depth,
            &state.name,
            &state.name,
            &format!("↻ {}", errors.join(", ")),
        );
    }
}

fn arrow(text: &mut String, depth: usize, from: &str, to: &str, label: &str) {
    // What ends a label or begins something else in Mermaid, as entities of its own.
    let mut plain = String::new();
    for character in label.chars() {
        match character {
            '#' | ';' | ':' | '<' | '>' | '{' | '}' | '"' => {
                plain.push('#');
                plain.push_str(&u32::from(character).to_string());
                plain.push(';');
            }
            '\n' => plain.push(' '),
            other => plain.push(other),
        }
    }
    line(text, depth, &format!("{from} --> {to}: {plain}"));
}

fn line(text: &mut String, depth: usize, content: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{:indent$}{content}", "", indent = depth * 4);
}
