use chrono::TimeDelta;

use super::*;
use crate::{
    ports::{HistoryPage, PrivateNews, TelegramError},
    testing::{self, Fakes},
};

fn page(ids: &[i32], reaches: i32, is_last: bool) -> HistoryPage {
    HistoryPage {
        messages: ids.iter().map(|id| testing::chat_message(*id, "x")).collect(),
        reaches,
        is_last,
    }
}

#[tokio::test]
async fn a_message_that_was_deleted_before_it_was_read_holds_nothing_up() {
    let fakes = member();
    fakes.store.state().left_to_history = 12;
    fakes.telegram.history_after(Ok(page(&[], 10, true)));
    fakes.telegram.history_after(Ok(page(&[], 10, true)));
    fakes.telegram.cancel_after(4, fakes.cancellation.clone());
    assert_eq!(args().run(&fakes.context()).await, Outcome::Cancelled);
    let state = fakes.store.state();
    assert!(
        state
            .watch
            .as_ref()
            .is_some_and(|watch| !watch.filling && watch.last_message_id == 12)
    );
}

fn gone() -> TelegramError {
    TelegramError {
        code: "CHANNEL_PRIVATE".into(),
        message: "Private.".into(),
        decision: Decision::Target,
    }
}

/// A session that is in the chat, whose newest message is 10.
fn member() -> Fakes {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(testing::supergroup(1)));
    fakes.telegram.newest_message(Ok(10));
    fakes
}

fn args() -> MonitorArgs {
    MonitorArgs::of("@reading_club")
}

#[tokio::test]
async fn a_watch_reads_what_it_was_left_and_then_waits_until_it_is_stopped() {
    let fakes = member();
    fakes.store.state().left_to_history = 12;
    // The message that was left is in the second page; asking again before it came showed nothing.
    fakes.telegram.history_after(Ok(page(&[], 10, true)));
    fakes.telegram.history_after(Ok(page(&[11, 12], 12, true)));
    fakes.telegram.cancel_after(4, fakes.cancellation.clone());
    assert_eq!(args().run(&fakes.context()).await, Outcome::Cancelled);
    let state = fakes.store.state();
    let recorded: Vec<i32> = state.recorded.iter().map(|message| message.id).collect();
    assert_eq!(recorded, [11, 12]);
    assert!(state.watch.as_ref().is_some_and(|watch| !watch.filling));
}

#[tokio::test]
async fn what_was_read_is_compared_with_what_exists() {
    let fakes = member();
    fakes.telegram.history_after(Ok(page(&[11], 11, true)));
    fakes.telegram.recent_messages(Ok(vec![11, 10]));
    let context = fakes.context();
    let running = tokio::spawn(async move { args().run(&context).await });
    while fakes.store.state().checked.is_empty() {
        tokio::task::yield_now().await;
    }
    fakes.cancellation.cancel();
    assert_eq!(running.await.expect("no panic"), Outcome::Cancelled);
    assert_eq!(fakes.store.state().checked, [11, 10]);
}

#[tokio::test]
async fn access_that_is_lost_while_the_place_is_looked_for_hands_over_too() {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(testing::supergroup(1)));
    fakes.telegram.newest_message(Err(gone()));
    fakes.store.state().failover = Some(Failover::Next);
    assert!(matches!(args().run(&fakes.context()).await, Outcome::Snooze { .. }));
    assert_eq!(fakes.store.state().losses, ["CHANNEL_PRIVATE"]);
}

#[tokio::test]
async fn numbers_are_the_accounts_own_in_a_basic_group_and_in_private_chats() {
    let mut group = testing::supergroup(1);
    group.chat_type = ChatType::Group;
    for (chat, private, owner) in [
        (testing::supergroup(1), false, 0),
        (group, false, testing::ACCOUNT_ID),
        (testing::supergroup(1), true, testing::ACCOUNT_ID),
    ] {
        let fakes = Fakes::new();
        if !private {
            fakes.telegram.resolve_username(Ok(chat));
        }
        fakes.telegram.newest_message(Ok(10));
        fakes
            .telegram
            .cancel_after(2 - usize::from(private), fakes.cancellation.clone());
        let args = if private { MonitorArgs::of(PRIVATE) } else { args() };
        assert_eq!(args.run(&fakes.context()).await, Outcome::Cancelled);
        let start = fakes.store.state().watch_start.clone().expect("it began");
        assert_eq!(
            (start.owner, start.chat_id.is_none(), start.newest),
            (owner, private, 10)
        );
    }
}

