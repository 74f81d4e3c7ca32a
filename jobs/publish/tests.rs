//! Every way a publish can end, above all when nobody saw what became of the message.

use chrono::TimeDelta;

use super::{sending::CLOCK_SKEW, *};
use crate::{
    ports::{ChatType, TextFormat},
    testing::{
        Fakes, RANDOM_ID, discarded, flood, message, result, retried, snoozed, start_of_time, supergroup, target_error,
        telegram_error, unknown_outcome,
    },
};

fn args() -> PublishArgs {
    PublishArgs::plain("@reading_club", "The next meeting is on Friday.")
}

fn chat() -> Chat {
    Chat {
        username: Some("reading_club".into()),
        ..supergroup(5)
    }
}

async fn run(fakes: &Fakes) -> Outcome {
    let outcome = args().run(&fakes.context()).await;
    assert_eq!(
        fakes.telegram.unused_answers(),
        0,
        "an answer was not asked for: {outcome:?}"
    );
    outcome
}

/// Fakes whose first attempt sent and saw no answer; the second one is about to begin and finds the chat.
async fn after_unknown_outcome() -> Fakes {
    let fakes = after_unknown_outcome_without_chat().await;
    fakes.telegram.chat_by_id(Ok(chat()));
    fakes
}

async fn after_unknown_outcome_without_chat() -> Fakes {
    let mut fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(chat()));
    fakes.telegram.send_message(Err(unknown_outcome()));
    let error = retried(run(&fakes).await);
    assert_eq!(error.code, OUTCOME_UNKNOWN);
    assert!(error.retryable);
    fakes.take_journal();
    fakes.attempt = 2;
    fakes
}

fn sends(fakes: &Fakes) -> usize {
    let journal = fakes.take_journal();
    journal.iter().filter(|call| call.starts_with("send_message")).count()
}

#[tokio::test]
async fn a_message_is_sent_after_its_effect_is_stored() {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(chat()));
    fakes.telegram.send_message(Ok(message(7, 1)));
    let published: PublishResult = result(run(&fakes).await);
    assert_eq!(published.message_id, Some(7));
    assert_eq!(published.date, Some(message(7, 1).date));
    assert_eq!(published.link.as_deref(), Some("https://t.me/reading_club/7"));
    assert_eq!(published.chat.as_ref().map(|chat| chat.id), Some(chat().id));
    assert_eq!(
        fakes.take_journal(),
        [
            "checkpoint".to_owned(),
            "resolve_username reading_club".into(),
            "save_chat".into(),
            "save_checkpoint".into(),
            "prepare_effect".into(),
            "effect_attempted".into(),
            format!("send_message {} {RANDOM_ID}", chat().id),
            "effect_sent".into(),
        ]
    );
}

#[tokio::test]
async fn a_message_that_was_stored_as_sent_needs_no_telegram() {
    let mut fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(chat()));
    fakes.telegram.send_message(Ok(message(7, 1)));
    let first: PublishResult = result(run(&fakes).await);
    fakes.attempt = 2;
    let second: PublishResult = result(run(&fakes).await);
    assert_eq!(first, second);
    assert_eq!(sends(&fakes), 1);
}

#[tokio::test]
async fn after_an_unknown_outcome_the_message_is_looked_for_and_found() {
    let fakes = after_unknown_outcome().await;
    fakes.telegram.own_messages_like(Ok(vec![message(7, 1), message(8, 2)]));
    let published: PublishResult = result(run(&fakes).await);
    assert_eq!(published.message_id, Some(7), "the oldest");
    assert_eq!(sends(&fakes), 0);
    assert_eq!(fakes.telegram.searched_since(), [start_of_time() - CLOCK_SKEW]);
    assert_eq!(fakes.said(), ["sending", "looking_for_message", "message_found"]);
    let stored = fakes.store.state();
    assert_eq!(stored.effects[&chat().id].sent, Some(message(7, 1)));
}

