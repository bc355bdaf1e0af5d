//! Stand-in for Slack.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::Context;
use carapace_stand_ins::slack::{STREAM_LIFE, Settings, Slack};
use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// A stand-in for Slack: one workspace in memory, the methods of the Web API that Carapace uses, and
/// a page on / that shows its threads. There is nobody behind it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where to listen.
    #[arg(long, env = "HOST", default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    host: IpAddr,
    /// Where to listen; 0 takes a free port and prints it.
    #[arg(long, env = "PORT", default_value_t = 8080)]
    port: u16,
    /// The bot's token.
    #[arg(long, env = "SLACK_BOT_TOKEN", hide_env_values = true)]
    bot_token: Option<String>,
    /// A file that holds it.
    #[arg(long, env = "SLACK_BOT_TOKEN_FILE", conflicts_with = "bot_token")]
    bot_token_file: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut terminate = signal(SignalKind::terminate())?;
    eprintln!("slack: a stand-in for Slack, with nobody behind it");
    let slack = Slack::new(Settings {
        bot_token: bot_token(&arguments)?,
        stream_life: STREAM_LIFE,
    })?;
    let listener = TcpListener::bind((arguments.host, arguments.port))
        .await
        .context("listening")?;
    eprintln!("slack: listening on {}", listener.local_addr()?);
    let stop = async move {
        terminate.recv().await;
    };
    axum::serve(listener, slack.router())
        .with_graceful_shutdown(stop)
        .await?;
    Ok(())
}

fn bot_token(arguments: &Arguments) -> anyhow::Result<String> {
    if let Some(token) = &arguments.bot_token {
        return Ok(token.clone());
    }
    let path = arguments.bot_token_file.as_ref();
    let path = path.context("SLACK_BOT_TOKEN or SLACK_BOT_TOKEN_FILE must be set")?;
    let token = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(token.trim().to_owned())
}
