//! Every way a join can end.

use super::*;
use crate::{
    ports::{ChatType, Clock as _},
    testing::{
        Fakes, details, discarded, flood, preview, result, retried, snoozed, start_of_time, supergroup, target_error,
        telegram_error, unknown_outcome,
    },
};

fn by_name() -> JoinArgs {
    JoinArgs {
        chat: "@reading_club".into(),
    }
}

fn by_link() -> JoinArgs {
    JoinArgs {
        chat: "t.me/+AbCdEf".into(),
    }
}

fn outside() -> Chat {
    Chat {
        username: Some("reading_club".into()),
        member: false,
        ..supergroup(5)
    }
}

#[tokio::test]
async fn a_public_chat_is_joined() {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(outside()));
    fakes.telegram.join_chat(Ok(Joined::Joined(Chat {
        member_count: Some(11),
        ..outside()
    })));
    let joined: JoinResult = result(by_name().run(&fakes.context()).await);
    assert_eq!(joined.status, JoinStatus::Joined);
    assert_eq!(joined.chat.id, -1_000_000_000_005);
    assert_eq!(joined.chat.username.as_deref(), Some("reading_club"));
    assert_eq!(joined.chat.member_count, Some(11));
    assert_eq!(joined.requested_at, None);
    let stored = fakes.store.state();
    assert!(stored.chats[0].member, "the chat is stored as one the session is in");
}

#[tokio::test]
async fn a_member_of_a_public_chat_does_not_join_again() {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(Chat {
        member: true,
        ..outside()
    }));
    let joined: JoinResult = result(by_name().run(&fakes.context()).await);
    assert_eq!(joined.status, JoinStatus::AlreadyMember);
    assert_eq!(
        fakes.take_journal(),
        ["checkpoint", "resolve_username reading_club", "save_chat"]
    );
}

#[tokio::test]
async fn already_a_participant_is_a_success() {
    for answer in [
        Ok(Joined::AlreadyMember),
        Err(telegram_error("USER_ALREADY_PARTICIPANT", Decision::Done)),
    ] {
        let fakes = Fakes::new();
        fakes.telegram.resolve_username(Ok(outside()));
        fakes.telegram.join_chat(answer);
        let joined: JoinResult = result(by_name().run(&fakes.context()).await);
        assert_eq!(joined.status, JoinStatus::AlreadyMember);
        assert_eq!(joined.chat.title, "Reading club");
    }
}

#[tokio::test]
async fn an_invite_link_is_checked_and_then_used() {
    let fakes = Fakes::new();
    fakes.telegram.check_invite(Ok(preview()));
    fakes.telegram.join_by_invite(Ok(Joined::Joined(supergroup(6))));
    let joined: JoinResult = result(by_link().run(&fakes.context()).await);
    assert_eq!(joined.status, JoinStatus::Joined);
    assert_eq!(joined.chat.id, supergroup(6).id);
    assert_eq!(
        fakes.take_journal(),
        [
            "checkpoint",
            "check_invite AbCdEf",
            "join_by_invite AbCdEf",
            "save_chat"
        ]
    );
}

#[tokio::test]
async fn a_member_behind_an_invite_link_does_not_use_it() {
    let fakes = Fakes::new();
    fakes.telegram.check_invite(Ok(Invite::Member(supergroup(6))));
    let joined: JoinResult = result(by_link().run(&fakes.context()).await);
    assert_eq!(joined.status, JoinStatus::AlreadyMember);
}

#[tokio::test]
async fn a_peek_is_not_a_membership() {
    let fakes = Fakes::new();
    fakes.telegram.check_invite(Ok(Invite::Peek(supergroup(6))));
    fakes.telegram.join_by_invite(Ok(Joined::Joined(supergroup(6))));
    let joined: JoinResult = result(by_link().run(&fakes.context()).await);
    assert_eq!(joined.status, JoinStatus::Joined);
}

#[tokio::test]
async fn an_invite_used_meanwhile_gives_the_chats_facts() {
    let fakes = Fakes::new();
    fakes.telegram.check_invite(Ok(preview()));
    fakes
        .telegram
        .join_by_invite(Err(telegram_error("USER_ALREADY_PARTICIPANT", Decision::Done)));
    fakes.telegram.check_invite(Ok(Invite::Member(supergroup(6))));
    let joined: JoinResult = result(by_link().run(&fakes.context()).await);
    assert_eq!(joined.status, JoinStatus::AlreadyMember);
    assert_eq!(joined.chat.id, supergroup(6).id);
}

#[tokio::test]
async fn a_missing_member_count_is_asked_for_and_may_stay_missing() {
    for (answer, count) in [(Ok(details(&supergroup(6))), Some(10)), (Err(unknown_outcome()), None)] {
        let fakes = Fakes::new();
        fakes.telegram.check_invite(Ok(Invite::Member(Chat {
            member_count: None,
            ..supergroup(6)
        })));
        fakes.telegram.chat_details(answer);
        let joined: JoinResult = result(by_link().run(&fakes.context()).await);
        assert_eq!(joined.chat.member_count, count);
    }
}

#[tokio::test]
async fn an_approval_is_looked_for_with_growing_pauses_and_asked_for_once() {
    let fakes = Fakes::new();
    fakes.telegram.check_invite(Ok(preview()));
    fakes.telegram.join_by_invite(Ok(Joined::ApprovalPending));
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let (until, reason) = snoozed(by_link().run(&fakes.context()).await);
        assert_eq!(reason.code, "approval_pending");
        pauses.push((until - fakes.clock.now()).num_minutes());
        fakes.clock.set(until);
        fakes.telegram.check_invite(Ok(preview()));
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
    let requests = fakes.take_journal();
    assert_eq!(
        requests
            .iter()
            .filter(|call| call.starts_with("join_by_invite"))
            .count(),
        1
    );
}