#[tokio::test]
async fn messages_of_other_jobs_are_left_to_them() {
    let fakes = after_unknown_outcome().await;
    {
        let mut stored = fakes.store.state();
        stored.claimed.insert((chat().id, 7));
        stored.claimed_meanwhile.insert((chat().id, 8));
    }
    fakes
        .telegram
        .own_messages_like(Ok(vec![message(7, 1), message(8, 2), message(9, 3)]));
    let published: PublishResult = result(run(&fakes).await);
    assert_eq!(published.message_id, Some(9));
    let journal = fakes.take_journal();
    let writes = journal.iter().filter(|call| *call == "effect_sent").count();
    assert_eq!(writes, 2, "a message that is known to be claimed is not tried");
}

#[tokio::test]
async fn a_message_that_is_not_there_is_sent_again_under_the_same_id() {
    for there in [vec![], vec![message(7, 1)]] {
        let fakes = after_unknown_outcome().await;
        fakes.store.state().claimed.insert((chat().id, 7));
        fakes.telegram.own_messages_like(Ok(there));
        fakes.telegram.send_message(Ok(message(8, 9)));
        let published: PublishResult = result(run(&fakes).await);
        assert_eq!(published.message_id, Some(8));
        let journal = fakes.take_journal();
        assert!(
            journal.contains(&format!("send_message {} {RANDOM_ID}", chat().id)),
            "{journal:?}"
        );
    }
}

#[tokio::test]
async fn a_history_that_cannot_be_read_is_an_unknown_outcome_and_nothing_is_sent() {
    let fakes = after_unknown_outcome().await;
    fakes.telegram.own_messages_like(Err(target_error("CHANNEL_PRIVATE")));
    let error = discarded(run(&fakes).await);
    assert_eq!(error.code, OUTCOME_UNKNOWN);
    assert!(error.message.contains("CHANNEL_PRIVATE"), "the cause is kept: {error}");
    assert_eq!(sends(&fakes), 0);
}

#[tokio::test]
async fn a_look_that_fails_is_repeated_until_attempts_are_spent() {
    let mut fakes = after_unknown_outcome().await;
    fakes.telegram.own_messages_like(Err(unknown_outcome()));
    assert_eq!(retried(run(&fakes).await).code, OUTCOME_UNKNOWN);

    fakes.attempt = fakes.max_attempts;
    fakes.telegram.chat_by_id(Ok(chat()));
    fakes.telegram.own_messages_like(Err(unknown_outcome()));
    assert_eq!(discarded(run(&fakes).await).code, OUTCOME_UNKNOWN);
    assert_eq!(sends(&fakes), 0);
}

#[tokio::test]
async fn a_look_that_is_flooded_waits() {
    let fakes = after_unknown_outcome().await;
    fakes.telegram.own_messages_like(Err(flood(30)));
    assert_eq!(snoozed(run(&fakes).await).1.code, "flood");
    assert_eq!(sends(&fakes), 0);
}

#[tokio::test]
async fn the_last_attempt_looks_once_more_itself() {
    for (there, expected) in [(vec![message(7, 1)], Some(7)), (vec![], None)] {
        let mut fakes = Fakes::new();
        fakes.attempt = fakes.max_attempts;
        fakes.telegram.resolve_username(Ok(chat()));
        fakes.telegram.send_message(Err(unknown_outcome()));
        fakes.telegram.own_messages_like(Ok(there));
        let outcome = run(&fakes).await;
        match expected {
            Some(id) => assert_eq!(result::<PublishResult>(outcome).message_id, Some(id)),
            None => assert_eq!(discarded(outcome).code, OUTCOME_UNKNOWN),
        }
    }
}

#[tokio::test]
async fn a_chat_that_is_lost_after_an_unknown_outcome_hides_nothing() {
    let fakes = after_unknown_outcome_without_chat().await;
    fakes.telegram.chat_by_id(Err(target_error("PEER_ID_INVALID")));
    fakes
        .telegram
        .resolve_username(Err(target_error("USERNAME_NOT_OCCUPIED")));
    assert_eq!(discarded(run(&fakes).await).code, OUTCOME_UNKNOWN);

    let fakes = after_unknown_outcome_without_chat().await;
    fakes.telegram.chat_by_id(Err(unknown_outcome()));
    assert_eq!(retried(run(&fakes).await).code, OUTCOME_UNKNOWN);
}

