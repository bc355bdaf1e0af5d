//! What the platform promises, shown on a local stack: each scenario is one promise.
//!
//! `cargo xtask test --only scenarios` starts a stack, deploys to it and runs these inside it;
//! `--only scenarios:NAME` runs those whose name contains NAME. Scenarios run side by side, each
//! with people of its own; those that change what all share run alone, afterwards.

mod bad_input;
mod conversation;
mod conversation_faults;
mod create;
mod death;
mod faults;
mod isolation;
mod permissions;
mod removal;
mod sign_up;
mod turns;
mod webhook;
mod world;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use world::World;

/// A scenario and the name of the promise it shows.
type Scenario = (&'static str, fn(&World) -> anyhow::Result<()>);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Scenarios mostly wait: more of them than cores can be under way.
    arguments.test_threads = arguments.test_threads.or(Some(5));
    if arguments.list {
        let all = trials(None).into_iter().chain(alone(None)).collect();
        return libtest_mimic::run(&arguments, all).exit_code();
    }
    let world = match World::open() {
        Ok(world) => world,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let together = libtest_mimic::run(&arguments, trials(Some(&world)));
    let alone = libtest_mimic::run(
        &Arguments {
            test_threads: Some(1),
            ..arguments
        },
        alone(Some(&world)),
    );
    if together.has_failed() || alone.has_failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Those that change what all share.
fn alone(world: Option<&World>) -> Vec<Trial> {
    [bad_input::ALONE, conversation::ALONE, permissions::ALONE]
        .concat()
        .into_iter()
        .map(|(name, scenario)| trial(name, scenario, world))
        .collect()
}

fn trials(world: Option<&World>) -> Vec<Trial> {
    let plain = [
        sign_up::ALL,
        removal::ALL,
        create::ALL,
        turns::ALL,
        webhook::ALL,
        conversation::ALL,
        isolation::ALL,
        bad_input::ALL,
    ]
    .concat();
    plain
        .into_iter()
        .map(|(name, scenario)| trial(name, scenario, world))
        .chain(faults::all(world))
        .chain(conversation_faults::all(world))
        .chain(removal::all(world))
        .collect()
}

fn trial(name: &str, scenario: fn(&World) -> anyhow::Result<()>, world: Option<&World>) -> Trial {
    let world = world.cloned();
    Trial::test(name, move || match &world {
        Some(world) => outcome(scenario(world)),
        None => Err(Failed::from("there is no stack to run on")),
    })
}

fn outcome(result: anyhow::Result<()>) -> Result<(), Failed> {
    result.map_err(|error| Failed::from(format!("{error:?}")))
}
