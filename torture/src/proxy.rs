//! The proxy of one link: a TCP relay on loopback that does to connections what bad networks do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

/// Bytes read at once: the smallest amount that is carried, held or lost.
const CHUNK: usize = 16 << 10;
/// How long a connection works before any reply of it can be lost: long enough to log in.
const REPLY_LOST_AFTER: Duration = Duration::from_millis(400);

/// The direction of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    There,
    /// Back.
    Back,
}

/// What the proxy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// It relays.
    #[default]
    Pass,
    /// Connections are reset, new ones at once.
    Cut,
    /// Connections stay open and nothing is carried; what was sent meanwhile comes later.
    Silent,
    /// Each chunk is delayed, and only so many bytes a second get through.
    Slow {
        /// Before a chunk goes on.
        delay: Duration,
        /// Bytes per second, of each connection and way.
        rate: u32,
    },
    /// What is sent this way vanishes. A connection that lost something is reset when the trouble is over.
    Lossy(Way),
    /// A request that holds these bytes arrives; then the connection is reset in place of the reply. With no bytes it is
    /// any request, once the connection has worked for some tenths of a second.
    ReplyLost(&'static [u8]),
    /// Each connection is reset when it has carried so many more bytes this way; the last of them arrive.
    CutAfter(Way, u64),
}

/// What a proxy has done, counted since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that were accepted.
    pub opened: u64,
    /// Connections reset by [`Mode::Cut`] or [`Mode::CutAfter`], new ones included.
    pub cut: u64,
    /// Chunks held by [`Mode::Silent`].
    pub held: u64,
    /// Chunks delayed by [`Mode::Slow`].
    pub slowed: u64,
    /// Bytes lost by [`Mode::Lossy`].
    pub lost: u64,
    /// Connections reset by [`Mode::ReplyLost`] in place of a reply.
    pub replies_lost: u64,
}

impl Counts {
    /// What was done since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            opened: self.opened - before.opened,
            cut: self.cut - before.cut,
            held: self.held - before.held,
            slowed: self.slowed - before.slowed,
            lost: self.lost - before.lost,
            replies_lost: self.replies_lost - before.replies_lost,
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    opened: AtomicU64,
    cut: AtomicU64,
    held: AtomicU64,
    slowed: AtomicU64,
    lost: AtomicU64,
    replies_lost: AtomicU64,
}

/// A running proxy. When it is dropped it ends, with all its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    counters: Arc<Counters>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    /// A proxy of a server on loopback, which need not be there yet.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("no port for a proxy")?;
        let address = listener.local_addr()?;
        let (mode, watching) = watch::channel(Mode::Pass);
        let counters = Arc::<Counters>::default();
        let task = tokio::spawn(accept(listener, target, watching, Arc::clone(&counters)));
        Ok(Self { address, mode, counters, _task: AbortOnDropHandle::new(task) })
    }

    /// Where clients are to connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it does, from now on and to all connections.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// What it has done.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        Counts {
            opened: count(&counters.opened),
            cut: count(&counters.cut),
            held: count(&counters.held),
            slowed: count(&counters.slowed),
            lost: count(&counters.lost),
            replies_lost: count(&counters.replies_lost),
        }
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    mode: watch::Receiver<Mode>,
    counters: Arc<Counters>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else {
                    // Out of files: some connection has to end first.
                    sleep(Duration::from_millis(20)).await;
                    continue;
                };
                counters.opened.fetch_add(1, Ordering::Relaxed);
                connections.spawn(relay(client, target, mode.clone(), Arc::clone(&counters)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Why a connection is reset.
struct Reset;

async fn relay(
    mut client: TcpStream,
    target: SocketAddr,
    mut mode: watch::Receiver<Mode>,
    counters: Arc<Counters>,
) {
    if *mode.borrow() == Mode::Cut {
        counters.cut.fetch_add(1, Ordering::Relaxed);
        return reset(&client);
    }
    let Ok(mut server) = TcpStream::connect(target).await else { return reset(&client) };
    // Best effort: without it the link is only slower.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let connection = Connection {
        counters: &counters,
        opened: Instant::now(),
        awaited: AtomicBool::new(false),
        lossy: AtomicBool::new(false),
    };
    let relayed = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let there = connection.carry(from_client, to_server, Way::There, mode.clone());
        let back = connection.carry(from_server, to_client, Way::Back, mode.clone());
        let carried = async { tokio::try_join!(there, back).map(drop) };
        let cut = async {
            // An error is the end of the proxy.
            let _ = mode.wait_for(|mode| *mode == Mode::Cut).await;
            counters.cut.fetch_add(1, Ordering::Relaxed);
        };
        tokio::select! {
            biased;
            () = cut => Err(Reset),
            carried = carried => carried,
        }
    };
    if relayed.is_err() {
        reset(&client);
        reset(&server);
    }
}

