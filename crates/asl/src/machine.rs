//! What a state machine is once it has been read: only what can be run.

use std::collections::{BTreeMap, BTreeSet};

/// A state machine as [`parse`](crate::parse) found it.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// The file's name without its ending: what the machine is called everywhere else.
    pub name: String,
    /// Why the machine exists.
    pub comment: String,
    /// After how many seconds an execution fails with `States.Timeout`.
    pub timeout_seconds: u64,
    /// The names between `${` and `}`, which the deployment replaces.
    pub substitutions: BTreeSet<Substitution>,
    /// The states.
    pub root: Branch,
}

/// The name of a placeholder, such as `SandboxClaimArn` for `${SandboxClaimArn}`.
pub type Substitution = String;

/// States that lead to each other: the machine itself, a branch of a `Parallel`, the body of a `Map`.
#[derive(Clone, Debug, PartialEq)]
pub struct Branch {
    /// The name of the first state.
    pub start_at: String,
    /// The states, as the author ordered them.
    pub states: Vec<State>,
}

/// One state.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Unique in the whole machine.
    pub name: String,
    /// Why the state exists.
    pub comment: String,
    /// The line of its name in the file, from 1.
    pub line: usize,
    /// What it does.
    pub kind: Kind,
    /// Where an execution can go from here, in the order of the file.
    pub routes: Vec<Route>,
    /// Errors after which it is tried again; of the first that matches an error.
    pub retry: Vec<Retrier>,
    /// Errors after which the execution goes on elsewhere; to the first that matches an error.
    pub catch: Vec<Catcher>,
    /// The variables that it assigns when it ends well, with their expressions as written.
    pub assign: BTreeMap<String, String>,
}

/// What a state does.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Calls a service.
    Task {
        /// The service integration's ARN, for example `arn:aws:states:::lambda:invoke`.
        resource: String,
    },
    /// Goes on at the first choice whose condition is true.
    Choice,
    /// Computes, and calls nobody.
    Pass,
    /// Lets time pass.
    Wait,
    /// Runs its body once for each item.
    Map(Branch),
    /// Runs its branches at the same time.
    Parallel(Vec<Branch>),
    /// Ends the branch well.
    Succeed,
    /// Ends the execution in failure.
    Fail,
}

/// A way from one state to another that is no error's.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Where to; `None` ends the branch.
    pub to: Option<String>,
    /// When a `Choice` takes it: the rule's comment or its condition. `None` otherwise and for `Default`.
    pub condition: Option<String>,
    /// The variables that taking it assigns (a choice rule's own).
    pub(crate) assigns: BTreeSet<String>,
}

/// Errors after which a state is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retrier {
    /// The errors' names.
    pub errors: Vec<String>,
    /// How many times more.
    pub max_attempts: u64,
}

/// Errors after which the execution goes on elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catcher {
    /// The errors' names.
    pub errors: Vec<String>,
    /// The state that deals with them.
    pub next: String,
    pub(crate) assigns: BTreeSet<String>,
}

impl Branch {
    /// A state by its name.
    pub fn state(&self, name: &str) -> Option<&State> {
        self.states.iter().find(|state| state.name == name)
    }
}

impl Machine {
    /// Every error's name that some state of this machine retries or catches: what the functions'
    /// own errors are compared with.
    pub fn handled_errors(&self) -> BTreeSet<&str> {
        let mut errors = BTreeSet::new();
        self.root.visit(&mut |state| {
            errors.extend(
                state
                    .retry
                    .iter()
                    .flat_map(|retrier| &retrier.errors)
                    .map(String::as_str),
            );
            errors.extend(
                state
                    .catch
                    .iter()
                    .flat_map(|catcher| &catcher.errors)
                    .map(String::as_str),
            );
        });
        errors
    }
}

impl Branch {
    /// Visits every state, those of nested branches after the state that holds them.
    pub(crate) fn visit<'a>(&'a self, visitor: &mut impl FnMut(&'a State)) {
        for state in &self.states {
            visitor(state);
            state
                .branches()
                .iter()
                .for_each(|branch| branch.visit(visitor));
        }
    }
}

impl State {
    /// The branches inside a `Map` or a `Parallel`.
    pub fn branches(&self) -> &[Branch] {
        match &self.kind {
            Kind::Map(branch) => std::slice::from_ref(branch),
            Kind::Parallel(branches) => branches,
            _ => &[],
        }
    }
}

/// Where a state's errors lead, each goal once, with the errors in words.
///
/// Errors that are listed beside a `States.ALL` with the same goal are listed for the reader of the
/// definition; a drawing is clearer without them.
pub(crate) fn error_ways(state: &State) -> Vec<(String, &str)> {
    let mut ways: Vec<(Vec<&str>, &str)> = Vec::new();
    for catcher in &state.catch {
        let errors = catcher.errors.iter().map(String::as_str);
        match ways.iter_mut().find(|(_, goal)| *goal == catcher.next) {
            Some((known, _)) => known.extend(errors),
            None => ways.push((errors.collect(), &catcher.next)),
        }
    }
    let alone = ways.len() == 1;
    let words = |errors: Vec<&str>| match (errors.contains(&"States.ALL"), alone) {
        (false, _) => errors.join(", "),
        (true, true) => "any error".to_owned(),
        (true, false) => "any other error".to_owned(),
    };
    ways.into_iter()
        .map(|(errors, goal)| (words(errors), goal))
        .collect()
}
