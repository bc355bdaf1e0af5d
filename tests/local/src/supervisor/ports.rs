//! Ports are chosen, never fixed, so that stacks run side by side.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener},
};

use super::Isolation;

/// Where the parts of one stack listen, and its forwarders, all on loopback.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) aws: u16,
    pub(crate) kube_api: u16,
    pub(crate) slack: u16,
    pub(crate) etcd: u16,
    pub(crate) etcd_peer: u16,
    pub(crate) controller_manager: u16,
    pub(crate) scheduler: u16,
    pub(crate) agent_sandbox_metrics: u16,
    pub(crate) agent_sandbox_health: u16,
    pub(crate) kwok: u16,
}

impl Ports {
    /// Adds what the parts need among themselves to the ports that the host sees.
    pub(super) fn choose(
        aws: u16,
        kube_api: u16,
        slack: u16,
        isolation: Isolation,
    ) -> io::Result<Self> {
        let seen_by_host = [aws, kube_api, slack];
        // In a network of its own nobody holds these yet: the kernel must not choose one of them below.
        reserve(isolation, &seen_by_host)?;
        // All are held until all are chosen, or one could be given out twice.
        let held = (0..7)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .collect::<io::Result<Vec<_>>>()?;
        let mut free = Vec::with_capacity(held.len());
        for listener in &held {
            free.push(listener.local_addr()?.port());
        }
        let &[
            etcd,
            etcd_peer,
            controller_manager,
            scheduler,
            agent_sandbox_metrics,
            agent_sandbox_health,
            kwok,
        ] = free.as_slice()
        else {
            return Err(io::Error::other("the wrong number of ports was chosen"));
        };
        let ports = Self {
            aws,
            kube_api,
            slack,
            etcd,
            etcd_peer,
            controller_manager,
            scheduler,
            agent_sandbox_metrics,
            agent_sandbox_health,
            kwok,
        };
        free.extend(seen_by_host);
        reserve(isolation, &free)?;
        Ok(ports)
    }
}

/// Keeps the kernel from choosing these ports by itself, as for an outgoing connection, before their
/// parts listen. Only where the network is the stack's own.
fn reserve(isolation: Isolation, ports: &[u16]) -> io::Result<()> {
    if isolation != Isolation::Namespaces {
        return Ok(());
    }
    let list: Vec<_> = ports.iter().map(u16::to_string).collect();
    fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", list.join(","))
}
