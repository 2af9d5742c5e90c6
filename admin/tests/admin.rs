//! The real program on a real Postgres. `topics` needs a Kafka: the end-to-end tests create and check the topics.

use std::process::Command;

use milepost_shared::store::testing::{Role, TestDatabase, database};
use sha2::{Digest as _, Sha256};
use sqlx::{ConnectOptions as _, Executor as _};
use uuid::Uuid;

struct Ended {
    status: i32,
    stdout: String,
    stderr: String,
}

/// Runs `milepost-admin` with these words as the owner of the database.
fn admin(database: &TestDatabase, arguments: &[&str]) -> Ended {
    run(Some(database.url(Role::Owner)), arguments)
}

fn run(database_url: Option<String>, arguments: &[&str]) -> Ended {
    let output = Command::new(env!("CARGO_BIN_EXE_milepost-admin"))
        .env_clear()
        .envs(database_url.map(|url| ("DATABASE_URL", url)))
        .args(arguments)
        .output()
        .expect("cargo has built the program");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8 is written");
    let status = output.status.code().expect("it ends by itself");
    Ended { status, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// What is printed on success.
fn printed(database: &TestDatabase, arguments: &[&str]) -> String {
    let ended = admin(database, arguments);
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{arguments:?}");
    ended.stdout
}

/// What is said on failure.
fn refused(database: &TestDatabase, arguments: &[&str]) -> String {
    let ended = admin(database, arguments);
    assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{arguments:?}: {}", ended.stderr);
    ended.stderr
}

/// The words of each line below the header.
fn rows(table: &str) -> Vec<Vec<&str>> {
    table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect()
}

#[tokio::test]
async fn a_database_is_migrated_and_migrated_again() {
    let database = database().await;
    let mut owner = database.connect(Role::Owner).await;
    owner.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await.unwrap();
    owner.execute("GRANT USAGE ON SCHEMA public TO PUBLIC").await.unwrap();
    let error = refused(&database, &["account", "list"]);
    assert!(error.contains("milepost-admin migrate"), "{error}");
    for _ in 0..2 {
        assert!(printed(&database, &["migrate"]).starts_with("the schema has version "));
    }
    assert_eq!(printed(&database, &["account", "list"]).lines().count(), 1);
}

#[tokio::test]
async fn the_ttl_given_to_migrate_is_how_long_keys_are_kept_until_another_one_is_given() {
    let database = database().await;
    let mut owner = database.connect(Role::Owner).await;
    for (arguments, shown, kept) in [
        (&["migrate", "--idempotency-ttl", "48h"][..], "keys are kept for 2days\n", "48:00:00"),
        (&["migrate"], "", "48:00:00"),
        (&["migrate", "--idempotency-ttl", "5s"], "keys are kept for 5s\n", "00:00:05"),
    ] {
        let printed = printed(&database, arguments);
        assert_eq!(printed.split_once('\n').map(|(_, rest)| rest), Some(shown));
        let set: (String, String) = sqlx::query_as(
            "SELECT width::text, kept::text FROM partition_settings WHERE parent = 'idempotency_keys'",
        )
        .fetch_one(&mut owner)
        .await
        .unwrap();
        assert_eq!(set, (kept.to_owned(), kept.to_owned()));
    }
}

/// Of a database, but not a superuser, as on a managed server.
#[tokio::test]
async fn an_owner_who_may_not_take_everything_from_public_learns_what_is_left() {
    let database = database().await;
    let mut superuser = database.connect(Role::Owner).await;
    let role = format!("owner_{}", Uuid::new_v4().simple());
    let prepared = format!(
        "CREATE ROLE {role} LOGIN CREATEROLE; DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION {role}; \
         GRANT USAGE ON SCHEMA public TO PUBLIC; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pg_catalog TO PUBLIC"
    );
    sqlx::raw_sql(&prepared).execute(&mut superuser).await.unwrap();
    let own: String =
        sqlx::query_scalar("SELECT format('ALTER DATABASE %I OWNER TO %I', current_database(), $1::text)")
            .bind(&role)
            .fetch_one(&mut superuser)
            .await
            .unwrap();
    superuser.execute(own.as_str()).await.unwrap();
    let url = database.options(Role::Owner).username(&role).to_url_lossy().to_string();
    let first = run(Some(url.clone()), &["migrate"]);
    let by_superuser = printed(&database, &["migrate"]);
    let again = run(Some(url), &["migrate"]);
    let given_back =
        format!("REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}");
    sqlx::raw_sql(&given_back).execute(&mut superuser).await.unwrap();
    let left = ["hold advisory locks", "make large objects"].map(|what| {
        format!("every role of the server may {what}: run this once as a superuser, who can take that away\n")
    });
    assert_eq!((first.status, first.stderr), (0, left.concat()));
    assert_eq!((again.status, again.stderr.as_str(), again.stdout), (0, "", by_superuser));
}

#[tokio::test]
async fn an_account_is_created_once_and_only_its_id_is_printed() {
    let database = database().await;
    let id = printed(&database, &["account", "create", "--name", "Zoë & Co"]);
    Uuid::parse_str(id.trim_end()).unwrap();
    let error = refused(&database, &["account", "create", "--name", "Zoë & Co"]);
    assert!(error.contains("milepost-admin account list"), "{error}");

    let list = printed(&database, &["account", "list"]);
    let rows = rows(&list);
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0][0], &rows[0][2..]), (id.trim_end(), &["Zoë", "&", "Co"][..]));
}

