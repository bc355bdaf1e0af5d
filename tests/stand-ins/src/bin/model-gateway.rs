//! Stand-in for LiteLLM.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context;
use carapace_stand_ins::bedrock;
use carapace_stand_ins::model_gateway::{ModelGateway, Settings};
use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// A stand-in for LiteLLM 1.106.2: virtual keys, kept in memory, and completions that say what was
/// said. There is no model behind it. Or it keeps the keys only, in front of the real LiteLLM, and is
/// the model behind that one, too.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where to listen.
    #[arg(long, env = "HOST", default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    host: IpAddr,
    /// Where to listen; 0 takes a free port and prints it.
    #[arg(long, env = "PORT", default_value_t = 4000)]
    port: u16,
    /// The key that makes keys.
    #[arg(long, env = "LITELLM_MASTER_KEY", hide_env_values = true)]
    master_key: Option<String>,
    /// A file that holds it.
    #[arg(long, env = "LITELLM_MASTER_KEY_FILE", conflicts_with = "master_key")]
    master_key_file: Option<PathBuf>,
    /// The one model that there is.
    #[arg(long, default_value = "agent")]
    model: String,
    /// The real LiteLLM, to which completions go with the master key, once their own was found good.
    #[arg(long, env = "LITELLM_URL")]
    litellm_url: Option<String>,
    /// Where Bedrock's runtime is stood in for; nowhere if this is left out.
    #[arg(long, env = "BEDROCK_LISTEN", requires = "bedrock_model")]
    bedrock_listen: Option<SocketAddr>,
    /// A model that Bedrock has.
    #[arg(long, env = "BEDROCK_MODEL")]
    bedrock_model: Vec<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut terminate = signal(SignalKind::terminate())?;
    eprintln!("model-gateway: a stand-in for LiteLLM 1.106.2");
    let master_key = master_key(&arguments)?;
    let gateway = ModelGateway::new(Settings {
        master_key,
        model: arguments.model,
    })?;
    let gateway = match &arguments.litellm_url {
        Some(url) => gateway.in_front_of(url)?,
        None => gateway,
    };
    if let Some(address) = arguments.bedrock_listen {
        let listener = TcpListener::bind(address).await.context("listening")?;
        eprintln!(
            "model-gateway: Bedrock's runtime on {}",
            listener.local_addr()?
        );
        let router = bedrock::router(arguments.bedrock_model);
        tokio::spawn(async move { axum::serve(listener, router).await });
    }
    let listener = TcpListener::bind((arguments.host, arguments.port))
        .await
        .context("listening")?;
    eprintln!("model-gateway: listening on {}", listener.local_addr()?);
    let stop = async move {
        terminate.recv().await;
    };
    axum::serve(listener, gateway.router())
        .with_graceful_shutdown(stop)
        .await?;
    Ok(())
}

fn master_key(arguments: &Arguments) -> anyhow::Result<String> {
    if let Some(key) = &arguments.master_key {
        return Ok(key.clone());
    }
    let path = arguments.master_key_file.as_ref();
    let path = path.context("LITELLM_MASTER_KEY or LITELLM_MASTER_KEY_FILE must be set")?;
    let key = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(key.trim().to_owned())
}
