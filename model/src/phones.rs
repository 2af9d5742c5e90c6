//! Phone apps, each with points to send, and the gateways between them and the journal.
//!
//! An app sends its points from the oldest on, and as long as it has not heard that they are safe, it sends them again and more
//! with them, to whichever gateway. A request goes on at its gateway whether the app still waits for it or not.

use milepost_gateway::answer::outcome::Unavailable;
use milepost_gateway::answer::safety::{self, Awaited, Known};
use milepost_shared::journal::answer::{self, KeyState};
use milepost_shared::journal::clock::JournalTime;

use crate::consumer::Consumer;
use crate::gateway::SKEWS;
use crate::journal::{TTL, Upload};
use crate::planted::PlantedBug;
use crate::point::{App, Fix, Point};
use crate::size::Size;
use crate::universe::Universe;

/// Which of the two consumers there could be runs.
const CONSUMER: usize = 1;

/// The apps, the requests, and what gateways remember.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Phones {
    /// How far each app is.
    pub apps: [Sending; 2],
    /// The points that each gateway remembers as acknowledged. It may forget them at any time, and so remembers for ever.
    pub recent: [[bool; Point::ALL.len()]; 2],
    /// The requests on their way. Their order says nothing.
    pub requests: Vec<Request>,
}

/// How far an app is. Numbers of points, of those it has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Sending {
    /// Those it has deleted, since it heard that they are safe.
    pub deleted: usize,
    /// Those it has sent; every further request holds them again, as far as they are not deleted.
    pub sent: usize,
    /// Those that were answered with success, whether it heard of that or not.
    pub safe: usize,
    /// How many requests it has sent.
    pub requests: usize,
}

/// A request at a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Request {
    /// The gateway's number.
    pub gateway: usize,
    /// Who sent it.
    pub app: App,
    /// Its points, and where they are.
    pub points: Vec<(Point, Stage)>,
    awaited: Awaited,
}

/// Where a point of a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// It need not be published.
    Known(Known),
    /// On its way to the journal.
    Published,
    /// In the journal. The acknowledgement is on its way back.
    Appended,
    /// In the journal, and the gateway knows.
    Acknowledged,
}

/// What a gateway can ask about the points of a request, besides what it has forgotten and what has not reached it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knows {
    /// Nothing.
    Nothing,
    /// What the journal has acknowledged a short while ago.
    Recent,
    /// The same, and all results, in its cache.
    Results,
    /// The same without the results, and the table.
    Table,
}

/// A step. Requests are numbered as they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A whole TTL passes.
    Pass,
    /// The consumer persists all that the journal holds.
    Persist,
    /// It emits what it has persisted.
    Emit,
    /// It crashes, and the next one begins.
    CrashConsumer,
    /// It emits, and crashes before anybody hears how far.
    EmitAndCrash,
    /// An app sends what it has up to a point.
    Send {
        /// Who.
        app: App,
        /// How many of its points, counting those that it has deleted.
        until: usize,
        /// To which gateway.
        gateway: usize,
        /// What that one knows.
        knows: Knows,
    },
    /// The journal takes a point of a request.
    Append(usize, usize),
    /// A gateway hears of that.
    Acknowledge(usize, usize),
    /// A gateway hears that a point of a request was not taken, or hears nothing in time, and answers 503. The point may be in
    /// the journal.
    Fail(usize),
    /// A gateway answers a request with success.
    Answer {
        /// Which.
        request: usize,
        /// Whether the app gets the answer, or sends again.
        arrives: bool,
    },
    /// A gateway crashes, and starts again with an empty memory.
    CrashGateway(usize),
}

impl Request {
    /// How it ends now, if it does.
    #[must_use]
    pub fn end(&self, planted: Option<PlantedBug>) -> Option<Result<(), Unavailable>> {
        let is_safe = |(_, stage): &(Point, Stage)| matches!(stage, Stage::Acknowledged);
        match planted {
            Some(PlantedBug::AnswerAtFirstAcknowledgement) if self.points.iter().any(is_safe) => Some(Ok(())),
            _ => self.awaited.end(),
        }
    }

    /// Whether one of its points is there.
    #[must_use]
    pub fn is_at(&self, stage: Stage) -> bool {
        self.points.iter().any(|(_, at)| *at == stage)
    }
}

