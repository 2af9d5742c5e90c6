//! A command that asks the program's own operators' pages whether it is well: for containers, which may have no shell and no curl.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

/// Longest time to connect, to send, and to wait for more of the answer.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Most of an answer that is read, bytes.
const ANSWER_MAX: u64 = 64 * 1024;

/// What else the program's binary does.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Ask the program that runs with the same OPS_LISTEN whether it is ready. Ends with 0 if it is, and with 1 if not.
    Healthcheck(Healthcheck),
}

/// What is asked.
#[derive(Debug, Clone, Args)]
pub struct Healthcheck {
    /// Ask whether it is alive, which it also is while it waits for a server.
    #[arg(long)]
    pub live: bool,
}

impl Healthcheck {
    /// Asks, and prints the answer.
    #[must_use]
    pub fn run(&self, ops_listen: SocketAddr) -> ExitCode {
        let path = if self.live { "/livez" } else { "/readyz" };
        match ask(here(ops_listen), path) {
            Ok(answer) => {
                println!("{}", answer.body.trim_end());
                if answer.is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            Err(error) => {
                eprintln!("error: {ops_listen} does not answer: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

struct Answer {
    is_ok: bool,
    body: String,
}

/// Where a program that listens on all addresses is reached from here.
fn here(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    address
}

fn ask(address: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // HTTP/1.0: the answer is not in chunks, and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let status = head.split(' ').nth(1).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Answer { is_ok: status == "200", body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_listens_on_all_addresses_is_asked_on_loopback() {
        for (listens, asked) in
            [("0.0.0.0:81", "127.0.0.1:81"), ("[::]:81", "[::1]:81"), ("10.0.0.7:81", "10.0.0.7:81")]
        {
            assert_eq!(here(listens.parse().unwrap()).to_string(), asked);
        }
    }
}
