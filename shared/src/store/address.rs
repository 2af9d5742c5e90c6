//! What `DATABASE_URL` says, as libpq reads it. What is not known is refused: ignored, it might be what keeps a connection safe.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

/// Longest time to connect to the only host, unless `connect_timeout` says otherwise.
const ALONE: Duration = Duration::from_secs(5);
/// The same for each of several: the next one may be there.
const EACH: Duration = Duration::from_secs(2);
const NOT_A_URL: &str = "must be a PostgreSQL URL, such as postgres://milepost@127.0.0.1:5433/milepost";

/// Where a database is, and how to get in.
#[derive(Debug, Clone)]
pub(super) struct Address {
    /// One for each host, in the order they are tried. Their TLS is as strict as asked for.
    pub(super) routes: Vec<Route>,
    /// What was asked for.
    pub(super) encryption: Encryption,
    /// Whether a server that takes no writes is passed by.
    pub(super) writable: bool,
    /// Longest time to connect to one host.
    pub(super) timeout: Duration,
    /// Where passwords are looked for when none was given.
    pub(super) passfile: Option<PathBuf>,
}

/// One host.
#[derive(Debug, Clone)]
pub(super) struct Route {
    /// For sqlx.
    pub(super) options: PgConnectOptions,
    /// For messages, and for files of passwords: its name or address, or the directory of its socket.
    pub(super) host: String,
    /// Whether a password was given.
    pub(super) has_password: bool,
}

impl Route {
    /// A socket of this machine has no use for TLS.
    pub(super) fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }
}

/// How `sslmode` asks for TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encryption {
    /// As the option of sqlx says, which sqlx does itself.
    Fixed,
    /// If the server asks for it.
    Allow,
    /// If the server has it.
    Prefer,
}

/// The parameters that are collected before any of them is used.
#[derive(Default)]
struct Parameters {
    sslmode: Option<String>,
    sslrootcert: Option<String>,
    sslcert: Option<String>,
    sslkey: Option<String>,
    passfile: Option<String>,
    session: Option<String>,
    timeout: Option<String>,
}

/// Reads a URL, and the variables of libpq (`PGSSLMODE`, `PGPASSFILE`, `PGUSER` and so on) for what it does not say.
///
/// # Errors
/// What is wrong, in words that quote nothing that may be secret.
pub(super) fn read(text: &str, password: Option<&str>) -> Result<Address, String> {
    let mut parameters = Parameters::default();
    let mut routes = Vec::new();
    for url in urls(text)? {
        let route = route(&url, password, &mut parameters)?;
        routes.push(route);
    }
    let several = routes.len() > 1;
    let mut parameters = parameters.or_environment();
    let timeout = match parameters.timeout.take() {
        None => {
            if several {
                EACH
            } else {
                ALONE
            }
        }
        Some(seconds) => match seconds.parse() {
            Ok(seconds @ 1..=60) => Duration::from_secs(seconds),
            _ => return Err("connect_timeout must be a number of seconds, 1 to 60".to_owned()),
        },
    };
    let writable = match parameters.session.as_deref() {
        None | Some("any") => false,
        Some("read-write" | "primary") => true,
        Some(_) => return Err("target_session_attrs must be any, read-write or primary".to_owned()),
    };
    if several && !writable {
        let rule = "several hosts need target_session_attrs=read-write, since a standby takes no uploads";
        return Err(rule.to_owned());
    }
    let passfile = parameters.passfile()?;
    let encryption = secure(&parameters, &mut routes)?;
    Ok(Address { routes, encryption, writable, timeout, passfile })
}

/// One URL for each host.
fn urls(text: &str) -> Result<Vec<Url>, String> {
    let wrong = || NOT_A_URL.to_owned();
    // sqlx would accept any scheme, and connect to localhost after a typing error.
    let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let rest = rest.ok_or_else(wrong)?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
    let at = if user.is_empty() { "" } else { "@" };
    let url = |host: &str| {
        // A host without a name is this machine's; the parser knows no user of such.
        let host = if host.is_empty() && !user.is_empty() { "localhost" } else { host };
        Url::parse(&format!("postgres://{user}{at}{host}{rest}")).map_err(|_| wrong())
    };
    hosts.split(',').map(url).collect()
}

