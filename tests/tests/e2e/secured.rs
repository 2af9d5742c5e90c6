//! Postgres behind TLS, passwords and client certificates; and what is said when one of them is wrong.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use milepost_tests::{
    Authority, Identity, Post, Program, Role, Server, Services, World, WorldSettings, eventually,
};
use tempfile::TempDir;

const MINUTE: Duration = Duration::from_secs(60);
/// Within which a fault is told.
const SECONDS: Duration = Duration::from_secs(15);
const PASSWORD: &str = "planted-password-of-the-gateway";

/// A Postgres that lets nobody in without TLS: the gateway by a password, the consumer by its certificate.
struct Secured {
    server: Server,
    authority: Authority,
    dir: TempDir,
    consumer: Identity,
}

impl Secured {
    async fn start() -> anyhow::Result<Self> {
        let (authority, dir) = (Authority::new("tests")?, tempfile::tempdir()?);
        authority.write(&dir.path().join("ca.crt"))?;
        authority.server("localhost", false, dir.path())?;
        let consumer = authority.client("milepost_consumer", dir.path())?;
        let rules = "hostssl all milepost_gateway 127.0.0.1/32 scram-sha-256\n\
            hostssl all milepost_consumer 127.0.0.1/32 cert\n\
            hostssl all milepost 127.0.0.1/32 trust\n\
            local all milepost_gateway scram-sha-256\n";
        std::fs::write(dir.path().join("pg_hba.conf"), rules)?;
        // For the socket of a server that may run as another user.
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777))?;
        let sockets = format!("-c unix_socket_directories={}", dir.path().display());
        let environment =
            vec![("POSTGRES_TLS", dir.path().display().to_string()), ("POSTGRES_OPTIONS", sockets)];
        let server = Server::postgres_with(environment).await?;
        Ok(Self { server, authority, dir, consumer })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Its URL, with a database and further parameters.
    fn url(&self, user: &str, database: &str, parameters: &str) -> String {
        let (port, ca) = (self.server.port(), self.file("ca.crt"));
        let ca = ca.display();
        format!(
            "postgres://{user}@localhost:{port}/{database}?sslmode=verify-full&sslrootcert={ca}{parameters}"
        )
    }

    async fn world(&self) -> anyhow::Result<World> {
        let services = Services { database_url: self.url("milepost", "milepost", ""), ..Services::shared()? };
        let world = World::on(services, WorldSettings::default()).await?;
        let password = format!("ALTER ROLE milepost_gateway PASSWORD '{PASSWORD}'");
        sqlx::raw_sql(&password).execute(&world.tables.pool).await?;
        Ok(world)
    }

    /// A gateway that has its password from a file, with parameters of its URL.
    fn gateway(&self, world: &World, parameters: &str) -> anyhow::Result<Program> {
        let file = self.file("password");
        std::fs::write(&file, format!("{PASSWORD}\n"))?;
        let mut gateway = world.new_gateway()?;
        gateway.set("DATABASE_URL", &self.url("milepost_gateway", world.database.name(), parameters));
        gateway.set("DATABASE_PASSWORD_FILE", &file.display().to_string());
        Ok(gateway)
    }

    /// A consumer that has a certificate.
    fn consumer(&self, world: &World) -> anyhow::Result<Program> {
        let Identity { certificate, key } = &self.consumer;
        let parameters = format!("&sslcert={}&sslkey={}", certificate.display(), key.display());
        let mut consumer = world.new_consumer()?;
        consumer.set("DATABASE_URL", &self.url("milepost_consumer", world.database.name(), &parameters));
        Ok(consumer)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_program_speaks_verified_tls_with_a_password_of_a_file_or_a_certificate() -> anyhow::Result<()>
{
    let secured = Secured::start().await?;
    let world = secured.world().await?;
    let (mut gateway, mut consumer) = (secured.gateway(&world, "")?, secured.consumer(&world)?);
    gateway.start().await?;
    consumer.start().await?;
    let upload = world.planted.upload(3);
    let post = Post::batch(&upload).key(&world.planted.key()).wait(20);
    assert_eq!(world.client(&gateway)?.post(&post).await?.status, 200);
    world.caught_up().await?;
    let connections = "SELECT count(DISTINCT usename) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) \
        WHERE datname = current_database() AND ssl";
    assert_eq!(world.tables.number(connections).await?, 3);
    let plain = "SELECT count(*) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) \
        WHERE datname = current_database() AND NOT ssl";
    assert_eq!(world.tables.number(plain).await?, 0);
    for program in [&gateway, &consumer] {
        assert!(!program.logged()?.contains(PASSWORD), "{}", program.name);
    }
    world.finish(&[&upload]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn by_a_socket_of_this_machine_a_file_of_passwords_lets_a_program_in() -> anyhow::Result<()> {
    let secured = Secured::start().await?;
    let world = secured.world().await?;
    let (dir, database) = (secured.dir.path().display().to_string(), world.database.name());
    let file = secured.file("pgpass");
    std::fs::write(&file, format!("nowhere:*:*:*:wrong\n{dir}:*:{database}:milepost_gateway:{PASSWORD}\n"))?;
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600))?;
    let mut gateway = world.new_gateway()?;
    let port = secured.server.port();
    gateway
        .set("DATABASE_URL", &format!("postgres://milepost_gateway@localhost:{port}/{database}?host={dir}"));
    gateway.set("PGPASSFILE", &file.display().to_string());
    gateway.start().await?;
    let by_socket = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'milepost_gateway' \
        AND datname = current_database() AND client_addr IS NULL";
    assert!(world.tables.number(by_socket).await? > 0);
    assert!(!gateway.logged()?.contains(PASSWORD));
    world.finish(&[]).await
}

/// The program says within seconds what is wrong, on its page and in one line of its log, and goes on waiting.
async fn tells(mut program: Program, dependency: &str, cause: &str) -> anyhow::Result<()> {
    program.spawn()?;
    let what = format!("{}: {dependency} is down because: {cause}", program.name);
    let told = eventually(SECONDS, &what, async || {
        let page = program.page("/readyz").await.unwrap_or_default();
        let page: serde_json::Value = serde_json::from_str(&page).unwrap_or_default();
        let detail = page["dependencies"][dependency]["detail"].as_str().unwrap_or_default();
        Ok((detail.contains(cause) && page["ready"] == false).then_some(()))
    });
    if let Err(error) = told.await {
        anyhow::bail!("{error:#}: {:?}\n{}", program.page("/readyz").await, program.logged()?);
    }
    let log = program.logged()?;
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("cannot connect to Postgres")).collect();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].replace('\\', "").contains(cause), "{lines:?}");
    assert!(!log.contains("planted-password"), "{log}");
    program.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_secured_connection_is_told_by_readiness_and_one_line_of_the_log()
