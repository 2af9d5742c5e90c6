//! A way to a gateway on which answers get lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{self, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Larger than any answer of a gateway to an app.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// A proxy in front of a gateway. It hands on all requests and loses some answers, with the connection. Ends when dropped.
#[derive(Debug)]
pub struct Lossy {
    /// Where it listens.
    pub address: SocketAddr,
    losses: Arc<Losses>,
    serving: JoinHandle<()>,
}

#[derive(Debug)]
struct Losses {
    every: usize,
    answers: AtomicUsize,
    left: AtomicUsize,
    max: usize,
}

impl Lossy {
    /// Loses every so many-th answer, and no more than `max` in all.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn to(gateway: SocketAddr, every: usize, max: usize) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let losses =
            Arc::new(Losses { every, answers: AtomicUsize::new(0), left: AtomicUsize::new(max), max });
        let counted = Arc::clone(&losses);
        let serving = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let losses = Arc::clone(&counted);
                // Who is cut off notices by itself.
                tokio::spawn(async move {
                    let _ = hand_on(client, gateway, &losses).await;
                });
            }
        });
        Ok(Self { address, losses, serving })
    }

    /// How many answers were lost.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.losses.max - self.losses.left.load(Ordering::Relaxed)
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Losses {
    /// Whether this answer gets lost.
    fn next(&self) -> bool {
        let is_its_turn = (self.answers.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(self.every);
        let one_less = |left: usize| left.checked_sub(1);
        is_its_turn && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }
}

/// One connection. An answer is what comes from the gateway at once.
async fn hand_on(client: TcpStream, gateway: SocketAddr, losses: &Losses) -> io::Result<()> {
    let gateway = TcpStream::connect(gateway).await?;
    client.set_nodelay(true)?;
    gateway.set_nodelay(true)?;
    let (mut requests, mut to_client) = client.into_split();
    let (mut answers, mut to_gateway) = gateway.into_split();
    let answered = async {
        let mut answer = vec![0; ANSWER_BYTES_MAX];
        loop {
            let length = answers.read(&mut answer).await?;
            if length == 0 || losses.next() {
                return io::Result::Ok(());
            }
            to_client.write_all(&answer[..length]).await?;
        }
    };
    tokio::select! {
        end = io::copy(&mut requests, &mut to_gateway) => end.map(|_| ()),
        end = answered => end,
    }
}