/// The other side shall see a reset and no orderly end. A connection that is gone already needs none.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

/// What of a chunk goes on.
struct Passed {
    /// Its first bytes.
    bytes: usize,
    /// Whether the connection ends with them.
    last: bool,
}

/// What both directions of a connection share.
struct Connection<'a> {
    counters: &'a Counters,
    opened: Instant,
    /// A request went there whose reply is to be lost.
    awaited: AtomicBool,
    /// Some of its bytes vanished.
    lossy: AtomicBool,
}

impl Connection<'_> {
    /// Carries bytes in one direction until the sender has ended; then ends the receiver's side too.
    async fn carry(
        &self,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
        way: Way,
        mut mode: watch::Receiver<Mode>,
    ) -> Result<(), Reset> {
        let mut buffer = vec![0; CHUNK];
        let mut carried = 0_u64;
        loop {
            let read = tokio::select! {
                read = from.read(&mut buffer) => read.map_err(|_| Reset)?,
                changed = mode.changed() => {
                    changed.map_err(|_| Reset)?;
                    carried = 0;
                    self.keep_whole(*mode.borrow_and_update())?;
                    continue;
                }
            };
            if read == 0 {
                // The other way may still have something to carry.
                return to.shutdown().await.map_err(|_| Reset);
            }
            let passed = self.pass(&buffer[..read], way, carried, &mut mode).await?;
            to.write_all(&buffer[..passed.bytes]).await.map_err(|_| Reset)?;
            carried += passed.bytes as u64;
            if passed.last {
                self.counters.cut.fetch_add(1, Ordering::Relaxed);
                return Err(Reset);
            }
        }
    }

    /// Once what vanishes is over, nobody could make sense of the rest.
    fn keep_whole(&self, mode: Mode) -> Result<(), Reset> {
        if self.lossy.load(Ordering::Relaxed) && !matches!(mode, Mode::Lossy(_)) {
            Err(Reset)
        } else {
            Ok(())
        }
    }

    /// Waits as long as the trouble asks for. Returns what of the chunk goes on, when `carried` bytes have before it.
    async fn pass(
        &self,
        chunk: &[u8],
        way: Way,
        carried: u64,
        mode: &mut watch::Receiver<Mode>,
    ) -> Result<Passed, Reset> {
        let counters = self.counters;
        let count = |counter: &AtomicU64, by: usize| counter.fetch_add(by as u64, Ordering::Relaxed);
        let mut noticed = false;
        loop {
            let now = *mode.borrow_and_update();
            self.keep_whole(now)?;
            match now {
                Mode::Silent => {
                    if !std::mem::replace(&mut noticed, true) {
                        count(&counters.held, 1);
                    }
                    mode.changed().await.map_err(|_| Reset)?;
                    continue;
                }
                Mode::Slow { delay, rate } => {
                    let throttled =
                        Duration::from_secs(1).mul_f64(chunk.len() as f64 / f64::from(rate.max(1)));
                    count(&counters.slowed, 1);
                    tokio::select! {
                        () = sleep(delay + throttled) => {}
                        // Whatever comes next, this chunk was slow enough.
                        changed = mode.changed() => { changed.map_err(|_| Reset)?; continue; }
                    }
                }
                Mode::Lossy(lossy) if lossy == way => {
                    self.lossy.store(true, Ordering::Relaxed);
                    count(&counters.lost, chunk.len());
                    return Ok(Passed { bytes: 0, last: false });
                }
                Mode::ReplyLost(of) if way == Way::There => {
                    let asked = chunk.windows(of.len().max(1)).any(|bytes| of.is_empty() || bytes == of);
                    if asked && (!of.is_empty() || self.opened.elapsed() >= REPLY_LOST_AFTER) {
                        self.awaited.store(true, Ordering::Relaxed);
                    }
                }
                Mode::ReplyLost(_) if self.awaited.load(Ordering::Relaxed) => {
                    count(&counters.replies_lost, 1);
                    return Err(Reset);
                }
                Mode::CutAfter(cut, bytes) if cut == way => {
                    let left = usize::try_from(bytes.saturating_sub(carried)).unwrap_or(usize::MAX);
                    return Ok(Passed { bytes: chunk.len().min(left), last: chunk.len() >= left });
                }
                Mode::Pass | Mode::Cut | Mode::Lossy(_) | Mode::ReplyLost(_) | Mode::CutAfter(..) => {}
            }
            return Ok(Passed { bytes: chunk.len(), last: false });
        }
    }
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
