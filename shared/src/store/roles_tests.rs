//! What the two programs may do in the database, and that it is nothing else (design, section 4).

use std::collections::BTreeSet;

use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::store::testing::{Role, database};

const INSUFFICIENT_PRIVILEGE: &str = "42501";

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
    "SELECT ensure_partition('locations', now(), '1 day', '1 day')",
    "SELECT detach_partition('x')",
    "SELECT drop_detached()",
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
    "SELECT * FROM partition_progress",
    "SELECT version FROM _sqlx_migrations",
];

/// In this order, in one database.
const ALLOWED_TO_CONSUMER: &[&str] = &[
    "SELECT version FROM _sqlx_migrations",
    "SELECT id FROM accounts",
    "SELECT * FROM ensure_partition('idempotency_keys', now(), '1 day', '1 day')",
    "SELECT * FROM ensure_partition('locations', now(), '1 day', '1 day')",
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
    "SELECT detach_partition(name) FROM table_partitions",
    "SELECT drop_detached()",
];

#[tokio::test]
async fn each_role_is_refused_what_it_has_no_business_with() {
    let database = database().await;
    let mut owner = database.connect(Role::Owner).await;
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
        let ensure = format!("SELECT * FROM ensure_partition('{parent}', now(), '1 day', '1 day')");
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
    let functions = "ensure_partition detach_partition drop_detached";
    let expected: BTreeSet<String> = [
        granted(gateway, "SELECT", "idempotency_keys api_keys partition_progress _sqlx_migrations"),
        granted(consumer, "SELECT", "accounts table_partitions _sqlx_migrations"),
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
