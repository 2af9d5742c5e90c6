//! What the two programs may do in the database, and that it is nothing else.

use std::collections::BTreeSet;

use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::store::migrate::migrate;
use crate::store::roles;
use crate::store::testing::{Role, database};

const INSUFFICIENT_PRIVILEGE: &str = "42501";
const BAD_VALUE: &str = "22023";
const STILL_NEEDED: &str = "55000";

const KEY: &str =
    "INSERT INTO idempotency_keys VALUES ('\\x00', gen_random_uuid(), '\\x00', 200, '', now(), now(), 0, 0)";

const FORBIDDEN_TO_GATEWAY: &[&str] = &[
    KEY,
    "UPDATE idempotency_keys SET response_status = 500",
    "DELETE FROM idempotency_keys",
    "TRUNCATE idempotency_keys",
    "SELECT FROM idempotency_keys FOR UPDATE",
    "INSERT INTO api_keys (account_id, secret_sha256, prefix) VALUES (gen_random_uuid(), '', 'mp_0')",
    "UPDATE api_keys SET revoked_at = NULL",
    "UPDATE api_keys SET last_used_at = now()",
    "SELECT FROM api_keys FOR KEY SHARE",
    "SELECT mark_key_change()",
    "DELETE FROM api_keys",
    "UPDATE partition_progress SET next_offset = 0",
    "INSERT INTO partition_progress (topic, partition) VALUES ('t', 0)",
    "SELECT name FROM accounts",
    "INSERT INTO accounts (id, name) VALUES (gen_random_uuid(), 'x')",
    "SELECT latitude FROM locations",
    "INSERT INTO locations DEFAULT VALUES",
    "SELECT device FROM devices",
    "SELECT record_value FROM dead_letters",
    "SELECT name FROM table_partitions",
    "SELECT kept FROM partition_settings",
    "UPDATE partition_settings SET kept = '1 second'",
    "SELECT FROM partition_settings FOR UPDATE",
    "LOCK TABLE partition_settings IN ACCESS SHARE MODE",
    "LOCK TABLE idempotency_keys IN ROW SHARE MODE",
    "SELECT ensure_partition('locations', now(), '1 day')",
    "SELECT ensure_partition('locations', now(), '1 day', '1 day')",
    "SELECT expire_partition('x', 't', '{}')",
    "SELECT detach_partition('x')",
    "SELECT detach_locations('x')",
    "SELECT drop_detached()",
    "CREATE TEMPORARY TABLE x (y int)",
    "CREATE FUNCTION hashtextextended(text, int) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'",
    "SELECT pg_advisory_lock(hashtextextended('milepost.partitions', 0))",
    "SELECT pg_try_advisory_xact_lock_shared(1, 2)",
    "SELECT lo_create(0)",
    "SELECT lo_from_bytea(0, 'x')",
    "DELETE FROM _sqlx_migrations",
    "DROP TABLE idempotency_keys",
    "CREATE TABLE x (y int)",
    "CREATE SCHEMA x",
    "ALTER ROLE milepost_gateway SUPERUSER",
    "SET ROLE milepost_consumer",
    "SELECT rolpassword FROM pg_authid",
    "COPY accounts TO PROGRAM 'true'",
];

