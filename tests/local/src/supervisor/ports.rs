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
        if isolation == Isolation::Namespaces {
            // Or an outgoing connection could take one of them before its part listens.
            free.extend([aws, kube_api, slack]);
            let list: Vec<_> = free.iter().map(u16::to_string).collect();
            fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", list.join(","))?;
        }
        Ok(ports)
    }
}
