//! The real node's network: the pods' bridge, and a world outside that is not the host's.
//!
//! Nothing leaves the machine. A second network namespace plays everything beyond the node, so
//! that what pods send there really is forwarded, and listeners in it answer for the internet, for
//! private networks and for the instance metadata service.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::gettid,
};

use crate::{
    info::Decoy,
    supervisor::{SYSTEM_PATH, listen_as_decoy},
};

use super::{PartFailure, Site, gate, run};

/// The node, as pods see it.
pub(super) const NODE_IP: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
pub(super) const POD_CIDR: &str = "10.244.0.0/24";
pub(super) const SERVICE_CIDR: &str = "10.96.0.0/16";
/// The Service `kubernetes` gets the range's first address.
pub(super) const API_SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
pub(super) const BRIDGE: &str = "cni0";

const PART: &str = "network";
const UPLINK: &str = "uplink";
/// The node's address on its way out, and the first one beyond it. The range is reserved for
/// documentation, so it belongs to nobody, but no rule for private networks knows it.
const NODE_OUTSIDE_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const INTERNET_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// Who answers outside.
const OUTSIDE: &[(&str, Ipv4Addr, u16)] = &[
    ("instance metadata", Ipv4Addr::new(169, 254, 169, 254), 80),
    ("internet", INTERNET_IP, 443),
    ("internet, unencrypted", INTERNET_IP, 80),
    ("private network 10/8", Ipv4Addr::new(10, 99, 0, 1), 443),
    (
        "private network 172.16/12",
        Ipv4Addr::new(172, 31, 0, 2),
        443,
    ),
    (
        "private network 192.168/16",
        Ipv4Addr::new(192, 168, 77, 1),
        443,
    ),
    (
        "shared network 100.64/10",
        Ipv4Addr::new(100, 64, 0, 1),
        443,
    ),
];

/// Builds the network, closed: no pod reaches anything until a policy engine lets it.
pub(super) async fn prepare(site: &Site) -> Result<Vec<Decoy>, PartFailure> {
    set_kernel_parameters()?;
    let links = format!(
        "link add {BRIDGE} type bridge\n\
         addr add {NODE_IP}/24 dev {BRIDGE}\n\
         link set {BRIDGE} up\n"
    );
    run(PART, tool("ip", &["-batch", "-"]), &links).await?;
    close().await?;
    gate::close().await?;
    let listeners = tokio::task::spawn_blocking(outside)
        .await
        .map_err(PartFailure::of(PART))?
        .map_err(PartFailure::of(PART))?;

    let log = site.state.log("decoys");
    let mut decoys = Vec::new();
    let node = SocketAddr::from((NODE_IP, 8080));
    let at_node = TcpListener::bind(node).map_err(PartFailure::of(PART))?;
    let all = OUTSIDE
        .iter()
        .map(|&(name, ..)| name)
        .zip(listeners)
        .chain([("node", at_node)]);
    for (name, listener) in all {
        let address = listener.local_addr().map_err(PartFailure::of(PART))?;
        listen_as_decoy(name, listener, &log)
            .await
            .map_err(PartFailure::of(PART))?;
        decoys.push(Decoy {
            name: name.to_owned(),
            address: address.to_string(),
        });
    }
    Ok(decoys)
}

/// The rules that hold when nothing else does. Without them a pod that kube-router does not know
/// may do everything, and so may all pods if it is dead. What a policy allows it accepts by itself,
/// ahead of these.
async fn close() -> Result<(), PartFailure> {
    let rules = format!(
        "*filter\n\
         :INPUT ACCEPT\n\
         :FORWARD DROP\n\
         :CARAPACE-CLOSED -\n\
         -A INPUT -j CARAPACE-CLOSED\n\
         -A CARAPACE-CLOSED -i {BRIDGE} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A CARAPACE-CLOSED -i {BRIDGE} -j DROP\n\
         COMMIT\n"
    );
    run(PART, tool("iptables-restore", &["--noflush"]), &rules).await?;
    // Pods have link-local addresses of version 6, which no policy speaks about.
    let rules = format!(
        "*filter\n\
         :FORWARD DROP\n\
         -A INPUT -i {BRIDGE} -j DROP\n\
         COMMIT\n"
    );
    run(PART, tool("ip6tables-restore", &["--noflush"]), &rules).await?;
    Ok(())
}

/// These are the namespace's own; the host's stay as they are.
fn set_kernel_parameters() -> Result<(), PartFailure> {
    let net = Path::new("/proc/sys/net");
    if !net.join("bridge").is_dir() {
        return Err(PartFailure::new(
            PART,
            "the kernel's br_netfilter is not there, without which no policy holds between pods; load it with `modprobe br_netfilter`",
        ));
    }
    for (name, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        // Or pods on one bridge reach each other below the rules.
        ("bridge/bridge-nf-call-iptables", "1"),
        ("bridge/bridge-nf-call-ip6tables", "1"),
    ] {
        fs::write(net.join(name), value)
            .map_err(|error| PartFailure::new(PART, format!("setting net/{name}: {error}")))?;
    }
    Ok(())
}

/// Creates the world outside and gives its listeners, in the order of [`OUTSIDE`]. They keep its
/// namespace alive.
fn outside() -> io::Result<Vec<TcpListener>> {
    let (says, inside) = channel();
    let (connected, uplink) = channel();
    let world = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        says.send(gettid()).map_err(io::Error::other)?;
        furnish(&uplink)
    });
    // If the thread failed, its own error tells more than the missing message.
    if let Ok(thread) = inside.recv() {
        ip(&format!(
            "link add {UPLINK} type veth peer name {UPLINK} netns {thread}\n\
             addr add {NODE_OUTSIDE_IP}/24 dev {UPLINK}\n\
             link set {UPLINK} up\n\
             route add default via {INTERNET_IP}\n"
        ))?;
        connected.send(()).map_err(io::Error::other)?;
    }
    world
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the network outside was not built")))
}

/// Runs in the namespace outside.
fn furnish(uplink: &Receiver<()>) -> io::Result<Vec<TcpListener>> {
    uplink.recv().map_err(io::Error::other)?;
    // As a router without a way on it answers that it knows none, where a host would be silent and
    // every attempt to reach the real internet would last until its deadline.
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0")?;
    let others = OUTSIDE
        .iter()
        .filter(|(_, address, _)| *address != INTERNET_IP)
        .map(|(_, address, _)| format!("addr add {address}/32 dev lo\n"));
    let commands: Vec<String> = [format!(
        "link set lo up\n\
         addr add {INTERNET_IP}/24 dev {UPLINK}\n\
         link set {UPLINK} up\n\
         route add {POD_CIDR} via {NODE_OUTSIDE_IP}\n"
    )]
    .into_iter()
    .chain(others)
    .collect();
    ip(&commands.concat())?;
    OUTSIDE
        .iter()
        .map(|&(_, ip, port)| TcpListener::bind((ip, port)))
        .collect()
}

/// Runs `ip` in the calling thread's network namespace.
fn ip(commands: &str) -> io::Result<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .env("PATH", SYSTEM_PATH)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        io::Write::write_all(&mut stdin, commands.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "`ip`: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}

/// One of the system's programs.
pub(super) fn tool(program: &str, arguments: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).env("PATH", SYSTEM_PATH);
    command
}
