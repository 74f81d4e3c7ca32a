//! The table of methods in docs/SANDBOX.md, held to the dispatcher's own.

use std::collections::BTreeSet;

use grammers_tl_types::{self as tl, Identifiable as _, functions as f};

use crate::sandbox::dispatcher::IMPLEMENTED;

const PAGE: &str = include_str!("../../../docs/SANDBOX.md");
/// Those that the page says are absent: by their numbers, so that each is a method there is.
const ABSENT: [u32; 9] = [
    f::account::UpdateStatus::CONSTRUCTOR_ID,
    f::auth::SignUp::CONSTRUCTOR_ID,
    f::channels::EditAdmin::CONSTRUCTOR_ID,
    f::channels::EditBanned::CONSTRUCTOR_ID,
    f::contacts::AddContact::CONSTRUCTOR_ID,
    f::contacts::GetContacts::CONSTRUCTOR_ID,
    f::contacts::ImportContacts::CONSTRUCTOR_ID,
    f::messages::GetBotCallbackAnswer::CONSTRUCTOR_ID,
    f::messages::SetTyping::CONSTRUCTOR_ID,
];

/// The rows of the table: a method, and how far it is there.
fn rows() -> Vec<(&'static str, &'static str)> {
    let (_, table) = PAGE.split_once("## Methods").expect("the page has the table");
    let rows = table.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
        Some((cells.next()?.trim_end_matches('`'), cells.next()?))
    });
    rows.collect()
}

fn names(constructors: &[u32]) -> BTreeSet<&'static str> {
    constructors.iter().map(|id| tl::name_for_id(*id)).collect()
}

#[test]
fn the_page_names_what_there_is_and_what_is_not() {
    let rows = rows();
    let listed = |kinds: &[&str]| -> BTreeSet<&str> {
        let of_kind = rows.iter().filter(|(_, kind)| kinds.contains(kind));
        of_kind.map(|(method, _)| *method).collect()
    };
    assert_eq!(listed(&["done", "partly"]), names(IMPLEMENTED));
    assert_eq!(listed(&["absent"]), names(&ABSENT));
    let all = listed(&["done", "partly", "absent"]);
    assert_eq!(all.len(), rows.len(), "a row of another kind, or twice: {rows:?}");
}
