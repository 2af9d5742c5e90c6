//! Each trouble, shown on an echo server.

use milepost_tests::eventually;
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(10);
/// Long enough that what is to come would have come.
const NOT_SOON: Duration = Duration::from_millis(300);

/// An echo server behind a proxy.
struct Echo {
    proxy: Proxy,
    received: Arc<AtomicU64>,
    _server: AbortOnDropHandle<()>,
}

impl Echo {
    async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let proxy = Proxy::start(listener.local_addr()?).await?;
        let received = Arc::<AtomicU64>::default();
        let counter = Arc::clone(&received);
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let counter = Arc::clone(&counter);
                tokio::spawn(async move {
                    let mut buffer = vec![0; CHUNK];
                    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                        counter.fetch_add(read as u64, Ordering::Relaxed);
                        if stream.write_all(&buffer[..read]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Ok(Self { proxy, received, _server: AbortOnDropHandle::new(server) })
    }

    async fn connect(&self) -> anyhow::Result<TcpStream> {
        Ok(TcpStream::connect(self.proxy.address()).await?)
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// Sends bytes and reads as many.
async fn echoed(stream: &mut TcpStream, bytes: &[u8]) -> anyhow::Result<()> {
    stream.write_all(bytes).await?;
    let mut back = vec![0; bytes.len()];
    timeout(SOON, stream.read_exact(&mut back)).await??;
    assert_eq!(back, bytes);
    Ok(())
}

async fn is_reset(stream: &mut TcpStream) -> anyhow::Result<bool> {
    let read = timeout(SOON, stream.read_u8()).await?;
    Ok(read.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset))
}

async fn hears_nothing(stream: &mut TcpStream) -> bool {
    timeout(NOT_SOON, stream.read_u8()).await.is_err()
}

#[tokio::test]
async fn what_passes_passes_both_ways_and_an_end_is_passed_on() -> anyhow::Result<()> {
    let echo = Echo::start().await?;
    let mut stream = echo.connect().await?;
    echoed(&mut stream, &[7; 100_000]).await?;
    stream.shutdown().await?;
    let end = timeout(SOON, stream.read_u8()).await?.unwrap_err();
    assert_eq!(end.kind(), std::io::ErrorKind::UnexpectedEof);
    assert_eq!(echo.proxy.counts(), Counts { opened: 1, ..Counts::default() });
    Ok(())
}

#[tokio::test]
async fn a_cut_link_resets_its_connections_and_new_ones_until_it_is_healed() -> anyhow::Result<()> {
    let echo = Echo::start().await?;
    let mut stream = echo.connect().await?;
    echoed(&mut stream, b"before").await?;
    echo.proxy.set(Mode::Cut);
    assert!(is_reset(&mut stream).await?);
    assert!(is_reset(&mut echo.connect().await?).await?);
    assert_eq!(echo.proxy.counts().cut, 2);
    echo.proxy.set(Mode::Pass);
    echoed(&mut echo.connect().await?, b"after").await
}

#[tokio::test]
async fn a_silent_link_keeps_what_was_sent_for_later() -> anyhow::Result<()> {
    let echo = Echo::start().await?;
    let mut stream = echo.connect().await?;
    echoed(&mut stream, b"before").await?;
    echo.proxy.set(Mode::Silent);
    stream.write_all(b"later").await?;
    assert!(hears_nothing(&mut stream).await);
    assert_eq!((echo.proxy.counts().held, echo.received()), (1, 6));
    echo.proxy.set(Mode::Pass);
    let mut back = [0; 5];
    timeout(SOON, stream.read_exact(&mut back)).await??;
    assert_eq!(&back, b"later");
    Ok(())
}

#[tokio::test]
async fn a_slow_link_delays_and_throttles() -> anyhow::Result<()> {
    let echo = Echo::start().await?;
    let mut stream = echo.connect().await?;
    echo.proxy.set(Mode::Slow { delay: Duration::from_millis(50), rate: 100_000 });
    let begun = Instant::now();
    echoed(&mut stream, &[7; 20_000]).await?;
    // There and back, 200 ms each by the rate; and twice the delay.
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    assert!(echo.proxy.counts().slowed >= 2);
    Ok(())
}

#[tokio::test]
async fn a_lossy_link_loses_one_way_and_a_connection_with_a_gap_does_not_go_on() -> anyhow::Result<()> {
    for (way, received) in [(Way::There, 0), (Way::Back, 4)] {
        let echo = Echo::start().await?;
        let mut stream = echo.connect().await?;
        echo.proxy.set(Mode::Lossy(way));
        stream.write_all(b"lost").await?;
        eventually(SOON, "it is lost", async || Ok((echo.proxy.counts().lost == 4).then_some(()))).await?;
        assert_eq!(echo.received(), received);
        echo.proxy.set(Mode::Pass);
        assert!(is_reset(&mut stream).await?);
        echoed(&mut echo.connect().await?, b"after").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_lost_reply_is_one_to_the_request_named_and_the_request_has_arrived() -> anyhow::Result<()> {
    let echo = Echo::start().await?;
    let mut stream = echo.connect().await?;
    echo.proxy.set(Mode::ReplyLost(b"COMMIT"));
    echoed(&mut stream, b"BEGIN; COMMI").await?;
    assert_eq!(echo.received(), 12);
    stream.write_all(b"-- COMMIT").await?;
    assert!(is_reset(&mut stream).await?);
    assert_eq!((echo.received(), echo.proxy.counts().replies_lost), (21, 1));
    Ok(())
}

#[tokio::test]
async fn any_reply_is_lost_of_a_connection_that_has_worked_for_a_while() -> anyhow::Result<()> {
    let echo = Echo::start().await?;
    echo.proxy.set(Mode::ReplyLost(b""));
    let mut stream = echo.connect().await?;
    let begun = Instant::now();
    let mut worked = 0;
    while stream.write_all(b"x").await.is_ok() && timeout(SOON, stream.read_u8()).await?.is_ok() {
        worked += 1;
        assert!(begun.elapsed() < SOON);
    }
    assert!(worked > 0 && begun.elapsed() >= REPLY_LOST_AFTER);
    assert_eq!((echo.received(), echo.proxy.counts().replies_lost), (worked + 1, 1));
    Ok(())
}

#[tokio::test]
async fn a_connection_is_cut_after_so_many_bytes_one_way_which_arrive() -> anyhow::Result<()> {
    let echo = Echo::start().await?;
    let mut stream = echo.connect().await?;
    echo.proxy.set(Mode::CutAfter(Way::There, 5));
    echoed(&mut stream, b"abc").await?;
    stream.write_all(b"defgh").await?;
    eventually(SOON, "it is cut", async || Ok((echo.proxy.counts().cut == 1).then_some(()))).await?;
    eventually(SOON, "five bytes arrive", async || Ok((echo.received() == 5).then_some(()))).await?;
    // What the server sent back may still be read.
    let mut rest = Vec::new();
    assert!(timeout(SOON, stream.read_to_end(&mut rest)).await?.is_err(), "{rest:?}");
    Ok(())
}

#[tokio::test]
async fn without_its_server_a_link_resets() -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let target = listener.local_addr()?;
    drop(listener);
    let proxy = Proxy::start(target).await?;
    assert!(is_reset(&mut TcpStream::connect(proxy.address()).await?).await?);
    Ok(())
}
