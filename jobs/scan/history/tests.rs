//! Which part of a history is read, where it goes on, and how it ends.

use chrono::{DateTime, TimeDelta, Utc};

use super::*;
use crate::{
    Job as _,
    message::MediaKind,
    scan::ports::ChatProfile,
    testing::{Fakes, chat_profile, flood, message_page, result, snoozed, start_of_time, supergroup},
};

fn args(history: HistoryArgs) -> ScanArgs {
    ScanArgs {
        what: ScanWhat::History,
        chat: "@reading_club".into(),
        purpose: "What was asked most".into(),
        history: Some(history),
        ..ScanArgs::default()
    }
}

fn with(profile: ChatProfile) -> Fakes {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(supergroup(1)));
    fakes.telegram.chat_in_full(Ok(profile));
    fakes
}

async fn run(fakes: &Fakes, args: &ScanArgs) -> Outcome {
    let outcome = args.run(&fakes.context()).await;
    assert_eq!(fakes.telegram.unused_answers(), 0, "a page was not read: {outcome:?}");
    outcome
}

fn pages(fakes: &Fakes) -> Vec<String> {
    let journal = fakes.take_journal();
    let pages = journal.iter().filter_map(|call| call.strip_prefix("messages "));
    pages.map(str::to_owned).collect()
}

fn ids(fakes: &Fakes) -> Vec<i32> {
    fakes.store.state().messages.keys().map(|(_, id)| *id).collect()
}

/// A page whose messages are a minute apart: number 1 was sent a minute after the start of time.
fn dated(ids: std::ops::RangeInclusive<i32>, count: i64) -> MessagePage {
    let mut page = message_page(ids, count);
    for scanned in &mut page.messages {
        scanned.message.date = minute(scanned.message.id);
    }
    page
}

fn minute(minutes: i32) -> DateTime<Utc> {
    start_of_time() + TimeDelta::minutes(minutes.into())
}

#[tokio::test]
async fn a_history_is_read_from_its_newest_message_to_its_first() {
    let fakes = with(chat_profile());
    fakes.telegram.messages(Ok(message_page(151..=250, 250)));
    fakes.telegram.messages(Ok(message_page(51..=150, 250)));
    fakes.telegram.messages(Ok(message_page(1..=50, 250)));
    let scanned: ScanResult = result(run(&fakes, &args(HistoryArgs::default())).await);
    assert_eq!(
        (scanned.counted, scanned.seen, scanned.complete, scanned.reason),
        (Some(250), 250, true, None)
    );
    assert_eq!(pages(&fakes), ["0 100", "151 100", "51 100"]);
    assert_eq!(fakes.store.state().progress.last().and_then(|last| last.of), Some(250));
    assert_eq!(fakes.store.state().counts[0].counted, Some(250));
}

#[tokio::test]
async fn messages_that_telegram_does_not_give_are_told() {
    let fakes = with(chat_profile());
    fakes.telegram.messages(Ok(message_page(11..=100, 100)));
    fakes.telegram.messages(Ok(MessagePage::default()));
    let scanned: ScanResult = result(run(&fakes, &args(HistoryArgs::default())).await);
    assert_eq!((scanned.seen, scanned.reason), (90, Some(Incomplete::ListChanged)));
}

#[tokio::test]
async fn a_hidden_history_is_told() {
    let fakes = with(ChatProfile {
        history_hidden: true,
        ..chat_profile()
    });
    fakes.telegram.messages(Ok(message_page(61..=100, 40)));
    fakes.telegram.messages(Ok(MessagePage::default()));
    let scanned: ScanResult = result(run(&fakes, &args(HistoryArgs::default())).await);
    assert_eq!(
        (scanned.complete, scanned.reason),
        (false, Some(Incomplete::HistoryHidden))
    );
}

#[tokio::test]
async fn dates_and_numbers_cut_a_part_out() {
    let fakes = with(chat_profile());
    fakes.telegram.newest_message_until(Ok(90));
    fakes.telegram.messages(Ok(dated(1..=80, 500)));
    let wanted = HistoryArgs {
        from: Some(minute(71)),
        to: Some(minute(90)),
        max_id: Some(80),
        ..HistoryArgs::default()
    };
    let scanned: ScanResult = result(run(&fakes, &args(wanted)).await);
    assert_eq!(pages(&fakes), ["81 100"]);
    assert_eq!(ids(&fakes), (71..=80).collect::<Vec<i32>>());
    assert_eq!(
        (scanned.counted, scanned.seen, scanned.complete),
        (None, 10, true),
        "Telegram does not count a part"
    );

    let fakes = with(chat_profile());
    fakes.telegram.messages(Ok(message_page(401..=500, 500)));
    let wanted = HistoryArgs {
        min_id: Some(450),
        ..HistoryArgs::default()
    };
    result::<ScanResult>(run(&fakes, &args(wanted)).await);
    assert_eq!(ids(&fakes), (450..=500).collect::<Vec<i32>>());
}