const FORBIDDEN_TO_CONSUMER: &[&str] = &[
    "SELECT secret_sha256 FROM api_keys",
    "SELECT prefix FROM api_keys",
    "INSERT INTO api_keys (account_id, secret_sha256, prefix) VALUES (gen_random_uuid(), '', 'mp_0')",
    "UPDATE api_keys SET revoked_at = NULL",
    "UPDATE api_keys SET last_used_at = now()",
    "SELECT note_key_uses('{}')",
    "INSERT INTO accounts (id, name) VALUES (gen_random_uuid(), 'x')",
    "UPDATE accounts SET name = 'x'",
    "DELETE FROM accounts",
    "UPDATE idempotency_keys SET response_status = 500",
    "DELETE FROM idempotency_keys",
    "TRUNCATE idempotency_keys",
    "SELECT latitude FROM locations",
    "UPDATE locations SET latitude = 0",
    "DELETE FROM locations",
    "TRUNCATE locations",
    "UPDATE dead_letters SET reason = ''",
    "DELETE FROM dead_letters",
    "DELETE FROM devices",
    "DELETE FROM partition_progress",
    "TRUNCATE partition_progress",
    "INSERT INTO table_partitions VALUES ('x', 'locations', now(), now() + '1 day', now())",
    "UPDATE table_partitions SET keep_until = now()",
    "DELETE FROM table_partitions",
    "UPDATE partition_settings SET kept = '1 second'",
    "SELECT FROM partition_settings FOR UPDATE",
    "SELECT FROM partition_settings FOR KEY SHARE",
    "LOCK TABLE partition_settings IN ROW SHARE MODE",
    "SELECT detach_locations('x')",
    "CREATE TEMPORARY TABLE x (y int)",
    "CREATE FUNCTION hashtextextended(text, int) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'",
    "SELECT pg_advisory_lock(hashtextextended('milepost.partitions', 0))",
    "SELECT pg_try_advisory_xact_lock_shared(1, 2)",
    "SELECT lo_create(0)",
    "SELECT lo_from_bytea(0, 'x')",
    "DELETE FROM _sqlx_migrations",
    "DROP TABLE locations",
    "ALTER TABLE locations ADD COLUMN x int",
    "CREATE TABLE x (y int)",
    "CREATE SCHEMA x",
    "ALTER ROLE milepost_consumer SUPERUSER",
    "SET ROLE milepost_gateway",
    "SELECT rolpassword FROM pg_authid",
    "COPY accounts TO PROGRAM 'true'",
];

const ALLOWED_TO_GATEWAY: &[&str] = &[
    "SELECT * FROM idempotency_keys",
    "SELECT * FROM api_keys",
    "SELECT note_key_uses('{}')",
    "SELECT * FROM partition_progress",
    "SELECT version FROM _sqlx_migrations",
];

/// In this order, in one database.
const ALLOWED_TO_CONSUMER: &[&str] = &[
    "SELECT version FROM _sqlx_migrations",
    "SELECT id FROM accounts",
    "SELECT * FROM ensure_partition('idempotency_keys', now(), '1 day')",
    "SELECT * FROM ensure_partition('locations', now(), '0')",
    "SELECT kept FROM partition_settings",
    "INSERT INTO partition_progress (topic, partition) VALUES ('t', 0)",
    "UPDATE partition_progress SET next_offset = 1 WHERE next_offset = 0 RETURNING partition",
    "INSERT INTO idempotency_keys VALUES (decode(repeat('00', 32), 'hex'), gen_random_uuid(), \
     decode(repeat('00', 32), 'hex'), 200, '', now(), now() + '1 day', 0, 0)",
    "SELECT * FROM idempotency_keys",
    "INSERT INTO devices (account_id, device, last_seen_at, last_captured_at, last_latitude, last_longitude) \
     SELECT id, 'd', now(), now(), 0, 0 FROM accounts ON CONFLICT (account_id, device) DO UPDATE SET last_latitude = 1 \
     RETURNING id",
    "INSERT INTO locations (device_id, captured_at, latitude, longitude, received_at, source_partition, source_offset, \
     ordinal) VALUES (1, now(), 0, 0, now(), 0, 0, 0)",
    "INSERT INTO dead_letters VALUES ('t', 0, 0, now(), NULL, NULL, 'r')",
    "SELECT \"offset\" FROM dead_letters",
    "SELECT name, detached FROM table_partitions",
    "SELECT expire_partition('x', 't', '{0}')",
    "SELECT drop_detached()",
    // Of the build before.
    "SELECT * FROM ensure_partition('idempotency_keys', now(), '1 day', '1 day')",
    "SELECT * FROM ensure_partition('locations', now(), '1 day', '365000 days')",
    "SELECT detach_partition(name) FROM table_partitions",
];

