//! Every way a scan of members can end, and where it goes on.

use chrono::TimeDelta;

use super::{members::BARREN_PAGES, ports::MemberList, *};
use crate::{
    ports::{Chat, ChatDetails, ChatType, Decision, MemberPage, Progress},
    testing::{
        Fakes, details, discarded, flood, member, page, result, retried, snoozed, start_of_time, supergroup,
        target_error, telegram_error, unknown_outcome,
    },
};

fn args() -> ScanArgs {
    ScanArgs {
        chat: "@reading_club".into(),
        purpose: " Yearly count ".into(),
        ..ScanArgs::default()
    }
}

fn filtered(filter: MemberFilter, query: Option<&str>) -> ScanArgs {
    ScanArgs {
        members: Some(MembersArgs {
            filter,
            query: query.map(str::to_owned),
            by_letters: false,
        }),
        ..args()
    }
}

fn group(members: i64) -> Chat {
    Chat {
        member_count: Some(members),
        ..supergroup(5)
    }
}

/// Fakes that find the group and its details once.
fn with(details: ChatDetails) -> Fakes {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(details.chat.clone()));
    fakes.telegram.chat_details(Ok(details));
    fakes
}

async fn run(fakes: &Fakes, args: ScanArgs) -> Outcome {
    let outcome = args.run(&fakes.context()).await;
    assert_eq!(fakes.telegram.unused_answers(), 0, "a page was not read: {outcome:?}");
    outcome
}

fn pages(journal: &[String]) -> Vec<&str> {
    journal
        .iter()
        .filter_map(|call| call.strip_prefix("members "))
        .collect()
}

#[tokio::test]
async fn a_list_is_read_to_its_end() {
    let fakes = with(details(&group(450)));
    fakes.telegram.members(Ok(page(0..200, 450)));
    fakes.telegram.members(Ok(page(200..400, 450)));
    fakes.telegram.members(Ok(page(400..450, 450)));
    // Who came meanwhile would stand first.
    fakes.telegram.members(Ok(page(0..200, 450)));
    let scanned: ScanResult = result(run(&fakes, args()).await);
    assert_eq!((scanned.counted, scanned.seen), (Some(450), 450));
    assert_eq!((scanned.complete, scanned.reason), (true, None));
    assert_eq!(pages(&fakes.take_journal()), ["0 200", "200 200", "400 200", "0 200"]);
    let stored = fakes.store.state();
    assert_eq!(stored.members.len(), 450);
    assert_eq!(
        stored.scan,
        Some(ScanStart {
            what: ScanWhat::Members,
            chat_id: Some(group(0).id),
            purpose: "Yearly count".into(),
            retention_days: 30,
            search_key: None,
        })
    );
    assert_eq!(stored.chats.len(), 1);
}

#[tokio::test]
async fn a_short_page_in_the_middle_is_not_the_end() {
    let fakes = with(details(&group(300)));
    fakes.telegram.members(Ok(page(0..150, 300)));
    fakes.telegram.members(Ok(page(150..300, 300)));
    fakes.telegram.members(Ok(page(0..200, 300)));
    let scanned: ScanResult = result(run(&fakes, args()).await);
    assert!(scanned.complete);
    assert_eq!(pages(&fakes.take_journal()), ["0 200", "150 200", "0 200"]);
}

#[tokio::test]
async fn people_that_telegram_does_not_describe_move_the_offset() {
    let fakes = with(details(&group(300)));
    fakes.telegram.members(Ok(MemberPage {
        returned: 200,
        ..page(0..190, 300)
    }));
    fakes.telegram.members(Ok(page(200..300, 300)));
    let scanned: ScanResult = result(run(&fakes, args()).await);
    assert_eq!(pages(&fakes.take_journal()), ["0 200", "200 200"]);
    assert_eq!((scanned.seen, scanned.reason), (290, Some(Incomplete::ListChanged)));
}

