//! Every way a join can end.

mod lists;

use chrono::TimeDelta;

use super::*;
use crate::{
    ports::{ChannelRoom, Chat, ChatType, Clock as _, Decision, Invite, Joined, Left, Rights, Standing},
    testing::{
        Fakes, discarded, flood, preview, result, retried, snoozed, standing, start_of_time, supergroup, target_error,
        telegram_error, unknown_outcome,
    },
};

fn by_name() -> JoinArgs {
    JoinArgs {
        chat: Some("@reading_club".into()),
        ..JoinArgs::default()
    }
}

fn by_link() -> JoinArgs {
    JoinArgs {
        chat: Some("t.me/+AbCdEf".into()),
        ..JoinArgs::default()
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
    let joined: JoinedOne = result(by_name().run(&fakes.context()).await);
    assert_eq!(joined.status, JoinStatus::Joined);
    assert_eq!(joined.chat.as_ref().expect("a chat").id, Some(-1_000_000_000_005));
    assert_eq!(
        joined.chat.as_ref().expect("a chat").username.as_deref(),
        Some("reading_club")
    );
    assert_eq!(joined.chat.as_ref().expect("a chat").member_count, Some(11));
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
    let joined: JoinedOne = result(by_name().run(&fakes.context()).await);
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
        let joined: JoinedOne = result(by_name().run(&fakes.context()).await);
        assert_eq!(joined.status, JoinStatus::AlreadyMember);
        assert_eq!(joined.chat.as_ref().expect("a chat").title, "Reading club");
    }
}

#[tokio::test]
async fn an_invite_link_is_checked_and_then_used() {
    let fakes = Fakes::new();
    fakes.telegram.check_invite(Ok(preview()));
    fakes.telegram.join_by_invite(Ok(Joined::Joined(supergroup(6))));
    let joined: JoinedOne = result(by_link().run(&fakes.context()).await);
    assert_eq!(joined.status, JoinStatus::Joined);
    assert_eq!(joined.chat.as_ref().expect("a chat").id, Some(supergroup(6).id));
    assert_eq!(
        fakes.take_journal(),
        [
            "checkpoint",
            "check_invite AbCdEf",
            "save_checkpoint",
            "join_by_invite AbCdEf",
            "save_chat"
        ]
    );
}

#[tokio::test]
async fn a_member_behind_an_invite_link_does_not_use_it() {
    let fakes = Fakes::new();
    fakes.telegram.check_invite(Ok(Invite::Member(supergroup(6))));
    let joined: JoinedOne = result(by_link().run(&fakes.context()).await);
    assert_eq!(joined.status, JoinStatus::AlreadyMember);
}

#[tokio::test]
async fn a_peek_is_not_a_membership() {
    let fakes = Fakes::new();
    fakes.telegram.check_invite(Ok(Invite::Peek(supergroup(6))));
    fakes.telegram.join_by_invite(Ok(Joined::Joined(supergroup(6))));
    let joined: JoinedOne = result(by_link().run(&fakes.context()).await);
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
    let joined: JoinedOne = result(by_link().run(&fakes.context()).await);
    assert_eq!(joined.status, JoinStatus::AlreadyMember);
    assert_eq!(joined.chat.as_ref().expect("a chat").id, Some(supergroup(6).id));
}

