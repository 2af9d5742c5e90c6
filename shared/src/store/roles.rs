//! What roles may do in this database, as far as no migration says it: PUBLIC, which is every role of the cluster, nothing that
//! Milepost does not need. A dump of a database does not carry all of that, so it is checked at every migration. And the
//! passwords of the programs' roles.

use anyhow::Context as _;
use sqlx::{Connection as _, Executor as _, PgConnection};

/// Lets one transaction at a time change roles and what PUBLIC may do. The function it calls is Postgres' own.
const ROLES_LOCK: &str = "SELECT pg_catalog.pg_advisory_xact_lock(\
     pg_catalog.hashtextextended('milepost.roles'::pg_catalog.text, 0::pg_catalog.int8))";

/// Each statement that revokes something from PUBLIC that it still has. The owner of the tables keeps what it needs, even when
/// a superuser does this for it, and the programs' roles may still connect. Temporary tables, large objects and advisory locks
/// fill the disk or hold somebody up; and whoever may create in `public` can slip a function in there that another role calls.
const TO_REVOKE: &str = "
    SELECT what, statement FROM (
        SELECT 'connect' AS what, format('GRANT CONNECT ON DATABASE %I TO milepost_gateway, milepost_consumer; \
                REVOKE ALL ON DATABASE %1$I FROM PUBLIC', current_database()) AS statement
        WHERE has_database_privilege('public', current_database(), 'CONNECT')
           OR has_database_privilege('public', current_database(), 'TEMP')
        UNION ALL
        SELECT 'create in the schema public', 'REVOKE CREATE ON SCHEMA public FROM PUBLIC'
        WHERE has_schema_privilege('public', 'public', 'CREATE')
        UNION ALL
        SELECT CASE WHEN proname LIKE '%advisory%' THEN 'hold advisory locks' ELSE 'make large objects' END,
               format('GRANT EXECUTE ON FUNCTION %s TO %s; REVOKE EXECUTE ON FUNCTION %1$s FROM PUBLIC', p.oid::regprocedure,
                      (SELECT relowner::regrole FROM pg_class WHERE oid = 'public._sqlx_migrations'::regclass))
        FROM pg_proc p
        WHERE pronamespace = 'pg_catalog'::regnamespace AND has_function_privilege('public', p.oid, 'EXECUTE')
          AND (proname LIKE 'lo\\_%' OR proname IN ('loread', 'lowrite')
               OR proname LIKE 'pg\\_advisory\\_%' OR proname LIKE 'pg\\_try\\_advisory\\_%')
    ) AS open";

/// Revokes it, as far as the connected role may.
pub(super) async fn restrict(connection: &mut PgConnection) -> sqlx::Result<()> {
    let mut transaction = connection.begin().await?;
    transaction.execute("SET LOCAL search_path = pg_catalog").await?;
    transaction.execute(ROLES_LOCK).await?;
    let open: Vec<(String, String)> = sqlx::query_as(TO_REVOKE).fetch_all(&mut *transaction).await?;
    for (_, statement) in open {
        sqlx::raw_sql(&statement).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

/// What PUBLIC may do all the same, in words: only a superuser, or the database's owner, can revoke it.
///
/// # Errors
/// The database cannot be asked.
pub async fn left_open(connection: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    let mut transaction = connection.begin().await?;
    transaction.execute("SET LOCAL search_path = pg_catalog").await?;
    let open: Vec<(String, String)> = sqlx::query_as(TO_REVOKE).fetch_all(&mut *transaction).await?;
    let mut what: Vec<String> = open.into_iter().map(|(what, _)| what).collect();
    what.sort_unstable();
    what.dedup();
    Ok(what)
}

/// Gives a role of the cluster a password.
///
/// # Errors
/// The role does not exist, or the connected one may not change it. The error does not quote the password.
pub async fn set_password(connection: &mut PgConnection, role: &str, password: &str) -> anyhow::Result<()> {
    alter_role(connection, role, password)
        .await
        .with_context(|| format!("cannot set the password of role {role}"))
}

async fn alter_role(connection: &mut PgConnection, role: &str, password: &str) -> sqlx::Result<()> {
    let mut transaction = connection.begin().await?;
    // Postgres fails the second of two changes at once, and containers that start together all migrate.
    sqlx::query(ROLES_LOCK).execute(&mut *transaction).await?;
    // ALTER ROLE takes no bind values; the server itself quotes what goes into the statement.
    let statement: String =
        sqlx::query_scalar("SELECT pg_catalog.format('ALTER ROLE %I PASSWORD %L', $1::text, $2::text)")
            .bind(role)
            .bind(password)
            .fetch_one(&mut *transaction)
            .await?;
    sqlx::raw_sql(&statement).execute(&mut *transaction).await?;
    transaction.commit().await
}

#[cfg(test)]
#[path = "roles_tests.rs"]
mod tests;
