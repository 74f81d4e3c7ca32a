//! Several chats: each once, each with its own outcome, whatever breaks in between.

use std::collections::HashMap;

use super::*;
use crate::{
    Job,
    ports::Effect,
    publish::{
        ports::Access,
        post::{Attachment, MediaKind, Uploaded},
    },
    testing::{
        Fakes, discarded, flood, message, result, retried, snoozed, start_of_time, supergroup, target_error,
        telegram_error, unknown_outcome,
    },
};

fn args(count: i64) -> PublishArgs {
    PublishArgs {
        chats: (1..=count).map(|id| format!("@reading_club_{id}")).collect(),
        ..PublishArgs::plain("", "The library is closed on Friday.")
    }
}

/// The chats are found in their order.
fn found(fakes: &Fakes, ids: std::ops::RangeInclusive<i64>) {
    for id in ids {
        fakes.telegram.resolve_username(Ok(supergroup(id)));
    }
}

async fn run(fakes: &Fakes, count: i64) -> Outcome {
    let outcome = args(count).run(&fakes.context()).await;
    assert_eq!(fakes.telegram.unused_answers(), 0, "not asked for: {outcome:?}");
    outcome
}

fn by_position(result: &PublishResult) -> HashMap<i32, &str> {
    let targets = result.targets.iter();
    targets
        .map(|target| (target.position, target.outcome.as_str()))
        .collect()
}

fn sends(fakes: &Fakes) -> usize {
    let journal = fakes.take_journal();
    journal.iter().filter(|call| call.starts_with("send_message")).count()
}

#[tokio::test]
async fn each_chat_has_its_message_and_its_outcome() {
    let fakes = Fakes::new();
    found(&fakes, 1..=2);
    fakes
        .telegram
        .resolve_username(Err(target_error("USERNAME_NOT_OCCUPIED")));
    found(&fakes, 1..=1);
    found(&fakes, 5..=5);
    fakes.telegram.send_message(Ok(message(7, 1)));
    fakes.telegram.send_message(Err(target_error("CHAT_WRITE_FORBIDDEN")));
    fakes.telegram.send_message(Ok(message(9, 2)));
    let report: PublishResult = result(run(&fakes, 5).await);
    assert_eq!(report.status, PublishStatus::Finished);
    assert_eq!(
        by_position(&report),
        HashMap::from([
            (0, "sent"),
            (1, "write_forbidden"),
            (2, "chat_not_found"),
            (3, "duplicate"),
            (4, "sent")
        ])
    );
    assert_eq!(report.counts["sent"], 2);
    assert_eq!(report.targets[4].message_id, Some(9));
    assert_eq!(report.targets[0].chat_id, Some(supergroup(1).id));
    assert_eq!(fakes.store.state().progress.last().expect("shown").of, Some(5));
}

#[tokio::test]
async fn the_effect_is_durable_before_each_send() {
    let fakes = Fakes::new();
    found(&fakes, 1..=1);
    fakes.telegram.send_message(Ok(message(7, 1)));
    result::<PublishResult>(run(&fakes, 1).await);
    let journal = fakes.take_journal();
    let place = |call: &str| journal.iter().position(|line| line.starts_with(call)).expect(call);
    assert!(place("begin_target") < place("prepare_effect"));
    assert!(place("prepare_effect") < place("send_message"));
    assert!(place("send_message") < place("decide_target"));
}

#[tokio::test]
async fn without_the_right_to_write_nothing_is_tried() {
    let fakes = Fakes::new();
    found(&fakes, 1..=1);
    fakes.telegram.access(Ok(Access {
        may_write: false,
        not_before: None,
    }));
    let report: PublishResult = result(run(&fakes, 1).await);
    assert_eq!(by_position(&report)[&0], "write_forbidden");
    assert_eq!(sends(&fakes), 0);
}