#[tokio::test]
async fn a_secret_is_shown_once_and_only_its_hash_is_stored() {
    let database = database().await;
    let account = printed(&database, &["account", "create", "--name", "a"]);
    let secret = printed(&database, &["key", "create", "--account", account.trim_end()]);
    let secret = secret.trim_end();
    let (prefix, random) = (&secret[..11], &secret[12..]);
    assert_eq!((&prefix[..3], random.len()), ("mp_", 43));

    let mut owner = database.connect(Role::Owner).await;
    let (hash, row): (Vec<u8>, String) = sqlx::query_as("SELECT secret_sha256, api_keys::text FROM api_keys")
        .fetch_one(&mut owner)
        .await
        .unwrap();
    assert_eq!(hash, Sha256::digest(secret).to_vec());
    assert!(row.contains(prefix) && !row.contains(random), "{row}");
    assert!(!printed(&database, &["key", "list"]).contains(random));

    let nobody = Uuid::nil().to_string();
    assert!(refused(&database, &["key", "create", "--account", &nobody]).contains("account list"));
}

#[tokio::test]
async fn a_key_is_revoked_once_and_an_unknown_one_is_refused() {
    let database = database().await;
    let account = printed(&database, &["account", "create", "--name", "a"]);
    let other = printed(&database, &["account", "create", "--name", "b"]);
    let secret = printed(&database, &["key", "create", "--account", account.trim_end()]);
    printed(&database, &["key", "create", "--account", other.trim_end()]);
    let prefix = &secret[..11];

    let of_account = ["key", "list", "--account", account.trim_end()];
    let before = printed(&database, &of_account);
    assert_eq!(rows(&before).len(), 1);
    assert_eq!((rows(&before)[0][0], rows(&before)[0][3]), (prefix, "-"));
    assert_eq!(rows(&printed(&database, &["key", "list"])).len(), 2);

    printed(&database, &["key", "revoke", prefix]);
    let after = printed(&database, &of_account);
    assert_ne!(rows(&after)[0][3], "-");
    printed(&database, &["key", "revoke", prefix]);
    assert_eq!(printed(&database, &of_account), after);

    let error = refused(&database, &["key", "revoke", secret.trim_end()]);
    assert!(!error.contains(&secret[12..30]), "a pasted secret is not shown: {error}");
}

#[tokio::test]
async fn a_key_shows_its_label_end_device_and_last_use_as_they_are_given() {
    let database = database().await;
    let account = printed(&database, &["account", "create", "--name", "a"]);
    let account = ["--account", account.trim_end()];
    printed(
        &database,
        &[&["key", "create", "--label", "of the importer", "--expires", "30d"], &account[..]].concat(),
    );
    printed(&database, &[&["key", "create"], &account[..]].concat());
    let mut owner = database.connect(Role::Owner).await;
    let end: bool = sqlx::query_scalar(
        "SELECT expires_at - created_at = interval '30 days' AND device IS NULL FROM api_keys WHERE label IS NOT NULL",
    )
    .fetch_one(&mut owner)
    .await
    .unwrap();
    assert!(end);
    owner.execute("UPDATE api_keys SET last_used_at = '2026-03-14T09:00:00Z'").await.unwrap();
    let list = printed(&database, &[&["key", "list"], &account[..]].concat());
    let [labelled, plain] = &rows(&list)[..] else { panic!("{list}") };
    assert_eq!(labelled[5..], ["2026-03-14T09:00:00Z", "-", "of", "the", "importer"]);
    assert_eq!((labelled[3], labelled[4].len()), ("-", 20));
    assert_eq!(plain[3..], ["-", "-", "2026-03-14T09:00:00Z", "-", "-"]);
}

