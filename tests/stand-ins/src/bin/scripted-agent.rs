//! Stand-in for OpenClaw in a sandbox, and the hands and eyes of tests in there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use carapace_stand_ins::{probe, scripted_agent};
use clap::{Parser, Subcommand};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

/// A stand-in for OpenClaw: speaks its gateway's protocol on loopback and answers each turn with one
/// call of the model it is configured for. There is no agent in it, and there are no tools.
#[derive(Debug, Parser)]
#[command(version = scripted_agent::VERSION)]
struct Arguments {
    /// The configuration, as agentd renders it; waited for if it isn't there yet.
    #[arg(
        long,
        env = "OPENCLAW_CONFIG_PATH",
        default_value = "/config/openclaw.json"
    )]
    config: PathBuf,

    /// Where sessions outlive the program; without it they don't.
    #[arg(long, env = "OPENCLAW_STATE_DIR")]
    state: Option<PathBuf>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve as the gateway; what happens without a command, too.
    Gateway {
        /// The original's only verb here.
        #[arg(value_parser = ["run"], default_value = "run")]
        verb: String,
    },
    /// Dial TCP targets from here; prints a JSON array.
    Dial {
        /// How long each may take.
        #[arg(long, default_value_t = 700)]
        timeout_ms: u64,
        /// host:port
        #[arg(required = true)]
        targets: Vec<String>,
    },
    /// Ask the model one thing, as an agent's tool would; prints the reply.
    Complete {
        /// Where the model is.
        #[arg(long, default_value = "http://127.0.0.1:18791/v1")]
        base_url: String,
        /// Which model.
        #[arg(long, default_value = "agent")]
        model: String,
        /// What to say.
        text: String,
    },
    /// Tell what can be seen from here; prints JSON.
    Inspect {
        /// Search files, variables and other processes for this text.
        #[arg(long)]
        find: Option<String>,
        /// Where the files begin.
        #[arg(long, default_value = "/")]
        root: PathBuf,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.command {
        None | Some(Command::Gateway { .. }) => {
            gateway(&arguments.config, arguments.state.as_deref()).await
        }
        Some(Command::Dial {
            timeout_ms,
            targets,
        }) => print(&probe::dial(&targets, Duration::from_millis(timeout_ms)).await),
        Some(Command::Complete {
            base_url,
            model,
            text,
        }) => {
            println!("{}", complete(&base_url, &model, &text).await?);
            Ok(())
        }
        Some(Command::Inspect { find, root }) => print(&probe::inspect(&root, find.as_deref())),
    }
}

fn print(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}

async fn gateway(path: &Path, state: Option<&Path>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    eprintln!(
        "scripted-agent: a stand-in for OpenClaw, waiting for {}",
        path.display()
    );
    let serve = async {
        let configuration = scripted_agent::wait_for_configuration(path).await?;
        let listener = scripted_agent::listen(&configuration).await?;
        eprintln!("scripted-agent: listening on {}", listener.local_addr()?);
        scripted_agent::serve(listener, configuration, state).await
    };
    tokio::select! {
        served = serve => served,
        _ = terminate.recv() => Ok(()),
    }
}

async fn complete(base_url: &str, model: &str, text: &str) -> anyhow::Result<String> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let url = format!("{}/chat/completions", base_url.trim_end_matches('/'));
    let request = json!({"model": model, "messages": [{"role": "user", "content": text}]});
    let answer = client
        .post(&url)
        .json(&request)
        .send()
        .await
        .with_context(|| url.clone())?;
    let status = answer.status();
    let body = answer.text().await?;
    if !status.is_success() {
        bail!("{url} answered {status}: {body}");
    }
    let completion: Value = serde_json::from_str(&body).context("the answer is no JSON")?;
    let reply = completion["choices"][0]["message"]["content"].as_str();
    reply
        .map(str::to_owned)
        .with_context(|| format!("no reply in {body}"))
}