#[tokio::test]
async fn a_list_that_shrank_is_incomplete() {
    let fakes = with(details(&group(300)));
    fakes.telegram.members(Ok(page(0..200, 300)));
    fakes.telegram.members(Ok(page(0..0, 300)));
    let scanned: ScanResult = result(run(&fakes, args()).await);
    assert_eq!(
        (scanned.complete, scanned.reason),
        (false, Some(Incomplete::ListChanged))
    );
    assert_eq!(scanned.seen, 200);
}

/// A page at `start` of a list of the people of these numbers, newest first.
fn shown(list: &[i64], start: usize) -> MemberPage {
    let people = list.iter().skip(start).take(200);
    let members: Vec<_> = people.map(|id| member(*id)).collect();
    MemberPage {
        returned: i32::try_from(members.len()).expect("a page"),
        members,
        count: i64::try_from(list.len()).expect("a few"),
    }
}

#[tokio::test]
async fn whoever_is_moved_out_of_sight_by_those_who_leave_is_read_all_the_same() {
    let before: Vec<i64> = (0..600).collect();
    // Five who were read leave: 400 to 404 now stand where the third page has begun.
    let after: Vec<i64> = (5..600).collect();
    let fakes = with(details(&group(600)));
    for page in [shown(&before, 0), shown(&before, 200), shown(&after, 400)] {
        fakes.telegram.members(Ok(page));
    }
    for start in [385, 575, 0] {
        fakes.telegram.members(Ok(shown(&after, start)));
    }
    let scanned: ScanResult = result(run(&fakes, args()).await);
    assert_eq!(
        pages(&fakes.take_journal()),
        ["0 200", "200 200", "400 200", "385 200", "575 200", "0 200"]
    );
    assert_eq!(
        (scanned.seen, scanned.counted, scanned.complete),
        (600, Some(595), true)
    );
    let stored = fakes.store.state();
    assert!(
        (400..405).all(|id| stored.members.contains_key(&id)),
        "they are still there"
    );
}

#[tokio::test]
async fn as_many_who_come_as_leave_are_found_at_the_head() {
    let before: Vec<i64> = (0..300).collect();
    let after: Vec<i64> = (1_000..1_003).chain(3..300).collect();
    let fakes = with(details(&group(300)));
    for page in [
        shown(&before, 0),
        shown(&after, 200),
        shown(&after, 0),
        shown(&after, 200),
    ] {
        fakes.telegram.members(Ok(page));
    }
    let scanned: ScanResult = result(run(&fakes, args()).await);
    assert_eq!(
        (scanned.seen, scanned.counted, scanned.complete),
        (303, Some(300), true)
    );
}

#[tokio::test]
async fn those_who_left_do_not_stand_for_those_whom_telegram_does_not_describe() {
    let fakes = with(details(&group(300)));
    fakes.telegram.members(Ok(page(0..200, 300)));
    let undescribed = MemberPage {
        returned: 98,
        ..page(202..298, 298)
    };
    fakes.telegram.members(Ok(undescribed));
    fakes.telegram.members(Ok(page(298..300, 298)));
    let scanned: ScanResult = result(run(&fakes, args()).await);
    assert_eq!((scanned.seen, scanned.counted), (298, Some(298)));
    assert_eq!(
        (scanned.complete, scanned.reason),
        (false, Some(Incomplete::ListChanged))
    );
}

#[tokio::test]
async fn a_list_that_only_repeats_itself_ends() {
    let fakes = with(details(&group(5_000)));
    for _ in 0..=BARREN_PAGES {
        fakes.telegram.members(Ok(page(0..200, 5_000)));
    }
    let scanned: ScanResult = result(run(&fakes, args()).await);
    assert_eq!((scanned.seen, scanned.reason), (200, Some(Incomplete::ListChanged)));
}

#[tokio::test]
async fn a_large_group_stops_at_the_cap() {
    let fakes = with(details(&group(12_000)));
    for start in 0..50 {
        fakes.telegram.members(Ok(page(start * 200..(start + 1) * 200, 12_000)));
    }
    fakes.telegram.members(Ok(page(0..0, 12_000)));
    let scanned: ScanResult = result(run(&fakes, args()).await);
    assert_eq!((scanned.counted, scanned.seen), (Some(12_000), 10_000));
    assert_eq!((scanned.complete, scanned.reason), (false, Some(Incomplete::Cap10000)));
    let value = serde_json::to_value(scanned).unwrap();
    assert_eq!(value["reason"], "cap_10000");
}

