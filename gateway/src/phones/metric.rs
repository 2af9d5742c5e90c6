//! What is counted of an app's requests. Labels are the gateway's own words, never the app's.

use std::sync::Arc;

use metrics::{Counter, counter};

use super::{Reason, Record};
use crate::answer::points::PointMetrics;

/// The series of one app.
pub struct AppMetrics {
    /// Of its points.
    pub points: Arc<PointMetrics>,
    set_aside: Vec<(Reason, Counter)>,
    records: Vec<(Record, Counter)>,
}

impl AppMetrics {
    /// They exist from now on.
    #[must_use]
    pub fn new(app: &'static str) -> Self {
        let set_aside = |reason: Reason| {
            let name = reason.name();
            let counter = counter!("milepost_gateway_points_set_aside_total", "app" => app, "reason" => name);
            counter.absolute(0);
            (reason, counter)
        };
        let record = |record: Record| {
            let name = record.name();
            let counter = counter!("milepost_gateway_phone_records_total", "app" => app, "kind" => name);
            counter.absolute(0);
            (record, counter)
        };
        Self {
            points: Arc::new(PointMetrics::new(app)),
            set_aside: Reason::ALL.map(set_aside).into(),
            records: Record::ALL.map(record).into(),
        }
    }

    /// Counts what a request held besides points, once its points are safe.
    pub fn count(&self, set_aside: &[Reason], records: &[Record]) {
        count(&self.set_aside, set_aside);
        count(&self.records, records);
    }
}

fn count<T: PartialEq>(series: &[(T, Counter)], found: &[T]) {
    for one in found {
        if let Some((_, counter)) = series.iter().find(|(of, _)| of == one) {
            counter.increment(1);
        }
    }
}