/// What the functions that run with the owner's rights are asked for by a role that means harm, and the SQLSTATE of the
/// refusal. `LIVE` is the partition of keys of this moment, `OVER` one whose windows are over by the server's clock but not by
/// the progress of partition 0 of topic `t`, `DAY` the partition of locations of this moment.
const HOSTILE: &[(&str, &str)] = &[
    ("SELECT ensure_partition('idempotency_keys', now(), '2 days')", BAD_VALUE),
    ("SELECT ensure_partition('idempotency_keys', now(), 'infinity')", BAD_VALUE),
    ("SELECT ensure_partition('idempotency_keys', now(), '-infinity')", BAD_VALUE),
    ("SELECT ensure_partition('idempotency_keys', now(), '-1 day')", BAD_VALUE),
    ("SELECT ensure_partition('idempotency_keys', now(), NULL)", BAD_VALUE),
    ("SELECT ensure_partition('idempotency_keys', NULL, '1 day')", BAD_VALUE),
    ("SELECT ensure_partition('idempotency_keys', '4713-01-01 BC', '1 day')", BAD_VALUE),
    ("SELECT ensure_partition('idempotency_keys', '-infinity', '1 day')", BAD_VALUE),
    ("SELECT ensure_partition('idempotency_keys', 'infinity', '1 day')", BAD_VALUE),
    ("SELECT ensure_partition('idempotency_keys', '9000-01-02', '1 day')", BAD_VALUE),
    ("SELECT ensure_partition('locations', '1969-12-31', '1 day')", BAD_VALUE),
    ("SELECT ensure_partition('locations', '9999-01-01', '1 day')", BAD_VALUE),
    ("SELECT ensure_partition('accounts', now(), '1 day')", BAD_VALUE),
    ("SELECT ensure_partition('locations; DROP TABLE accounts', now(), '1 day')", BAD_VALUE),
    ("SELECT ensure_partition(NULL, now(), '1 day')", BAD_VALUE),
    ("SELECT ensure_partition('idempotency_keys', now(), '1 microsecond', '2 days')", BAD_VALUE),
    ("SELECT ensure_partition('idempotency_keys', now(), '10000 days', '-1 day')", BAD_VALUE),
    ("SELECT ensure_partition('idempotency_keys', '4713-01-01 BC', '1 microsecond', '1 day')", BAD_VALUE),
    ("SELECT expire_partition('LIVE', 't', '{0}')", STILL_NEEDED),
    ("SELECT expire_partition('LIVE', 'no such topic', '{0}')", STILL_NEEDED),
    ("SELECT expire_partition('OVER', 't', '{}')", STILL_NEEDED),
    ("SELECT expire_partition('OVER', 't', '{1,2}')", STILL_NEEDED),
    ("SELECT expire_partition('OVER', 't', '{NULL}')", STILL_NEEDED),
    ("SELECT expire_partition('OVER', 't', NULL)", STILL_NEEDED),
    ("SELECT expire_partition('OVER', NULL, NULL)", STILL_NEEDED),
];

/// What a gateway's role that means harm asks for, with the refusal; `None` for what is not refused.
const HOSTILE_OF_GATEWAY: &[(&str, Option<&str>)] = &[
    ("SELECT note_key_uses(NULL)", Some(BAD_VALUE)),
    ("SELECT note_key_uses(array_fill('x'::bytea, ARRAY[1001]))", Some(BAD_VALUE)),
    ("SELECT note_key_uses(array_fill('x'::bytea, ARRAY[501, 2]))", Some(BAD_VALUE)),
    ("SELECT note_key_uses(array_fill('x'::bytea, ARRAY[1000]))", None),
    ("SELECT note_key_uses(ARRAY[NULL, ''::bytea])", None),
];