#[tokio::test]
async fn a_hidden_list_is_not_asked_for() {
    let fakes = with(ChatDetails {
        participants_hidden: true,
        can_view_participants: false,
        ..details(&group(300))
    });
    let scanned: ScanResult = result(run(&fakes, args()).await);
    assert_eq!((scanned.counted, scanned.seen), (Some(300), 0));
    assert_eq!(
        (scanned.complete, scanned.reason),
        (false, Some(Incomplete::ParticipantsHidden))
    );
}

#[tokio::test]
async fn the_visible_part_of_a_hidden_list_is_not_the_whole() {
    let fakes = with(ChatDetails {
        participants_hidden: true,
        ..details(&group(300))
    });
    fakes.telegram.members(Ok(page(0..3, 3)));
    fakes.telegram.members(Ok(page(0..0, 3)));
    let scanned: ScanResult = result(run(&fakes, args()).await);
    assert_eq!((scanned.counted, scanned.seen), (Some(300), 3));
    assert_eq!(scanned.reason, Some(Incomplete::ParticipantsHidden));
}

#[tokio::test]
async fn a_broadcast_channel_is_an_honest_success() {
    let channel = Chat {
        chat_type: ChatType::Channel,
        ..group(300)
    };
    let fakes = with(ChatDetails {
        can_view_participants: false,
        ..details(&channel)
    });
    let scanned: ScanResult = result(run(&fakes, args()).await);
    assert_eq!(
        (scanned.complete, scanned.reason),
        (false, Some(Incomplete::BroadcastChannel))
    );

    let fakes = with(details(&channel));
    fakes.telegram.members(Err(target_error("CHAT_ADMIN_REQUIRED")));
    let scanned: ScanResult = result(run(&fakes, args()).await);
    assert_eq!(scanned.reason, Some(Incomplete::BroadcastChannel));
}

#[tokio::test]
async fn an_admin_of_a_channel_sees_what_telegram_gives() {
    let channel = Chat {
        chat_type: ChatType::Channel,
        ..group(300)
    };
    let fakes = with(details(&channel));
    fakes.telegram.members(Ok(page(0..200, 300)));
    fakes.telegram.members(Ok(page(0..0, 300)));
    let scanned: ScanResult = result(run(&fakes, args()).await);
    assert_eq!(
        (scanned.seen, scanned.reason),
        (200, Some(Incomplete::BroadcastChannel))
    );
}

#[tokio::test]
async fn a_refused_list_says_not_permitted_and_other_refusals_fail() {
    let fakes = with(details(&group(300)));
    fakes.telegram.members(Err(target_error("CHAT_ADMIN_REQUIRED")));
    let scanned: ScanResult = result(run(&fakes, args()).await);
    assert_eq!((scanned.seen, scanned.reason), (0, Some(Incomplete::NotPermitted)));

    let fakes = with(details(&group(300)));
    fakes.telegram.members(Err(target_error("CHANNEL_PRIVATE")));
    assert_eq!(discarded(run(&fakes, args()).await).code, "chat_inaccessible");
}

#[tokio::test]
async fn a_limit_stops_the_scan_and_sizes_its_last_page() {
    let fakes = with(details(&group(450)));
    fakes.telegram.members(Ok(page(0..200, 450)));
    fakes.telegram.members(Ok(page(200..250, 450)));
    let limited = ScanArgs {
        limit: Some(250),
        ..args()
    };
    let scanned: ScanResult = result(run(&fakes, limited).await);
    assert_eq!((scanned.seen, scanned.reason), (250, Some(Incomplete::Limit)));
    assert_eq!(pages(&fakes.take_journal()), ["0 200", "200 50"]);
    assert_eq!(fakes.store.state().progress[1].of, Some(250));
}

