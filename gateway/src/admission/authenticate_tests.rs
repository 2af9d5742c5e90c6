use http::HeaderValue;
use milepost_shared::journal::account::AccountId;
use milepost_shared::program::settings::Settings as _;
use milepost_shared::store::testing::{self, Role, TestDatabase};
use milepost_shared::testing::eventually;

use milepost_shared::store::accounts::ApiKey;

use sqlx::{Connection as _, Executor as _, PgConnection};
use time::{Duration as Span, OffsetDateTime};

use super::*;
use crate::testing::{ACCOUNT, SECRET, create_key, revoke_key, settings, store_key};

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

/// Waits until a condition holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    eventually(PATIENCE, what, async || Ok(holds().await.then_some(()))).await.unwrap();
}

/// A database with one key, and a gateway's keys that are loaded from it.
async fn fixture(refresh: &str) -> KeyFixture {
    let database = testing::database().await;
    create_key(&database, SECRET).await;
    let settings = settings(&["--api-key-refresh", refresh]);
    assert_eq!(settings.faults(), Vec::<String>::new());
    let readiness = Readiness::default();
    let target = database.options(Role::Gateway).into();
    let api_keys = ApiKeys::new(&settings.api_keys, target, &readiness, Clock::default());
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
        let identity = self.api_keys.authenticate(&headers(&[("x-api-key", secret)])).await?;
        Ok(identity.account)
    }

    async fn owner(&self) -> PgConnection {
        self.database.connect(Role::Owner).await
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
    let target = Target::new(nowhere, None, "milepost-test").unwrap();
    let readiness = Readiness::default();
    let api_keys = ApiKeys::new(&settings(&[]).api_keys, target, &readiness, Clock::default());
    let stop = CancellationToken::new();
    tokio::spawn(api_keys.clone().refresh(stop.clone()));
    let answer = api_keys.authenticate(&headers(&[("x-api-key", SECRET)])).await;
    assert_eq!(answer, Err(CREDENTIALS_UNVERIFIED));
    assert!(!readiness.is_ready());
    stop.cancel();
}

#[tokio::test]
async fn a_bound_key_speaks_for_its_device_whether_it_was_loaded_or_looked_up() {
    let fixture = fixture("50s").await;
    fixture.load().await;
    let bound = |secret: &str| {
        let device = Some("pixel8".to_owned());
        ApiKey { device, ..ApiKey::new(&secret[..11], ACCOUNT, OffsetDateTime::UNIX_EPOCH) }
    };
    store_key(&fixture.database, &bound(OTHER), OTHER).await;
    let wanted = Identity { account: ACCOUNT, device: Some("pixel8".into()) };
    assert_eq!(fixture.api_keys.verify(OTHER).await, Ok(wanted.clone()));
    let later = ApiKeys::new(
        &settings(&[]).api_keys,
        fixture.database.options(Role::Gateway).into(),
        &Readiness::default(),
        Clock::default(),
    );
    tokio::spawn(later.clone().refresh(fixture.stop.clone()));
    until("keys are loaded", async || later.0.known.count() == 2).await;
    assert_eq!(later.verify(OTHER).await, Ok(wanted));
    assert_eq!(later.verify(SECRET).await, Ok(Identity { account: ACCOUNT, device: None }));
}

#[tokio::test]
async fn an_expired_key_is_refused_from_its_moment_on_by_the_gateways_clock() {
    let fixture = fixture("50s").await;
    let in_an_hour = Some(Clock::default().now().to_datetime() + Span::HOUR);
    let key =
        ApiKey { expires_at: in_an_hour, ..ApiKey::new(&OTHER[..11], ACCOUNT, OffsetDateTime::UNIX_EPOCH) };
    store_key(&fixture.database, &key, OTHER).await;
    for (hours, wanted) in [(0, Ok(ACCOUNT)), (1, Err(UNAUTHORIZED))] {
        for loaded in [false, true] {
            let (target, clock) =
                (fixture.database.options(Role::Gateway).into(), Clock::new(hours * 3_600_000));
            let keys = ApiKeys::new(&settings(&[]).api_keys, target, &Readiness::default(), clock);
            if loaded {
                tokio::spawn(keys.clone().refresh(fixture.stop.clone()));
                until("keys are loaded", async || keys.0.known.count() == 2).await;
            }
            let account = keys.verify(OTHER).await.map(|identity| identity.account);
            assert_eq!(account, wanted, "after {hours} hours, loaded: {loaded}");
        }
    }
}

