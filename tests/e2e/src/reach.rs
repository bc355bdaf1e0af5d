//! What an agent may reach, and what it may not, with the control beside it: each of these answers
//! on the node, so that nothing is out of reach only because nobody listens.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::{Platform, eventually};

/// Something that an agent may try to connect to.
#[derive(Clone, Debug)]
pub struct Target {
    /// What it is, in a word or two.
    pub name: &'static str,
    /// Host and port.
    pub address: String,
    /// Whether an agent may reach it.
    pub open: bool,
}

/// The model gateway, which an agent's pod may reach; the API server, the node, the instance's
/// metadata and the sandbox at `others`, which it may not.
pub fn targets(platform: &Platform, others: &str) -> Vec<Target> {
    let node = &platform.info.node_ip;
    let api = platform
        .info
        .kube_api
        .rsplit(':')
        .next()
        .unwrap_or_default();
    let gateway = platform
        .info
        .model_gateway_url
        .trim_start_matches("http://");
    let target = |name, address: String, open| Target {
        name,
        address,
        open,
    };
    vec![
        target("the model gateway", gateway.to_owned(), true),
        target("the API server", format!("{node}:{api}"), false),
        target("the kubelet", format!("{node}:10250"), false),
        target("the node", format!("{node}:8080"), false),
        target("instance metadata", "169.254.169.254:80".to_owned(), false),
        target("another user's sandbox", format!("{others}:18790"), false),
    ]
}

/// Asserts that the pod reaches what it may and nothing else, while all of it answers on the node.
pub fn hold(platform: &Platform, pod: &str, targets: &[Target]) -> Result<()> {
    answer_on_the_node(targets)?;
    for target in targets.iter().filter(|target| target.open) {
        eventually(
            &format!("{} answers the agent", target.name),
            Duration::from_secs(20),
            || platform.cluster.dial(pod, &[&target.address]),
            |dials| dials.iter().all(crate::cluster::Dial::is_open),
        )?;
    }
    let closed: Vec<&str> = targets
        .iter()
        .filter(|target| !target.open)
        .map(|target| target.address.as_str())
        .collect();
    for dial in platform.cluster.dial(pod, &closed)? {
        ensure!(
            !dial.is_open(),
            "{} is within the agent's reach",
            dial.target
        );
    }
    // On a machine too busy to answer, silence would prove nothing.
    answer_on_the_node(targets)
}

fn answer_on_the_node(targets: &[Target]) -> Result<()> {
    for target in targets {
        let mut addresses = target.address.to_socket_addrs()?;
        let address = addresses
            .next()
            .ok_or_else(|| anyhow!("{} is no address", target.address))?;
        TcpStream::connect_timeout(&address, Duration::from_secs(5)).with_context(|| {
            format!("the control: {} does not answer at {address}", target.name)
        })?;
    }
    Ok(())
}
