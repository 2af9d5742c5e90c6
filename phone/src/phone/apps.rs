//! Phone apps: one request at a time, in the order of the points, and each until it has success.

use std::future::Future;
use std::io::{self, Read};
use std::iter::Peekable;
use std::time::SystemTime;

use super::{Delivery, Event, Last, Operation, Phone, Watcher};
use crate::answer::Answer;
use crate::app::{App, GivesUp, Message, Round};
use crate::point::Point;
use crate::retry;
use crate::summary::{Failure, Outcome, Summary};
use crate::track::Track;

/// An app on a phone.
#[derive(Clone, Copy, Debug)]
pub struct Installed<'a> {
    /// Which one.
    pub app: App,
    /// What it calls its device.
    pub device_id: &'a str,
    /// How many points gather between two requests, at least 1. Of the apps only Overland sends more than one at a time.
    pub gathering: usize,
}

impl Phone {
    /// Plays a track as an app does, and then all of it again if `twice`, until `stop` ends. Of the settings `concurrency` and
    /// `wait_secs` are not used. `watcher` is called as things happen and must not block.
    ///
    /// Where a request has no success within the attempts and the time allowed, an app that would go on for ever is stopped:
    /// that is the last failure of the summary, and what is behind it is not sent. [`Summary::unfinished`] counts points.
    pub async fn play_app<R: Read, O: FnMut() -> io::Result<R>>(
        &self,
        installed: Installed<'_>,
        track: &mut Track<O>,
        twice: bool,
        stop: impl Future<Output = ()>,
        watcher: impl Fn(Event<'_>) + Sync,
    ) -> Summary {
        let rounds = if twice { &[Round::First, Round::Again][..] } else { &[Round::First] };
        let to_bring = track.found().points * rounds.len();
        let summary = Summary::default();
        let mut play = Play { phone: self, installed, watcher: &watcher, summary, brought: 0 };
        let is_stuck = tokio::select! {
            is_stuck = play.rounds(rounds, track) => is_stuck,
            () = stop => false,
        };
        let Play { mut summary, brought, .. } = play;
        summary.unfinished = if is_stuck { 0 } else { to_bring.saturating_sub(brought) };
        summary
    }
}

struct Play<'a> {
    phone: &'a Phone,
    installed: Installed<'a>,
    watcher: Watcher<'a>,
    summary: Summary,
    /// Points that have had success or were given up, in each round.
    brought: usize,
}

/// A request that had no success, and how often it was tried.
struct Stuck {
    attempts: u32,
    last: Last,
}

impl Play<'_> {
    /// Whether the app is stuck, and keeps the rest.
    async fn rounds<R: Read, O: FnMut() -> io::Result<R>>(
        &mut self,
        rounds: &[Round],
        track: &mut Track<O>,
    ) -> bool {
        for round in rounds {
            let end = match self.installed.app.gives_up(*round) {
                GivesUp::File => self.file(*round, track).await,
                GivesUp::Never | GivesUp::Point { .. } => self.pass(*round, track.points()).await,
            };
            if let Err(stuck) = end {
                self.finish(Outcome { failure: Some(stuck.into()), ..self.outcome() });
                return true;
            }
        }
        false
    }

    /// Sends all lines of a file, from the first one again when one has no success.
    async fn file<R: Read, O: FnMut() -> io::Result<R>>(
        &mut self,
        round: Round,
        track: &mut Track<O>,
    ) -> Result<(), Stuck> {
        let settings = &self.phone.settings;
        let mut backoff = retry::backoff(settings.backoff_min, settings.backoff_max);
        let brought = self.brought;
        let mut attempts = 0;
        loop {
            attempts += 1;
            self.brought = brought;
            let Err(Stuck { last, .. }) = self.pass(round, track.points()).await else { return Ok(()) };
            if attempts >= settings.attempts_max {
                return Err(Stuck { attempts, last });
            }
            let pause = self.phone.pause(&mut backoff, &last);
            (self.watcher)(Event::Pausing { reason: &last.reason, pause });
            tokio::time::sleep(pause).await;
        }
    }

    /// Sends points until one request has no success, unless the app gives up no more than that.
    async fn pass(&mut self, round: Round, points: impl Iterator<Item = Point>) -> Result<(), Stuck> {
        let mut points = points.peekable();
        while points.peek().is_some() {
            let (count, delivery) = self.send(round, &mut points).await;
            let stuck = match delivery {
                Delivery { attempts, end: Err(last) } => Some(Stuck { attempts, last }),
                Delivery { end: Ok(_), .. } => None,
            };
            let gives_up_point = matches!(self.installed.app.gives_up(round), GivesUp::Point { .. });
            match stuck {
                Some(stuck) if !gives_up_point => return Err(stuck),
                stuck => {
                    let locations = if stuck.is_some() { 0 } else { count as u64 };
                    self.brought += count;
                    self.finish(Outcome { locations, failure: stuck.map(Failure::from), ..self.outcome() });
                }
            }
        }
        Ok(())
    }

    /// Sends the next request, until it has success, and counts what was sent. Says how many points it held in the end: to a
    /// batch that fails what has gathered since is added.
    async fn send(
        &mut self,
        round: Round,
        points: &mut Peekable<impl Iterator<Item = Point>>,
    ) -> (usize, Delivery) {
        let Installed { app, device_id: device, gathering } = self.installed;
        let settings = &self.phone.settings;
        let points_max = app.points_max(gathering);
        let gathering = match round {
            Round::First => gathering,
            // All of it is in the queue.
            Round::Again => points_max,
        };
        let (made_at, id) = (now(), rand::random());
        let mut waiting = Vec::new();
        let mut sent = 0;
        let request = || {
            waiting.extend(points.by_ref().take(gathering.min(points_max - waiting.len())));
            sent += waiting.len() as u64;
            app.request(&Message { key: &settings.api_key, device, points: &waiting, round, made_at, id })
        };
        let attempts_max = match app.gives_up(round) {
            GivesUp::Never => settings.attempts_max,
            GivesUp::Point { attempts } => settings.attempts_max.min(attempts),
            GivesUp::File => 1,
        };
        let gateway_first = usize::try_from(self.summary.attempts).unwrap_or_default();
        let verdict = |answer: &Answer| app.verdict(answer);
        let operation = Operation { request, verdict, attempts_max, gateway_first };
        let delivery = self.phone.deliver(operation, self.watcher).await;
        self.summary.attempts += u64::from(delivery.attempts);
        self.summary.sent += sent;
        (waiting.len(), delivery)
    }

    /// Of the next request. Attempts and what was sent are counted as they are made.
    fn outcome(&self) -> Outcome {
        Outcome { ordinal: usize::try_from(self.summary.uploads).unwrap_or_default(), ..Outcome::default() }
    }

    fn finish(&mut self, outcome: Outcome) {
        (self.watcher)(Event::Finished(&outcome));
        self.summary.add(outcome);
    }
}

impl From<Stuck> for Failure {
    fn from(Stuck { attempts, last }: Stuck) -> Self {
        Self::GaveUp { attempts, last: last.reason }
    }
}

/// The phone's clock, in seconds since 1970.
fn now() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "a phone has no other clock")]
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX)
}