/// The same, of what is not refused: it changes nothing.
const IN_VAIN: &[&str] = &[
    "SELECT expire_partition('DAY', 't', '{0}')",
    "SELECT expire_partition('idempotency_keys', 't', '{0}')",
    "SELECT expire_partition('accounts', 't', '{0}')",
    "SELECT expire_partition(NULL, 't', '{0}')",
    "SELECT detach_partition('DAY')",
    "SELECT detach_partition('LIVE')",
    "SELECT detach_partition('OVER')",
    "SELECT detach_partition('accounts')",
    "SELECT detach_partition(NULL)",
    "SELECT drop_detached()",
    "SELECT ensure_partition('idempotency_keys', now(), '0')",
    "SELECT ensure_partition('idempotency_keys', now(), '1 microsecond', '1 day')",
    "SELECT ensure_partition('idempotency_keys', now(), '10000 days', '1 day')",
    "SELECT ensure_partition('locations', now(), '1 microsecond', '1 day')",
];

#[tokio::test]
async fn each_role_is_refused_what_it_has_no_business_with() {
    let database = database().await;
    let mut owner = database.connect(Role::Owner).await;
    // A copy of a database does not have the rights of the database itself.
    migrate(&mut owner, |line| panic!("{line}")).await.unwrap();
    owner.execute("INSERT INTO accounts (id, name) VALUES (gen_random_uuid(), 'a')").await.unwrap();
    for (role, statements) in [(Role::Gateway, FORBIDDEN_TO_GATEWAY), (Role::Consumer, FORBIDDEN_TO_CONSUMER)]
    {
        let mut connection = database.connect(role).await;
        for statement in statements {
            let outcome = attempt(&mut connection, statement).await;
            assert_eq!(outcome, Err(INSUFFICIENT_PRIVILEGE.to_owned()), "{role:?}: {statement}");
        }
    }
}

/// The rows of a key, read from the partition itself rather than through its parent.
#[tokio::test]
async fn no_role_gets_at_a_partition_past_its_parent() {
    let database = database().await;
    let mut consumer = database.connect(Role::Consumer).await;
    for parent in ["idempotency_keys", "locations"] {
        let ensure = format!("SELECT * FROM ensure_partition('{parent}', now(), '0')");
        consumer.execute(ensure.as_str()).await.unwrap();
    }
    let partitions: Vec<String> =
        sqlx::query_scalar("SELECT name FROM table_partitions").fetch_all(&mut consumer).await.unwrap();
    assert_eq!(partitions.len(), 2);
    let mut gateway = database.connect(Role::Gateway).await;
    for partition in partitions {
        for statement in [format!("SELECT * FROM {partition}"), format!("DROP TABLE {partition}")] {
            for connection in [&mut gateway, &mut consumer] {
                let outcome = attempt(connection, &statement).await;
                assert_eq!(outcome, Err(INSUFFICIENT_PRIVILEGE.to_owned()), "{statement}");
            }
        }
    }
}

#[tokio::test]
async fn each_role_may_do_its_work() {
    let database = database().await;
    let mut owner = database.connect(Role::Owner).await;
    owner.execute("INSERT INTO accounts (id, name) VALUES (gen_random_uuid(), 'a')").await.unwrap();
    for (role, statements) in [(Role::Gateway, ALLOWED_TO_GATEWAY), (Role::Consumer, ALLOWED_TO_CONSUMER)] {
        let mut connection = database.connect(role).await;
        for statement in statements {
            connection
                .execute(*statement)
                .await
                .unwrap_or_else(|error| panic!("{role:?}: {statement}: {error}"));
        }
    }
}

/// Every privilege on everything, so that a later migration that grants more must say so here.
#[tokio::test]
async fn no_role_has_a_privilege_that_is_not_listed() {
    let database = database().await;
    let mut owner = database.connect(Role::Owner).await;
    let granted = |role: &'static str, privileges: &str, tables: &str| -> Vec<String> {
        tables
            .split(' ')
            .flat_map(|table| {
                privileges.split(' ').map(move |privilege| format!("{role} {privilege} {table}"))
            })
            .collect()
    };
    let (gateway, consumer) = ("milepost_gateway", "milepost_consumer");
    let functions = "ensure_partition expire_partition detach_partition drop_detached";
    let expected: BTreeSet<String> = [
        granted(gateway, "SELECT", "idempotency_keys api_keys partition_progress _sqlx_migrations"),
        granted(gateway, "EXECUTE", "note_key_uses"),
        granted(consumer, "SELECT", "accounts table_partitions partition_settings _sqlx_migrations"),
        granted(consumer, "SELECT INSERT", "idempotency_keys dead_letters"),
        granted(consumer, "INSERT", "locations"),
        granted(consumer, "SELECT INSERT UPDATE", "partition_progress devices"),
        granted(consumer, "EXECUTE", functions),
    ]
    .concat()
    .into_iter()
    .collect();
    assert_eq!(privileges(&mut owner).await, expected);
}

