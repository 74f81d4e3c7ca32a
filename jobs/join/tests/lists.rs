//! Lists: an outcome for each target, whatever happens on the way.

use super::*;
use crate::testing::FakeTelegram;

fn list(chats: &[&str]) -> JoinArgs {
    JoinArgs {
        chats: chats.iter().map(|chat| (*chat).to_owned()).collect(),
        ..JoinArgs::default()
    }
}

fn public(id: i64, member: bool) -> Chat {
    Chat {
        username: Some(format!("club_{id}")),
        member,
        ..supergroup(id)
    }
}

fn joins(telegram: &FakeTelegram, id: i64) {
    telegram.resolve_username(Ok(public(id, false)));
    telegram.join_chat(Ok(Joined::Joined(public(id, true))));
}

fn outcomes(report: &JoinedList) -> Vec<&str> {
    report.targets.iter().map(|row| row.outcome.as_str()).collect()
}

fn count(journal: &[String], call: &str) -> usize {
    journal.iter().filter(|line| line.starts_with(call)).count()
}

#[tokio::test]
async fn each_target_has_an_outcome_and_duplicates_are_told() {
    let fakes = Fakes::new();
    joins(&fakes.telegram, 1);
    fakes.telegram.resolve_username(Ok(public(2, true)));
    fakes.telegram.check_invite(Err(target_error("INVITE_HASH_EXPIRED")));
    // The same chat by another way.
    fakes.telegram.check_invite(Ok(Invite::Member(public(1, true))));
    joins(&fakes.telegram, 3);
    let args = list(&[
        "@club_1",
        "@club_2",
        "t.me/+AbCdEf",
        "t.me/CLUB_1/5",
        "t.me/+GhIjKl",
        "@club_3",
    ]);
    let report: JoinedList = result(args.run(&fakes.context()).await);
    assert_eq!(
        outcomes(&report),
        [
            "joined",
            "already_member",
            "invite_link_expired",
            "duplicate",
            "duplicate",
            "joined"
        ]
    );
    assert_eq!(report.outcomes["duplicate"], 2);
    assert_eq!(report.targets[2].telegram_error.as_deref(), Some("INVITE_HASH_EXPIRED"));
    assert_eq!(
        (report.targets[3].duplicate_of, report.targets[4].duplicate_of),
        (Some(0), Some(0))
    );
    assert_eq!(report.targets[0].chat_id, Some(supergroup(1).id));
    assert_eq!(fakes.telegram.unused_answers(), 0);
}

