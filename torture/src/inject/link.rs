//! Links that are cut, silent, slow, lossy, or lose replies.

use std::time::Duration;

use milepost_tests::eventually;
use tokio::time::sleep;

use super::SIGN;
use crate::fault::{Link, Trouble};
use crate::proxy::{Counts, Mode, Way};
use crate::system::System;

/// What a slow link adds to each chunk.
const DELAY: Duration = Duration::from_millis(60);
/// What a slow link carries, bytes per second.
const RATE: u32 = 100_000;

impl System {
    pub(super) async fn trouble(
        &self,
        link: Link,
        trouble: Trouble,
        lasts: Duration,
    ) -> anyhow::Result<String> {
        let proxy = self.link(link);
        let before = proxy.counts();
        // As good as random, and the same for the same seed.
        let millis = u64::from(lasts.subsec_millis());
        let way = if millis % 2 == 0 { Way::There } else { Way::Back };
        match trouble {
            Trouble::Cut => {
                // First in the middle of something, then before it begins.
                proxy.set(Mode::CutAfter(way, millis));
                sleep(lasts / 3).await;
                proxy.set(Mode::Cut);
                sleep(lasts * 2 / 3).await;
            }
            _ => {
                proxy.set(mode(link, trouble, way));
                sleep(lasts).await;
            }
        }
        let seen = eventually(SIGN, "the proxy has something to do", async || {
            let counts = proxy.counts().since(before);
            Ok((done(trouble, counts).0 > 0).then_some(counts))
        });
        let seen = seen.await;
        proxy.set(Mode::Pass);
        let (count, what) = done(trouble, seen?);
        Ok(format!("{count} {what}"))
    }
}

fn mode(link: Link, trouble: Trouble, way: Way) -> Mode {
    match trouble {
        Trouble::Cut => Mode::Cut,
        Trouble::Silent => Mode::Silent,
        Trouble::Slow => Mode::Slow { delay: DELAY, rate: RATE },
        Trouble::Lossy => Mode::Lossy(way),
        // The one whose loss leaves a client in doubt.
        Trouble::ReplyLost if link == Link::ConsumerPostgres => Mode::ReplyLost(b"COMMIT"),
        Trouble::ReplyLost => Mode::ReplyLost(b""),
    }
}

/// How often the trouble was met, and what that was.
fn done(trouble: Trouble, counts: Counts) -> (u64, &'static str) {
    match trouble {
        Trouble::Cut => (counts.cut, "connections cut"),
        Trouble::Silent => (counts.held, "chunks held"),
        Trouble::Slow => (counts.slowed, "chunks slowed"),
        Trouble::Lossy => (counts.lost, "bytes lost"),
        Trouble::ReplyLost => (counts.replies_lost, "replies lost"),
    }
}
