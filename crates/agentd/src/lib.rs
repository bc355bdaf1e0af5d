//! `agentd`, the daemon in an agent's VM: the agent's only way to the model, and the control plane's
//! only way to the agent.
//!
//! A pod has two containers that share a loopback and some directories: OpenClaw, and this. At
//! boot `agentd` writes OpenClaw's configuration, waits for it, and warms it with one turn; the
//! sandbox is ready then, and waits, warm and without a user, until it is claimed. A
//! [bind](binding) gives it its user, once and for ever. From then on the model proxy adds
//! the user's key to every model call on its way out, so that the agent never sees the key; the
//! control routes take the user's turns to the agent, stream back what comes of them, and say how the
//! agent is doing. The VM calls nobody but the model gateway.
//!
//! What holds, whatever happens:
//! - A sandbox serves the user it was bound to, and no other, also across restarts.
//! - A turn is run once, however often it is asked for, and ends once, whoever still listens.
//! - No call is answered without a token for this sandbox, except for readiness.
//! - No secret is logged, and none lies in a directory that the agent can see, except for the token
//!   of its own gateway.

pub mod activity;
pub mod binding;
mod body;
pub mod config;
mod control;
mod files;
mod gateway;
mod model_error;
pub mod openclaw_config;
mod proxy;
pub mod secret;
mod serve;
mod switchboard;
pub mod token;
mod turns;
mod upstream;
mod usage;
mod warm;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::activity::Activity;
use crate::binding::BindingStore;
use crate::config::Config;
use crate::gateway::Health;
use crate::openclaw_config::Settings;
use crate::secret::Secret;
use crate::switchboard::{Exchange, Switchboard};
use crate::turns::Turns;
use crate::upstream::Upstream;
use crate::warm::WarmTurn;

pub use proxy::MAX_REQUEST_BYTES;

/// How long a stop waits for answers under way. Kubernetes gives a pod 30 seconds unless told
/// otherwise, and this has to end before.
pub const GRACE: Duration = Duration::from_secs(20);

/// What the parts share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) binding: BindingStore,
    pub(crate) activity: Activity,
    pub(crate) health: Health,
    pub(crate) warm_turn: WarmTurn,
    pub(crate) gateway_token: Secret,
    pub(crate) guest_kernel: String,
    pub(crate) upstream: Upstream,
    pub(crate) openclaw: Upstream,
    pub(crate) switchboard: Switchboard,
    pub(crate) turns: Turns,
}

/// Why `agentd` can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is taken or not this machine's.
    #[error("listening on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The private or the configuration directory can't be used.
    #[error("preparing {path}")]
    Prepare {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The gateway is to be reached by TLS, and there are no authorities to trust.
    #[error("preparing a client for {gateway}")]
    Client {
        /// The gateway.
        gateway: Uri,
        /// Why.
        source: io::Error,
    },
}

/// A daemon that has its addresses, has found its binding and has written OpenClaw's
/// configuration, but answers nobody yet.
pub struct Agentd {
    shared: Arc<Shared>,
    exchange: Exchange,
    control: TcpListener,
    model_proxy: TcpListener,
    addresses: Addresses,
}

/// Where it listens.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// For the control plane and the kubelet.
    pub control: SocketAddr,
    /// For the agent.
    pub model_proxy: SocketAddr,
}

impl fmt::Debug for Agentd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agentd")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl Agentd {
    /// Everything that can go wrong at the start goes wrong here.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let control = listen(config.listen).await?;
        let model_proxy = listen(config.model_proxy_listen).await?;
        let addresses = Addresses {
            control: address(&control)?,
            model_proxy: address(&model_proxy)?,
        };
        let prepare = |path: &Path| {
            let path = path.to_owned();
            move |source| StartError::Prepare { path, source }
        };
        let gateway_token = Secret::kept_in(&config.private_dir.join("gateway-token"))
            .map_err(prepare(&config.private_dir))?;
        let settings = Settings {
            gateway: config.openclaw,
            token: &gateway_token,
            model_proxy: addresses.model_proxy,
            model: &config.model,
            workspace: &config.workspace_dir,
        };
        openclaw_config::write(&config.config_dir, &settings)
            .map_err(prepare(&config.config_dir))?;
        let client = |base: Uri| {
            let gateway = base.clone();
            Upstream::new(base).map_err(|source| StartError::Client { gateway, source })
        };
        let binding = BindingStore::open(&config.private_dir);
        let activity = Activity::default();
        if matches!(binding.bound(), Ok(Some(_))) {
            activity.resumed(Timestamp::now());
        }
        let (switchboard, exchange) = switchboard::switchboard();
        let shared = Shared {
            switchboard,
            turns: Turns::default(),
            binding,
            activity,
            health: Health::default(),
            warm_turn: WarmTurn::default(),
            guest_kernel: guest_kernel(),
            upstream: client(config.model_gateway.clone())?,
            openclaw: client(plain_uri(config.openclaw))?,
            gateway_token,
            config,
        };
        Ok(Self {
            shared: Arc::new(shared),
            exchange,
            control,
            model_proxy,
            addresses,
        })
    }

    /// Where it listens; the ports are known even when the configuration left them open.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Serves until `stop` completes, then finishes what is under way, for at most [`GRACE`].
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let (stopping, stopped) = watch::channel(false);
        let Self {
            shared,
            exchange,
            control,
            model_proxy,
            addresses,
        } = self;
        tracing::info!(
            sandbox = %shared.config.sandbox,
            control = %addresses.control,
            model_proxy = %addresses.model_proxy,
            model_gateway = %shared.config.model_gateway,
            "agentd is up"
        );
        let line = tokio::spawn(gateway::keep_line(Arc::clone(&shared), exchange));
        let control_routes = control::router(Arc::clone(&shared));
        let proxy_routes = proxy::router(shared);
        let stop = async {
            stop.await;
            tracing::info!("stopping");
            // The receivers live as long as this future.
            let _ = stopping.send(true);
        };
        tokio::join!(
            stop,
            serve::serve(control, control_routes, stopped.clone(), GRACE),
            serve::serve(model_proxy, proxy_routes, stopped, GRACE),
        );
        line.abort();
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Listen { address, source })
}

fn address(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
    listener.local_addr().map_err(|source| StartError::Listen {
        address: unspecified,
        source,
    })
}

fn plain_uri(address: SocketAddr) -> Uri {
    Uri::builder()
        .scheme("http")
        .authority(address.to_string())
        .path_and_query("/")
        .build()
        .unwrap_or_default()
}

/// Proof of a kernel of its own, for whoever wants to compare it with the host's.
fn guest_kernel() -> String {
    let version = std::fs::read_to_string("/proc/version").unwrap_or_default();
    version.trim().chars().take(512).collect()
}
