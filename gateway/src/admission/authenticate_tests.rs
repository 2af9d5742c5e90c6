use http::HeaderValue;
use milepost_shared::journal::account::AccountId;
use milepost_shared::program::settings::Settings as _;
use milepost_shared::store::connect;
use milepost_shared::store::testing::{self, Role, TestDatabase};
use milepost_shared::testing::eventually;

use super::*;
use crate::testing::{ACCOUNT, SECRET, create_key, revoke_key, settings};

const PATIENCE: Duration = Duration::from_secs(10);
const OTHER: &str = "mp_other000_yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy";

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

struct KeyFixture {
    database: TestDatabase,
    api_keys: ApiKeys,
    readiness: Readiness,
    stop: CancellationToken,
}

/// A database with one key, and a gateway's keys that are loaded from it.
async fn fixture(refresh: &str) -> KeyFixture {
    let database = testing::database().await;
    create_key(&database, SECRET).await;
    let settings = settings(&["--api-key-refresh", refresh]);
    assert_eq!(settings.faults(), Vec::<String>::new());
    let readiness = Readiness::default();
    let api_keys = ApiKeys::new(&settings.api_keys, database.options(Role::Gateway), &readiness);
    let stop = CancellationToken::new();
    KeyFixture { database, api_keys, readiness, stop }
}

impl KeyFixture {
    async fn load(&self) {
        tokio::spawn(self.api_keys.clone().refresh(self.stop.clone()));
        eventually(PATIENCE, "keys are loaded", async || Ok(self.readiness.is_ready().then_some(())))
            .await
            .unwrap();
    }

    async fn with(&self, secret: &str) -> Result<AccountId, Problem> {
        self.api_keys.authenticate(&headers(&[("x-api-key", secret)])).await
    }
}

impl Drop for KeyFixture {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn well_formed(headers: &HeaderMap) -> Option<&str> {
    secret(headers).filter(|secret| is_well_formed(secret))
}

#[test]
fn a_secret_is_read_from_either_header() {
    let bearer = format!("Bearer {SECRET}");
    for pairs in [
        &[("x-api-key", SECRET)][..],
        &[("authorization", &bearer)],
        &[("authorization", &bearer.replace("Bearer ", "bEARER   "))],
        &[("authorization", &bearer), ("x-api-key", SECRET)],
        // Proxies add schemes of their own.
        &[("authorization", "Basic dTpw"), ("x-api-key", SECRET)],
        &[("x-api-key", SECRET), ("authorization", "Negotiate")],
        &[("x-api-key", SECRET), ("authorization", "")],
        &[("authorization", "Digest username=\"a\", realm=\"b\""), ("x-api-key", SECRET)],
        &[("authorization", "Basic dTpw"), ("authorization", &bearer)],
        &[("x-api-key", SECRET), ("authorization", "Basic dTpw"), ("authorization", &bearer)],
    ] {
        assert_eq!(well_formed(&headers(pairs)), Some(SECRET), "{pairs:?}");
    }
}

#[test]
fn what_is_no_single_well_formed_secret_is_none() {
    let bearer = format!("Bearer {OTHER}");
    let basic = format!("Basic {SECRET}");
    let others = format!("Bearer {}", "e".repeat(40));
    for pairs in [
        &[][..],
        &[("x-api-key", "")],
        &[("x-api-key", "nonsense")],
        &[("x-api-key", &SECRET[1..])],
        &[("x-api-key", &SECRET[..SECRET.len() - 1])],
        &[("x-api-key", &format!("{SECRET}x"))],
        &[("x-api-key", &SECRET.replace("mp_", "mq_"))],
        &[("x-api-key", &SECRET.replace('x', "."))],
        &[("x-api-key", &SECRET.to_uppercase())],
        &[("x-api-key", SECRET), ("x-api-key", OTHER)],
        &[("x-api-key", SECRET), ("authorization", &bearer)],
        &[("x-api-key", SECRET), ("authorization", &others)],
        &[("x-api-key", SECRET), ("authorization", "Bearer")],
        &[("x-api-key", SECRET), ("authorization", "Bearer ")],
        &[("x-api-key", SECRET), ("authorization", "Basic dTpw"), ("authorization", &others)],
        &[("x-api-key", ""), ("authorization", &bearer)],
        &[("authorization", SECRET)],
        &[("authorization", &basic)],
        &[("authorization", "Bearer")],
    ] {
        assert_eq!(well_formed(&headers(pairs)), None, "{pairs:?}");
    }
}

#[tokio::test]
async fn known_new_unknown_and_malformed_keys_are_kept_apart() {
    let fixture = fixture("50s").await;
    fixture.load().await;
    assert_eq!(fixture.with(SECRET).await, Ok(ACCOUNT));
    let unknown = OTHER.replace('y', "z");
    assert_eq!(fixture.with(&unknown).await, Err(UNAUTHORIZED));
    assert_eq!(fixture.with("nonsense").await, Err(UNAUTHORIZED));
    // Made after the gateway has loaded all keys.
    create_key(&fixture.database, OTHER).await;
    assert_eq!(fixture.with(OTHER).await, Ok(ACCOUNT));
}

#[tokio::test]
async fn a_revoked_key_is_unknown_after_the_next_refresh() {
    let fixture = fixture("100ms").await;
    fixture.load().await;
    assert_eq!(fixture.with(SECRET).await, Ok(ACCOUNT));
    revoke_key(&fixture.database, SECRET).await;
    eventually(PATIENCE, "the key is revoked", async || {
        Ok((fixture.with(SECRET).await == Err(UNAUTHORIZED)).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn without_postgres_known_keys_go_on_working_and_others_cannot_be_verified() {
    let mut fixture = fixture("100ms").await;
    fixture.load().await;
    fixture.database = testing::database().await;
    let unverified = async || Ok((fixture.with(OTHER).await == Err(CREDENTIALS_UNVERIFIED)).then_some(()));
    eventually(PATIENCE, "Postgres is away", unverified).await.unwrap();
    assert_eq!(fixture.with(SECRET).await, Ok(ACCOUNT));
    assert!(fixture.readiness.is_ready());
    // That needs no database.
    assert_eq!(fixture.with("nonsense").await, Err(UNAUTHORIZED));
}

#[tokio::test]
async fn a_gateway_that_never_reached_postgres_is_not_ready_and_gives_nobody_401() {
    let nowhere = "postgres://milepost@127.0.0.1:1/milepost";
    let options = connect::options(nowhere, "milepost-test", Duration::from_secs(1)).unwrap();
    let readiness = Readiness::default();
    let api_keys = ApiKeys::new(&settings(&[]).api_keys, options, &readiness);
    let stop = CancellationToken::new();
    tokio::spawn(api_keys.clone().refresh(stop.clone()));
    let answer = api_keys.authenticate(&headers(&[("x-api-key", SECRET)])).await;
    assert_eq!(answer, Err(CREDENTIALS_UNVERIFIED));
    assert!(!readiness.is_ready());
    stop.cancel();
}
