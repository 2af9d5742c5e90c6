//! The limit of HTTP: a handler that reads the body and answers a constant.

use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use milepost_shared::journal::answer;

/// The routes: those of the gateway.
pub fn router() -> Router {
    Router::new().route("/api/v1/locations", post(single)).route("/gpslogger/{key}", get(line))
}

async fn single(_body: Bytes) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], answer::body(1))
}

async fn line(_body: Bytes) {}
