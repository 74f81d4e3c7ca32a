//! Changes: what each answer means, and that doing it twice is as good as once.

use super::*;
use crate::{
    Job,
    testing::{Fakes, discarded, flood, result, retried, snoozed, supergroup, telegram_error, unknown_outcome},
};

fn args(action: PublishAction) -> PublishArgs {
    let (text, message_id, message_ids) = match action {
        PublishAction::Edit => ("Better", Some(7), vec![]),
        PublishAction::Delete => ("", None, vec![7, 8]),
        _ => ("", Some(7), vec![]),
    };
    PublishArgs {
        action,
        message_id,
        message_ids,
        ..PublishArgs::plain("@reading_club", text)
    }
}

async fn run(fakes: &Fakes, action: PublishAction) -> Outcome {
    fakes.telegram.resolve_username(Ok(supergroup(1)));
    let outcome = args(action).run(&fakes.context()).await;
    assert_eq!(fakes.telegram.unused_answers(), 0, "not asked for: {outcome:?}");
    outcome
}

#[tokio::test]
async fn each_change_says_what_it_did() {
    for (action, status) in [
        (PublishAction::Edit, PublishStatus::Edited),
        (PublishAction::Pin, PublishStatus::Pinned),
        (PublishAction::Unpin, PublishStatus::Unpinned),
        (PublishAction::Delete, PublishStatus::Deleted),
    ] {
        let fakes = Fakes::new();
        match action {
            PublishAction::Edit => fakes.telegram.edit_message(Ok(Changed::Changed)),
            PublishAction::Delete => fakes.telegram.delete_messages(Ok(2)),
            _ => fakes.telegram.pin_message(Ok(Changed::Changed)),
        };
        let report: PublishResult = result(run(&fakes, action).await);
        assert_eq!(report.status, status);
    }
}

#[tokio::test]
async fn what_was_so_already_is_no_failure() {
    let fakes = Fakes::new();
    let already = telegram_error("MESSAGE_NOT_MODIFIED", Decision::Done);
    fakes.telegram.edit_message(Err(already));
    let report: PublishResult = result(run(&fakes, PublishAction::Edit).await);
    assert_eq!(report.status, PublishStatus::Unchanged);
}

#[tokio::test]
async fn an_unknown_outcome_is_tried_again_and_then_counts_as_done() {
    let mut fakes = Fakes::new();
    fakes.telegram.edit_message(Err(unknown_outcome()));
    assert_eq!(retried(run(&fakes, PublishAction::Edit).await).code, "call_deadline");
    again(&mut fakes);
    fakes.telegram.edit_message(Ok(Changed::Unchanged));
    let report: PublishResult = result(args(PublishAction::Edit).run(&fakes.context()).await);
    assert_eq!(report.status, PublishStatus::Edited);
    assert_eq!(fakes.telegram.unused_answers(), 0, "the chat of the first attempt");
}

#[tokio::test]
async fn what_was_so_before_the_first_call_is_unchanged_in_any_attempt() {
    let mut fakes = Fakes::new();
    // An attempt that came to nothing before its call, and one whose call was refused by name.
    fakes.telegram.resolve_username(Err(unknown_outcome()));
    retried(args(PublishAction::Pin).run(&fakes.context()).await);
    fakes.attempt += 1;
    fakes.telegram.pin_message(Err(flood(60)));
    snoozed(run(&fakes, PublishAction::Pin).await);
    again(&mut fakes);
    fakes.telegram.pin_message(Ok(Changed::Unchanged));
    let report: PublishResult = result(args(PublishAction::Pin).run(&fakes.context()).await);
    assert_eq!(report.status, PublishStatus::Unchanged);
}

#[tokio::test]
async fn what_an_unanswered_call_took_out_is_deleted_and_not_counted() {
    for (there, deleted) in [(0, None), (1, None), (2, Some(2))] {
        let mut fakes = Fakes::new();
        fakes.telegram.delete_messages(Err(unknown_outcome()));
        retried(run(&fakes, PublishAction::Delete).await);
        again(&mut fakes);
        fakes.telegram.delete_messages(Ok(there));
        let report: PublishResult = result(args(PublishAction::Delete).run(&fakes.context()).await);
        assert_eq!((report.status, report.deleted), (PublishStatus::Deleted, deleted));
    }
}

#[tokio::test]
async fn a_change_that_may_have_been_made_never_ends_as_refused() {
    let mut fakes = Fakes::new();
    fakes.telegram.edit_message(Err(unknown_outcome()));
    retried(run(&fakes, PublishAction::Edit).await);
    again(&mut fakes);
    let gone = telegram_error("MESSAGE_ID_INVALID", Decision::Content);
    fakes.telegram.edit_message(Err(gone));
    let outcome = args(PublishAction::Edit).run(&fakes.context()).await;
    assert_eq!(discarded(outcome).code, OUTCOME_UNKNOWN);

    let mut fakes = Fakes::new();
    fakes.attempt = fakes.max_attempts;
    fakes.telegram.edit_message(Err(unknown_outcome()));
    assert_eq!(discarded(run(&fakes, PublishAction::Edit).await).code, OUTCOME_UNKNOWN);
}

/// The next attempt, which finds the chat by its id.
fn again(fakes: &mut Fakes) {
    fakes.attempt += 1;
    fakes.telegram.chat_by_id(Ok(supergroup(1)));
}

#[tokio::test]
async fn each_refusal_has_its_own_code() {
    for (name, decision, code) in [
        ("MESSAGE_ID_INVALID", Decision::Content, "message_not_found"),
        ("MESSAGE_AUTHOR_REQUIRED", Decision::Content, "not_the_author"),
        ("MESSAGE_EDIT_TIME_EXPIRED", Decision::Content, "edit_too_late"),
        ("MESSAGE_DELETE_FORBIDDEN", Decision::Target, "delete_forbidden"),
        ("CHAT_ADMIN_REQUIRED", Decision::Target, "admin_required"),
    ] {
        let fakes = Fakes::new();
        fakes.telegram.edit_message(Err(telegram_error(name, decision)));
        assert_eq!(discarded(run(&fakes, PublishAction::Edit).await).code, code);
    }
}