/// All partitions and what is known of them.
async fn partitions(owner: &mut PgConnection) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT to_jsonb(p)::text || (SELECT count(*) FROM pg_inherits WHERE inhrelid = p.name::regclass) \
         FROM table_partitions p ORDER BY name",
    )
    .fetch_all(owner)
    .await
    .unwrap()
}

#[tokio::test]
async fn what_runs_with_the_owners_rights_does_for_a_hostile_consumer_only_what_the_protocol_does() {
    let database = database().await;
    let mut owner = database.connect(Role::Owner).await;
    owner
        .execute(
            "SELECT ensure_partition('idempotency_keys', now(), '1 day'); \
             SELECT ensure_partition('idempotency_keys', now() - interval '3 days', '1 day'); \
             SELECT ensure_partition('locations', now(), '1 day'); \
             INSERT INTO partition_progress VALUES ('t', 0, 5, now() - interval '3 days', 5, now()), \
             ('t', 1, 5, now(), 5, now())",
        )
        .await
        .unwrap();
    let named: Vec<String> =
        sqlx::query_scalar("SELECT name FROM table_partitions ORDER BY parent, lower_bound")
            .fetch_all(&mut owner)
            .await
            .unwrap();
    let [over, live, day] = &named[..] else { panic!("{named:?}") };
    let filled = |call: &str| call.replace("LIVE", live).replace("OVER", over).replace("DAY", day);
    let before = partitions(&mut owner).await;
    let mut consumer = database.connect(Role::Consumer).await;
    for (call, refusal) in HOSTILE {
        let outcome = attempt(&mut consumer, &filled(call)).await;
        assert_eq!(outcome, Err((*refusal).to_owned()), "{call}");
    }
    for call in IN_VAIN {
        let call = filled(call);
        consumer.execute(call.as_str()).await.unwrap_or_else(|error| panic!("{call}: {error}"));
        assert_eq!(partitions(&mut owner).await, before, "{call}");
    }

    // New ones have the owner's width and keeping, whatever is asked for.
    consumer
        .execute(
            "SELECT ensure_partition('idempotency_keys', now() + interval '1 day', '1 microsecond', '0')",
        )
        .await
        .unwrap();
    let others: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM table_partitions WHERE upper_bound - lower_bound <> '1 day' \
         OR keep_until - upper_bound <> CASE parent WHEN 'locations' THEN interval '365000 days' ELSE '1 day' END",
    )
    .fetch_one(&mut owner)
    .await
    .unwrap();
    assert_eq!(others, 0);

    // And what the protocol does, it may do.
    let expire = filled("SELECT expire_partition('OVER', 't', '{0}')");
    let expired: String = sqlx::query_scalar(&expire).fetch_one(&mut consumer).await.unwrap();
    assert_eq!(expired, "detached");
}