#[tokio::test]
async fn the_result_says_all_about_the_chat_or_as_much_as_telegram_does() {
    let chat = supergroup(6);
    let full = Standing {
        slow_mode_seconds: 30,
        linked_chat_id: Some(-1_000_000_000_007),
        forum: true,
        joined_at: Some(start_of_time()),
        ..standing(&Chat {
            member_count: Some(12),
            ..chat.clone()
        })
    };
    let fakes = Fakes::new();
    fakes.telegram.check_invite(Ok(Invite::Member(chat.clone())));
    fakes.telegram.standing(Ok(full.clone()));
    let joined: JoinedOne = result(by_link().run(&fakes.context()).await);
    let told = joined.chat.expect("a chat");
    assert_eq!((told.access, told.member_count), (Access::Invite, Some(12)));
    assert_eq!((told.slow_mode_seconds, told.forum), (Some(30), Some(true)));
    assert_eq!((told.rights, told.joined_at), (Some(full.rights), full.joined_at));
    assert_eq!(told.linked_chat_id, full.linked_chat_id);

    let fakes = Fakes::new();
    fakes.telegram.check_invite(Ok(Invite::Member(chat)));
    fakes.telegram.standing(Err(unknown_outcome()));
    let joined: JoinedOne = result(by_link().run(&fakes.context()).await);
    let told = joined.chat.expect("a chat");
    assert_eq!((told.member_count, told.rights, told.forum), (Some(10), None, None));
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
    let joined: JoinedOne = result(by_name().run(&fakes.context()).await);
    assert_eq!(joined.status, JoinStatus::Approved);
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
async fn the_week_begins_with_the_request() {
    let fakes = Fakes::new();
    fakes.clock.advance(TimeDelta::days(30));
    fakes.telegram.check_invite(Ok(preview()));
    fakes.telegram.join_by_invite(Ok(Joined::ApprovalPending));
    let (until, reason) = snoozed(by_link().run(&fakes.context()).await);
    assert_eq!(reason.code, "approval_pending");
    assert_eq!(until, start_of_time() + TimeDelta::days(30) + TimeDelta::minutes(1));
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
        (target_error("INVITE_HASH_EXPIRED"), "invite_link_expired"),
        (target_error("CHANNELS_TOO_MUCH"), "channel_limit"),
        (
            telegram_error("USER_CHANNELS_TOO_MUCH", Decision::Person { suppress: false }),
            "channel_limit",
        ),
        (target_error("USER_BANNED_IN_CHANNEL"), "account_restricted"),
        (target_error("CHANNEL_PRIVATE"), "chat_inaccessible"),
        (target_error("CHAT_INVALID"), "chat_invalid"),
        (target_error("STARS_PAYMENT_REQUIRED"), "payment_required"),
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
    let kept = fakes.store.state().checkpoint.clone().expect("kept");
    assert!(kept.get("requested_at").is_none(), "a flood is not a request: {kept}");

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

#[tokio::test]
async fn what_an_attempt_did_that_nobody_saw_end_is_this_jobs_doing() {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(outside()));
    fakes.telegram.join_chat(Err(unknown_outcome()));
    retried(by_name().run(&fakes.context()).await);
    fakes.telegram.resolve_username(Ok(Chat {
        member: true,
        ..outside()
    }));
    let joined: JoinedOne = result(by_name().run(&fakes.context()).await);
    assert_eq!(joined.status, JoinStatus::Joined);
}

#[tokio::test]
async fn a_request_that_an_older_version_sent_is_waited_for() {
    let fakes = Fakes::new();
    fakes.store.state().checkpoint = Some(serde_json::json!({ "requested_at": start_of_time(), "looks": 1 }));
    fakes.telegram.check_invite(Ok(preview()));
    let (until, _) = snoozed(by_link().run(&fakes.context()).await);
    assert_eq!(until, start_of_time() + TimeDelta::minutes(2));
}

#[tokio::test]
async fn the_args_say_how_long_an_approval_is_waited_for() {
    let fakes = Fakes::new();
    let args = JoinArgs {
        approval_timeout: Some(100),
        ..by_link()
    };
    fakes.telegram.check_invite(Ok(preview()));
    fakes.telegram.join_by_invite(Ok(Joined::ApprovalPending));
    for seconds in [60, 90] {
        let (until, _) = snoozed(args.run(&fakes.context()).await);
        assert_eq!(until, start_of_time() + TimeDelta::seconds(seconds));
        fakes.clock.set(until);
        fakes.telegram.check_invite(Ok(preview()));
    }
    assert_eq!(discarded(args.run(&fakes.context()).await).code, "approval_expired");
}

#[tokio::test]
async fn a_chat_that_closes_itself_while_a_request_waits_has_refused_it() {
    let fakes = Fakes::new();
    fakes.telegram.check_invite(Ok(preview()));
    fakes.telegram.join_by_invite(Ok(Joined::ApprovalPending));
    snoozed(by_link().run(&fakes.context()).await);
    fakes.telegram.check_invite(Err(target_error("INVITE_HASH_EXPIRED")));
    let error = discarded(by_link().run(&fakes.context()).await);
    assert_eq!(error.code, "approval_refused");
    assert!(error.message.contains("INVITE_HASH_EXPIRED"), "{error}");
}

#[tokio::test]
async fn a_full_account_is_told_before_telegram_is_asked() {
    let fakes = Fakes::new();
    fakes.telegram.resolve_username(Ok(outside()));
    fakes.telegram.channel_room(Ok(ChannelRoom { used: 500, limit: 500 }));
    let error = discarded(by_name().run(&fakes.context()).await);
    assert_eq!(error.code, "channel_limit");
    assert!(error.message.contains("500"), "{error}");
    assert_eq!(fakes.take_journal(), ["checkpoint", "resolve_username reading_club"]);
}

#[tokio::test]
async fn a_paid_chat_and_a_ban_are_told_before_telegram_is_asked() {
    let fakes = Fakes::new();
    fakes.telegram.check_invite(Ok(Invite::Preview {
        title: "Reading club".into(),
        chat_type: ChatType::Channel,
        member_count: None,
        request_needed: false,
        subscription: true,
    }));
    assert_eq!(
        discarded(by_link().run(&fakes.context()).await).code,
        "payment_required"
    );
    for answer in [
        Ok(Chat {
            username: None,
            ..outside()
        }),
        Err(target_error("CHANNEL_PRIVATE")),
    ] {
        let fakes = Fakes::new();
        fakes.telegram.resolve_username(answer);
        assert_eq!(
            discarded(by_name().run(&fakes.context()).await).code,
            "banned_from_chat"
        );
    }
}

fn leave(chat: &str) -> JoinArgs {
    JoinArgs {
        chat: Some(chat.into()),
        action: JoinAction::Leave,
        ..JoinArgs::default()
    }
}

fn runs_it(creator: bool, admins: Option<i32>, chat: &Chat) -> Standing {
    let rights = Rights {
        admin: true,
        creator,
        ..standing(chat).rights
    };
    Standing {
        rights,
        admins,
        ..standing(chat)
    }
}

#[tokio::test]
async fn leaving_says_what_the_session_was() {
    let chat = Chat {
        member: true,
        ..outside()
    };
    for (stands, was) in [
        (standing(&chat), Standpoint::Member),
        (runs_it(false, Some(3), &chat), Standpoint::Admin),
        (runs_it(false, Some(1), &chat), Standpoint::LastAdmin),
        (runs_it(true, Some(1), &chat), Standpoint::Creator),
    ] {
        let fakes = Fakes::new();
        fakes.telegram.resolve_username(Ok(chat.clone()));
        fakes.telegram.standing(Ok(stands));
        fakes.telegram.leave_chat(Ok(Left::Left));
        let left: JoinedOne = result(leave("@reading_club").run(&fakes.context()).await);
        assert_eq!((left.status, left.was), (JoinStatus::Left, Some(was)));
        assert!(!fakes.store.state().chats[0].member);
    }
}

#[tokio::test]
async fn leaving_what_it_is_not_in_is_a_success_of_its_own() {
    for answer in [Ok(outside()), Err(target_error("CHANNEL_PRIVATE"))] {
        let fakes = Fakes::new();
        fakes.telegram.resolve_username(answer);
        let left: JoinedOne = result(leave("@reading_club").run(&fakes.context()).await);
        assert_eq!((left.status, left.was), (JoinStatus::NotMember, None));
    }
    let fakes = Fakes::new();
    fakes.telegram.check_invite(Ok(preview()));
    let left: JoinedOne = result(leave("t.me/+AbCdEf").run(&fakes.context()).await);
    assert_eq!(left.status, JoinStatus::NotMember);
    // Put out between the look and the call.
    let fakes = Fakes::new();
    fakes.telegram.chat_by_id(Ok(supergroup(6)));
    fakes.telegram.leave_chat(Ok(Left::NotMember));
    let left: JoinedOne = result(leave("-1000000000006").run(&fakes.context()).await);
    assert_eq!((left.status, left.was), (JoinStatus::NotMember, None));
}

#[tokio::test]
async fn a_creator_cannot_leave_and_a_crash_does_not_hide_that_one_left() {
    let fakes = Fakes::new();
    fakes.telegram.chat_by_id(Ok(supergroup(6)));
    fakes.telegram.leave_chat(Err(target_error("USER_CREATOR")));
    let args = leave("-1000000000006");
    assert_eq!(discarded(args.run(&fakes.context()).await).code, "creator_cannot_leave");

    let fakes = Fakes::new();
    fakes.telegram.chat_by_id(Ok(supergroup(6)));
    fakes.telegram.leave_chat(Err(unknown_outcome()));
    retried(args.run(&fakes.context()).await);
    fakes.telegram.chat_by_id(Err(target_error("CHANNEL_PRIVATE")));
    let left: JoinedOne = result(args.run(&fakes.context()).await);
    assert_eq!(left.status, JoinStatus::Left);
}

#[tokio::test]
async fn a_check_says_what_would_happen_and_asks_for_nothing() {
    let check = |chat: &str| JoinArgs {
        chat: Some(chat.into()),
        action: JoinAction::Check,
        ..JoinArgs::default()
    };
    let asks = Standing {
        asks_admins: true,
        ..standing(&outside())
    };
    for (stands, status) in [
        (standing(&outside()), JoinStatus::WouldJoin),
        (asks, JoinStatus::WouldRequest),
    ] {
        let fakes = Fakes::new();
        fakes.telegram.resolve_username(Ok(outside()));
        fakes.telegram.standing(Ok(stands));
        let seen: JoinedOne = result(check("@reading_club").run(&fakes.context()).await);
        assert_eq!((seen.status, seen.code), (status, None));
        assert_eq!(seen.chat.expect("a chat").rights, None, "it is no member");
        assert!(fakes.store.state().chats.is_empty());
    }
    for (error, code) in [
        (target_error("INVITE_HASH_EXPIRED"), "invite_link_expired"),
        (target_error("CHANNEL_PRIVATE"), "chat_inaccessible"),
    ] {
        let fakes = Fakes::new();
        fakes.telegram.check_invite(Err(error));
        let seen: JoinedOne = result(check("t.me/+AbCdEf").run(&fakes.context()).await);
        assert_eq!((seen.status, seen.code.as_deref()), (JoinStatus::WouldFail, Some(code)));
    }
    let fakes = Fakes::new();
    fakes.telegram.check_invite(Ok(preview()));
    fakes.telegram.channel_room(Ok(ChannelRoom { used: 9, limit: 9 }));
    let seen: JoinedOne = result(check("t.me/+AbCdEf").run(&fakes.context()).await);
    assert_eq!(seen.code.as_deref(), Some("channel_limit"));
    assert_eq!(seen.chat.expect("the preview").id, None);
    let fakes = Fakes::new();
    fakes.telegram.chat_by_id(Ok(supergroup(6)));
    let seen: JoinedOne = result(check("t.me/c/6/9").run(&fakes.context()).await);
    assert_eq!(seen.status, JoinStatus::AlreadyMember);
}

#[tokio::test]
async fn a_link_to_a_topic_names_the_topic() {
    for (forum, title, topic) in [
        (true, Some("Novels"), Some("Novels")),
        (true, None, None),
        (false, None, None),
    ] {
        let fakes = Fakes::new();
        fakes.telegram.resolve_username(Ok(outside()));
        fakes.telegram.join_chat(Ok(Joined::Joined(outside())));
        fakes.telegram.standing(Ok(Standing {
            forum,
            ..standing(&outside())
        }));
        if forum {
            fakes.telegram.topic_title(Ok(title.map(str::to_owned)));
        }
        let args = JoinArgs {
            chat: Some("t.me/reading_club/12/345".into()),
            ..JoinArgs::default()
        };
        let joined: JoinedOne = result(args.run(&fakes.context()).await);
        let told = joined.chat.expect("a chat").topic;
        assert_eq!(told.as_ref().map(|topic| topic.title.as_str()), topic);
        assert!(told.is_none_or(|topic| topic.id == 12));
    }
}

#[tokio::test]
async fn the_discussion_group_of_a_channel_is_joined_too() {
    let channel = Chat {
        chat_type: ChatType::Channel,
        ..outside()
    };
    let group = Chat {
        member: false,
        ..supergroup(8)
    };
    for (answer, outcome) in [
        (Ok(Joined::Joined(group.clone())), "joined"),
        (Ok(Joined::ApprovalPending), "requested"),
        (Err(target_error("CHANNEL_PRIVATE")), "chat_inaccessible"),
    ] {
        let fakes = Fakes::new();
        fakes.telegram.resolve_username(Ok(channel.clone()));
        fakes.telegram.join_chat(Ok(Joined::Joined(channel.clone())));
        fakes.telegram.standing(Ok(Standing {
            linked_chat_id: Some(group.id),
            linked_chat: Some(group.clone()),
            ..standing(&channel)
        }));
        fakes.telegram.join_chat(answer);
        let args = JoinArgs {
            discussion: true,
            ..by_name()
        };
        let joined: JoinedOne = result(args.run(&fakes.context()).await);
        let discussion = joined.discussion.expect("it was asked for");
        assert_eq!((discussion.chat_id, discussion.outcome.as_str()), (group.id, outcome));
        assert_eq!(joined.status, JoinStatus::Joined);
    }
}

#[test]
fn the_door_takes_names_and_links_and_refuses_ids() {
    assert_eq!(by_name().validate(), Ok(()));
    assert_eq!(by_link().validate(), Ok(()));
    assert_eq!(leave("-1001234567890").validate(), Ok(()));
    for chat in ["-1001234567890", "reading_club", "", "t.me/addlist/AbCdEf"] {
        let args = JoinArgs {
            chat: Some(chat.into()),
            ..JoinArgs::default()
        };
        assert_eq!(args.validate().unwrap_err().field, "args.chat", "{chat}");
    }
    for (args, field) in [
        (JoinArgs::default(), "args.chat"),
        (
            JoinArgs {
                chats: vec!["@reading_club".into()],
                ..by_name()
            },
            "args.chats",
        ),
        (
            JoinArgs {
                chats: vec!["@reading_club".into(), "club".into()],
                ..JoinArgs::default()
            },
            "args.chats[1]",
        ),
        (
            JoinArgs {
                chats: vec!["@reading_club".into(); MAX_CHATS + 1],
                ..JoinArgs::default()
            },
            "args.chats",
        ),
        (
            JoinArgs {
                approval_timeout: Some(0),
                ..by_name()
            },
            "args.approval_timeout",
        ),
        (
            JoinArgs {
                discussion: true,
                ..leave("@reading_club")
            },
            "args.discussion",
        ),
    ] {
        assert_eq!(args.validate().unwrap_err().field, field);
    }
    assert!(!format!("{:?}", by_link()).contains("AbCdEf"));
}

#[test]
fn args_of_before_read_and_are_written_as_they_were() {
    let old = serde_json::json!({ "chat": "@reading_club" });
    let args: JoinArgs = serde_json::from_value(old.clone()).expect("old args");
    assert_eq!(args, by_name());
    assert_eq!(serde_json::to_value(&args).expect("written"), old);
}
