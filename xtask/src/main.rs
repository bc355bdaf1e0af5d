//! The two commands of this repository, and the smaller ones they are made of.
//! `cargo xtask --help` is the manual.

mod cli;
mod demo;
mod docs;
mod doctor;
mod images;
mod lambdas;
mod litellm;
mod machine;
mod npm;
mod openclaw;
mod process;
mod setup;
mod stack;
mod synth;
mod test;
mod ui;
mod unpacked;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

use cli::{Cli, Command};
use ui::Ui;

fn main() -> ExitCode {
    // A stack is kept by this same program, started a second time.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|argument| argument == carapace_local::SUPERVISE)
    {
        return carapace_local::supervisor_main();
    }
    let ui = Ui::new();
    match run(ui, Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(ui: Ui, command: Command) -> Result<()> {
    match command {
        Command::Demo(options) => demo::run(ui, &options),
        Command::DemoInside { state_dir, color } => demo::inside(ui.with_color(color), &state_dir),
        Command::Test(options) => test::run(ui, &options),
        Command::Lint => test::lint(ui),
        Command::Stack(command) => stack::run(ui, &command),
        Command::Lambdas => lambdas(ui),
        Command::Synth(options) => synth::run(ui, &options),
        Command::Docs { check } => docs(ui, check),
        Command::Doctor => doctor::run(ui),
    }
}

fn lambdas(ui: Ui) -> Result<()> {
    ui.heading("Lambda functions for provided.al2023, x86_64");
    let step = ui.step(
        "building them, size-optimised",
        Some(std::time::Duration::from_secs(260)),
    );
    let (directory, built) = lambdas::build(lambdas::For::Deployment)?;
    step.done("built");
    for function in built {
        let tenths = function.bytes / 104_858;
        ui.row(
            function.name,
            format!("{}.{} MiB", tenths / 10, tenths % 10),
        );
    }
    ui.row("In", directory.display());
    Ok(())
}

fn docs(ui: Ui, check: bool) -> Result<()> {
    let changed = docs::generate(check)?;
    for path in &changed {
        ui.holds(&format!("wrote {}", path.display()));
    }
    if changed.is_empty() {
        ui.holds("the generated parts of docs/ are current");
    }
    Ok(())
}