#[tokio::test]
async fn a_device_gets_a_key_of_its_own_with_what_to_enter_in_each_app_and_the_secret_is_shown_this_once() {
    let database = database().await;
    let account = printed(&database, &["account", "create", "--name", "a"]);
    let account = account.trim_end();
    let create = ["device", "create", "--account", account, "--name", "pixel8"];
    let url = ["--gateway-url", "https://h.example/", "--label", "Jane’s", "--expires", "30d"];
    let shown = printed(&database, &[&create[..], &url].concat());
    let secret = shown.lines().find(|line| line.starts_with("mp_") && line.len() == 55).expect("a secret");
    let (prefix, random) = (&secret[..11], &secret[12..]);
    for line in [
        "  URL: https://h.example/owntracks".to_owned(),
        format!("  Password: {secret}"),
        "  Receiver Endpoint: https://h.example/overland".to_owned(),
        format!("  Server URL: https://h.example/traccar/{secret}"),
        format!("  URL: https://h.example/gpslogger/{secret}?%ALL"),
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}\n{shown}");
    }
    let links = ["owntracks:///config?inline=", "overland://setup?", "org.traccar.client://config?"];
    assert!(links.iter().all(|link| shown.matches(link).count() == 1), "{shown}");

    let mut owner = database.connect(Role::Owner).await;
    let (hash, row): (Vec<u8>, String) = sqlx::query_as("SELECT secret_sha256, api_keys::text FROM api_keys")
        .fetch_one(&mut owner)
        .await
        .unwrap();
    assert_eq!(hash, Sha256::digest(secret).to_vec());
    assert!(row.contains("pixel8") && row.contains("Jane’s") && !row.contains(random), "{row}");

    printed(&database, &["key", "create", "--account", account]);
    let devices = printed(&database, &["device", "list", "--account", account]);
    let [listed] = &rows(&devices)[..] else { panic!("keys for any device are not listed: {devices}") };
    assert_eq!((listed[0], listed[2], &listed[4..]), (prefix, "-", &["-", "pixel8", "Jane’s"][..]));
    let keys = printed(&database, &["key", "list"]);
    assert!(keys.contains("pixel8") && !devices.contains(random) && !keys.contains(random));

    let nobody = Uuid::nil().to_string();
    let refused = refused(&database, &["device", "create", "--account", &nobody, "--name", "d"]);
    assert!(refused.contains("account list"), "{refused}");
}

#[tokio::test]
async fn qr_codes_are_shown_on_demand_and_plain_where_there_is_no_terminal() {
    let database = database().await;
    let account = printed(&database, &["account", "create", "--name", "a"]);
    let create = ["device", "create", "--account", account.trim_end(), "--name", "pixel8"];
    let is_code = |line: &&str| line.chars().count() > 20 && line.chars().all(|char| " ▄▀█".contains(char));
    assert_eq!(printed(&database, &create).lines().filter(is_code).count(), 0);
    let shown = printed(&database, &[&create[..], &["--qr"]].concat());
    assert_eq!(shown.matches("or scan:").count(), 3);
    assert!(shown.lines().filter(is_code).count() > 60 && !shown.contains('\x1b'), "{shown}");
    assert!(shown.lines().filter(is_code).all(|line| line.chars().count() <= 80), "{shown}");
}

#[tokio::test]
async fn a_lost_device_is_revoked_with_all_its_keys_and_one_key_by_its_prefix() {
    let database = database().await;
    let account = printed(&database, &["account", "create", "--name", "a"]);
    let account = account.trim_end();
    for name in ["lost", "lost", "kept", "kept"] {
        printed(&database, &["device", "create", "--account", account, "--name", name]);
    }
    let revoke = ["device", "revoke", "--account", account, "--name", "lost"];
    assert_eq!(printed(&database, &revoke).lines().count(), 2);
    assert!(refused(&database, &revoke).contains("device list"));
    let list = ["device", "list", "--account", account];
    let revoked =
        |list: &str| rows(list).iter().map(|row| (row[5].to_owned(), row[2] != "-")).collect::<Vec<_>>();
    let wanted = [("lost", true), ("lost", true), ("kept", false), ("kept", false)];
    let listed = printed(&database, &list);
    assert_eq!(revoked(&listed), wanted.map(|(device, revoked)| (device.to_owned(), revoked)));
    printed(&database, &["key", "revoke", rows(&listed)[3][0]]);
    assert!(revoked(&printed(&database, &list))[3].1);
}