#[tokio::test]
async fn each_error_has_its_own_outcome_and_the_list_goes_on() {
    let cases = [
        (target_error("INVITE_HASH_EXPIRED"), "invite_link_expired"),
        (target_error("INVITE_HASH_INVALID"), "invite_link_invalid"),
        (target_error("INVITE_HASH_EMPTY"), "invite_link_empty"),
        (target_error("USERS_TOO_MUCH"), "chat_full"),
        (target_error("CHANNEL_PRIVATE"), "chat_inaccessible"),
        (target_error("USER_BANNED_IN_CHANNEL"), "account_restricted"),
        (target_error("CHAT_INVALID"), "chat_invalid"),
        (
            telegram_error("USER_ALREADY_PARTICIPANT", Decision::Done),
            "already_member",
        ),
        (telegram_error("SOMETHING_NEW", Decision::Bug), "telegram_error"),
    ];
    let fakes = Fakes::new();
    let mut names = Vec::new();
    for (id, (error, _)) in (1_i64..).zip(&cases) {
        fakes.telegram.resolve_username(Ok(public(id, false)));
        fakes.telegram.join_chat(Err(error.clone()));
        names.push(format!("@club_{id}"));
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let report: JoinedList = result(list(&names).run(&fakes.context()).await);
    assert_eq!(outcomes(&report), cases.map(|(_, outcome)| outcome));
    assert_eq!(report.targets[8].telegram_error.as_deref(), Some("SOMETHING_NEW"));
}

#[tokio::test]
async fn a_spent_cap_puts_the_list_off_and_it_goes_on_where_it_was() {
    let fakes = Fakes::new();
    joins(&fakes.telegram, 1);
    fakes.telegram.resolve_username(Ok(public(2, false)));
    fakes.telegram.join_chat(Err(flood(90)));
    let args = list(&["@club_1", "@club_2"]);
    let (until, reason) = snoozed(args.run(&fakes.context()).await);
    assert_eq!(
        (until, reason.code.as_str()),
        (start_of_time() + TimeDelta::seconds(90), "flood")
    );
    fakes.clock.set(until);
    joins(&fakes.telegram, 2);
    let report: JoinedList = result(args.run(&fakes.context()).await);
    assert_eq!(outcomes(&report), ["joined", "joined"]);
    assert_eq!(fakes.telegram.unused_answers(), 0, "the first target is over");
}

#[tokio::test]
async fn a_target_is_not_joined_twice_after_an_attempt_that_nobody_saw_end() {
    let fakes = Fakes::new();
    joins(&fakes.telegram, 1);
    fakes.telegram.resolve_username(Ok(public(2, false)));
    fakes.telegram.join_chat(Err(unknown_outcome()));
    let args = list(&["@club_1", "@club_2"]);
    let (_, reason) = snoozed(args.run(&fakes.context()).await);
    assert_eq!(reason.code, "trouble");
    fakes.telegram.resolve_username(Ok(public(2, true)));
    let report: JoinedList = result(args.run(&fakes.context()).await);
    assert_eq!(
        outcomes(&report),
        ["joined", "joined"],
        "the second one was this job's doing"
    );
    assert_eq!(count(&fakes.take_journal(), "join_chat"), 2);
}

#[tokio::test]
async fn trouble_with_one_target_does_not_keep_the_others() {
    let fakes = Fakes::new();
    let args = list(&["@club_1", "@club_2"]);
    for _ in 0..2 {
        fakes.telegram.resolve_username(Err(unknown_outcome()));
        assert_eq!(snoozed(args.run(&fakes.context()).await).1.code, "trouble");
    }
    fakes.telegram.resolve_username(Err(unknown_outcome()));
    joins(&fakes.telegram, 2);
    let report: JoinedList = result(args.run(&fakes.context()).await);
    assert_eq!(outcomes(&report), ["call_deadline", "joined"]);
}

#[tokio::test]
async fn requests_are_waited_for_when_all_else_is_over() {
    let fakes = Fakes::new();
    for _ in 0..3 {
        fakes.telegram.check_invite(Ok(preview()));
        fakes.telegram.join_by_invite(Ok(Joined::ApprovalPending));
    }
    joins(&fakes.telegram, 4);
    let args = JoinArgs {
        approval_timeout: Some(600),
        ..list(&["t.me/+AAAAAA", "t.me/+BBBBBB", "t.me/+CCCCCC", "@club_4"])
    };
    let (until, reason) = snoozed(args.run(&fakes.context()).await);
    assert_eq!(reason.code, "approval_pending");
    fakes.clock.set(until);
    fakes.telegram.check_invite(Ok(Invite::Member(supergroup(1))));
    fakes.telegram.check_invite(Err(target_error("INVITE_HASH_EXPIRED")));
    fakes.telegram.check_invite(Ok(preview()));
    let (until, _) = snoozed(args.run(&fakes.context()).await);
    assert!(until < start_of_time() + TimeDelta::seconds(600));
    fakes.clock.set(start_of_time() + TimeDelta::seconds(600));
    fakes.telegram.check_invite(Ok(preview()));
    let report: JoinedList = result(args.run(&fakes.context()).await);
    assert_eq!(
        outcomes(&report),
        ["approved", "approval_refused", "approval_expired", "joined"]
    );
    assert_eq!(
        count(&fakes.take_journal(), "join_by_invite"),
        3,
        "each is asked for once"
    );
}

#[tokio::test]
async fn a_request_whose_looks_meet_trouble_keeps_no_other_and_expires() {
    let fakes = Fakes::new();
    for _ in 0..2 {
        fakes.telegram.check_invite(Ok(preview()));
        fakes.telegram.join_by_invite(Ok(Joined::ApprovalPending));
    }
    let args = JoinArgs {
        approval_timeout: Some(600),
        ..list(&["t.me/+AAAAAA", "t.me/+BBBBBB"])
    };
    let (until, _) = snoozed(args.run(&fakes.context()).await);
    fakes.clock.set(until);
    fakes.telegram.check_invite(Err(unknown_outcome()));
    fakes.telegram.check_invite(Ok(Invite::Member(supergroup(2))));
    let (mut until, _) = snoozed(args.run(&fakes.context()).await);
    assert_eq!(fakes.telegram.unused_answers(), 0, "the second one was looked at");
    let mut looks = 0;
    let report: JoinedList = loop {
        looks += 1;
        fakes.clock.set(until);
        fakes.telegram.check_invite(Err(unknown_outcome()));
        match args.run(&fakes.context()).await {
            Outcome::Done(value) => break serde_json::from_value(value).expect("reads"),
            other => until = snoozed(other).0,
        }
    };
    assert!((3..10).contains(&looks), "{looks} looks");
    assert_eq!(outcomes(&report), ["approval_expired", "approved"]);
}

#[tokio::test]
async fn trouble_with_every_request_puts_the_job_off() {
    let fakes = Fakes::new();
    for _ in 0..3 {
        fakes.telegram.check_invite(Ok(preview()));
        fakes.telegram.join_by_invite(Ok(Joined::ApprovalPending));
    }
    let args = list(&["t.me/+AAAAAA", "t.me/+BBBBBB", "t.me/+CCCCCC"]);
    let (until, _) = snoozed(args.run(&fakes.context()).await);
    fakes.clock.set(until + TimeDelta::minutes(1));
    fakes.telegram.check_invite(Err(unknown_outcome()));
    fakes.telegram.check_invite(Err(unknown_outcome()));
    assert_eq!(snoozed(args.run(&fakes.context()).await).1.code, "trouble");
}

#[tokio::test]
async fn a_full_account_asks_telegram_once_and_a_flood_of_contacts_ends_the_list() {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(public(1, false)));
    fakes.telegram.join_chat(Err(target_error("CHANNELS_TOO_MUCH")));
    fakes.telegram.resolve_username(Ok(public(2, false)));
    fakes.telegram.resolve_username(Ok(public(3, true)));
    let report: JoinedList = result(list(&["@club_1", "@club_2", "@club_3"]).run(&fakes.context()).await);
    assert_eq!(outcomes(&report), ["channel_limit", "channel_limit", "already_member"]);

    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(public(1, false)));
    fakes
        .telegram
        .join_chat(Err(telegram_error("PEER_FLOOD", Decision::Campaign)));
    let report: JoinedList = result(list(&["@club_1", "@club_2", "@club_3"]).run(&fakes.context()).await);
    assert_eq!(outcomes(&report), ["peer_flood", "not_tried", "not_tried"]);
}