#[tokio::test]
async fn a_second_watch_of_a_chat_names_the_first() {
    let fakes = member();
    fakes.store.state().watched_by = Some(uuid::Uuid::max());
    let Outcome::Done(result) = args().run(&fakes.context()).await else {
        panic!("it is done");
    };
    assert_eq!(result["watch"], serde_json::json!(uuid::Uuid::max()));
}

#[tokio::test]
async fn a_gap_is_read_from_the_history() {
    let fakes = member();
    fakes.store.state().watch = Some(WatchState {
        last_message_id: 20,
        ..WatchState::default()
    });
    let context = fakes.context();
    let running = tokio::spawn(async move { args().run(&context).await });
    fakes.store.state().watch = Some(WatchState {
        last_message_id: 20,
        filling: true,
        ..WatchState::default()
    });
    fakes.telegram.history_after(Ok(page(&[21], 21, false)));
    fakes.telegram.history_after(Ok(page(&[25], 25, true)));
    // Counts from here: both looks at the chat have been made or will be, and both pages.
    fakes.telegram.cancel_after(4, fakes.cancellation.clone());
    fakes.telegram.note_watch();
    assert_eq!(running.await.expect("no panic"), Outcome::Cancelled);
    assert_eq!(fakes.store.state().recorded.len(), 2);
}

#[tokio::test]
async fn a_session_that_cannot_see_the_chat_hands_over_or_gives_up() {
    for (failover, expected) in [
        (Failover::Next, "failing_over"),
        (Failover::Again, "failing_over"),
        (Failover::Exhausted, ""),
    ] {
        let fakes = Fakes::new();
        fakes.telegram.resolve_username(Err(gone()));
        fakes.store.state().failover = Some(failover);
        match args().run(&fakes.context()).await {
            Outcome::Snooze { until, reason } => {
                assert_eq!(reason.code, expected);
                assert_eq!(until, testing::start_of_time() + TimeDelta::seconds(5));
            }
            Outcome::Discard(error) => assert_eq!((expected, error.code.as_str()), ("", "exhausted")),
            other => panic!("{other:?}"),
        }
        assert_eq!(fakes.store.state().losses, ["chat_inaccessible"]);
    }
}

#[tokio::test]
async fn a_loss_that_the_stream_saw_hands_over() {
    let fakes = member();
    fakes.telegram.chat_by_id(Err(gone()));
    fakes.telegram.resolve_username(Err(gone()));
    fakes.store.state().watch = Some(WatchState {
        lost_reason: Some("kicked".into()),
        ..WatchState::default()
    });
    fakes.store.state().failover = Some(Failover::Next);
    assert!(matches!(args().run(&fakes.context()).await, Outcome::Snooze { .. }));
    assert_eq!(fakes.store.state().losses, ["kicked"]);
}

#[tokio::test]
async fn a_loss_that_was_undone_since_ends_nothing() {
    let fakes = member();
    fakes.telegram.chat_by_id(Ok(testing::supergroup(1)));
    fakes.store.state().watch = Some(WatchState {
        lost_reason: Some("removed".into()),
        ..WatchState::default()
    });
    // After the two first looks, and the one at whether it is lost.
    fakes.telegram.cancel_after(3, fakes.cancellation.clone());
    assert_eq!(args().run(&fakes.context()).await, Outcome::Cancelled);
    let state = fakes.store.state();
    assert!(state.losses.is_empty());
    assert_eq!(state.watch.as_ref().and_then(|watch| watch.lost_reason.clone()), None);
}

#[tokio::test]
async fn nobody_is_asked_to_watch_as_somebody_outside() {
    let fakes = Fakes::new();
    let mut chat = testing::supergroup(1);
    chat.member = false;
    fakes.telegram.resolve_username(Ok(chat));
    assert!(matches!(args().run(&fakes.context()).await, Outcome::Discard(_)));
    assert_eq!(fakes.store.state().losses, ["not_a_member"]);
}

