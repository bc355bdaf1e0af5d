//! Makes a port of the stack's loopback reachable at the same number on the host's, so that one URL
//! is valid on both sides.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, TcpListener},
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
        for listener in self.listeners {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let number = self.number;
            tokio::spawn(async move {
                loop {
                    match listener.accept().await {
                        Ok((client, _)) => {
                            tokio::spawn(pass(client, number));
                        }
                        // Out of file descriptors, most likely: it passes.
                        Err(error) => {
                            eprintln!("forwarding port {number}: {error}");
                            tokio::task::yield_now().await;
                        }
                    }
                }
            });
        }
        Ok(())
    }
}

async fn pass(mut client: TcpStream, port: u16) {
    // A client whose server is not there yet sees its connection closed, as without a forwarder.
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
        return;
    };
    // Small answers would otherwise wait for an acknowledgement.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    // Either side may end a connection as it likes; that is not the forwarder's business.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}
