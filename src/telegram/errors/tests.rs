use std::collections::{HashMap, HashSet};

use super::*;

const TABLE: &str = include_str!("../../../docs/TELEGRAM-ERRORS.md");

fn error(code: i32, message: &str) -> RpcError {
    RpcError::from(grammers_tl_types::types::RpcError {
        error_code: code,
        error_message: message.into(),
    })
}

/// The table's rows: the errors, as (code, name with a number for `X`), and the meaning's word.
fn rows() -> Vec<(Vec<(i32, String)>, String)> {
    TABLE
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| error ") && !line.starts_with("| --- "))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let errors = cells[1].split(';').flat_map(|group| {
                let (code, names) = group.trim().split_once(' ').expect("a code and names");
                let code: i32 = code.parse().expect("a code");
                names
                    .split(',')
                    .map(move |name| (code, name.trim().replace("_X", "_7")))
                    .collect::<Vec<_>>()
            });
            (errors.collect(), cells[2].trim_matches('`').to_owned())
        })
        .collect()
}

/// `LoggedOut` as the table writes it: `logged_out`.
fn word(meaning: Meaning) -> String {
    let mut word = String::new();
    for letter in format!("{meaning:?}").chars() {
        if letter.is_ascii_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.push(letter.to_ascii_lowercase());
    }
    word
}

#[test]
fn every_row_of_the_table_has_an_arm_with_its_meaning() {
    let rows = rows();
    assert!(rows.len() > 30, "the table was not read");
    for (errors, meaning) in rows {
        for (code, message) in errors {
            let error = error(code, &message);
            assert!(KnownError::parse(&error.name).is_some(), "{message} has no variant");
            assert_eq!(word(Meaning::of(&error)), meaning, "{message}");
        }
    }
}

#[test]
fn every_variant_is_in_the_table() {
    let named: HashSet<String> = rows()
        .into_iter()
        .flat_map(|(errors, _)| errors)
        .map(|(code, message)| error(code, &message).name)
        .collect();
    for known in KnownError::ALL {
        assert!(
            named.contains(known.name()),
            "{} is not in docs/TELEGRAM-ERRORS.md",
            known.name()
        );
        assert_eq!(KnownError::parse(known.name()), Some(*known));
    }
}

#[test]
fn one_meaning_has_one_row() {
    let mut seen = HashMap::new();
    for (errors, meaning) in rows() {
        let earlier = seen.insert(meaning.clone(), errors);
        assert!(earlier.is_none(), "{meaning} has two rows");
    }
}

#[test]
fn a_flood_carries_its_seconds() {
    let flood = error(420, "FLOOD_WAIT_31");
    assert_eq!(
        Meaning::of(&flood).response(flood.value),
        Response::Wait {
            seconds: 31,
            reach: Reach::Action
        }
    );
    let slow = error(420, "SLOWMODE_WAIT_9");
    assert_eq!(
        Meaning::of(&slow).response(slow.value),
        Response::Wait {
            seconds: 9,
            reach: Reach::Chat
        }
    );
}

#[test]
fn unknown_errors_are_told_apart_by_their_code() {
    assert_eq!(Meaning::of(&error(500, "SOMETHING_NEW")), Meaning::UnknownOutcome);
    assert_eq!(Meaning::of(&error(-503, "Timeout")), Meaning::TheirTrouble);
    assert_eq!(Meaning::of(&error(400, "SOMETHING_NEW")), Meaning::UnknownRefusal);
    assert_eq!(Meaning::of(&error(420, "NEW_WAIT_5")), Meaning::UnknownRefusal);
}

#[test]
fn a_dead_session_is_lost_whatever_was_asked() {
    for name in [
        "AUTH_KEY_UNREGISTERED",
        "AUTH_KEY_DUPLICATED",
        "USER_DEACTIVATED_BAN",
        "FROZEN_METHOD_INVALID",
    ] {
        let error = error(401, name);
        assert_eq!(Meaning::of(&error).response(None), Response::Lose, "{name}");
    }
}
