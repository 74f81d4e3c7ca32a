//! What is refused, what is shown, and that `.env.example` says the truth.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const EXAMPLE: &str = include_str!("../../.env.example");

fn source(values: &[(&str, &str)]) -> Source {
    let database = ("DATABASE_URL", "postgres://wireroom@localhost/wireroom");
    Source::from_values(
        std::iter::once(&database)
            .chain(values)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )
}

fn read(values: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::from_source(source(values))
}

fn refusal(name: &str, value: &str) -> String {
    read(&[(name, value)])
        .expect_err("the value must be refused")
        .to_string()
}

/// Name and value of each line that sets a variable.
fn example() -> BTreeMap<String, String> {
    EXAMPLE
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| {
            let (name, value) = line.split_once('=').expect("a line of .env.example sets a variable");
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

#[test]
fn the_example_lists_every_variable_and_no_other() {
    let mut source = source(&[]);
    Config::read(&mut source).unwrap();
    let asked: BTreeSet<String> = source.asked().map(str::to_owned).collect();
    assert_eq!(example().into_keys().collect::<BTreeSet<_>>(), asked);
}

#[test]
fn the_examples_values_are_the_defaults() {
    let values = example();
    let given: Vec<(&str, &str)> = values
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        format!("{:?}", read(&given).unwrap()),
        format!("{:?}", read(&[]).unwrap())
    );
}

#[test]
fn an_unknown_variable_is_refused_by_name() {
    let refused = refusal("WIREROOM_QUEUE_POLL_SECOND", "1");
    assert!(refused.contains("WIREROOM_QUEUE_POLL_SECOND is not"), "{refused}");
    assert!(
        refused.contains("did you mean WIREROOM_QUEUE_POLL_SECONDS?"),
        "{refused}"
    );
    assert!(refusal("TELEGRAM_APP_ID", "1").contains("TELEGRAM_APP_ID"));
}

#[test]
fn variables_of_others_are_left_alone() {
    assert!(read(&[("HOME", "/"), ("POSTGRES_PASSWORD", "x")]).is_ok());
}

#[test]
fn bad_values_are_refused_by_name_and_not_quoted() {
    for (name, value) in [
        ("WIREROOM_API_LISTEN", "everywhere"),
        ("WIREROOM_API_MAX_WAITERS", "0"),
        ("WIREROOM_DATABASE_MAX_CONNECTIONS", "many"),
        ("WIREROOM_DATABASE_ACQUIRE_SECONDS", "-1"),
        ("WIREROOM_QUEUE_POLL_SECONDS", "NaN"),
        ("WIREROOM_QUEUE_RETENTION_DAYS", "0"),
        ("WIREROOM_SESSIONS_RENEW_SECONDS", "14"),
        ("WIREROOM_QUEUE_WORKER_DEAD_SECONDS", "4"),
        ("WIREROOM_TELEGRAM_CALL_SECONDS", "inf"),
        ("TELEGRAM_API_ID", "-5"),
        ("WIREROOM_TELEGRAM_SERVER_DCS", "127.0.0.1:4434"),
        ("WIREROOM_TELEGRAM_SERVER_DCS", "4=everywhere"),
        ("TELEGRAM_API_HASH", "not-a-hash"),
        ("WIREROOM_LOG_FORMAT", "xml"),
        ("WIREROOM_URL", "localhost"),
    ] {
        let refused = refusal(name, value);
        assert!(refused.starts_with(name), "{refused}");
    }
    assert!(!refusal("TELEGRAM_API_HASH", "not-a-hash").contains("not-a-hash"));
}

#[test]
fn a_server_needs_its_key_and_the_other_way_round() {
    assert!(refusal("WIREROOM_TELEGRAM_SERVER", "127.0.0.1:1").contains("WIREROOM_TELEGRAM_SERVER_KEY"));
    assert!(refusal("WIREROOM_TELEGRAM_SERVER_KEY", "key.pem").contains("WIREROOM_TELEGRAM_SERVER "));
    assert!(refusal("WIREROOM_TELEGRAM_SERVER_DCS", "4=127.0.0.1:1").contains("WIREROOM_TELEGRAM_SERVER "));
}

#[test]
fn a_server_has_its_other_data_centres_where_they_are_named() {
    let config = read(&[
        ("WIREROOM_TELEGRAM_SERVER", "127.0.0.1:4430"),
        ("WIREROOM_TELEGRAM_SERVER_KEY", "key.pem"),
        ("WIREROOM_TELEGRAM_SERVER_DCS", "4=127.0.0.1:4434, 5=127.0.0.1:4435"),
    ]);
    let server = config.unwrap().telegram.server.unwrap();
    let ports = [2, 4, 5, 1].map(|dc| server.address_of(dc).port());
    assert_eq!(ports, [4430, 4434, 4435, 4430]);
}

#[test]
fn the_database_is_required() {
    let refused = Config::from_source(Source::from_values([])).unwrap_err().to_string();
    assert!(refused.starts_with("DATABASE_URL is not set"), "{refused}");
    let other = Source::from_values([(
        "DATABASE_URL".to_owned(),
        "mysql://secret@localhost/wireroom".to_owned(),
    )]);
    let refused = Config::from_source(other).unwrap_err().to_string();
    assert!(
        refused.contains("no address of a Postgres database") && !refused.contains("secret"),
        "{refused}"
    );
}

#[test]
fn an_empty_value_is_no_value() {
    assert_eq!(read(&[("WIREROOM_API_LISTEN", "")]).unwrap().api.listen.port(), 8080);
}

#[test]
fn master_keys_may_be_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    let of_file = |text: &str, beside: &str| {
        std::fs::write(&path, text).unwrap();
        let path = path.display().to_string();
        read(&[
            ("WIREROOM_MASTER_KEYS_FILE", path.as_str()),
            ("WIREROOM_MASTER_KEYS", beside),
        ])
    };
    let keys = of_file("# newest first\nk2:b\n\n k1:a \n", "")
        .unwrap()
        .vault
        .master_keys;
    assert_eq!(keys.unwrap().expose(), "k2:b,k1:a");
    for (text, beside) in [("# none\n", ""), ("k1:a", "k1:a")] {
        let refused = of_file(text, beside).unwrap_err().to_string();
        assert!(refused.starts_with("WIREROOM_MASTER_KEYS_FILE"), "{refused}");
    }
    let refused = read(&[("WIREROOM_MASTER_KEYS_FILE", "/nowhere/keys")])
        .unwrap_err()
        .to_string();
    assert!(refused.contains("cannot be read"), "{refused}");
}

#[test]
fn debug_shows_no_secret() {
    let config = read(&[
        ("DATABASE_URL", "postgres://u:hunter2@localhost/w"),
        ("WIREROOM_MASTER_KEYS", "k1:hunter2"),
        ("WIREROOM_API_KEY", "hunter2"),
        ("TELEGRAM_API_HASH", "0123456789abcdef0123456789abcdef"),
    ])
    .unwrap();
    let shown = format!("{config:?}");
    assert!(
        !shown.contains("hunter2") && !shown.contains("0123456789abcdef"),
        "{shown}"
    );
}

#[test]
fn a_connection_that_died_silently_is_found_within_90_seconds() {
    let telegram = read(&[]).unwrap().telegram;
    assert!(telegram.probe_after + TelegramConfig::PROBE_DEADLINE < std::time::Duration::from_secs(90));
    // Pings are answered each minute: one that works is not probed.
    assert!(telegram.probe_after > std::time::Duration::from_mins(1));
}