#[tokio::test]
async fn progress_is_set_where_there_is_none_and_moved_only_by_force() {
    let database = database().await;
    let set = |offset| ["progress", "set", "--topic-prefix", "t-", "--partition", "2", "--offset", offset];
    let list = ["progress", "list", "--topic-prefix", "t-"];
    printed(&database, &set("300"));
    assert_eq!(rows(&printed(&database, &list)), [["2", "300", "-", "300"]]);
    assert_eq!(rows(&printed(&database, &["progress", "list"])).len(), 0, "another installation's");

    let mut owner = database.connect(Role::Owner).await;
    owner
        .execute("UPDATE partition_progress SET next_offset = 400, log_time = '2026-03-14T09:26:53Z'")
        .await
        .unwrap();
    let error = refused(&database, &set("500"));
    assert!(error.contains("400") && error.contains("--force") && error.contains("never stored"), "{error}");
    assert_eq!(rows(&printed(&database, &list)), [["2", "400", "2026-03-14T09:26:53Z", "300"]]);

    printed(&database, &[&set("500")[..], &["--force"]].concat());
    assert_eq!(rows(&printed(&database, &list)), [["2", "500", "-", "500"]]);
}

#[tokio::test]
async fn dead_letters_are_listed_newest_first_with_whose_they_are_and_without_their_records() {
    const ACCOUNT: &str = "00000000-0000-0000-0000-000000000007";
    let database = database().await;
    let mut owner = database.connect(Role::Owner).await;
    owner
        .execute(
            "INSERT INTO dead_letters VALUES ('t', 1, 7, '2026-03-14T09:26:53Z', 'planted', 'planted', 'not JSON'), \
             ('t', 0, 9, '2026-03-14T09:26:54Z', NULL, NULL, 'empty'); \
             INSERT INTO dead_letters VALUES \
             ('t', 0, 8, '2026-03-14T09:26:52Z', 'planted', 'planted', 'owntracks: no-time (tst)', \
              '00000000-0000-0000-0000-000000000007', 'pixel8'), \
             ('t', 0, 7, '2026-03-14T09:26:51Z', 'planted', 'planted', 'traccar: device-name (id)', \
              '00000000-0000-0000-0000-000000000007', NULL)",
        )
        .await
        .unwrap();
    let list = printed(&database, &["dead-letters", "list"]);
    assert_eq!(
        rows(&list),
        [
            &["t", "0", "9", "2026-03-14T09:26:54Z", "-", "-", "empty"][..],
            &["t", "1", "7", "2026-03-14T09:26:53Z", "-", "-", "not", "JSON"],
            &["t", "0", "8", "2026-03-14T09:26:52Z", ACCOUNT, "pixel8", "owntracks:", "no-time", "(tst)"],
            &["t", "0", "7", "2026-03-14T09:26:51Z", ACCOUNT, "-", "traccar:", "device-name", "(id)"],
        ]
    );
    assert!(!list.contains("planted") && !list.contains("706c616e746564"));
    assert_eq!(rows(&printed(&database, &["dead-letters", "list", "--limit", "1"])).len(), 1);
}

#[tokio::test]
async fn a_dead_letter_is_shown_byte_for_byte_and_the_newest_of_those_at_one_place() {
    let database = database().await;
    let mut owner = database.connect(Role::Owner).await;
    owner
        .execute(
            "INSERT INTO dead_letters VALUES \
             ('location-uploads', 1, 7, '2026-03-14T09:26:53Z', 'k', '{\"lat\":91}', 'owntracks: latitude-out-of-range (lat)'), \
             ('location-uploads', 1, 8, '2026-03-14T09:26:53Z', 'k', 'before', 'not Protobuf'), \
             ('location-uploads', 1, 8, '2026-03-14T09:26:54Z', 'k', 'behind', 'not Protobuf'), \
             ('location-uploads', 1, 9, '2026-03-14T09:26:53Z', 'k', NULL, 'null value'), \
             ('b.location-uploads', 1, 7, '2026-03-14T09:26:55Z', 'k', 'other', 'not Protobuf')",
        )
        .await
        .unwrap();
    let show = |offset| ["dead-letters", "show", "--partition", "1", "--offset", offset];
    assert_eq!(printed(&database, &show("7")), "{\"lat\":91}");
    assert_eq!(printed(&database, &show("8")), "behind");
    assert_eq!(printed(&database, &[&show("7")[..], &["--topic-prefix", "b."]].concat()), "other");
    let list = printed(&database, &["dead-letters", "list"]);
    assert!(list.contains("owntracks: latitude-out-of-range (lat)") && !list.contains("91"), "{list}");
    for (offset, why) in [("9", "has no value"), ("10", "is no dead letter")] {
        let error = refused(&database, &show(offset));
        assert!(error.contains(why) && error.contains("partition 1 of location-uploads"), "{error}");
    }
}