#[tokio::test]
async fn slow_mode_puts_off_its_chat_alone() {
    let until = start_of_time() + TimeDelta::seconds(40);
    let fakes = Fakes::new();
    found(&fakes, 1..=3);
    fakes.telegram.access(Ok(Access {
        may_write: true,
        not_before: Some(until),
    }));
    fakes.telegram.send_message(Err(telegram_error(
        "SLOWMODE_WAIT",
        Decision::Gate {
            until: start_of_time() + TimeDelta::seconds(60),
        },
    )));
    fakes.telegram.send_message(Ok(message(7, 1)));
    let (at, reason) = snoozed(run(&fakes, 3).await);
    assert_eq!((at, reason.code.as_str()), (until, "slow_mode"));
    assert_eq!(sends(&fakes), 2);

    fakes.clock.set(until);
    fakes.telegram.chat_by_id(Ok(supergroup(1)));
    fakes.telegram.send_message(Ok(message(8, 41)));
    let (at, _) = snoozed(run(&fakes, 3).await);
    assert_eq!(at, start_of_time() + TimeDelta::seconds(60));
    fakes.clock.set(at);
    fakes.telegram.chat_by_id(Ok(supergroup(2)));
    fakes.telegram.send_message(Ok(message(9, 61)));
    let report: PublishResult = result(run(&fakes, 3).await);
    assert_eq!(report.counts, BTreeMap::from([("sent".to_owned(), 3)]));
}

#[tokio::test]
async fn a_flood_puts_off_the_job_and_keeps_what_was_done() {
    let fakes = Fakes::new();
    found(&fakes, 1..=2);
    fakes.telegram.send_message(Ok(message(7, 1)));
    fakes.telegram.send_message(Err(flood(30)));
    let (_, reason) = snoozed(run(&fakes, 3).await);
    assert_eq!(reason.code, "flood");
    assert_eq!(sends(&fakes), 2);

    fakes.telegram.chat_by_id(Ok(supergroup(2)));
    found(&fakes, 3..=3);
    fakes.telegram.send_message(Ok(message(8, 31)));
    fakes.telegram.send_message(Ok(message(9, 32)));
    let report: PublishResult = result(run(&fakes, 3).await);
    assert_eq!(report.counts["sent"], 3);
    assert_eq!(sends(&fakes), 2, "nobody got it twice, and a flood is not looked for");
}

/// A send to the first chat that nobody saw end. The clock is where the job goes on.
async fn in_doubt(count: i64) -> Fakes {
    let fakes = Fakes::new();
    found(&fakes, 1..=count);
    fakes.telegram.send_message(Err(unknown_outcome()));
    for id in 2..=count {
        fakes
            .telegram
            .send_message(Ok(message(i32::try_from(id).expect("few"), 1)));
    }
    goes_on(&fakes, snoozed(run(&fakes, count).await), "trouble");
    fakes
}

/// The job's worker was killed after the send to the first chat had begun.
fn killed() -> Fakes {
    let mut fakes = Fakes::new();
    let now = start_of_time();
    let chat = supergroup(1).id;
    let target = Target {
        chat_id: Some(chat),
        ..Target::default()
    };
    fakes.store.state().targets.insert(0, target);
    let effect = Effect {
        random_id: 1,
        prepared_at: now,
        attempted_at: Some(now),
        sent: None,
    };
    fakes.store.state().effects.insert(chat, effect);
    fakes.attempt = 2;
    fakes
}

fn goes_on(fakes: &Fakes, (until, reason): (DateTime<Utc>, WaitReason), code: &str) {
    assert_eq!(reason.code, code);
    fakes.clock.set(until);
    fakes.take_journal();
}

#[tokio::test]
async fn what_nobody_saw_end_is_looked_for_before_it_is_sent_again() {
    for (there, sent_again) in [(vec![message(7, 1)], 0), (vec![], 1)] {
        let fakes = in_doubt(2).await;
        fakes.telegram.chat_by_id(Ok(supergroup(1)));
        fakes.telegram.own_messages_like(Ok(there));
        if sent_again > 0 {
            fakes.telegram.send_message(Ok(message(8, 2)));
        }
        let report: PublishResult = result(run(&fakes, 2).await);
        assert_eq!(report.counts["sent"], 2);
        assert_eq!(sends(&fakes), sent_again);
    }
}

