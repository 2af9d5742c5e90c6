use super::*;

fn address(url: &str) -> Address {
    read(url, None).unwrap()
}

fn fault(url: &str) -> String {
    read(url, None).unwrap_err()
}

/// A directory with a certificate, `cert.pem`, and its key, `key.pem`.
fn files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let signed = rcgen::generate_simple_self_signed(["db.example".to_owned()]).unwrap();
    std::fs::write(dir.path().join("cert.pem"), signed.cert.pem()).unwrap();
    std::fs::write(dir.path().join("key.pem"), signed.signing_key.serialize_pem()).unwrap();
    dir
}

fn mode(address: &Address) -> PgSslMode {
    address.routes[0].options.get_ssl_mode()
}

#[test]
fn a_url_is_read_as_libpq_does() {
    let full = address(
        "postgresql://r%40le:p%2Fw@[::1]:5433/data%20base?application_name=x&options=-c%20geqo%3Doff",
    );
    let route = &full.routes[0];
    let options = &route.options;
    assert_eq!((route.host.as_str(), options.get_port(), options.get_username()), ("::1", 5433, "r@le"));
    assert_eq!((options.get_database(), route.has_password), (Some("data base"), true));
    assert_eq!(options.get_options(), Some("-c geqo=off"));
    let parameters = address("postgres://h/d?user=u&port=7&dbname=e&password=p&connect_timeout=3");
    let options = &parameters.routes[0].options;
    assert_eq!((options.get_username(), options.get_port(), options.get_database()), ("u", 7, Some("e")));
    assert_eq!(parameters.timeout, Duration::from_secs(3));
}

#[test]
fn a_host_that_is_a_directory_is_a_socket_without_tls() {
    for url in [
        "postgres://u@%2Frun%2Fpg/d?sslmode=require",
        "postgres://u@h/d?host=/run/pg&sslmode=require",
        "postgres:///d?host=/run/pg&user=u&sslmode=require",
        "postgres://u@/d?host=/run/pg&sslmode=require",
    ] {
        let address = address(url);
        assert!(address.routes[0].is_socket(), "{url}");
        assert_eq!(address.routes[0].options.get_socket().unwrap().to_str(), Some("/run/pg"));
        assert!(matches!(mode(&address), PgSslMode::Disable), "{url}");
    }
}

#[test]
fn several_hosts_are_routes_in_their_order_each_with_its_port() {
    let address = address("postgres://u:p@one,two:7,[::1]:8/d?target_session_attrs=read-write");
    let places: Vec<_> =
        address.routes.iter().map(|route| (route.host.as_str(), route.options.get_port())).collect();
    assert_eq!(places, [("one", 5432), ("two", 7), ("::1", 8)]);
    assert!(address.writable && address.routes.iter().all(|route| route.has_password));
    assert!(fault("postgres://u@one,two/d").contains("target_session_attrs=read-write"));
    assert!(fault("postgres://u@h/d?host=one,two").contains("before the database"));
    assert!(fault("postgres://u@h/d?target_session_attrs=standby").contains("target_session_attrs must be"));
}

#[test]
fn what_is_not_known_is_refused_by_its_name_and_its_value_is_not_shown() {
    for (parameter, name) in [
        ("sslcrl=planted", "sslcrl"),
        ("sslpassword=planted", "sslpassword"),
        ("ssl_mode=planted", "ssl_mode"),
    ] {
        let fault = fault(&format!("postgres://u:planted@h/d?{parameter}"));
        assert!(fault.contains(&format!("the parameter {name} is not supported")), "{fault}");
        assert!(!fault.contains("planted"), "{fault}");
    }
    for parameter in [
        "sslmode=planted",
        "port=planted",
        "connect_timeout=planted",
        "connect_timeout=61",
        "options=planted",
    ] {
        let fault = fault(&format!("postgres://u@h/d?{parameter}"));
        assert!(!fault.contains("planted") && fault.contains("must be"), "{fault}");
    }
}

#[test]
fn tls_is_what_sslmode_says_and_verifies_only_against_named_authorities() {
    let dir = files();
    let ca = dir.path().join("cert.pem");
    let with = |mode: &str| format!("postgres://u@h/d?sslmode={mode}&sslrootcert={}", ca.display());
    assert!(matches!(address("postgres://u@h/d").encryption, Encryption::Prefer));
    assert!(matches!(address("postgres://u@h/d?sslmode=allow").encryption, Encryption::Allow));
    assert!(matches!(mode(&address("postgres://u@h/d?sslmode=require")), PgSslMode::Require));
    assert!(matches!(mode(&address(&with("require"))), PgSslMode::VerifyCa));
    assert!(matches!(mode(&address(&with("verify-full"))), PgSslMode::VerifyFull));
    for mode in ["verify-ca", "verify-full"] {
        assert!(fault(&format!("postgres://u@h/d?sslmode={mode}")).contains("needs sslrootcert"));
    }
    for mode in ["require", "verify-ca"] {
        let fault = fault(&format!("postgres://u@h/d?sslmode={mode}&sslrootcert=system"));
        assert!(fault.contains("needs sslmode=verify-full"), "{fault}");
    }
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let dir = files();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let (cert, key) = (cert.display(), key.display());
    let url = |parameters: String| format!("postgres://u@h/d?sslmode=require&{parameters}");
    address(&url(format!("sslcert={cert}&sslkey={key}")));
    for (parameters, wanted) in [
        (format!("sslcert={cert}"), "must be given together".to_owned()),
        (format!("sslcert={cert}&sslkey={cert}"), format!("sslkey: {cert} holds no")),
        (format!("sslcert={key}&sslkey={key}"), format!("sslcert: {key} holds no certificate")),
        ("sslrootcert=/nowhere".to_owned(), "sslrootcert: cannot read /nowhere: entity not found".to_owned()),
        (format!("sslrootcert={key}"), format!("sslrootcert: {key} holds no certificate")),
        (format!("passfile={cert}"), "others may read it".to_owned()),
    ] {
        let fault = fault(&url(parameters));
        assert!(fault.contains(&wanted), "{fault}");
    }
}

/// What stands in its place is in `shared/no-public-roots`.
#[test]
fn no_public_authority_comes_from_the_registry() {
    let lock = include_str!("../../../Cargo.lock");
    let of_roots = lock.split("[[package]]").filter(|package| package.contains("name = \"webpki-roots\""));
    let sources: Vec<bool> = of_roots.map(|package| package.contains("source = ")).collect();
    assert_eq!(sources, [false], "sqlx must trust none but those of sslrootcert");
}