#[tokio::test]
async fn a_database_that_fails_after_an_unknown_outcome_hides_nothing() {
    for call in ["checkpoint", "prepare_effect", "claimed_messages"] {
        let mut fakes = after_unknown_outcome().await;
        fakes.store.state().failing.insert(call);
        fakes.attempt = fakes.max_attempts;
        if call == "claimed_messages" {
            fakes.telegram.own_messages_like(Ok(vec![message(7, 1)]));
        }
        let error = discarded(args().run(&fakes.context()).await);
        assert_eq!(error.code, OUTCOME_UNKNOWN, "{call}");
    }
}

#[tokio::test]
async fn the_name_may_move_and_the_message_stays_in_its_chat() {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(chat()));
    fakes.telegram.send_message(Err(flood(30)));
    snoozed(run(&fakes).await);
    fakes.telegram.chat_by_id(Err(target_error("PEER_ID_INVALID")));
    fakes.telegram.resolve_username(Ok(supergroup(99)));
    assert_eq!(discarded(run(&fakes).await).code, "chat_not_found");
}

#[tokio::test]
async fn a_flood_was_not_sent_and_so_is_not_looked_for() {
    for (error, code) in [
        (flood(30), "flood"),
        (
            TelegramError {
                code: "SLOWMODE_WAIT".into(),
                ..flood(30)
            },
            "slow_mode",
        ),
    ] {
        let fakes = Fakes::new();
        fakes.telegram.resolve_username(Ok(chat()));
        fakes.telegram.send_message(Err(error));
        let (until, reason) = snoozed(run(&fakes).await);
        assert_eq!(until, start_of_time() + TimeDelta::seconds(30));
        assert_eq!(reason.code, code);

        fakes.telegram.chat_by_id(Ok(chat()));
        fakes.telegram.send_message(Ok(message(7, 31)));
        let published: PublishResult = result(run(&fakes).await);
        assert_eq!(published.message_id, Some(7));
    }
}

#[tokio::test]
async fn after_a_flood_and_then_an_unknown_outcome_there_is_a_look_again() {
    let mut fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(chat()));
    fakes.telegram.send_message(Err(flood(30)));
    snoozed(run(&fakes).await);
    fakes.telegram.chat_by_id(Ok(chat()));
    fakes.telegram.send_message(Err(unknown_outcome()));
    assert_eq!(retried(run(&fakes).await).code, OUTCOME_UNKNOWN);
    fakes.attempt = 2;
    fakes.telegram.chat_by_id(Ok(chat()));
    fakes.telegram.own_messages_like(Ok(vec![message(7, 31)]));
    assert_eq!(result::<PublishResult>(run(&fakes).await).message_id, Some(7));
}

#[tokio::test]
async fn a_duplicate_is_the_message_that_was_sent_before() {
    let duplicate = || telegram_error("RANDOM_ID_DUPLICATE", Decision::Done);
    for (there, id) in [(vec![message(7, 1)], Some(7)), (vec![], None)] {
        let fakes = after_unknown_outcome().await;
        fakes.telegram.own_messages_like(Ok(vec![]));
        fakes.telegram.send_message(Err(duplicate()));
        fakes.telegram.own_messages_like(Ok(there));
        let published: PublishResult = result(run(&fakes).await);
        assert_eq!(published.message_id, id);
        assert_eq!(published.link.is_some(), id.is_some());
    }
}

