//! Phone apps: what they send again is not what they sent first.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

use super::{REUSE_MARGIN, Shared, answered, is_final, outcome, pause};
use crate::app::{App, Request};
use crate::history::{Ask, Attempt, Outcome};
use crate::operation::point::{self, Phone};
use crate::operation::{self, Kind, Operation, UploadId, Variant};
use crate::system::PUBLISH_TIMEOUT;

/// How often an app loses the answer to a whole request; else the connection breaks within it.
const WHOLE: f64 = 0.8;
/// How often a file is sent once more when its window is over.
const AFTER_WINDOW: f64 = 0.3;

impl Shared {
    /// An operation of an app.
    pub(super) async fn app(&self, operation: &Operation, permit: OwnedSemaphorePermit) {
        let (account, gateway) = (operation.account, operation.gateway);
        let [one, other] = &point::sent(self.settings.seed, operation);
        match operation.kind {
            Kind::Superset => {
                self.lose_answer(App::Overland, one, account, gateway).await;
                self.send_until_taken(App::Overland, other, account, rand::random_range(0..2)).await;
            }
            Kind::Shared => {
                let first = self.send_until_taken(App::Overland, one, account, gateway);
                let second = self.send_until_taken(App::Overland, other, account, 1 - gateway);
                tokio::join!(first, second);
            }
            Kind::WholeFile => self.whole_file(one, account, permit).await,
            Kind::Renewed => {
                self.send_until_taken(App::Owntracks, one, account, gateway).await;
                self.send_until_taken(App::Owntracks, one, account, 1 - gateway).await;
            }
            _ => {
                let each = one.iter().map(|twin| {
                    let account = phone_of(*twin).account(account);
                    self.send_until_taken(App::Traccar, std::slice::from_ref(twin), account, gateway)
                });
                join_all(each).await;
            }
        }
    }

    /// Twice, and sometimes once more when no gateway can know it any more.
    async fn whole_file(&self, file: &[UploadId], account: usize, permit: OwnedSemaphorePermit) {
        for _ in 0..2 {
            self.send_file(file, account).await;
        }
        if !rand::random_bool(AFTER_WINDOW) {
            return;
        }
        let Ok(_waiting) = Arc::clone(&self.reuses).try_acquire_owned() else { return };
        drop(permit);
        let ttl = self.settings.ttl;
        sleep(ttl + ttl / 4 + PUBLISH_TIMEOUT + REUSE_MARGIN).await;
        let Ok(_permit) = Arc::clone(&self.clients).acquire_owned().await else { return };
        self.send_file(file, account).await;
    }

    /// Line by line, from the first one again when one fails. Every other one is sent to the other gateway.
    async fn send_file(&self, file: &[UploadId], account: usize) {
        let mut turn: usize = rand::random_range(0..2);
        let mut sent = 0;
        while let Some(line) = file.get(sent) {
            turn += 1;
            let is_taken =
                self.send_points(App::Gpslogger, std::slice::from_ref(line), account, turn % 2).await;
            sent = if is_taken { sent + 1 } else { 0 };
            if !is_taken {
                pause().await;
            }
        }
    }

    /// Sends points until their app deletes them, half of the retries to the other gateway.
    async fn send_until_taken(&self, app: App, points: &[UploadId], account: usize, first: usize) {
        let mut gateway = first;
        while !self.send_points(app, points, account, gateway).await {
            pause().await;
            gateway = rand::random_range(0..2);
        }
    }

    /// One request. Returns whether its answer is final.
    async fn send_points(&self, app: App, points: &[UploadId], account: usize, gateway: usize) -> bool {
        let Request { method, target, headers, body } = self.request_of(app, points, account);
        let url = format!("http://{}{target}", self.settings.gateways[gateway]);
        let mut request = if method == "GET" { self.http.get(url) } else { self.http.post(url).body(body) };
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let began = self.recorder.now();
        let answered = answered(request).await;
        self.write_points(app, points, account, gateway, began, &outcome(answered.as_ref()));
        answered.is_some_and(|answered| is_final(answered.status))
    }

    /// Sends a request, mostly all of it, and reads no answer.
    async fn lose_answer(&self, app: App, points: &[UploadId], account: usize, gateway: usize) {
        let bytes = self.request_of(app, points, account).bytes();
        let sent = if rand::random_bool(WHOLE) { bytes.len() } else { rand::random_range(1..bytes.len()) };
        let began = self.recorder.now();
        let whole = self.send_bytes(gateway, &bytes[..sent]).await && sent == bytes.len();
        self.write_points(app, points, account, gateway, began, &Outcome::HungUp { whole });
    }

    fn request_of(&self, app: App, points: &[UploadId], account: usize) -> Request {
        let points: Vec<_> = points.iter().map(|id| operation::upload(self.settings.seed, *id)).collect();
        app.request(&points, &self.settings.secrets[account], rand::random())
    }

    fn write_points(
        &self,
        app: App,
        points: &[UploadId],
        account: usize,
        gateway: usize,
        began: Duration,
        outcome: &Outcome,
    ) {
        let (request, ended) = (self.number(), self.recorder.now());
        let attempt = |upload: &UploadId| {
            let (upload, ask, outcome) = (*upload, Ask::Point(app), outcome.clone());
            Attempt { request, upload, ask, account, gateway, began, ended, outcome }
        };
        self.recorder.write(|history| history.attempts.extend(points.iter().map(attempt)));
    }
}

fn phone_of(id: UploadId) -> Phone {
    match id.variant {
        Variant::Point(point) => point.phone,
        Variant::A | Variant::B => Phone::First,
    }
}
