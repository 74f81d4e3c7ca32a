//! Every way a scan can end, and where it goes on.

use chrono::TimeDelta;

use super::*;
use crate::{
    ports::Chat,
    testing::{
        Fakes, details, discarded, flood, page, result, retried, snoozed, start_of_time, supergroup, target_error,
        telegram_error, unknown_outcome,
    },
};

fn args() -> ScanArgs {
    ScanArgs {
        what: ScanWhat::Members,
        chat: "@reading_club".into(),
        purpose: " Yearly count ".into(),
        retention_days: 30,
        limit: None,
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
    let scanned: ScanResult = result(run(&fakes, args()).await);
    assert_eq!((scanned.counted, scanned.seen), (Some(450), 450));
    assert_eq!((scanned.complete, scanned.reason), (true, None));
    assert_eq!(pages(&fakes.take_journal()), ["0 200", "200 200", "400 200"]);
    let stored = fakes.store.state();
    assert_eq!(stored.members.len(), 450);
    assert_eq!(
        stored.scan,
        Some(ScanStart {
            chat_id: group(0).id,
            purpose: "Yearly count".into(),
            retention_days: 30
        })
    );
    assert_eq!(stored.chats.len(), 1);
}

#[tokio::test]
async fn a_short_page_in_the_middle_is_not_the_end() {
    let fakes = with(details(&group(300)));
    fakes.telegram.members(Ok(page(0..150, 300)));
    fakes.telegram.members(Ok(page(150..300, 300)));
    let scanned: ScanResult = result(run(&fakes, args()).await);
    assert!(scanned.complete);
    assert_eq!(pages(&fakes.take_journal()), ["0 200", "150 200"]);
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
    let scanned: ScanResult = result(run(&fakes, args()).await);
    assert_eq!((scanned.seen, scanned.complete), (450, true));
    assert_eq!(pages(&fakes.take_journal()), ["200 200", "400 200"]);
    assert_eq!(fakes.said(), ["resumed", "page_stored", "page_stored"]);
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
    run(&fakes, args()).await;
    let stored = fakes.store.state();
    assert_eq!(
        stored.progress,
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

#[test]
fn the_door_names_the_field_that_is_wrong() {
    assert_eq!(args().validate(), Ok(()));
    for (wrong, field) in [
        (
            ScanArgs {
                chat: "reading_club".into(),
                ..args()
            },
            "args.chat",
        ),
        (
            ScanArgs {
                purpose: "  ".into(),
                ..args()
            },
            "args.purpose",
        ),
        (
            ScanArgs {
                purpose: "a\0b".into(),
                ..args()
            },
            "args.purpose",
        ),
        (
            ScanArgs {
                purpose: "я".repeat(201),
                ..args()
            },
            "args.purpose",
        ),
        (
            ScanArgs {
                retention_days: 0,
                ..args()
            },
            "args.retention_days",
        ),
        (
            ScanArgs {
                retention_days: 366,
                ..args()
            },
            "args.retention_days",
        ),
        (
            ScanArgs {
                limit: Some(0),
                ..args()
            },
            "args.limit",
        ),
    ] {
        assert_eq!(wrong.validate().unwrap_err().field, field);
    }
    assert_eq!(
        ScanArgs {
            purpose: "я".repeat(200),
            ..args()
        }
        .validate(),
        Ok(())
    );
}