#[tokio::test]
async fn a_duplicate_is_never_sent_again_while_its_id_is_looked_for() {
    let mut fakes = after_unknown_outcome().await;
    fakes.telegram.own_messages_like(Ok(vec![]));
    fakes
        .telegram
        .send_message(Err(telegram_error("RANDOM_ID_DUPLICATE", Decision::Done)));
    fakes.telegram.own_messages_like(Err(unknown_outcome()));
    assert_eq!(retried(run(&fakes).await).code, "call_deadline");
    fakes.take_journal();

    fakes.attempt = 3;
    fakes.telegram.chat_by_id(Ok(chat()));
    fakes.telegram.own_messages_like(Ok(vec![]));
    assert_eq!(result::<PublishResult>(run(&fakes).await).message_id, None);
    fakes
        .telegram
        .chat_by_id(Err(telegram_error("CHANNEL_PRIVATE", Decision::Target)));
    fakes.telegram.resolve_username(Err(target_error("CHANNEL_PRIVATE")));
    assert_eq!(result::<PublishResult>(run(&fakes).await).message_id, None);
    assert_eq!(sends(&fakes), 0);
}

#[tokio::test]
async fn refusals_end_the_job_with_their_code() {
    for (error, code) in [
        (target_error("CHAT_WRITE_FORBIDDEN"), "write_forbidden"),
        (target_error("ALLOW_PAYMENT_REQUIRED"), "payment_required"),
        (telegram_error("PEER_FLOOD", Decision::Campaign), "peer_flood"),
        (
            telegram_error("MESSAGE_TOO_LONG", Decision::Content),
            "message_too_long",
        ),
        (telegram_error("SOMETHING_NEW", Decision::Bug), "telegram_error"),
    ] {
        let mut fakes = Fakes::new();
        // Also on an attempt where the outcome was unknown before: the look has settled it.
        fakes.attempt = 3;
        fakes.telegram.resolve_username(Ok(chat()));
        fakes.telegram.send_message(Err(error));
        assert_eq!(discarded(run(&fakes).await).code, code);
        let checkpoint = fakes.store.state().checkpoint.clone().expect("one is kept");
        assert_eq!(checkpoint["fate"], "not_sent", "{code}: the runtime must know");
    }
}

#[tokio::test]
async fn files_that_telegram_wants_again_are_put_in_again_and_sent_under_the_same_number() {
    let stale = || telegram_error("FILE_REFERENCE_EXPIRED", Decision::StaleMedia);
    let uploaded = |reference: u8| post::Uploaded {
        reference: vec![reference],
        spoiler: false,
    };
    let picture = post::Attachment {
        kind: post::MediaKind::Photo,
        file: Some(uuid::Uuid::nil()),
        url: None,
        spoiler: false,
        duration_seconds: None,
        width: None,
        height: None,
    };
    let args = PublishArgs {
        media: vec![picture],
        ..args()
    };
    let mut fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(chat()));
    fakes.telegram.upload(Ok(uploaded(1)));
    fakes.telegram.send_message(Err(stale()));
    fakes.telegram.upload(Ok(uploaded(2)));
    fakes.telegram.send_message(Err(stale()));
    assert_eq!(retried(args.run(&fakes.context()).await).code, "media_stale");
    let kept = fakes.store.state().checkpoint.clone().expect("kept");
    assert_eq!(kept["fate"], "not_sent");
    fakes.take_journal();
    fakes.attempt = 2;
    fakes.telegram.chat_by_id(Ok(chat()));
    fakes.telegram.upload(Ok(uploaded(3)));
    fakes.telegram.send_message(Ok(message(7, 1)));
    assert_eq!(
        result::<PublishResult>(args.run(&fakes.context()).await).message_id,
        Some(7)
    );
    assert_eq!(sends(&fakes), 1);
}

#[tokio::test]
async fn a_time_that_came_while_the_job_waited_sends_nothing() {
    let args = PublishArgs {
        schedule_at: Some(start_of_time() + TimeDelta::minutes(1)),
        ..args()
    };
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(chat()));
    fakes.telegram.send_message(Err(flood(90)));
    fakes.clock.set(snoozed(args.run(&fakes.context()).await).0);
    fakes.take_journal();
    fakes.telegram.chat_by_id(Ok(chat()));
    assert_eq!(discarded(args.run(&fakes.context()).await).code, "schedule_invalid");
    assert_eq!(sends(&fakes), 0);
}

