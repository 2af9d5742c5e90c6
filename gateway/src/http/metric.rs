//! The metrics of every request. Their series are looked up once: by name, each look-up would put name and labels together
//! first.

use std::time::Duration;

use http::StatusCode;
use matchit::Router;
use metrics::{Counter, Histogram, counter, histogram};

/// Stands for a path without a route: a path is the client's own text.
pub const NO_ROUTE: &str = "none";

/// What is reported of every request, by route.
pub struct HttpMetrics {
    routes: Router<Series>,
    no_route: Series,
}

/// The series of one route.
#[derive(Clone)]
pub struct Series {
    /// Its name in metrics and logs.
    pub route: &'static str,
    /// Requests answered 200, on a route. All others are looked up by name.
    ok: Option<Counter>,
    seconds: Histogram,
}

impl HttpMetrics {
    /// The series of these routes, as axum's router has them, which exist from now on.
    ///
    /// # Errors
    /// Two routes overlap, or one is none.
    pub fn new(routes: &[&'static str]) -> Result<Self, matchit::InsertError> {
        let mut router = Router::new();
        for route in routes {
            let ok = requests(route, StatusCode::OK);
            ok.absolute(0);
            router.insert(*route, Series { ok: Some(ok), ..Series::new(route) })?;
        }
        Ok(Self { routes: router, no_route: Series::new(NO_ROUTE) })
    }

    /// The series of a path.
    #[must_use]
    pub fn of(&self, path: &str) -> &Series {
        self.routes.at(path).map_or(&self.no_route, |matched| matched.value)
    }
}

impl Series {
    fn new(route: &'static str) -> Self {
        let seconds = histogram!("milepost_gateway_http_request_seconds", "route" => route);
        Self { route, ok: None, seconds }
    }

    /// Counts one request.
    pub fn count(&self, status: StatusCode, elapsed: Duration) {
        match self.ok.as_ref().filter(|_| status == StatusCode::OK) {
            Some(ok) => ok.increment(1),
            None => requests(self.route, status).increment(1),
        }
        self.seconds.record(elapsed);
    }
}

fn requests(route: &'static str, status: StatusCode) -> Counter {
    counter!("milepost_gateway_http_requests_total", "route" => route, "status" => status.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_counted_by_its_route() {
        let metrics = HttpMetrics::new(&["/a", "/a/b", "/u/{id}"]).unwrap();
        for (path, route) in [
            ("/a", "/a"),
            ("/a/b", "/a/b"),
            ("/u/x", "/u/{id}"),
            ("/u/", NO_ROUTE),
            ("/u/x/y", NO_ROUTE),
            ("/a/", NO_ROUTE),
            ("", NO_ROUTE),
            ("*", NO_ROUTE),
        ] {
            assert_eq!(metrics.of(path).route, route, "{path}");
        }
    }
}
