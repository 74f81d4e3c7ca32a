//! Changes: what each answer means, and that doing it twice is as good as once.

use super::*;
use crate::{
    Job,
    testing::{Fakes, discarded, result, retried, supergroup, telegram_error, unknown_outcome},
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
    let fakes = Fakes::new();
    fakes.telegram.edit_message(Ok(Changed::Changed));
    fakes.telegram.pin_message(Ok(Changed::Changed));
    fakes.telegram.pin_message(Ok(Changed::Changed));
    fakes.telegram.delete_messages(Ok(2));
    for (action, status) in [
        (PublishAction::Edit, PublishStatus::Edited),
        (PublishAction::Pin, PublishStatus::Pinned),
        (PublishAction::Unpin, PublishStatus::Unpinned),
        (PublishAction::Delete, PublishStatus::Deleted),
    ] {
        fakes.telegram.resolve_username(Ok(supergroup(1)));
        let report: PublishResult = result(args(action).run(&fakes.context()).await);
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
    fakes.attempt = 2;
    fakes.telegram.edit_message(Ok(Changed::Unchanged));
    let report: PublishResult = result(run(&fakes, PublishAction::Edit).await);
    assert_eq!(report.status, PublishStatus::Edited);
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