#[tokio::test]
async fn a_message_of_another_job_is_not_taken_for_this_ones() {
    let fakes = in_doubt(1).await;
    fakes.store.state().claimed.insert((supergroup(1).id, 7));
    fakes.telegram.chat_by_id(Ok(supergroup(1)));
    fakes.telegram.own_messages_like(Ok(vec![message(7, 1)]));
    fakes.telegram.send_message(Ok(message(8, 2)));
    let report: PublishResult = result(run(&fakes, 1).await);
    assert_eq!(report.targets[0].message_id, Some(8));
}

#[tokio::test]
async fn a_message_that_another_job_claims_meanwhile_is_left_to_it() {
    for (there, id) in [(vec![message(7, 1)], 9), (vec![message(7, 1), message(8, 1)], 8)] {
        let fakes = in_doubt(1).await;
        fakes.store.state().claimed_meanwhile.insert((supergroup(1).id, 7));
        fakes.telegram.chat_by_id(Ok(supergroup(1)));
        fakes.telegram.own_messages_like(Ok(there));
        if id == 9 {
            fakes.telegram.send_message(Ok(message(9, 2)));
        }
        let report: PublishResult = result(run(&fakes, 1).await);
        assert_eq!(report.targets[0].message_id, Some(id));
    }
}

#[tokio::test]
async fn a_later_message_of_another_jobs_album_is_not_taken_for_this_ones() {
    let fakes = in_doubt(1).await;
    fakes.store.state().claimed.insert((supergroup(1).id, 8));
    fakes.telegram.chat_by_id(Ok(supergroup(1)));
    let album = SentMessage {
        others: vec![8],
        ..message(7, 1)
    };
    fakes.telegram.own_messages_like(Ok(vec![album]));
    fakes.telegram.send_message(Ok(message(9, 2)));
    let report: PublishResult = result(run(&fakes, 1).await);
    assert_eq!(report.targets[0].message_id, Some(9));
}

#[tokio::test]
async fn one_chat_that_cannot_be_looked_at_does_not_end_the_others() {
    let fakes = in_doubt(2).await;
    fakes.telegram.chat_by_id(Ok(supergroup(1)));
    fakes.telegram.own_messages_like(Err(target_error("CHANNEL_PRIVATE")));
    let report: PublishResult = result(run(&fakes, 2).await);
    assert_eq!(by_position(&report), HashMap::from([(0, OUTCOME_UNKNOWN), (1, "sent")]));
    assert_eq!(sends(&fakes), 0);
}

#[tokio::test]
async fn what_is_in_doubt_is_never_said_to_be_refused() {
    type Arrange = fn(&Fakes);
    let lost = |fakes: &Fakes| {
        fakes.telegram.chat_by_id(Err(target_error("CHANNEL_PRIVATE")));
        fakes
            .telegram
            .resolve_username(Err(target_error("USERNAME_NOT_OCCUPIED")));
    };
    let muted = |fakes: &Fakes| {
        fakes.telegram.chat_by_id(Ok(supergroup(1)));
        fakes.telegram.own_messages_like(Ok(vec![message(7, 1)]));
    };
    let cases: [(Arrange, &str); 2] = [(lost, OUTCOME_UNKNOWN), (muted, "sent")];
    for (arrange, outcome) in cases {
        let fakes = killed();
        arrange(&fakes);
        fakes.telegram.access(Ok(Access {
            may_write: false,
            not_before: None,
        }));
        let outcomes: PublishResult = result(args(1).run(&fakes.context()).await);
        assert_eq!(by_position(&outcomes)[&0], outcome);
        assert_eq!(sends(&fakes), 0);
    }
    // The look has settled it: what is refused then is refused.
    let fakes = killed();
    fakes.telegram.chat_by_id(Ok(supergroup(1)));
    fakes.telegram.own_messages_like(Ok(vec![]));
    fakes.telegram.send_message(Err(target_error("CHAT_WRITE_FORBIDDEN")));
    let report: PublishResult = result(run(&fakes, 1).await);
    assert_eq!(by_position(&report)[&0], "write_forbidden");
}