#[tokio::test]
async fn a_limit_that_takes_everybody_is_complete() {
    let fakes = with(details(&group(10)));
    fakes.telegram.members(Ok(page(0..10, 10)));
    let limited = ScanArgs {
        limit: Some(10),
        ..args()
    };
    let scanned: ScanResult = result(run(&fakes, limited).await);
    assert_eq!((scanned.complete, scanned.reason), (true, None));
}

#[tokio::test]
async fn a_flood_snoozes_and_the_scan_goes_on_where_it_was() {
    let fakes = with(details(&group(450)));
    fakes.telegram.members(Ok(page(0..200, 450)));
    fakes.telegram.members(Err(flood(60)));
    let (until, reason) = snoozed(run(&fakes, args()).await);
    assert_eq!(until, start_of_time() + TimeDelta::seconds(60));
    assert_eq!(reason.code, "flood");
    assert_eq!(fakes.said(), ["started", "page_stored", "flood_met"]);
    fakes.store.state().lines.clear();
    fakes.take_journal();

    fakes.telegram.chat_by_id(Ok(group(450)));
    fakes.telegram.chat_details(Ok(details(&group(450))));
    fakes.telegram.members(Ok(page(200..400, 450)));
    fakes.telegram.members(Ok(page(400..450, 450)));
    fakes.telegram.members(Ok(page(0..200, 450)));
    let scanned: ScanResult = result(run(&fakes, args()).await);
    assert_eq!((scanned.seen, scanned.complete), (450, true));
    assert_eq!(pages(&fakes.take_journal()), ["200 200", "400 200", "0 200"]);
    assert_eq!(fakes.said(), ["resumed", "page_stored", "page_stored", "page_stored"]);
}

#[tokio::test]
async fn a_line_that_cannot_be_stored_is_no_reason_to_fail() {
    let fakes = with(details(&group(10)));
    fakes.store.state().failing.insert("log");
    fakes.telegram.members(Ok(page(0..10, 10)));
    let scanned: ScanResult = result(run(&fakes, args()).await);
    assert!(scanned.complete);
    assert!(fakes.said().is_empty());
}

#[tokio::test]
async fn a_scan_that_was_killed_before_its_result_reads_nothing_again() {
    let fakes = with(details(&group(10)));
    fakes.telegram.members(Ok(page(0..10, 10)));
    let first: ScanResult = result(run(&fakes, args()).await);
    fakes.take_journal();
    fakes.telegram.chat_by_id(Ok(group(10)));
    fakes.telegram.chat_details(Ok(details(&group(10))));
    let second: ScanResult = result(run(&fakes, args()).await);
    assert_eq!(first, second);
    assert_eq!(pages(&fakes.take_journal()), [] as [&str; 0]);
}

#[tokio::test]
async fn a_page_that_failed_to_be_stored_is_read_again() {
    let fakes = with(details(&group(10)));
    fakes.telegram.members(Ok(page(0..10, 10)));
    fakes.store.state().failing.insert("save_members");
    assert_eq!(retried(run(&fakes, args()).await).code, "store_failed");
    assert!(fakes.store.state().checkpoint.is_none());
}

#[tokio::test]
async fn progress_is_shown_after_each_page() {
    let fakes = with(details(&group(300)));
    fakes.clock.step_by(TimeDelta::seconds(10));
    fakes.telegram.members(Ok(page(0..200, 300)));
    fakes.telegram.members(Ok(page(200..300, 300)));
    fakes.telegram.members(Ok(page(0..200, 300)));
    run(&fakes, args()).await;
    let stored = fakes.store.state();
    assert_eq!(
        stored.progress[..2],
        [
            Progress {
                done: 200,
                of: Some(300),
                per_second: 20.0
            },
            Progress {
                done: 300,
                of: Some(300),
                per_second: 15.0
            }
        ]
    );
}

#[tokio::test]
async fn a_long_scan_goes_on_in_a_fresh_attempt() {
    let fakes = with(details(&group(450)));
    fakes.clock.step_by(TimeDelta::minutes(21));
    fakes.telegram.members(Ok(page(0..200, 450)));
    fakes.telegram.members(Ok(page(200..400, 450)));
    // Asked for while the page before was stored.
    fakes.telegram.members(Ok(page(400..450, 450)));
    let (until, reason) = snoozed(run(&fakes, args()).await);
    assert_eq!(
        (until, reason.code.as_str()),
        (start_of_time() + TimeDelta::minutes(42), "batch_done")
    );
    assert_eq!(fakes.store.state().members.len(), 400, "what was read is kept");
}