impl Phones {
    /// What an app may send.
    fn sends(&self, app: App, most: usize) -> Vec<Step> {
        let Sending { deleted, sent, requests, .. } = self.apps[app as usize];
        let untils = (deleted + 1).max(sent)..=app.points().len();
        let mut steps = Vec::new();
        for until in untils.filter(|_| requests < most) {
            for gateway in 0..self.recent.len() {
                let all = [Knows::Nothing, Knows::Recent, Knows::Results, Knows::Table];
                steps.extend(all.map(|knows| Step::Send { app, until, gateway, knows }));
            }
        }
        steps
    }

    /// How a request may go on, in a journal that takes more records or not.
    fn goes_on(&self, number: usize, takes_records: bool) -> Vec<Step> {
        let next = |(point, (_, stage)): (usize, &(Point, Stage))| match stage {
            Stage::Published if takes_records => Some(Step::Append(number, point)),
            Stage::Appended => Some(Step::Acknowledge(number, point)),
            _ => None,
        };
        let points = self.requests[number].points.iter().enumerate();
        points.filter_map(next).chain([Step::Fail(number)]).collect()
    }

    /// The request that is to be answered with success, and its two answers.
    fn answers(&self, planted: Option<PlantedBug>) -> Option<[Step; 2]> {
        let ended = |request: &Request| matches!(request.end(planted), Some(Ok(())));
        let request = self.requests.iter().position(ended)?;
        Some([true, false].map(|arrives| Step::Answer { request, arrives }))
    }

    /// Which gateway is which does not matter, nor does the order of requests.
    fn put_in_order(&mut self) {
        self.requests.sort_by(|a, b| (a.gateway, a.app, &a.points).cmp(&(b.gateway, b.app, &b.points)));
        let of = |gateway: usize| {
            let requests = self.requests.iter().filter(move |request| request.gateway == gateway);
            (self.recent[gateway], requests.map(|request| (request.app, &request.points)).collect::<Vec<_>>())
        };
        if of(1) < of(0) {
            self.recent.swap(0, 1);
            self.requests.iter_mut().for_each(|request| request.gateway = 1 - request.gateway);
            self.requests.sort_by_key(|request| request.gateway);
        }
    }
}

impl Universe {
    /// Phones, gateways and a consumer, before anything has happened.
    #[must_use]
    pub fn with_phones() -> Self {
        let mut universe = Self::new();
        universe.consumers[CONSUMER] = Some(Consumer::new(0, 0));
        universe
    }

    /// What may happen next to points.
    #[must_use]
    pub fn steps(&self, size: &Size, planted: Option<PlantedBug>) -> Vec<Step> {
        // A success might as well be answered before whatever else happens: a crash in its place, or an answer that comes when the app
        // has sent again, is one lost.
        if let Some(answers) = self.phones.answers(planted) {
            return answers.to_vec();
        }
        let takes_records = self.journal.records().count() < size.points;
        // The first request is of the first app: what the two are called does not matter.
        let is_first = self.phones.apps.iter().all(|sending| sending.requests == 0);
        let apps = App::ALL.into_iter().zip(size.copies).take(if is_first { 1 } else { 2 });
        let mut steps: Vec<Step> = apps.flat_map(|(app, most)| self.phones.sends(app, most)).collect();
        let requests = 0..self.phones.requests.len();
        steps.extend(requests.flat_map(|number| self.phones.goes_on(number, takes_records)));
        steps.extend((0..self.phones.recent.len()).map(Step::CrashGateway));
        steps.push(Step::Persist);
        if size.losses {
            steps.extend([Step::Emit, Step::CrashConsumer, Step::EmitAndCrash]);
        }
        // The first record comes at the first moment.
        steps.extend((self.now.0 < size.until && self.journal.end() > 0).then_some(Step::Pass));
        steps
    }