#[tokio::test]
async fn a_failure_before_the_first_send_is_what_it_is() {
    let mut fakes = Fakes::new();
    fakes.attempt = fakes.max_attempts;
    fakes.telegram.resolve_username(Err(unknown_outcome()));
    assert_eq!(retried(run(&fakes).await).code, "call_deadline");
    fakes
        .telegram
        .resolve_username(Err(target_error("USERNAME_NOT_OCCUPIED")));
    assert_eq!(discarded(run(&fakes).await).code, "chat_not_found");
}

#[tokio::test]
async fn the_visible_length_decides_before_anything_is_prepared() {
    for (length, code) in [(0, "message_empty"), (MAX_LENGTH + 1, "message_too_long")] {
        let fakes = Fakes::new();
        fakes.telegram.visible_length(Ok(length));
        let error = discarded(run(&fakes).await);
        assert_eq!(error.code, code);
        assert!(error.message.contains("args.text"), "{error}");
        assert!(fakes.store.state().effects.is_empty());
    }
    let fakes = Fakes::new();
    fakes.telegram.visible_length(Ok(MAX_LENGTH));
    fakes.telegram.resolve_username(Ok(chat()));
    fakes.telegram.send_message(Ok(message(7, 1)));
    result::<PublishResult>(run(&fakes).await);
}

#[tokio::test]
async fn a_sent_message_is_the_result_whatever_the_store_says() {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(chat()));
    fakes.telegram.send_message(Ok(message(7, 1)));
    fakes.store.state().failing.insert("effect_sent");
    assert_eq!(result::<PublishResult>(run(&fakes).await).message_id, Some(7));

    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(chat()));
    fakes.telegram.send_message(Ok(message(7, 1)));
    fakes.store.state().claimed.insert((chat().id, 7));
    assert_eq!(result::<PublishResult>(run(&fakes).await).message_id, Some(7));
}

#[tokio::test]
async fn nothing_is_sent_when_the_attempt_cannot_be_stored() {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(chat()));
    fakes.store.state().failing.insert("effect_attempted");
    assert_eq!(retried(run(&fakes).await).code, "store_failed");
    assert_eq!(sends(&fakes), 0);

    let mut fakes = Fakes::new();
    fakes.attempt = 2;
    fakes.store.state().fenced = true;
    assert_eq!(retried(run(&fakes).await).code, "fenced");
}

#[tokio::test]
async fn a_cancelled_job_sends_nothing() {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(chat()));
    fakes.telegram.cancel_after(1, fakes.cancellation.clone());
    assert_eq!(run(&fakes).await, Outcome::Cancelled);
    assert_eq!(sends(&fakes), 0);
}

#[tokio::test]
async fn a_person_is_not_published_to() {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(Chat {
        chat_type: ChatType::Private,
        ..chat()
    }));
    assert_eq!(discarded(run(&fakes).await).code, "chat_is_person");
}

#[tokio::test]
async fn a_message_in_a_basic_group_has_no_link() {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(Chat {
        id: -77,
        chat_type: ChatType::Group,
        ..chat()
    }));
    fakes.telegram.send_message(Ok(message(7, 1)));
    assert_eq!(result::<PublishResult>(run(&fakes).await).link, None);
}

#[test]
fn the_door_counts_as_telegram_counts() {
    let with = |text: String, format| PublishArgs { text, format, ..args() };
    let ok = [
        with("a".repeat(MAX_LENGTH), TextFormat::Plain),
        with("😀".repeat(MAX_LENGTH / 2), TextFormat::Plain),
        with("<b>a</b>".repeat(100), TextFormat::Html),
        with(format!("{}a", " ".repeat(MAX_RAW_BYTES - 1)), TextFormat::Markdown),
    ];
    for args in ok {
        assert_eq!(args.validate(), Ok(()));
    }
    let wrong = [
        with(String::new(), TextFormat::Plain),
        with(" \n ".into(), TextFormat::Html),
        with("a\0".into(), TextFormat::Plain),
        with("<b>a".into(), TextFormat::Html),
        with("a **b".into(), TextFormat::Markdown),
        with("<b> </b>".into(), TextFormat::Html),
        with("a".repeat(MAX_LENGTH + 1), TextFormat::Plain),
        with("😀".repeat(MAX_LENGTH / 2 + 1), TextFormat::Plain),
        with("*".repeat(MAX_RAW_BYTES + 1), TextFormat::Markdown),
    ];
    for args in wrong {
        assert_eq!(args.validate().unwrap_err().field, "args.text");
    }
    let chat = PublishArgs::plain("reading_club", "Hello");
    assert_eq!(chat.validate().unwrap_err().field, "args.chat");
}