#[tokio::test]
async fn locations_are_counted_with_the_uploads_they_came_in() {
    let database = database().await;
    let count = || printed(&database, &["locations", "count"]);
    assert_eq!(count(), "0 locations in 0 uploads\n");
    let mut owner = database.connect(Role::Owner).await;
    owner
        .execute(
            "SELECT ensure_partition('locations', '2026-03-14T09:26:53Z', '0 days'); \
             INSERT INTO locations (device_id, captured_at, latitude, longitude, received_at, source_partition, \
                                    source_offset, ordinal) \
             SELECT 1, '2026-03-14T09:26:53Z', 48, 16, '2026-03-14T09:26:53Z', * \
             FROM (VALUES (0, 7, 0), (0, 7, 1), (1, 7, 0)) AS stored",
        )
        .await
        .unwrap();
    assert_eq!(count(), "3 locations in 2 uploads\n");
}

#[test]
fn a_bad_configuration_names_every_fault_and_ends_with_78() {
    let nobody = Uuid::nil().to_string();
    let device = ["device", "create", "--account", &nobody];
    let long = "x".repeat(129);
    let faulty = |arguments: &[&'static str]| [&device[..], arguments].concat();
    let named = faulty(&["--name", "d\n", "--label", "", "--expires", "0s"]);
    let with_user = faulty(&["--name", "d", "--gateway-url", "https://u@h"]);
    let with_query = faulty(&["--name", "d", "--gateway-url", "https://h?q"]);
    let without_scheme = faulty(&["--name", "d", "--gateway-url", "h:80"]);
    let too_long = [&device[..], &["--name", &long]].concat();
    let cases: [(&[&str], &[&str]); 12] = [
        (&[], &["requires a subcommand"]),
        (
            &["topics", "create", "--partitions=0", "--replication-factor=0"],
            &["--partitions", "--replication-factor"],
        ),
        (&["account", "create", "--name", ""], &["1 to 100 characters"]),
        (&["account", "create", "--name", "a\tb"], &["control characters"]),
        (&["account", "list", "--database-url=mysql://u:planted@h/d"], &["a PostgreSQL URL"]),
        (&["progress", "set", "--partition=6", "--offset=0"], &["--partition is 6"]),
        (&["dead-letters", "show", "--partition=6", "--offset=0"], &["--partition is 6"]),
        (&named, &["--name", "--label", "--expires"]),
        (&with_user, &["must be a URL such as"]),
        (&with_query, &["must be a URL such as"]),
        (&without_scheme, &["must be a URL such as"]),
        (&too_long, &["1 to 128 characters"]),
    ];
    for (arguments, faults) in cases {
        let ended = run(None, arguments);
        assert_eq!((ended.status, ended.stdout.as_str()), (78, ""), "{arguments:?}");
        assert_eq!(ended.stderr.matches("error: ").count(), faults.len(), "{}", ended.stderr);
        assert!(faults.iter().all(|fault| ended.stderr.contains(fault)), "{}", ended.stderr);
        assert!(!ended.stderr.contains("planted"), "{}", ended.stderr);
    }
}

#[test]
fn a_failure_is_one_sentence_without_the_password() {
    for arguments in [&["account", "list"][..], &["migrate"]] {
        let ended = run(Some("postgres://milepost:planted@127.0.0.1:1/milepost".to_owned()), arguments);
        assert_eq!((ended.status, ended.stdout.as_str()), (1, ""));
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(ended.stderr.starts_with("error: cannot connect to the database"), "{}", ended.stderr);
        assert!(!ended.stderr.contains("planted"), "{}", ended.stderr);
    }
}
