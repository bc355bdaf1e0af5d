//! Where an execution can go, and what it knows there.

use std::collections::{BTreeMap, BTreeSet};

use crate::finding::Finding;
use crate::machine::{Branch, Kind, Machine, State};
use crate::read::{Notes, Use};

/// Notes states that cannot be reached or left, targets that do not exist, names that are there twice,
/// and variables that no way to their reader assigns.
pub(crate) fn check(machine: &Machine, notes: &mut Notes) {
    let mut names = BTreeSet::new();
    machine.root.visit(&mut |state| {
        if !names.insert(&state.name) {
            let message =
                "the name is used in another branch too; it has to be unique in the machine";
            notes.findings.push(Finding {
                line: state.line,
                path: state.name.clone(),
                message: message.to_owned(),
            });
        }
    });
    let mut known = BTreeMap::new();
    branch(&machine.root, "", &BTreeSet::new(), notes, &mut known);
    for Use {
        state,
        variable,
        line,
        path,
    } in std::mem::take(&mut notes.uses)
    {
        // A state that was not reached has its own finding.
        if known
            .get(&state)
            .is_some_and(|variables| !variables.contains(&variable))
        {
            let message = format!(
                "no state on the way here assigns ${variable}, and JSONata has no such function"
            );
            notes.findings.push(Finding {
                line,
                path,
                message,
            });
        }
    }
}

type Known = BTreeMap<String, BTreeSet<String>>;

/// Checks one branch; `known` gets the variables that may be assigned when each of its states begins.
fn branch(
    branch: &Branch,
    parent: &str,
    given: &BTreeSet<String>,
    notes: &mut Notes,
    known: &mut Known,
) {
    let dot = if parent.is_empty() { "" } else { "." };
    let path = |state: &State| format!("{parent}{dot}States.{}", state.name);
    let mut note = |line: usize, path: String, message: String| {
        notes.findings.push(Finding {
            line,
            path,
            message,
        });
    };
    let missing = |name: &str| format!("there is no state {name:?} here");
    let first_line = branch.states.first().map_or(1, |state| state.line);
    if branch.state(&branch.start_at).is_none() && !branch.start_at.is_empty() {
        note(
            first_line,
            format!("{parent}{dot}StartAt"),
            missing(&branch.start_at),
        );
    }
    for state in &branch.states {
        for target in state.routes.iter().filter_map(|route| route.to.as_ref()) {
            if branch.state(target).is_none() {
                note(
                    state.line,
                    format!("{}.{}", path(state), next_field(state)),
                    missing(target),
                );
            }
        }
        for (index, catcher) in state.catch.iter().enumerate() {
            if branch.state(&catcher.next).is_none() && !catcher.next.is_empty() {
                note(
                    state.line,
                    format!("{}.Catch[{index}].Next", path(state)),
                    missing(&catcher.next),
                );
            }
        }
    }

    let begins = variables_at(branch, given);
    // Without a first state nothing can be reached, which has been said.
    for state in branch.states.iter().filter(|_| !begins.is_empty()) {
        if !begins.contains_key(&state.name) {
            note(
                state.line,
                path(state),
                "no way leads to this state".to_owned(),
            );
        } else if !ends(branch, state) {
            note(
                state.line,
                path(state),
                "no way leads from this state to an end".to_owned(),
            );
        }
    }

    for state in &branch.states {
        let Some(variables) = begins.get(&state.name) else {
            continue;
        };
        known.insert(state.name.clone(), variables.clone());
        for (index, inner) in state.branches().iter().enumerate() {
            let inner_parent = match state.kind {
                Kind::Parallel(_) => format!("{}.Branches[{index}]", path(state)),
                _ => format!("{}.ItemProcessor", path(state)),
            };
            self::branch(inner, &inner_parent, variables, notes, known);
        }
    }
}

fn next_field(state: &State) -> &'static str {
    match state.kind {
        Kind::Choice => "Choices",
        _ => "Next",
    }
}

/// The variables that may be assigned when a state begins, for each state that can be reached.
///
/// "May", not "must": an expression can ask with `$exists` what happened before, and a way that never
/// assigns a variable is the mistake that nothing excuses.
fn variables_at(branch: &Branch, given: &BTreeSet<String>) -> Known {
    let mut begins = Known::new();
    let mut pending = vec![(branch.start_at.as_str(), given.clone())];
    while let Some((name, variables)) = pending.pop() {
        let Some(state) = branch.state(name) else {
            continue;
        };
        let news = match begins.get_mut(name) {
            None => {
                begins.insert(name.to_owned(), variables);
                true
            }
            Some(before) => {
                let size = before.len();
                before.extend(variables);
                before.len() > size
            }
        };
        if !news {
            continue;
        }
        let here = &begins[name];
        for route in &state.routes {
            let Some(target) = &route.to else { continue };
            // A choice rule's own Assign takes the place of the state's.
            let mut after = here.clone();
            match route.condition {
                Some(_) => after.extend(route.assigns.iter().cloned()),
                None => after.extend(state.assign.keys().cloned()),
            }
            pending.push((target, after));
        }
        for catcher in &state.catch {
            let mut after = here.clone();
            after.extend(catcher.assigns.iter().cloned());
            pending.push((&catcher.next, after));
        }
    }
    begins
}

/// Whether some way leads from a state to an end.
fn ends(branch: &Branch, from: &State) -> bool {
    let mut seen = BTreeSet::new();
    let mut pending = vec![from];
    while let Some(state) = pending.pop() {
        if !seen.insert(&state.name) {
            continue;
        }
        let terminal = matches!(state.kind, Kind::Succeed | Kind::Fail);
        if terminal || state.routes.iter().any(|route| route.to.is_none()) {
            return true;
        }
        let routes = state.routes.iter().filter_map(|route| route.to.as_deref());
        let targets = routes.chain(state.catch.iter().map(|catcher| catcher.next.as_str()));
        pending.extend(targets.filter_map(|target| branch.state(target)));
    }
    false
}