#[tokio::test]
async fn trouble_with_a_chat_costs_no_attempt_and_keeps_no_other() {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Err(unknown_outcome()));
    found(&fakes, 2..=3);
    fakes.telegram.send_message(Ok(message(7, 1)));
    fakes.telegram.send_message(Err(unknown_outcome()));
    goes_on(&fakes, snoozed(run(&fakes, 3).await), "trouble");
    assert_eq!(fakes.store.state().targets[&2].tries, 1);
    // What is in doubt is looked for first.
    fakes.telegram.chat_by_id(Ok(supergroup(3)));
    fakes.telegram.own_messages_like(Ok(vec![message(8, 1)]));
    fakes.telegram.resolve_username(Err(unknown_outcome()));
    goes_on(&fakes, snoozed(run(&fakes, 3).await), "trouble");
    fakes.telegram.resolve_username(Err(unknown_outcome()));
    let report: PublishResult = result(run(&fakes, 3).await);
    assert_eq!(
        by_position(&report),
        HashMap::from([(0, "call_deadline"), (1, "sent"), (2, "sent")])
    );
}

#[tokio::test]
async fn looks_that_meet_trouble_end_in_an_unknown_outcome() {
    let fakes = in_doubt(1).await;
    let mut looks = 0;
    let report: PublishResult = loop {
        looks += 1;
        fakes.telegram.chat_by_id(Ok(supergroup(1)));
        fakes.telegram.own_messages_like(Err(unknown_outcome()));
        match run(&fakes, 1).await {
            Outcome::Done(value) => break serde_json::from_value(value).expect("reads"),
            other => goes_on(&fakes, snoozed(other), "trouble"),
        }
    };
    assert_eq!(looks, 5, "after a send that nobody saw end");
    assert_eq!(by_position(&report)[&0], OUTCOME_UNKNOWN);
    assert_eq!(sends(&fakes), 0);
}

#[tokio::test]
async fn trouble_everywhere_is_the_jobs() {
    let fakes = Fakes::new();
    for _ in 0..2 {
        fakes.telegram.resolve_username(Err(unknown_outcome()));
    }
    assert_eq!(snoozed(run(&fakes, 5).await).1.code, "trouble");
    fakes.store.state().failing.insert("begin_target");
    fakes.clock.advance(TimeDelta::minutes(1));
    found(&fakes, 1..=1);
    assert_eq!(retried(run(&fakes, 5).await).code, "store_failed");
    assert_eq!(
        fakes.store.state().targets[&0].tries,
        1,
        "that is no trouble with a chat"
    );
}

fn with_picture(count: i64) -> PublishArgs {
    let picture = Attachment {
        kind: MediaKind::Photo,
        file: Some(uuid::Uuid::nil()),
        url: None,
        spoiler: false,
        duration_seconds: None,
        width: None,
        height: None,
    };
    PublishArgs {
        media: vec![picture],
        ..args(count)
    }
}

fn uploaded(reference: u8) -> Uploaded {
    Uploaded {
        reference: vec![reference],
        spoiler: false,
    }
}

#[tokio::test]
async fn a_chat_that_refuses_the_upload_does_not_end_the_others() {
    let fakes = Fakes::new();
    found(&fakes, 1..=2);
    fakes.telegram.upload(Err(target_error("CHAT_SEND_PHOTOS_FORBIDDEN")));
    fakes.telegram.upload(Ok(uploaded(1)));
    fakes.telegram.send_message(Ok(message(7, 1)));
    let report: PublishResult = result(with_picture(2).run(&fakes.context()).await);
    assert_eq!(
        by_position(&report),
        HashMap::from([(0, "media_forbidden"), (1, "sent")])
    );

    let fakes = Fakes::new();
    found(&fakes, 1..=1);
    fakes
        .telegram
        .upload(Err(telegram_error("IMAGE_PROCESS_FAILED", Decision::Content)));
    assert_eq!(
        discarded(with_picture(2).run(&fakes.context()).await).code,
        "media_invalid"
    );
}

