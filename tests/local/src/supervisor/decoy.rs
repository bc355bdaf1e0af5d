//! Listeners that stand where an agent must not get, so that a test of that can fail.

use std::{io, net::TcpListener, path::Path};

use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Answers every HTTP request with the decoy's name, and notes it in `log`.
pub(crate) async fn listen(
    name: &'static str,
    listener: TcpListener,
    log: &Path,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let log = File::options().create(true).append(true).open(log).await?;
    tokio::spawn(async move {
        while let Ok((client, peer)) = listener.accept().await {
            let log = log.try_clone().await;
            tokio::spawn(async move {
                if let Ok(mut log) = log {
                    let line = format!("{peer} reached the decoy for {name} at {address}\n");
                    // The answer matters more than its record.
                    let _ = log.write_all(line.as_bytes()).await;
                    let _ = log.flush().await;
                }
                let _ = answer(client, name).await;
            });
        }
    });
    Ok(())
}

async fn answer(mut client: TcpStream, name: &str) -> io::Result<()> {
    // A closed connection with unread bytes would be a reset, which looks like a refusal.
    let mut request = [0; 4096];
    let _ = client.read(&mut request).await?;
    let body = format!("decoy: {name}\n");
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    client.write_all(answer.as_bytes()).await?;
    client.shutdown().await
}
