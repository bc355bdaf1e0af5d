//! What the tests' pods run: one static program that waits, serves or dials.
//!
//! It is compiled by the test itself, so it knows nothing but the standard library.

use std::{
    env, fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::exit,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.split_first() {
        None => loop {
            thread::park();
        },
        Some((command, ports)) if command == "serve" => serve(ports),
        Some((command, targets)) if command == "dial" => dial(targets),
        Some((command, targets)) if command == "probe-and-serve" => {
            probe(targets);
            serve(&["8080".to_owned()]);
        }
        Some((command, files)) if command == "print" => {
            for file in files {
                print!("{}", fs::read_to_string(file).unwrap_or_default());
            }
        }
        Some((command, _)) => {
            eprintln!("unknown command {command}");
            exit(2);
        }
    }
}

/// Answers every HTTP request at each port with 200.
fn serve(ports: &[String]) {
    let listeners: Vec<_> = ports
        .iter()
        .map(|port| TcpListener::bind(format!("0.0.0.0:{port}")).expect("the port is free"))
        .map(|listener| {
            thread::spawn(move || {
                for mut client in listener.incoming().flatten() {
                    let _ = client.read(&mut [0; 1024]);
                    let _ = client.write_all(
                        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                    );
                }
            })
        })
        .collect();
    for listener in listeners {
        let _ = listener.join();
    }
}

/// Dials each target without a pause for some seconds, then prints whether it ever got through.
fn probe(arguments: &[String]) {
    let Some((seconds, targets)) = arguments.split_first() else {
        return;
    };
    let seconds = seconds.parse().expect("the first argument is a number");
    let end = Instant::now() + Duration::from_secs(seconds);
    let attempts: Vec<_> = targets
        .iter()
        .map(|target| {
            let address: SocketAddr = target.parse().expect("targets are addresses");
            thread::spawn(move || {
                let mut open = false;
                while Instant::now() < end {
                    // Short: a lost packet must not hide what is open a moment later.
                    open |= TcpStream::connect_timeout(&address, Duration::from_millis(20)).is_ok();
                    // A refusal comes at once, and this is not a load test.
                    thread::sleep(Duration::from_millis(1));
                }
                open
            })
        })
        .collect();
    print_outcomes(attempts);
}

/// Prints `open` or `closed` for each target. All are dialled at once, since a closed one takes
/// its time.
fn dial(targets: &[String]) {
    let attempts: Vec<_> = targets
        .iter()
        .map(|target| {
            let address: SocketAddr = target.parse().expect("targets are addresses");
            thread::spawn(move || {
                TcpStream::connect_timeout(&address, Duration::from_millis(1500)).is_ok()
            })
        })
        .collect();
    print_outcomes(attempts);
}

fn print_outcomes(attempts: Vec<JoinHandle<bool>>) {
    for attempt in attempts {
        match attempt.join() {
            Ok(true) => println!("open"),
            _ => println!("closed"),
        }
    }
}