#[test]
fn the_text_is_in_no_debug_output() {
    let args = PublishArgs::plain("t.me/+SecretCode", "Secret words");
    let shown = format!("{:?} {args:?}", Message::of(&args));
    assert!(!shown.contains("Secret"), "{shown}");
}

#[tokio::test]
async fn slow_mode_is_looked_up_before_a_single_chat_too() {
    let until = start_of_time() + TimeDelta::seconds(40);
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(chat()));
    fakes.telegram.access(Ok(ports::Access {
        may_write: true,
        not_before: Some(until),
    }));
    let (at, reason) = snoozed(run(&fakes).await);
    assert_eq!((at, reason.code.as_str()), (until, "slow_mode"));
    assert_eq!(sends(&fakes), 0, "nothing was tried");

    fakes.clock.set(until);
    fakes.telegram.resolve_username(Ok(chat()));
    fakes.telegram.access(Ok(ports::Access {
        may_write: true,
        not_before: Some(until),
    }));
    fakes.telegram.send_message(Ok(message(7, 41)));
    result::<PublishResult>(run(&fakes).await);
}

#[tokio::test]
async fn a_plan_is_kept_before_the_send_and_only_for_a_message_that_is_tried() {
    let plan = statistics::StatisticsPlan {
        every_minutes: 30,
        for_days: 2,
    };
    let with_plan = PublishArgs {
        statistics: Some(plan),
        ..args()
    };
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(chat()));
    fakes.telegram.send_message(Ok(message(7, 1)));
    result::<PublishResult>(with_plan.run(&fakes.context()).await);
    assert_eq!(fakes.store.state().plan, Some(plan));
    let journal = fakes.take_journal();
    let place = |call: &str| journal.iter().position(|line| line.starts_with(call)).expect(call);
    assert!(place("follow") < place("send_message"));

    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(chat()));
    fakes.telegram.access(Ok(ports::Access {
        may_write: false,
        not_before: None,
    }));
    discarded(with_plan.run(&fakes.context()).await);
    assert_eq!(fakes.store.state().plan, None);
}

#[test]
fn a_plan_has_bounds_and_belongs_to_what_is_sent() {
    let plan = |every_minutes, for_days| statistics::StatisticsPlan {
        every_minutes,
        for_days,
    };
    let refused = |args: PublishArgs| args.validate().expect_err("refused").field;
    let with = |statistics| PublishArgs {
        statistics: Some(statistics),
        ..args()
    };
    with(plan(15, 90)).validate().expect("good");
    assert_eq!(refused(with(plan(14, 1))), "args.statistics.every_minutes");
    assert_eq!(refused(with(plan(60, 91))), "args.statistics.for_days");
    let pin = PublishArgs {
        action: PublishAction::Pin,
        message_id: Some(1),
        text: String::new(),
        ..with(plan(60, 7))
    };
    assert_eq!(refused(pin), "args.statistics");
    let later = PublishArgs {
        schedule_at: Some(start_of_time()),
        ..with(plan(60, 7))
    };
    assert_eq!(refused(later), "args.statistics");
    let round = |of_jobs| PublishArgs {
        action: PublishAction::Statistics,
        of_jobs,
        ..PublishArgs::plain("", "")
    };
    round(vec![uuid::Uuid::nil()]).validate().expect("good");
    assert_eq!(refused(round(Vec::new())), "args.of_jobs");
    let elsewhere = PublishArgs {
        chat: "@reading_club".into(),
        ..round(vec![uuid::Uuid::nil()])
    };
    assert_eq!(refused(elsewhere), "args.chat");
}