#[tokio::test]
async fn a_cancelled_scan_stops_after_the_page_it_was_reading() {
    let fakes = with(details(&group(450)));
    fakes.telegram.members(Ok(page(0..200, 450)));
    fakes.telegram.cancel_after(3, fakes.cancellation.clone());
    assert_eq!(run(&fakes, args()).await, Outcome::Cancelled);
    assert_eq!(fakes.store.state().members.len(), 200, "the page is kept");
}

#[tokio::test]
async fn lost_jobs_and_lost_sessions_stop_at_once() {
    let fakes = with(details(&group(450)));
    fakes
        .telegram
        .members(Err(telegram_error("AUTH_KEY_UNREGISTERED", Decision::Session)));
    assert_eq!(retried(run(&fakes, args()).await).code, "session_unavailable");

    let fakes = with(details(&group(450)));
    fakes.telegram.members(Err(unknown_outcome()));
    assert_eq!(retried(run(&fakes, args()).await).code, "call_deadline");

    let fakes = Fakes::new();
    fakes.store.state().fenced = true;
    assert_eq!(retried(run(&fakes, args()).await).code, "fenced");
}

#[tokio::test]
async fn a_person_has_no_members() {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(Chat {
        chat_type: ChatType::Private,
        ..group(0)
    }));
    assert_eq!(discarded(run(&fakes, args()).await).code, "chat_is_person");
}

#[tokio::test]
async fn a_filter_says_that_it_shows_a_part() {
    let fakes = with(details(&group(450)));
    fakes.telegram.members(Ok(page(0..3, 3)));
    let scanned: ScanResult = result(run(&fakes, filtered(MemberFilter::Admins, None)).await);
    assert_eq!((scanned.counted, scanned.listed, scanned.seen), (Some(450), Some(3), 3));
    assert_eq!(
        (scanned.complete, scanned.reason),
        (false, Some(Incomplete::FilteredList))
    );
    assert_eq!(pages(&fakes.take_journal()), ["Admins 0 200"]);
    assert_eq!(fakes.store.state().progress[0].of, Some(3));
    let counts = fakes.store.state().counts.clone();
    assert_eq!(counts.len(), 1);
    assert_eq!((counts[0].list, counts[0].counted), (Some("admins"), Some(450)));
}

#[tokio::test]
async fn a_search_asks_for_its_query() {
    let fakes = with(details(&group(450)));
    fakes.telegram.members(Ok(page(0..200, 201)));
    fakes.telegram.members(Ok(page(200..201, 201)));
    let scanned: ScanResult = result(run(&fakes, filtered(MemberFilter::Search, Some(" ad "))).await);
    assert_eq!(scanned.reason, Some(Incomplete::FilteredList));
    let searched = MemberList::Search("ad".into());
    assert_eq!(
        pages(&fakes.take_journal()),
        [format!("{searched:?} 0 200"), format!("{searched:?} 200 200")]
    );
}

#[tokio::test]
async fn admins_are_shown_where_members_are_hidden() {
    let hidden = || ChatDetails {
        participants_hidden: true,
        can_view_participants: false,
        ..details(&group(300))
    };
    let fakes = with(hidden());
    fakes.telegram.members(Ok(page(0..3, 3)));
    let scanned: ScanResult = result(run(&fakes, filtered(MemberFilter::Admins, None)).await);
    assert_eq!((scanned.seen, scanned.reason), (3, Some(Incomplete::FilteredList)));

    let fakes = with(hidden());
    let contacts = run(&fakes, filtered(MemberFilter::Contacts, None)).await;
    let scanned: ScanResult = result(contacts);
    assert_eq!(scanned.reason, Some(Incomplete::ParticipantsHidden));
}