#[tokio::test]
async fn a_name_that_nobody_has_is_no_lost_access() {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(Chat {
        chat_type: ChatType::Private,
        ..testing::supergroup(1)
    }));
    let Outcome::Discard(error) = args().run(&fakes.context()).await else {
        panic!("a person is refused");
    };
    assert_eq!(error.code, "chat_is_person");
    assert!(fakes.store.state().losses.is_empty());
    let nobody = TelegramError {
        code: "USERNAME_NOT_OCCUPIED".into(),
        ..gone()
    };
    fakes.telegram.resolve_username(Err(nobody));
    let Outcome::Discard(error) = args().run(&fakes.context()).await else {
        panic!("nobody has the name");
    };
    assert_eq!(error.code, "chat_not_found");
    assert!(fakes.store.state().losses.is_empty());
}

#[tokio::test]
async fn an_id_that_one_session_has_not_met_may_be_known_to_another() {
    let fakes = Fakes::new();
    fakes.telegram.chat_by_id(Err(TelegramError {
        code: "PEER_ID_INVALID".into(),
        ..gone()
    }));
    let outcome = MonitorArgs::of("-1001234567890").run(&fakes.context()).await;
    assert!(matches!(outcome, Outcome::Discard(_)));
    assert_eq!(fakes.store.state().losses, ["chat_not_found"]);
}

#[tokio::test]
async fn a_failure_after_a_healthy_time_is_no_attempt() {
    for (step, refunded) in [(TimeDelta::minutes(11), true), (TimeDelta::minutes(1), false)] {
        let fakes = Fakes::new();
        fakes.clock.step_by(step);
        fakes.telegram.resolve_username(Err(TelegramError {
            code: "connection_lost".into(),
            message: "x".into(),
            decision: Decision::Retry,
        }));
        let outcome = args().run(&fakes.context()).await;
        assert_eq!(matches!(outcome, Outcome::Snooze { .. }), refunded, "{outcome:?}");
    }
}

#[tokio::test]
async fn after_a_change_of_account_the_place_is_found_by_time() {
    let fakes = member();
    fakes.store.state().watch = Some(WatchState {
        filling: true,
        last_message_id: 900,
        last_message_at: Some(testing::start_of_time()),
        renumbered: true,
        ..WatchState::default()
    });
    fakes.telegram.newest_message_until(Ok(40));
    fakes.telegram.history_after(Ok(page(&[41], 41, true)));
    fakes.telegram.cancel_after(4, fakes.cancellation.clone());
    assert_eq!(args().run(&fakes.context()).await, Outcome::Cancelled);
    assert!(fakes.take_journal().contains(&"history_after 40".to_owned()));
}

#[tokio::test]
async fn a_bot_watches_nothing_and_leaves_what_was_begun_to_others() {
    for chat in ["@reading_club", PRIVATE] {
        let fakes = Fakes::new();
        fakes.telegram.be_bot();
        let Outcome::Discard(error) = MonitorArgs::of(chat).run(&fakes.context()).await else {
            panic!("a bot is refused");
        };
        assert_eq!(error.code, "session_is_bot");
        assert!(fakes.store.state().losses.is_empty(), "nothing was lost");
    }
    let fakes = Fakes::new();
    fakes.telegram.be_bot();
    fakes.store.state().checkpoint = Some(serde_json::json!({ "chat_id": -1_001_234_567_890_i64 }));
    fakes.store.state().failover = Some(Failover::Next);
    assert!(matches!(args().run(&fakes.context()).await, Outcome::Snooze { .. }));
    assert_eq!(fakes.store.state().losses, ["session_is_bot"]);
}

#[test]
fn somebody_who_may_mean_people_is_told_of_them() {
    for chat in ["privat", "reading_club", "", "777000"] {
        let error = MonitorArgs::of(chat).validate().expect_err("it names no chat");
        assert!(error.message.contains("`private`"), "{}", error.message);
    }
    let error = MonitorArgs::of("https://example.com/a")
        .validate()
        .expect_err("another site");
    assert!(!error.message.contains("`private`"), "{}", error.message);
}