#[tokio::test]
async fn files_that_telegram_wants_again_are_put_in_again() {
    let stale = || telegram_error("FILE_REFERENCE_EXPIRED", Decision::StaleMedia);
    let fakes = Fakes::new();
    found(&fakes, 1..=3);
    fakes.telegram.upload(Ok(uploaded(1)));
    fakes.telegram.send_message(Ok(message(7, 1)));
    fakes.telegram.send_message(Err(stale()));
    fakes.telegram.upload(Ok(uploaded(2)));
    fakes.telegram.send_message(Ok(message(8, 1)));
    fakes.telegram.send_message(Ok(message(9, 1)));
    let report: PublishResult = result(with_picture(3).run(&fakes.context()).await);
    assert_eq!(report.counts["sent"], 3);
    let kept = fakes.store.state().checkpoint.clone().expect("kept");
    assert_eq!(kept["media"][0]["reference"][0], 2);

    // Twice in one attempt: nothing is sent, and no chat is given up.
    let fakes = Fakes::new();
    found(&fakes, 1..=1);
    fakes.telegram.upload(Ok(uploaded(1)));
    fakes.telegram.send_message(Err(stale()));
    fakes.telegram.upload(Ok(uploaded(2)));
    fakes.telegram.send_message(Err(stale()));
    assert_eq!(retried(with_picture(1).run(&fakes.context()).await).code, "media_stale");
    fakes.telegram.chat_by_id(Ok(supergroup(1)));
    fakes.telegram.upload(Ok(uploaded(3)));
    fakes.telegram.send_message(Ok(message(7, 1)));
    let report: PublishResult = result(with_picture(1).run(&fakes.context()).await);
    assert_eq!(report.counts["sent"], 1, "and was not looked for");
}

#[tokio::test]
async fn files_are_not_put_in_again_while_a_message_with_them_is_in_doubt() {
    let fakes = Fakes::new();
    found(&fakes, 1..=2);
    fakes.telegram.upload(Ok(uploaded(1)));
    fakes.telegram.send_message(Err(unknown_outcome()));
    fakes
        .telegram
        .send_message(Err(telegram_error("FILE_REFERENCE_EXPIRED", Decision::StaleMedia)));
    let (until, reason) = snoozed(with_picture(2).run(&fakes.context()).await);
    goes_on(&fakes, (until, reason), "trouble");
    fakes.telegram.chat_by_id(Ok(supergroup(1)));
    fakes.telegram.own_messages_like(Ok(vec![message(7, 1)]));
    fakes.telegram.chat_by_id(Ok(supergroup(2)));
    fakes
        .telegram
        .send_message(Err(telegram_error("FILE_REFERENCE_EXPIRED", Decision::StaleMedia)));
    fakes.telegram.upload(Ok(uploaded(2)));
    fakes.telegram.send_message(Ok(message(8, 1)));
    let report: PublishResult = result(with_picture(2).run(&fakes.context()).await);
    assert_eq!(report.counts["sent"], 2);
}

#[tokio::test]
async fn a_time_that_comes_in_the_middle_ends_what_is_left() {
    let at = start_of_time() + TimeDelta::minutes(60);
    let scheduled = |count| PublishArgs {
        schedule_at: Some(at),
        ..args(count)
    };
    let fakes = Fakes::new();
    found(&fakes, 1..=2);
    fakes.telegram.send_message(Ok(message(-7, 1)));
    fakes.telegram.send_message(Err(flood(3600)));
    goes_on(&fakes, snoozed(scheduled(3).run(&fakes.context()).await), "flood");
    let report: PublishResult = result(scheduled(3).run(&fakes.context()).await);
    assert_eq!(
        by_position(&report),
        HashMap::from([(0, "sent"), (1, "schedule_invalid"), (2, "schedule_invalid")])
    );
    assert_eq!(sends(&fakes), 0);

    // Before anything was done, it is the job that is wrong.
    let fakes = Fakes::new();
    fakes.clock.set(at);
    assert_eq!(
        discarded(scheduled(3).run(&fakes.context()).await).code,
        "schedule_invalid"
    );
}