#[tokio::test]
async fn a_key_revoked_while_postgres_was_away_stops_when_it_is_back_and_one_in_a_late_commit_too() {
    let fixture = fixture("100ms").await;
    create_key(&fixture.database, OTHER).await;
    fixture.load().await;
    assert_eq!((fixture.with(SECRET).await, fixture.with(OTHER).await), (Ok(ACCOUNT), Ok(ACCOUNT)));
    let mut owner = fixture.owner().await;
    let mut late = fixture.owner().await;
    let mut revoking = late.begin().await.unwrap();
    revoke_in(&mut revoking, OTHER).await;

    // What the gateway connects with is refused, and all its connections are cut.
    owner.execute(allowing(&fixture.database, false).as_str()).await.unwrap();
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE datname = current_database() AND usename = 'milepost_gateway'";
    owner.execute(cut).await.unwrap();
    revoke_in(&mut owner, SECRET).await;
    assert_eq!(fixture.with(SECRET).await, Ok(ACCOUNT));
    owner.execute(allowing(&fixture.database, true).as_str()).await.unwrap();
    until("the key is revoked", async || fixture.with(SECRET).await == Err(UNAUTHORIZED)).await;

    assert_eq!(fixture.with(OTHER).await, Ok(ACCOUNT));
    revoking.commit().await.unwrap();
    until("the other one is, too", async || fixture.with(OTHER).await == Err(UNAUTHORIZED)).await;
}

fn allowing(database: &TestDatabase, yes: bool) -> String {
    let (verb, preposition) = if yes { ("GRANT", "TO") } else { ("REVOKE", "FROM") };
    format!("{verb} CONNECT ON DATABASE {} {preposition} milepost_gateway, PUBLIC", database.name())
}

async fn revoke_in(owner: &mut PgConnection, secret: &str) {
    let revoke = format!("UPDATE api_keys SET revoked_at = now() WHERE prefix = '{}'", &secret[..11]);
    owner.execute(revoke.as_str()).await.unwrap();
}

/// As after a failover to a server that had not seen everything, where numbers of transactions are used again.
#[tokio::test]
async fn on_a_new_connection_all_keys_are_read_again_whatever_their_numbers() {
    let fixture = fixture("100ms").await;
    create_key(&fixture.database, OTHER).await;
    fixture.load().await;
    let mut owner = fixture.owner().await;
    owner
        .execute(
            "ALTER TABLE api_keys DISABLE TRIGGER api_keys_change; UPDATE api_keys SET changed_in = '3'; \
             DELETE FROM api_keys WHERE prefix = 'mp_other000'; UPDATE api_keys SET revoked_at = now(); \
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND usename = 'milepost_gateway'",
        )
        .await
        .unwrap();
    until("the key is revoked", async || fixture.with(SECRET).await == Err(UNAUTHORIZED)).await;
    until("the key is gone", async || fixture.with(OTHER).await == Err(UNAUTHORIZED)).await;
    // The trigger is gone: no change tells of it either.
    owner.execute("TRUNCATE api_keys").await.unwrap();
    create_key(&fixture.database, OTHER).await;
    until("a recreated table is read again", async || fixture.api_keys.0.known.count() == 1).await;
}

#[tokio::test]
async fn a_use_is_noted_to_the_hour_and_that_it_cannot_be_noted_harms_nothing() {
    let fixture = fixture("100ms").await;
    let mut owner = fixture.owner().await;
    owner.execute("REVOKE EXECUTE ON FUNCTION note_key_uses FROM milepost_gateway").await.unwrap();
    fixture.load().await;
    for _ in 0..3 {
        assert_eq!(fixture.with(SECRET).await, Ok(ACCOUNT));
    }
    create_key(&fixture.database, OTHER).await;
    assert_eq!(fixture.with(OTHER).await, Ok(ACCOUNT));
    owner.execute("GRANT EXECUTE ON FUNCTION note_key_uses TO milepost_gateway").await.unwrap();
    let noted = "SELECT count(*) FROM api_keys WHERE last_used_at = date_trunc('hour', last_used_at) \
                 AND last_used_at > now() - interval '61 minutes'";
    let of_both = async || sqlx::query_scalar::<_, i64>(noted).fetch_one(&mut owner).await.unwrap() == 2;
    until("both uses are noted", of_both).await;
    revoke_key(&fixture.database, SECRET).await;
    until("the key is revoked", async || fixture.with(SECRET).await == Err(UNAUTHORIZED)).await;
}