fn route(url: &Url, password: Option<&str>, parameters: &mut Parameters) -> Result<Route, String> {
    let wrong = |_| NOT_A_URL.to_owned();
    let decoded = |text: &str| -> Result<String, String> {
        percent_encoding::percent_decode_str(text).decode_utf8().map(Into::into).map_err(wrong)
    };
    let mut options = PgConnectOptions::new_without_pgpass();
    let mut host = match url.host_str() {
        Some(host) if !host.is_empty() => decoded(host.trim_matches(['[', ']']))?,
        _ => options.get_host().to_owned(),
    };
    if let Some(port) = url.port() {
        options = options.port(port);
    }
    if !url.username().is_empty() {
        options = options.username(&decoded(url.username())?);
    }
    let mut given = url.password().map(decoded).transpose()?;
    let path = url.path().trim_start_matches('/');
    if !path.is_empty() {
        options = options.database(&decoded(path)?);
    }
    for (name, value) in url.query_pairs() {
        let value = value.into_owned();
        match &*name {
            "sslmode" | "ssl-mode" => parameters.sslmode = Some(value),
            "sslrootcert" | "ssl-root-cert" => parameters.sslrootcert = Some(value),
            "sslcert" | "ssl-cert" => parameters.sslcert = Some(value),
            "sslkey" | "ssl-key" => parameters.sslkey = Some(value),
            "passfile" => parameters.passfile = Some(value),
            "target_session_attrs" => parameters.session = Some(value),
            "connect_timeout" => parameters.timeout = Some(value),
            "host" | "hostaddr" if value.contains(',') => {
                return Err(
                    "several hosts go before the database: postgres://user@one,two/database".to_owned()
                );
            }
            "host" | "hostaddr" => host = value,
            "port" => options = options.port(value.parse().map_err(|_| "port must be a number".to_owned())?),
            "user" => options = options.username(&value),
            "password" => given = Some(value),
            "dbname" => options = options.database(&value),
            // Each program says its own.
            "application_name" => {}
            "statement-cache-capacity" => {
                let capacity = value.parse().map_err(|_| format!("{name} must be a number"))?;
                options = options.statement_cache_capacity(capacity);
            }
            "options" => options = set(options, &value)?,
            other => return Err(format!("the parameter {} is not supported", printable(other))),
        }
    }
    let given = password.map(str::to_owned).or(given);
    let from_environment = given.is_none() && env::var_os("PGPASSWORD").is_some();
    let has_password = given.is_some() || from_environment;
    if let Some(password) = given {
        options = options.password(&password);
    }
    options = if host.starts_with('/') { options.socket(&host) } else { options.host(&host) };
    Ok(Route { options, host, has_password })
}

/// The settings of a parameter `options=-c name=value -c name=value`.
fn set(options: PgConnectOptions, text: &str) -> Result<PgConnectOptions, String> {
    let mut settings = Vec::new();
    for setting in text.split("-c ").map(str::trim).filter(|setting| !setting.is_empty()) {
        settings.push(setting.split_once('=').ok_or("options must be -c name=value")?);
    }
    Ok(options.options(settings))
}