-> anyhow::Result<()> {
    let secured = Secured::start().await?;
    let world = secured.world().await?;
    let other = |name: &str, file: &str| -> anyhow::Result<String> {
        Authority::new(name)?.write(&secured.file(file))?;
        Ok(format!("&sslrootcert={}", secured.file(file).display()))
    };
    let (of_its_name, other) = (other("tests", "of-its-name.crt")?, other("others", "other.crt")?);
    let certificate = "the server's certificate ";
    for (parameters, cause) in [
        (other.as_str(), &*format!("{certificate}is signed by no authority of sslrootcert")),
        (of_its_name.as_str(), &*format!("{certificate}is signed by no authority of sslrootcert")),
        ("&host=127.0.0.1", &*format!("{certificate}is not for 127.0.0.1, but for ")),
        ("&sslmode=disable", "no pg_hba.conf entry for host \"127.0.0.1\", user \"milepost_gateway\""),
    ] {
        tells(secured.gateway(&world, parameters)?, "api_keys", cause).await?;
    }
    let mut wrong = secured.gateway(&world, "")?;
    wrong.unset("DATABASE_PASSWORD_FILE");
    wrong.set("DATABASE_PASSWORD", "planted-password-that-is-wrong");
    tells(wrong, "api_keys", "password authentication failed for user \"milepost_gateway\"").await?;

    let mut nameless = secured.consumer(&world)?;
    let url = secured.url("milepost_consumer", world.database.name(), "");
    nameless.set("DATABASE_URL", &url);
    tells(nameless, "postgres", "connection requires a valid client certificate").await?;

    let mut asking = world.new_consumer()?;
    let plain = Services::shared()?.database_url;
    asking.set("DATABASE_URL", &format!("{plain}?sslmode=require"));
    tells(asking, "postgres", "server does not support TLS").await?;

    secured.authority.server("localhost", true, secured.dir.path())?;
    secured.server.stop().await?;
    secured.server.start().await?;
    tells(secured.gateway(&world, "")?, "api_keys", "the server's certificate has expired").await?;
    tells(secured.consumer(&world)?, "postgres", "the server's certificate has expired").await?;
    world.leave();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_prefers_tls_says_in_its_log_what_it_got() -> anyhow::Result<()> {
    let secured = Secured::start().await?;
    let world = secured.world().await?;
    let mut encrypted = world.new_gateway()?;
    let url = format!(
        "postgres://milepost_gateway:{PASSWORD}@localhost:{}/{}",
        secured.server.port(),
        world.database.name()
    );
    encrypted.set("DATABASE_URL", &url);
    encrypted.start().await?;
    assert!(encrypted.logged()?.contains("encrypted, to whom is not verified"));
    assert!(!encrypted.logged()?.contains(PASSWORD));

    let plain = World::new(WorldSettings::default()).await?;
    let mut consumer = plain.new_consumer()?;
    consumer.set("DATABASE_URL", &plain.database.url(Role::Consumer));
    consumer.start().await?;
    let log = consumer.logged()?;
    assert!(log.contains("encryption=\"not encrypted\""), "{log}");
    world.finish(&[]).await?;
    plain.finish(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_set_twice_or_whose_file_is_missing_ends_a_program_with_78_by_name()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    for (name, value, said) in [
        ("DATABASE_URL_FILE", "/dev/null", "DATABASE_URL and DATABASE_URL_FILE must not both be set"),
        (
            "DATABASE_PASSWORD_FILE",
            "/nowhere/at/all",
            "DATABASE_PASSWORD_FILE: the file /nowhere/at/all cannot be read",
        ),
        ("DATABASE_PASSWORD_FILE", "/dev/null", "DATABASE_PASSWORD_FILE: the file /dev/null is empty"),
    ] {
        let mut consumer = world.new_consumer()?;
        consumer.set(name, value);
        consumer.spawn()?;
        assert_eq!(consumer.wait_exit(MINUTE).await?.code(), Some(78));
        assert!(consumer.logged()?.contains(said), "{}", consumer.logged()?);
    }
    world.finish(&[]).await
}