#[tokio::test]
async fn a_time_before_the_first_message_holds_nothing() {
    let fakes = with(chat_profile());
    fakes.telegram.newest_message_until(Ok(0));
    let wanted = HistoryArgs {
        to: Some(minute(0)),
        ..HistoryArgs::default()
    };
    let scanned: ScanResult = result(run(&fakes, &args(wanted)).await);
    assert_eq!((scanned.seen, scanned.complete), (0, true));
}

#[tokio::test]
async fn the_last_ones_are_as_many_as_asked_for() {
    let fakes = with(chat_profile());
    fakes.telegram.messages(Ok(message_page(401..=500, 500)));
    fakes.telegram.messages(Ok(message_page(351..=400, 500)));
    let wanted = HistoryArgs {
        last: Some(150),
        ..HistoryArgs::default()
    };
    let scanned: ScanResult = result(run(&fakes, &args(wanted)).await);
    assert_eq!(pages(&fakes), ["0 100", "401 50"]);
    assert_eq!((scanned.seen, scanned.complete, scanned.reason), (150, true, None));
}

#[tokio::test]
async fn a_limit_cuts_and_says_so() {
    let fakes = with(chat_profile());
    fakes.telegram.messages(Ok(message_page(451..=500, 500)));
    let limited = ScanArgs {
        limit: Some(50),
        ..args(HistoryArgs::default())
    };
    let scanned: ScanResult = result(run(&fakes, &limited).await);
    assert_eq!((scanned.seen, scanned.reason), (50, Some(Incomplete::Limit)));
}

#[tokio::test]
async fn media_are_picked_from_whole_pages() {
    let fakes = with(chat_profile());
    let with_photos = |ids: std::ops::RangeInclusive<i32>| {
        let mut page = message_page(ids, 200);
        for scanned in page.messages.iter_mut().filter(|scanned| scanned.message.id % 10 == 0) {
            scanned.message.media = Some(MediaKind::Photo);
        }
        page
    };
    fakes.telegram.messages(Ok(with_photos(101..=200)));
    fakes.telegram.messages(Ok(with_photos(1..=100)));
    let wanted = HistoryArgs {
        media: vec![MediaKind::Photo, MediaKind::Video],
        last: Some(15),
        ..HistoryArgs::default()
    };
    let scanned: ScanResult = result(run(&fakes, &args(wanted)).await);
    assert_eq!(pages(&fakes), ["0 100", "101 100"]);
    assert_eq!((scanned.seen, scanned.counted, scanned.complete), (15, None, true));
    assert_eq!(ids(&fakes).first(), Some(&60), "the newest fifteen");
}

#[tokio::test]
async fn a_flood_snoozes_and_the_scan_goes_on_where_it_was() {
    let fakes = with(chat_profile());
    fakes.telegram.messages(Ok(message_page(151..=250, 250)));
    fakes.telegram.messages(Err(flood(60)));
    snoozed(run(&fakes, &args(HistoryArgs::default())).await);
    fakes.take_journal();
    fakes.telegram.chat_by_id(Ok(supergroup(1)));
    fakes.telegram.chat_in_full(Ok(chat_profile()));
    fakes.telegram.messages(Ok(message_page(51..=150, 250)));
    fakes.telegram.messages(Ok(message_page(1..=50, 250)));
    let scanned: ScanResult = result(run(&fakes, &args(HistoryArgs::default())).await);
    assert_eq!((scanned.seen, scanned.complete), (250, true));
    assert_eq!(pages(&fakes), ["151 100", "51 100"]);
}

#[tokio::test]
async fn no_text_is_said() {
    let fakes = with(chat_profile());
    fakes.telegram.messages(Ok(message_page(1..=5, 5)));
    let outcome = run(&fakes, &args(HistoryArgs::default())).await;
    let said = format!("{outcome:?} {:?}", fakes.store.state().lines);
    assert!(!said.contains("Tide"), "{said}");
}

#[tokio::test]
async fn a_limit_that_cuts_the_last_page_is_told() {
    let fakes = with(chat_profile());
    let mut page = message_page(1..=100, 100);
    for scanned in page.messages.iter_mut().take(80) {
        scanned.message.media = Some(MediaKind::Photo);
    }
    fakes.telegram.messages(Ok(page));
    let limited = ScanArgs {
        limit: Some(50),
        ..args(HistoryArgs {
            media: vec![MediaKind::Photo],
            ..HistoryArgs::default()
        })
    };
    let scanned: ScanResult = result(run(&fakes, &limited).await);
    assert_eq!(
        (scanned.seen, scanned.complete, scanned.reason),
        (50, false, Some(Incomplete::Limit))
    );
}

#[tokio::test]
async fn what_erased_people_wrote_is_told() {
    let fakes = with(chat_profile());
    fakes.store.state().erased.insert(77);
    let mut page = message_page(1..=40, 40);
    page.messages[7].message.sender_id = Some(77);
    fakes.telegram.messages(Ok(page));
    let scanned: ScanResult = result(run(&fakes, &args(HistoryArgs::default())).await);
    assert_eq!(
        (scanned.seen, scanned.complete, scanned.reason),
        (39, false, Some(Incomplete::PersonErased))
    );
}