#[tokio::test]
async fn what_every_chat_would_refuse_ends_the_job() {
    let fakes = Fakes::new();
    found(&fakes, 1..=1);
    fakes
        .telegram
        .send_message(Err(telegram_error("MESSAGE_TOO_LONG", Decision::Content)));
    assert_eq!(discarded(run(&fakes, 3).await).code, "message_too_long");
}

#[tokio::test]
async fn a_cancelled_job_stops_between_two_chats() {
    let fakes = Fakes::new();
    found(&fakes, 1..=1);
    fakes.telegram.send_message(Ok(message(7, 1)));
    fakes.telegram.cancel_after(2, fakes.cancellation.clone());
    assert_eq!(run(&fakes, 3).await, Outcome::Cancelled);
    assert_eq!(fakes.store.state().targets.len(), 1);
}

#[tokio::test]
async fn a_long_attempt_makes_room() {
    let fakes = Fakes::new();
    fakes.clock.step_by(TimeDelta::seconds(100));
    found(&fakes, 1..=1);
    fakes.telegram.send_message(Ok(message(7, 1)));
    assert_eq!(snoozed(run(&fakes, 3).await).1.code, "batch_done");
}

#[tokio::test]
async fn chats_that_were_met_are_looked_up_by_one_call_and_one_that_was_renamed_by_its_own() {
    let named = |id: i64| Chat {
        username: Some(format!("Reading_Club_{id}")),
        ..supergroup(id)
    };
    let fakes = Fakes::new();
    let met = (1..=3).map(|id| (format!("reading_club_{id}"), supergroup(id).id));
    fakes.store.state().met = met.collect();
    let renamed = Chat {
        username: Some("elsewhere".into()),
        ..supergroup(2)
    };
    fakes.telegram.chats_by_id(Ok(vec![named(1), renamed, named(3)]));
    fakes.telegram.resolve_username(Ok(supergroup(8)));
    for number in 1..=3 {
        fakes.telegram.send_message(Ok(message(number, 1)));
    }
    let report: PublishResult = result(run(&fakes, 3).await);
    assert_eq!(report.counts, BTreeMap::from([("sent".to_owned(), 3)]));
    assert_eq!(report.targets[1].chat_id, Some(supergroup(8).id));
    let journal = fakes.take_journal();
    let lookups = journal
        .iter()
        .filter(|call| call.starts_with("chats_by_id") || call.starts_with("resolve_username"));
    assert_eq!(lookups.count(), 2, "{journal:?}");
}

#[tokio::test]
async fn a_look_ahead_that_is_refused_leaves_each_chat_to_itself() {
    let fakes_that_met = || {
        let fakes = Fakes::new();
        let met = (1..=2).map(|id| (format!("reading_club_{id}"), supergroup(id).id));
        fakes.store.state().met = met.collect();
        fakes
    };
    for refusal in [target_error("CHANNEL_INVALID"), flood(30), unknown_outcome()] {
        let fakes = fakes_that_met();
        fakes.telegram.chats_by_id(Err(refusal));
        found(&fakes, 1..=2);
        fakes.telegram.send_message(Ok(message(7, 1)));
        fakes.telegram.send_message(Ok(message(8, 1)));
        let report: PublishResult = result(run(&fakes, 2).await);
        assert_eq!(report.counts, BTreeMap::from([("sent".to_owned(), 2)]));
    }
    let fakes = fakes_that_met();
    fakes
        .telegram
        .chats_by_id(Err(telegram_error("lease_lost", Decision::Session)));
    retried(run(&fakes, 2).await);
    assert_eq!(sends(&fakes), 0);
}