fn by_letters() -> ScanArgs {
    ScanArgs {
        members: Some(MembersArgs {
            by_letters: true,
            ..MembersArgs::default()
        }),
        ..args()
    }
}

fn capped(fakes: &Fakes, counted: i64) {
    for start in 0..50 {
        fakes
            .telegram
            .members(Ok(page(start * 200..(start + 1) * 200, counted)));
    }
    fakes.telegram.members(Ok(page(0..0, counted)));
}

#[tokio::test]
async fn a_capped_list_is_searched_by_letters_until_everybody_was_seen() {
    let fakes = with(details(&group(10_100)));
    capped(&fakes, 10_100);
    // The first letter shows half of who is missing, among many that are known; the second one the rest.
    fakes.telegram.members(Ok(page(9_860..10_060, 240)));
    fakes.telegram.members(Ok(page(0..40, 240)));
    fakes.telegram.members(Ok(page(10_060..10_100, 40)));
    fakes.telegram.members(Ok(page(0..200, 10_100)));
    let scanned: ScanResult = result(run(&fakes, by_letters()).await);
    assert_eq!((scanned.seen, scanned.complete), (10_100, true), "{scanned:?}");
    let journal = fakes.take_journal();
    let by_letters = ["Search(\"a\") 0 200", "Search(\"a\") 200 200", "Search(\"b\") 0 200"];
    assert_eq!(pages(&journal)[51..54], by_letters);
    assert_eq!(pages(&journal)[54..], ["0 200"]);
}

#[tokio::test]
async fn a_capped_list_that_shrank_while_it_was_searched_is_not_told_as_complete() {
    let fakes = with(details(&group(10_100)));
    capped(&fakes, 10_100);
    fakes.telegram.members(Ok(page(10_000..10_100, 100)));
    // One of those who were seen has left; who else has not been seen, nobody can tell.
    fakes.telegram.members(Ok(page(1..201, 10_099)));
    let scanned: ScanResult = result(run(&fakes, by_letters()).await);
    assert_eq!((scanned.seen, scanned.counted), (10_100, Some(10_099)));
    assert!(!scanned.complete, "{scanned:?}");
}

#[tokio::test]
async fn letters_end_and_the_cap_is_still_told() {
    let fakes = with(details(&group(12_000)));
    capped(&fakes, 12_000);
    for _ in members::LETTERS.chars() {
        fakes.telegram.members(Ok(page(0..0, 0)));
    }
    let scanned: ScanResult = result(run(&fakes, by_letters()).await);
    assert_eq!(
        (scanned.seen, scanned.complete, scanned.reason),
        (10_000, false, Some(Incomplete::Cap10000))
    );
    assert_eq!(members::LETTERS.chars().count(), 68, "as the args' docs say");
}

#[tokio::test]
async fn the_letter_is_part_of_the_checkpoint() {
    let fakes = with(details(&group(10_100)));
    capped(&fakes, 10_100);
    fakes.telegram.members(Ok(page(10_000..10_050, 50)));
    fakes.telegram.members(Err(flood(60)));
    snoozed(run(&fakes, by_letters()).await);
    fakes.take_journal();
    fakes.telegram.chat_by_id(Ok(group(10_100)));
    fakes.telegram.chat_details(Ok(details(&group(10_100))));
    fakes.telegram.members(Ok(page(10_050..10_100, 50)));
    fakes.telegram.members(Ok(page(0..200, 10_100)));
    let scanned: ScanResult = result(run(&fakes, by_letters()).await);
    assert!(scanned.complete, "{scanned:?}");
    assert_eq!(pages(&fakes.take_journal()), ["Search(\"b\") 0 200", "0 200"]);
}

#[tokio::test]
async fn erased_members_are_told_and_are_no_change_of_the_list() {
    let fakes = with(details(&group(5)));
    fakes.store.state().erased.insert(3);
    fakes.telegram.members(Ok(page(0..5, 5)));
    let scanned: ScanResult = result(run(&fakes, args()).await);
    assert_eq!(
        (scanned.seen, scanned.complete, scanned.reason),
        (4, false, Some(Incomplete::PersonErased))
    );
}