#[tokio::test]
async fn an_approval_ends_the_wait() {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(outside()));
    fakes
        .telegram
        .join_chat(Err(telegram_error("INVITE_REQUEST_SENT", Decision::Pending)));
    let (until, _) = snoozed(by_name().run(&fakes.context()).await);
    fakes.clock.set(until);
    fakes.telegram.resolve_username(Ok(Chat {
        member: true,
        ..outside()
    }));
    let joined: JoinResult = result(by_name().run(&fakes.context()).await);
    assert_eq!(joined.status, JoinStatus::Joined);
    assert_eq!(joined.requested_at, Some(start_of_time()));
}

#[tokio::test]
async fn the_last_look_is_just_before_the_deadline_and_then_the_request_expires() {
    let mut fakes = Fakes::new();
    let deadline = start_of_time() + TimeDelta::seconds(150);
    fakes.deadline = Some(deadline);
    fakes.telegram.check_invite(Ok(preview()));
    fakes.telegram.join_by_invite(Ok(Joined::ApprovalPending));
    for seconds in [60, 135] {
        let (until, _) = snoozed(by_link().run(&fakes.context()).await);
        assert_eq!(until, start_of_time() + TimeDelta::seconds(seconds));
        fakes.clock.set(until);
        fakes.telegram.check_invite(Ok(preview()));
    }
    assert_eq!(
        discarded(by_link().run(&fakes.context()).await).code,
        "approval_expired"
    );
}

#[tokio::test]
async fn a_request_without_a_deadline_expires_after_a_week() {
    let fakes = Fakes::new();
    fakes.telegram.check_invite(Ok(preview()));
    fakes.telegram.join_by_invite(Ok(Joined::ApprovalPending));
    snoozed(by_link().run(&fakes.context()).await);
    fakes.telegram.check_invite(Ok(preview()));
    let before = start_of_time() + TimeDelta::days(7) - TimeDelta::minutes(2);
    fakes.clock.set(before);
    let (until, _) = snoozed(by_link().run(&fakes.context()).await);
    assert_eq!(until, start_of_time() + TimeDelta::days(7) - TimeDelta::seconds(30));
    fakes.clock.set(until);
    fakes.telegram.check_invite(Ok(preview()));
    assert_eq!(
        discarded(by_link().run(&fakes.context()).await).code,
        "approval_expired"
    );
}

#[tokio::test]
async fn a_short_deadline_still_leaves_one_look() {
    let mut fakes = Fakes::new();
    fakes.deadline = Some(start_of_time() + TimeDelta::seconds(20));
    fakes.telegram.check_invite(Ok(preview()));
    fakes.telegram.join_by_invite(Ok(Joined::ApprovalPending));
    let (until, _) = snoozed(by_link().run(&fakes.context()).await);
    assert_eq!(until, start_of_time() + TimeDelta::seconds(18));
}

#[tokio::test]
async fn refusals_end_the_job() {
    for (error, code) in [
        (target_error("INVITE_HASH_EXPIRED"), "invite_link_dead"),
        (target_error("CHANNELS_TOO_MUCH"), "account_full"),
        (target_error("USERS_TOO_MUCH"), "chat_full"),
        (telegram_error("PEER_FLOOD", Decision::Campaign), "peer_flood"),
    ] {
        let fakes = Fakes::new();
        fakes.telegram.check_invite(Ok(preview()));
        fakes.telegram.join_by_invite(Err(error));
        assert_eq!(discarded(by_link().run(&fakes.context()).await).code, code);
    }
    let fakes = Fakes::new();
    fakes
        .telegram
        .resolve_username(Err(target_error("USERNAME_NOT_OCCUPIED")));
    assert_eq!(discarded(by_name().run(&fakes.context()).await).code, "chat_not_found");
}

#[tokio::test]
async fn a_person_cannot_be_joined() {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(Chat {
        chat_type: ChatType::Private,
        ..outside()
    }));
    assert_eq!(discarded(by_name().run(&fakes.context()).await).code, "chat_is_person");
}

#[tokio::test]
async fn a_flood_snoozes_and_trouble_is_tried_again() {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(outside()));
    fakes.telegram.join_chat(Err(flood(90)));
    let (until, reason) = snoozed(by_name().run(&fakes.context()).await);
    assert_eq!(until, start_of_time() + TimeDelta::seconds(90));
    assert_eq!(reason.code, "flood");
    assert!(fakes.store.state().checkpoint.is_none(), "a flood is not a request");

    fakes.telegram.resolve_username(Ok(outside()));
    fakes.telegram.join_chat(Err(unknown_outcome()));
    assert!(retried(by_name().run(&fakes.context()).await).retryable);
}

#[tokio::test]
async fn a_cancelled_job_asks_for_nothing_more() {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(outside()));
    fakes.telegram.cancel_after(1, fakes.cancellation.clone());
    assert_eq!(by_name().run(&fakes.context()).await, Outcome::Cancelled);
}

#[tokio::test]
async fn a_fenced_attempt_reports_no_success() {
    let fakes = Fakes::new();
    fakes.store.state().fenced = true;
    assert_eq!(retried(by_name().run(&fakes.context()).await).code, "fenced");
}

#[test]
fn the_door_takes_names_and_links_and_refuses_ids() {
    assert_eq!(by_name().validate(), Ok(()));
    assert_eq!(by_link().validate(), Ok(()));
    for chat in ["-1001234567890", "reading_club", "", "t.me/reading_club/5"] {
        let error = JoinArgs { chat: chat.into() }.validate().unwrap_err();
        assert_eq!(error.field, "args.chat", "{chat}");
    }
    assert!(!format!("{:?}", by_link()).contains("AbCdEf"));
}