/// Gives each route its TLS.
fn secure(parameters: &Parameters, routes: &mut [Route]) -> Result<Encryption, String> {
    let root = parameters.sslrootcert.as_deref();
    let system = root == Some("system");
    let mode = match parameters.sslmode.as_deref() {
        None if system => PgSslMode::VerifyFull,
        None => PgSslMode::Prefer,
        Some(mode) => mode.parse().map_err(|_| {
            "sslmode must be disable, allow, prefer, require, verify-ca or verify-full".to_owned()
        })?,
    };
    let mode = match mode {
        // As libpq does, for the sake of those who believed that it would.
        PgSslMode::Require if root.is_some() => PgSslMode::VerifyCa,
        other => other,
    };
    let verifies = matches!(mode, PgSslMode::VerifyCa | PgSslMode::VerifyFull);
    if system && !matches!(mode, PgSslMode::VerifyFull) {
        let why = "whoever has a certificate of a public authority could pass for the server";
        return Err(format!("sslrootcert=system needs sslmode=verify-full: {why}"));
    }
    if verifies && root.is_none() {
        let rule = "this sslmode needs sslrootcert, a file with the authorities to trust, or system";
        return Err(rule.to_owned());
    }
    let (certificate, key) = (parameters.sslcert.as_deref(), parameters.sslkey.as_deref());
    if certificate.is_some() != key.is_some() {
        return Err("sslcert and sslkey must be given together".to_owned());
    }
    if let Some(file) = root.filter(|_| !system) {
        certificates("sslrootcert", file)?;
    }
    if let (Some(certificate), Some(key)) = (certificate, key) {
        certificates("sslcert", certificate)?;
        let what = "an unencrypted private key";
        PrivateKeyDer::from_pem_file(key).map_err(|error| unusable("sslkey", key, what, &error))?;
    }
    let authorities = system.then(system_authorities).transpose()?;
    for route in routes {
        let mut options = route.options.clone();
        options = options.ssl_mode(if route.is_socket() { PgSslMode::Disable } else { mode });
        match (&authorities, root) {
            (Some(pem), _) => options = options.ssl_root_cert_from_pem(pem.clone()),
            (None, Some(file)) => options = options.ssl_root_cert(file),
            (None, None) => {}
        }
        if let (Some(certificate), Some(key)) = (certificate, key) {
            options = options.ssl_client_cert(certificate).ssl_client_key(key);
        }
        route.options = options;
    }
    Ok(match mode {
        PgSslMode::Allow => Encryption::Allow,
        PgSslMode::Prefer => Encryption::Prefer,
        _ => Encryption::Fixed,
    })
}

/// Looks now whether a file has certificates. It is read again for each connection, so that it can be renewed.
fn certificates(name: &str, file: &str) -> Result<(), String> {
    let what = "a certificate in PEM";
    let mut found =
        CertificateDer::pem_file_iter(file).map_err(|error| unusable(name, file, what, &error))?;
    match found.next() {
        Some(Ok(_)) => Ok(()),
        Some(Err(error)) => Err(unusable(name, file, what, &error)),
        None => Err(unusable(name, file, what, &PemError::NoItemsFound)),
    }
}

fn unusable(name: &str, file: &str, what: &str, error: &PemError) -> String {
    match error {
        PemError::Io(error) => format!("{name}: cannot read {}: {}", printable(file), error.kind()),
        _ => format!("{name}: {} holds no {}", printable(file), what.trim_start_matches("a ")),
    }
}

/// Those that the system trusts, in PEM.
fn system_authorities() -> Result<Vec<u8>, String> {
    // What of the system's store cannot be read is left out, as it is everywhere.
    let authorities = rustls_native_certs::load_native_certs().certs;
    if authorities.is_empty() {
        return Err("sslrootcert=system, but the system trusts no certificate".to_owned());
    }
    let pem = authorities.iter().map(|der| {
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64_STANDARD.encode(der))
    });
    Ok(pem.collect::<String>().into_bytes())
}

impl Parameters {
    /// With what the environment says where the URL does not.
    fn or_environment(self) -> Self {
        let or = |value: Option<String>, name: &str| {
            value.or_else(|| env::var_os(name)?.into_string().ok()).filter(|value| !value.is_empty())
        };
        Self {
            sslmode: or(self.sslmode, "PGSSLMODE"),
            sslrootcert: or(self.sslrootcert, "PGSSLROOTCERT"),
            sslcert: or(self.sslcert, "PGSSLCERT"),
            sslkey: or(self.sslkey, "PGSSLKEY"),
            passfile: or(self.passfile, "PGPASSFILE"),
            session: or(self.session, "PGTARGETSESSIONATTRS"),
            timeout: or(self.timeout, "PGCONNECT_TIMEOUT"),
        }
    }

    /// The file that was named, which must be usable, or else the one in the home directory, if it is there.
    fn passfile(&self) -> Result<Option<PathBuf>, String> {
        match &self.passfile {
            Some(named) => match super::passfile::check(Path::new(named)) {
                Ok(()) => Ok(Some(named.into())),
                Err(why) => Err(format!("the file of passwords {}: {why}", printable(named))),
            },
            None => {
                let file = env::home_dir().map(|home| home.join(".pgpass"));
                Ok(file.filter(|file| super::passfile::check(file).is_ok()))
            }
        }
    }
}

fn printable(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(200).collect()
}

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;