/// What it can do is to say that a key whose secret it has seen was used in this hour.
#[tokio::test]
async fn what_runs_with_the_owners_rights_notes_uses_for_a_hostile_gateway_and_nothing_else() {
    let database = database().await;
    let mut owner = database.connect(Role::Owner).await;
    owner
        .execute(
            "INSERT INTO accounts (id, name) VALUES (gen_random_uuid(), 'a'); \
             INSERT INTO api_keys (account_id, secret_sha256, prefix, revoked_at) \
             SELECT id, sha256('x'), 'mp_x', now() FROM accounts",
        )
        .await
        .unwrap();
    let row = "SELECT (to_jsonb(k) - 'last_used_at')::text, last_used_at FROM api_keys k";
    let before: (String, Option<sqlx::types::time::OffsetDateTime>) =
        sqlx::query_as(row).fetch_one(&mut owner).await.unwrap();
    let mut gateway = database.connect(Role::Gateway).await;
    for (call, refusal) in HOSTILE_OF_GATEWAY {
        let outcome = attempt(&mut gateway, call).await;
        assert_eq!(outcome.err().as_deref(), *refusal, "{call}");
    }
    let unchanged: (String, Option<sqlx::types::time::OffsetDateTime>) =
        sqlx::query_as(row).fetch_one(&mut owner).await.unwrap();
    assert_eq!(unchanged, before);
    gateway.execute("SELECT note_key_uses(ARRAY[sha256('x')])").await.unwrap();
    let after: (String, Option<sqlx::types::time::OffsetDateTime>) =
        sqlx::query_as(row).fetch_one(&mut owner).await.unwrap();
    assert!(after.0 == before.0 && after.1.is_some());
}

/// Each of them has its calls in `HOSTILE`, `HOSTILE_OF_GATEWAY` or `IN_VAIN`.
#[tokio::test]
async fn every_function_with_the_owners_rights_is_known_and_finds_functions_of_postgres_only() {
    let database = database().await;
    let mut owner = database.connect(Role::Owner).await;
    let functions: Vec<(String, Option<String>)> = sqlx::query_as(
        "SELECT DISTINCT proname::text, (SELECT c FROM unnest(proconfig) c WHERE c LIKE 'search_path=%') \
         FROM pg_proc WHERE prosecdef AND pronamespace = 'public'::regnamespace ORDER BY 1",
    )
    .fetch_all(&mut owner)
    .await
    .unwrap();
    let names: Vec<&str> = functions.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["detach_partition", "drop_detached", "ensure_partition", "expire_partition", "note_key_uses"]
    );
    for (name, path) in &functions {
        assert_eq!(path.as_deref(), Some("search_path=pg_catalog, pg_temp"), "{name}");
        assert!(
            HOSTILE
                .iter()
                .map(|(call, _)| call)
                .chain(HOSTILE_OF_GATEWAY.iter().map(|(call, _)| call))
                .chain(IN_VAIN)
                .any(|call| call.contains(name)),
            "{name} has no hostile call"
        );
    }
}

/// As on a database that comes from a time when everybody could create in `public`.
#[tokio::test]
async fn a_function_in_public_that_fits_better_than_the_one_of_postgres_is_not_called() {
    let database = database().await;
    let mut owner = database.connect(Role::Owner).await;
    for signature in [
        "hashtextextended(text, int) RETURNS bigint",
        "pg_advisory_xact_lock(int) RETURNS void",
        "format(text, text, text) RETURNS text",
        "format(text, text, text, timestamptz, timestamptz) RETURNS text",
        "to_char(timestamp, varchar) RETURNS text",
        "substr(text, smallint, smallint) RETURNS text",
        "date_trunc(varchar, timestamptz, varchar) RETURNS timestamptz",
    ] {
        let hostile = format!(
            "CREATE FUNCTION public.{signature} LANGUAGE plpgsql AS $$ BEGIN RAISE 'slipped in'; END $$; \
             GRANT ALL ON ALL FUNCTIONS IN SCHEMA public TO PUBLIC"
        );
        sqlx::raw_sql(&hostile).execute(&mut owner).await.unwrap();
    }
    let mut consumer = database.connect(Role::Consumer).await;
    for call in [
        "SELECT ensure_partition('idempotency_keys', now() - interval '3 days', '1 day')",
        "SELECT ensure_partition('locations', now(), '0')",
        "SELECT expire_partition(name, 't', '{0}') FROM table_partitions WHERE parent = 'idempotency_keys'",
        "SELECT drop_detached()",
    ] {
        consumer.execute(call).await.unwrap_or_else(|error| panic!("{call}: {error}"));
    }
    let mut gateway = database.connect(Role::Gateway).await;
    gateway.execute("SELECT note_key_uses(ARRAY[sha256('x')])").await.unwrap();
    migrate(&mut owner, |line| panic!("{line}")).await.unwrap();
    let mut transaction = owner.begin().await.unwrap();
    super::set_password(&mut transaction, "milepost_gateway", "p").await.unwrap();
    transaction.rollback().await.unwrap();
}