#[tokio::test]
async fn a_thousand_targets_make_room_and_the_result_stays_small() {
    let fakes = Fakes::new();
    let names: Vec<String> = (1..=1_000).map(|id| format!("@club_{id}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for id in 1..=1_000 {
        joins(&fakes.telegram, id);
    }
    let args = list(&names);
    args.validate().expect("a thousand is what a job takes");
    let mut runs = 0;
    let value = loop {
        runs += 1;
        match args.run(&fakes.context()).await {
            Outcome::Done(value) => break value,
            other => assert_eq!(snoozed(other).1.code, "batch_done"),
        }
    };
    assert!(runs > 10, "{runs} runs");
    let bytes = value.to_string().len();
    assert!(bytes < 100_000, "{bytes} bytes");
    let report: JoinedList = serde_json::from_value(value).expect("reads");
    assert_eq!(report.outcomes["joined"], 1_000);
    assert_eq!(fakes.telegram.unused_answers(), 0);
}

#[tokio::test]
async fn lists_are_left_and_checked_too() {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(public(1, true)));
    fakes.telegram.leave_chat(Ok(Left::Left));
    fakes.telegram.resolve_username(Ok(public(2, false)));
    fakes.telegram.resolve_username(Err(target_error("CHANNEL_PRIVATE")));
    let args = JoinArgs {
        action: JoinAction::Leave,
        ..list(&["@club_1", "@club_2", "@club_3"])
    };
    let report: JoinedList = result(args.run(&fakes.context()).await);
    assert_eq!(outcomes(&report), ["left", "not_member", "not_member"]);

    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(public(1, false)));
    fakes.telegram.check_invite(Err(target_error("INVITE_HASH_INVALID")));
    let args = JoinArgs {
        action: JoinAction::Check,
        ..list(&["@club_1", "t.me/+AbCdEf"])
    };
    let report: JoinedList = result(args.run(&fakes.context()).await);
    assert_eq!(outcomes(&report), ["would_join", "invite_link_invalid"]);
    assert_eq!(count(&fakes.take_journal(), "join"), 0);
}
