//! What a search finds, what a standing one leaves out, and where it goes on; and profiles.

use super::*;
use crate::{
    Job as _,
    ports::ChatType,
    scan::ports::{MessagePage, Profile},
    testing::{
        Fakes, chat_message, chat_profile, flood, person_profile, result, scanned, snoozed, start_of_time, supergroup,
        target_error,
    },
};

fn args(queries: &[&str]) -> ScanArgs {
    ScanArgs {
        what: ScanWhat::Chats,
        purpose: "New reading clubs".into(),
        search: Some(SearchArgs {
            queries: queries.iter().map(|query| (*query).to_owned()).collect(),
            standing: Some("clubs".into()),
            min_members: None,
        }),
        ..ScanArgs::default()
    }
}

fn said(text: &str) -> MessagePage {
    MessagePage {
        messages: vec![scanned(chat_message(7, text))],
        count: Some(1),
        oldest: 7,
    }
}

async fn run(fakes: &Fakes, args: &ScanArgs) -> Outcome {
    let outcome = args.run(&fakes.context()).await;
    assert_eq!(fakes.telegram.unused_answers(), 0, "not all was asked: {outcome:?}");
    outcome
}

#[tokio::test]
async fn found_chats_are_looked_at_once() {
    let fakes = Fakes::new();
    fakes.telegram.search_chats(Ok(vec![supergroup(1), supergroup(2)]));
    fakes.telegram.messages(Ok(said(
        "Who has read the new book, and what did you think of its ending?",
    )));
    fakes.telegram.messages(Err(target_error("CHANNEL_PRIVATE")));
    fakes.telegram.search_chats(Ok(vec![supergroup(2), supergroup(1)]));
    let scanned: ScanResult = result(run(&fakes, &args(&["reading", "books"])).await);
    assert_eq!(
        (scanned.seen, scanned.complete, scanned.reason),
        (2, false, Some(Incomplete::SearchIsPartial))
    );
    assert_eq!((scanned.chat, scanned.counted), (None, None));
    let state = fakes.store.state();
    let open = &state.finds[&supergroup(1).id];
    assert_eq!(
        open.language.as_ref().map(|language| language.code.as_str()),
        Some("eng")
    );
    assert_eq!(open.last_post_at, Some(start_of_time()));
    let closed = &state.finds[&supergroup(2).id];
    assert_eq!((closed.language.clone(), closed.last_post_at), (None, None));
    assert_eq!(
        state.scan.as_ref().and_then(|scan| scan.search_key.as_deref()),
        Some("clubs")
    );
}

#[tokio::test]
async fn what_an_earlier_run_found_is_not_looked_at() {
    let fakes = Fakes::new();
    fakes.store.state().known_finds.insert(supergroup(1).id);
    fakes.telegram.search_chats(Ok(vec![supergroup(1)]));
    let scanned: ScanResult = result(run(&fakes, &args(&["reading"])).await);
    assert_eq!(scanned.seen, 0);
}

#[tokio::test]
async fn small_chats_are_left_out() {
    let fakes = Fakes::new();
    let uncounted = Chat {
        member_count: None,
        ..supergroup(1)
    };
    fakes.telegram.search_chats(Ok(vec![uncounted, supergroup(2)]));
    fakes.telegram.chat_in_full(Ok(chat_profile()));
    let mut wanted = args(&["reading"]);
    if let Some(search) = &mut wanted.search {
        search.min_members = Some(11);
    }
    let scanned: ScanResult = result(run(&fakes, &wanted).await);
    assert_eq!(scanned.seen, 0, "both have ten");
}

#[tokio::test]
async fn a_flood_goes_on_at_the_same_keyword() {
    let fakes = Fakes::new();
    fakes.telegram.search_chats(Ok(vec![]));
    fakes.telegram.search_chats(Ok(vec![supergroup(1), supergroup(2)]));
    fakes.telegram.messages(Ok(MessagePage::default()));
    fakes.telegram.messages(Err(flood(30)));
    snoozed(run(&fakes, &args(&["reading", "books"])).await);
    fakes.take_journal();
    fakes.telegram.search_chats(Ok(vec![supergroup(1), supergroup(2)]));
    fakes.telegram.messages(Ok(MessagePage::default()));
    let scanned: ScanResult = result(run(&fakes, &args(&["reading", "books"])).await);
    assert_eq!(scanned.seen, 2);
    let searched = fakes.take_journal();
    assert!(searched.contains(&"search_chats books".to_owned()), "{searched:?}");
    assert!(!searched.contains(&"search_chats reading".to_owned()), "{searched:?}");
}

#[tokio::test]
async fn a_limit_cuts_and_says_so() {
    let fakes = Fakes::new();
    fakes.telegram.search_chats(Ok(vec![supergroup(1), supergroup(2)]));
    fakes.telegram.messages(Ok(MessagePage::default()));
    let limited = ScanArgs {
        limit: Some(1),
        ..args(&["reading"])
    };
    let scanned: ScanResult = result(run(&fakes, &limited).await);
    assert_eq!((scanned.seen, scanned.reason), (1, Some(Incomplete::Limit)));
}

fn profile_of(chat: &str) -> ScanArgs {
    ScanArgs {
        what: ScanWhat::Profile,
        chat: chat.into(),
        purpose: "Who answers".into(),
        ..ScanArgs::default()
    }
}

fn person(id: i64) -> Chat {
    Chat {
        id,
        chat_type: ChatType::Private,
        title: "Ada".into(),
        username: Some("ada_reads".into()),
        member_count: None,
        member: true,
    }
}

#[tokio::test]
async fn a_person_is_in_the_row_and_not_in_the_result() {
    let fakes = Fakes::new();
    fakes.telegram.chat_by_id(Ok(person(11)));
    fakes.telegram.person_in_full(Ok(person_profile(11)));
    let outcome = run(&fakes, &profile_of("11")).await;
    let said = format!("{outcome:?}");
    assert!(!said.contains("Ada"), "{said}");
    let scanned: ScanResult = result(outcome);
    assert_eq!((scanned.seen, scanned.complete, scanned.chat), (1, true, None));
    let state = fakes.store.state();
    assert_eq!(
        state.scan.as_ref().map(|scan| scan.chat_id),
        Some(None),
        "no row names them yet"
    );
    assert!(state.chats.is_empty());
    let Some(Profile::Person(stored)) = &state.profile else {
        panic!("a person is stored");
    };
    assert_eq!(stored.about.as_deref(), Some("Reads. Call [number left out]"));
}

#[tokio::test]
async fn an_erased_person_is_not_stored() {
    let fakes = Fakes::new();
    fakes.store.state().erased.insert(11);
    fakes.telegram.resolve_username(Ok(person(11)));
    fakes.telegram.person_in_full(Ok(person_profile(11)));
    let scanned: ScanResult = result(run(&fakes, &profile_of("@ada_reads")).await);
    assert_eq!((scanned.seen, scanned.reason), (0, Some(Incomplete::PersonErased)));
    assert!(fakes.store.state().profile.is_none());
}

#[tokio::test]
async fn a_chat_in_full_is_counted() {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(supergroup(1)));
    fakes.telegram.chat_in_full(Ok(chat_profile()));
    let scanned: ScanResult = result(run(&fakes, &profile_of("@reading_club")).await);
    assert_eq!((scanned.counted, scanned.complete), (Some(10), true));
    assert_eq!(fakes.store.state().counts[0].counted, Some(10));
}