#[test]
fn what_is_wrong_is_named() {
    let field = |args: MonitorArgs| args.validate().err().map(|error| error.field);
    assert_eq!(field(args()), None);
    assert_eq!(field(MonitorArgs::of(PRIVATE)), None);
    assert_eq!(field(MonitorArgs::of("")).as_deref(), Some("args.chat"));
    let backups = |backups: &[&str]| MonitorArgs {
        backups: backups.iter().map(|&backup| backup.into()).collect(),
        ..args()
    };
    assert_eq!(field(backups(&["a", "b"])), None);
    assert_eq!(field(backups(&["a", "a"])).as_deref(), Some("args.backups[1]"));
    assert_eq!(field(backups(&[" "])).as_deref(), Some("args.backups[0]"));
    let private = MonitorArgs {
        backups: vec!["a".into()],
        ..MonitorArgs::of(PRIVATE)
    };
    assert_eq!(field(private).as_deref(), Some("args.backups"));
    let none = MonitorArgs {
        events: Vec::new(),
        ..args()
    };
    assert_eq!(field(none).as_deref(), Some("args.events"));
    let failover = |delay_seconds, tries| MonitorArgs {
        failover: FailoverArgs { delay_seconds, tries },
        ..args()
    };
    assert_eq!(field(failover(3_600, 10)), None);
    assert_eq!(
        field(failover(3_601, 1)).as_deref(),
        Some("args.failover.delay_seconds")
    );
    assert_eq!(field(failover(0, 0)).as_deref(), Some("args.failover.tries"));
}

/// An account whose newest message was 10, and which was written to in two private chats since.
fn written_to() -> Fakes {
    let fakes = Fakes::new();
    fakes.telegram.newest_message(Ok(10));
    fakes.store.state().left_to_history = 14;
    let chats = [21, 22].map(|id| Chat {
        chat_type: ChatType::Private,
        ..testing::supergroup(id)
    });
    fakes.telegram.private_news(Ok(PrivateNews {
        chats: chats.to_vec(),
        reaches: 14,
    }));
    fakes
}

fn recorded(fakes: &Fakes) -> Vec<i32> {
    fakes.store.state().recorded.iter().map(|message| message.id).collect()
}

#[tokio::test]
async fn a_flood_between_private_chats_is_waited_for_and_the_first_is_not_read_again() {
    let fakes = written_to();
    fakes.telegram.history_after(Ok(page(&[11, 14], 14, true)));
    fakes.telegram.history_after(Err(testing::flood(1)));
    // The last one came meanwhile.
    fakes.telegram.history_after(Ok(page(&[12, 13, 15], 15, true)));
    fakes.telegram.cancel_after(5, fakes.cancellation.clone());
    let began = Instant::now();
    assert_eq!(MonitorArgs::of(PRIVATE).run(&fakes.context()).await, Outcome::Cancelled);
    assert!(began.elapsed() >= Duration::from_secs(1), "the flood was waited for");
    assert_eq!(recorded(&fakes), [11, 14, 12, 13]);
    let state = fakes.store.state();
    let watch = state.watch.as_ref().expect("a watch");
    assert!(!watch.filling && watch.last_message_id == 14, "{watch:?}");
}

#[tokio::test]
async fn what_was_read_of_private_chats_before_a_long_flood_is_stored() {
    let fakes = written_to();
    fakes.telegram.history_after(Ok(page(&[11, 14], 14, true)));
    fakes.telegram.history_after(Err(testing::flood(3600)));
    let Outcome::Snooze { .. } = MonitorArgs::of(PRIVATE).run(&fakes.context()).await else {
        panic!("later");
    };
    assert_eq!(recorded(&fakes), [11, 14]);
    let state = fakes.store.state();
    let watch = state.watch.as_ref().expect("a watch");
    assert!(watch.filling && watch.last_message_id == 10, "{watch:?}");
}

#[tokio::test]
async fn a_private_chat_that_is_not_given_holds_no_other_up() {
    let fakes = written_to();
    fakes.telegram.history_after(Err(gone()));
    fakes.telegram.history_after(Ok(page(&[12], 12, true)));
    fakes.telegram.cancel_after(4, fakes.cancellation.clone());
    assert_eq!(MonitorArgs::of(PRIVATE).run(&fakes.context()).await, Outcome::Cancelled);
    assert_eq!(recorded(&fakes), [12]);
}
