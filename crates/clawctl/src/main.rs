//! The operators' command line: `clawctl --help` is the manual.
//!
//! It needs no access to the cluster and none to the agents: it changes accounts in the user pool and
//! puts facts on the bus, and the workflows do the rest, as they do when somebody else says the same.

mod aws;
mod cli;
mod failure;
mod user;

use std::process::ExitCode;

use clap::Parser as _;

use cli::Cli;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match Box::pin(cli::run(Cli::parse())).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit_code()
        }
    }
}
