use super::*;
use crate::journal::account::AccountId;
use crate::journal::clock::Clock;
use crate::store::testing::{Role, TestDatabase, database};
use uuid::Uuid;

async fn with_account(name: &str) -> (TestDatabase, PgConnection, Account) {
    let database = database().await;
    let mut connection = database.connect(Role::Owner).await;
    let account = Account { id: AccountId(Uuid::new_v4()), name: name.to_owned(), created_at: now() };
    assert!(create_account(&mut connection, &account).await.unwrap());
    (database, connection, account)
}

fn now() -> OffsetDateTime {
    Clock::new(0).now().to_datetime()
}

fn key(account: &Account, prefix: &str) -> ApiKey {
    ApiKey::new(prefix, account.id, now())
}

#[tokio::test]
async fn a_name_is_given_once_and_accounts_are_listed_by_name() {
    let (_database, mut connection, zoe) = with_account("Zoë").await;
    let adam = Account { id: AccountId(Uuid::new_v4()), name: "Adam".to_owned(), created_at: now() };
    let other_zoe = Account { id: AccountId(Uuid::new_v4()), ..zoe.clone() };
    assert!(create_account(&mut connection, &adam).await.unwrap());
    assert!(!create_account(&mut connection, &other_zoe).await.unwrap());
    assert_eq!(accounts(&mut connection).await.unwrap(), [adam, zoe]);
}

#[tokio::test]
async fn the_table_refuses_a_name_without_characters_or_with_too_many() {
    let (_database, mut connection, account) = with_account(&"ä".repeat(NAME_CHARS_MAX)).await;
    for name in [String::new(), "ä".repeat(NAME_CHARS_MAX + 1)] {
        let account = Account { id: AccountId(Uuid::new_v4()), name, ..account.clone() };
        assert!(create_account(&mut connection, &account).await.is_err());
    }
}

#[tokio::test]
async fn keys_belong_to_an_account_that_exists() {
    let (_database, mut connection, account) = with_account("a").await;
    let other = Account { id: AccountId(Uuid::new_v4()), name: "b".to_owned(), created_at: now() };
    assert!(!create_key(&mut connection, &key(&other, "mp_0"), &[0; 32]).await.unwrap());
    assert!(create_account(&mut connection, &other).await.unwrap());

    let stored = [key(&account, "mp_1"), key(&other, "mp_2"), key(&account, "mp_3")];
    for (key, byte) in stored.iter().zip(1..) {
        assert!(create_key(&mut connection, key, &[byte; 32]).await.unwrap());
    }
    assert_eq!(keys(&mut connection, None).await.unwrap(), stored);
    assert_eq!(keys(&mut connection, Some(other.id)).await.unwrap(), stored[1..2]);
    assert_eq!(keys(&mut connection, Some(AccountId(Uuid::nil()))).await.unwrap(), []);
}

#[tokio::test]
async fn neither_a_secret_nor_a_prefix_is_stored_twice() {
    let (_database, mut connection, account) = with_account("a").await;
    assert!(create_key(&mut connection, &key(&account, "mp_1"), &[1; 32]).await.unwrap());
    assert!(create_key(&mut connection, &key(&account, "mp_2"), &[1; 32]).await.is_err());
    assert!(create_key(&mut connection, &key(&account, "mp_1"), &[2; 32]).await.is_err());
}

#[tokio::test]
async fn a_revoked_key_stays_revoked_since_the_first_time() {
    let (_database, mut connection, account) = with_account("a").await;
    for (prefix, byte) in [("mp_1", 1), ("mp_2", 2)] {
        assert!(create_key(&mut connection, &key(&account, prefix), &[byte; 32]).await.unwrap());
    }
    let first = now();
    assert!(revoke_key(&mut connection, "mp_1", first).await.unwrap());
    assert!(revoke_key(&mut connection, "mp_1", first + time::Duration::HOUR).await.unwrap());
    assert!(!revoke_key(&mut connection, "mp_9", first).await.unwrap());
    let revoked: Vec<_> =
        keys(&mut connection, None).await.unwrap().into_iter().map(|key| key.revoked_at).collect();
    assert_eq!(revoked, [Some(first), None]);
}

#[tokio::test]
async fn a_label_a_device_and_an_end_are_kept_and_what_is_none_is_refused() {
    let (_database, mut connection, account) = with_account("a").await;
    let full = ApiKey {
        label: Some("Jane’s".to_owned()),
        device: Some("ä".repeat(128)),
        expires_at: Some(now() + time::Duration::DAY),
        ..key(&account, "mp_1")
    };
    assert!(create_key(&mut connection, &full, &[1; 32]).await.unwrap());
    assert_eq!(keys(&mut connection, None).await.unwrap(), [full]);
    let text = |text: &str| Some(text.to_owned());
    for (prefix, label, device) in [
        ("mp_2", text(""), None),
        ("mp_3", Some("ä".repeat(LABEL_CHARS_MAX + 1)), None),
        ("mp_4", None, text("")),
        ("mp_5", None, Some("ä".repeat(129))),
        ("mp_6", None, text("a\tb")),
        ("mp_7", None, text("pixel8\n")),
        ("mp_8", None, text("\u{9f}")),
    ] {
        let key = ApiKey { label, device, ..key(&account, prefix) };
        assert!(create_key(&mut connection, &key, &[2; 32]).await.is_err(), "{prefix}");
    }
}

#[tokio::test]
async fn all_keys_of_a_lost_device_are_revoked_at_once_and_no_others() {
    let (_database, mut connection, account) = with_account("a").await;
    for (prefix, byte, device) in
        [("mp_1", 1, Some("x")), ("mp_2", 2, Some("y")), ("mp_3", 3, Some("x")), ("mp_4", 4, None)]
    {
        let key = ApiKey { device: device.map(str::to_owned), ..key(&account, prefix) };
        assert!(create_key(&mut connection, &key, &[byte; 32]).await.unwrap());
    }
    let revoked = revoke_device(&mut connection, account.id, "x", now()).await.unwrap();
    assert_eq!(revoked, ["mp_1", "mp_3"]);
    assert!(revoke_device(&mut connection, account.id, "x", now()).await.unwrap().is_empty());
    assert!(revoke_device(&mut connection, AccountId(Uuid::nil()), "y", now()).await.unwrap().is_empty());
    let left = keys(&mut connection, None).await.unwrap().into_iter().filter(|key| key.revoked_at.is_none());
    assert_eq!(left.map(|key| key.prefix).collect::<Vec<_>>(), ["mp_2", "mp_4"]);
}