#[tokio::test]
async fn public_may_neither_connect_nor_make_temporary_tables_nor_create_nor_lock_nor_make_large_objects() {
    let database = database().await;
    let mut owner = database.connect(Role::Owner).await;
    owner
        .execute("GRANT CREATE ON SCHEMA public TO PUBLIC; GRANT EXECUTE ON FUNCTION lo_creat(int) TO PUBLIC")
        .await
        .unwrap();
    let open = roles::left_open(&mut owner).await.unwrap();
    assert_eq!(open, ["connect", "create in the schema public", "make large objects"]);
    migrate(&mut owner, |line| panic!("{line}")).await.unwrap();
    assert_eq!(roles::left_open(&mut owner).await.unwrap(), Vec::<String>::new());
    let others: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_database d, aclexplode(datacl) a WHERE datname = current_database() \
         AND (grantee = 0 OR grantee::regrole::text LIKE 'milepost\\_%' AND privilege_type <> 'CONNECT')",
    )
    .fetch_one(&mut owner)
    .await
    .unwrap();
    assert_eq!(others, 0);
    for role in [Role::Gateway, Role::Consumer] {
        database.connect(role).await.execute("SELECT 1").await.unwrap();
    }
}

#[tokio::test]
async fn no_role_is_more_than_a_login() {
    let database = database().await;
    let more: Vec<String> = sqlx::query_scalar(
        "SELECT rolname::text FROM pg_roles r WHERE rolname IN ('milepost_gateway', 'milepost_consumer') AND \
         (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls OR NOT rolcanlogin \
          OR EXISTS (SELECT FROM pg_auth_members WHERE member = r.oid) \
          OR has_schema_privilege(rolname, 'public', 'CREATE') \
          OR has_database_privilege(rolname, current_database(), 'CREATE'))",
    )
    .fetch_all(&mut database.connect(Role::Owner).await)
    .await
    .unwrap();
    assert_eq!(more, Vec::<String>::new());
}

async fn privileges(owner: &mut PgConnection) -> BTreeSet<String> {
    let rows: Vec<String> = sqlx::query_scalar(
        "WITH roles (role) AS (VALUES ('milepost_gateway'), ('milepost_consumer')), \
              relations AS (SELECT oid, relname, relkind FROM pg_class WHERE relnamespace = 'public'::regnamespace) \
         SELECT concat_ws(' ', role, privilege, relname) FROM roles, relations, unnest( \
             ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER', 'MAINTAIN']) privilege \
         WHERE relkind IN ('r', 'p', 'v', 'm') AND (has_table_privilege(role, oid, privilege) OR \
             (privilege IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES') \
              AND has_any_column_privilege(role, oid, privilege))) \
         UNION ALL SELECT concat_ws(' ', role, privilege, relname) \
         FROM roles, relations, unnest(ARRAY['USAGE', 'SELECT', 'UPDATE']) privilege \
         WHERE relkind = 'S' AND CASE WHEN relkind = 'S' THEN has_sequence_privilege(role, oid, privilege) END \
         UNION ALL SELECT concat_ws(' ', role, 'EXECUTE', proname) FROM roles, pg_proc \
         WHERE pronamespace = 'public'::regnamespace AND has_function_privilege(role, oid, 'EXECUTE')",
    )
    .fetch_all(owner)
    .await
    .unwrap();
    rows.into_iter().collect()
}

/// Runs a statement and takes it back; the SQLSTATE if it is refused.
async fn attempt(connection: &mut PgConnection, statement: &str) -> Result<(), String> {
    let mut transaction = connection.begin().await.unwrap();
    let outcome = transaction.execute(statement).await;
    transaction.rollback().await.unwrap();
    match outcome {
        Ok(_) => Ok(()),
        Err(error) => {
            let database = error.as_database_error().expect("only the server refuses");
            Err(database.code().unwrap_or_default().into_owned())
        }
    }
}