    /// Something happens to points. `None` if it cannot.
    pub fn step(&mut self, step: Step, size: &Size, planted: Option<PlantedBug>) -> Option<()> {
        match step {
            Step::Pass => self.now = self.now.plus(TTL),
            Step::Persist => {
                self.transact(CONSUMER, self.journal.end(), planted)?;
                // What is only emitted again has nothing to commit.
                let _ = self.commit(CONSUMER, planted);
                if !size.losses {
                    self.emit_all(CONSUMER)?;
                }
            }
            Step::Emit => self.emit_all(CONSUMER)?,
            Step::CrashConsumer => self.assign(CONSUMER, self.group)?,
            Step::EmitAndCrash => {
                while self.emit(CONSUMER, false).is_some() {}
                self.assign(CONSUMER, self.group)?;
            }
            Step::Send { app, until, gateway, knows } => self.send(app, until, gateway, knows, planted),
            Step::Append(request, point) => {
                let Request { app, points, .. } = self.phones.requests.get_mut(request)?;
                let (point, stage) = points.get_mut(point)?;
                *stage = Stage::Appended;
                self.journal.append(Upload::Point(Fix { point: *point, app: *app }), self.now);
            }
            Step::Acknowledge(request, point) => {
                let Request { gateway, points, awaited, .. } = self.phones.requests.get_mut(request)?;
                let (point, stage) = points.get_mut(point)?;
                *stage = Stage::Acknowledged;
                awaited.hear(Ok(()));
                self.phones.recent[*gateway][*point as usize] = true;
            }
            Step::Fail(number) => {
                let request = self.phones.requests.get_mut(number)?;
                request.awaited.hear(match planted {
                    Some(PlantedBug::AnswerDespiteFailure) => Ok(()),
                    _ => Err(Unavailable::Journal),
                });
                if let Some(Err(_)) = request.end(planted) {
                    self.phones.requests.remove(number);
                }
            }
            Step::Answer { request, arrives } => {
                let Request { app, points, .. } = self.phones.requests.remove(request);
                let sending = &mut self.phones.apps[app as usize];
                let (last, _) = points.last()?;
                let until = 1 + app.points().iter().position(|point| point == last)?;
                sending.safe = sending.safe.max(until);
                if arrives {
                    sending.deleted = sending.deleted.max(until);
                }
            }
            Step::CrashGateway(gateway) => {
                self.phones.requests.retain(|request| request.gateway != gateway);
                self.phones.recent[gateway] = Default::default();
            }
        }
        self.phones.put_in_order();
        Some(())
    }

    fn send(&mut self, app: App, until: usize, gateway: usize, knows: Knows, planted: Option<PlantedBug>) {
        let from = self.phones.apps[app as usize].deleted;
        let stage = |point: &Point| {
            let known = self.known(Fix { point: *point, app }, gateway, knows, planted);
            (*point, known.map_or(Stage::Published, Stage::Known))
        };
        let points: Vec<(Point, Stage)> = app.points()[from..until].iter().map(stage).collect();
        let published = points.iter().filter(|(_, stage)| *stage == Stage::Published);
        if planted == Some(PlantedBug::RememberBeforeAcknowledgement) {
            published.clone().for_each(|(point, _)| self.phones.recent[gateway][*point as usize] = true);
        }
        let awaited = Awaited::new(published.count());
        self.phones.requests.push(Request { gateway, app, points, awaited });
        let sending = &mut self.phones.apps[app as usize];
        sending.sent = until;
        sending.requests += 1;
    }

    /// By what a gateway knows a point.
    fn known(&self, fix: Fix, gateway: usize, knows: Knows, planted: Option<PlantedBug>) -> Option<Known> {
        let key = fix.key(planted);
        // The clock of either is behind. If it is ahead, a gateway knows less, which it may in any case.
        let now = JournalTime(self.now.0 + SKEWS[0]);
        let of_key = |state: &&KeyState| self.journal.key_of(state, planted) == key;
        let results = self.results.iter().map(|(_, state)| &**state).filter(of_key);
        let cached = answer::newest(results).filter(|_| knows == Knows::Results);
        let is_recent = || knows != Knows::Nothing && self.phones.recent[gateway][fix.point as usize];
        let in_flight = || {
            let here = self.phones.requests.iter().filter(|request| request.gateway == gateway);
            planted == Some(PlantedBug::KnowWhatIsInFlight)
                && here.flat_map(|request| &request.points).any(|(point, _)| *point == fix.point)
        };
        safety::by_memory(cached, || is_recent() || in_flight(), now).or_else(|| {
            let rows = self.database.keys.iter().map(|row| &**row).filter(of_key);
            safety::by_table(answer::newest(rows).filter(|_| knows == Knows::Table), now)
        })
    }
}
