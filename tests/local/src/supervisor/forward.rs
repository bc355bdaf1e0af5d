//! Makes a port of the stack's loopback, or a service of its cluster, reachable at one number on the
//! loopback of both sides, so that one URL is valid inside and outside.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use tokio::net::TcpStream;

/// A port of the host's loopback.
pub(super) struct HostPort {
    number: u16,
    listeners: Vec<TcpListener>,
}

impl HostPort {
    /// Takes a free one. Must be called in the host's network namespace; the sockets stay there.
    pub(super) fn take() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let number = listener.local_addr()?.port();
        let mut listeners = vec![listener];
        // `localhost` is the IPv6 address for some clients. Not every machine has one.
        listeners.extend(TcpListener::bind((Ipv6Addr::LOCALHOST, number)));
        for listener in &listeners {
            listener.set_nonblocking(true)?;
        }
        Ok(Self { number, listeners })
    }

    pub(super) fn number(&self) -> u16 {
        self.number
    }

    /// Forwards to the same port of this process's own network namespace until the runtime ends.
    pub(super) fn forward(self) -> io::Result<()> {
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, self.number));
        self.forward_to(server)
    }

    /// Forwards to a service of the cluster until the runtime ends, from the same port of this
    /// process's own network namespace, too.
    pub(super) fn forward_to_service(mut self, service: SocketAddr) -> io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.number))?;
        listener.set_nonblocking(true)?;
        self.listeners.push(listener);
        self.forward_to(service)
    }

    fn forward_to(self, server: SocketAddr) -> io::Result<()> {
        for listener in self.listeners {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::spawn(async move {
                loop {
                    match listener.accept().await {
                        Ok((client, _)) => {
                            tokio::spawn(pass(client, server));
                        }
                        // Out of file descriptors, most likely: it passes.
                        Err(error) => {
                            eprintln!("forwarding to {server}: {error}");
                            tokio::task::yield_now().await;
                        }
                    }
                }
            });
        }
        Ok(())
    }
}

async fn pass(mut client: TcpStream, server: SocketAddr) {
    // A client whose server is not there yet sees its connection closed, as without a forwarder.
    let Ok(mut server) = TcpStream::connect(server).await else {
        return;
    };
    // Small answers would otherwise wait for an acknowledgement.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    // Either side may end a connection as it likes; that is not the forwarder's business.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}
