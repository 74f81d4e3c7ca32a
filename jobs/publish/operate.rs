//! Changes of messages that are there: edited, deleted, pinned. Each can be repeated without harm, so an unknown outcome
//! is simply tried again.

use super::{PublishAction, PublishArgs, PublishResult, PublishStatus, ports::Changed, sending};
use crate::{
    JobContext, JobError, Outcome,
    chat::message_link,
    ports::{Chat, Decision, TelegramError},
    target,
};

pub(super) async fn run(args: &PublishArgs, context: &JobContext) -> Outcome {
    match attempt(args, context).await {
        Ok(result) => Outcome::done(&result),
        Err(outcome) => {
            context.log_stop(&outcome).await;
            outcome
        }
    }
}

async fn attempt(args: &PublishArgs, context: &JobContext) -> Result<PublishResult, Outcome> {
    let message = sending::Message::of(args);
    if args.action == PublishAction::Edit {
        message.check(context, args)?;
    }
    context.stop_if_cancelled()?;
    let chat = target::resolve(context, &target::parse_for_run(&args.chat)?).await?;
    target::refuse_person(&chat)?;
    context.store.save_chat(&chat).await?;
    context.stop_if_cancelled()?;
    match args.action {
        PublishAction::Delete => {
            let there = answered(context.telegram.delete_messages(&chat, &args.message_ids).await, 0)?;
            let deleted = i64::try_from(there).unwrap_or(i64::MAX);
            Ok(PublishResult {
                // What an earlier attempt took out is counted as unchanged by the next one.
                status: if there == 0 && context.attempt == 1 {
                    PublishStatus::Unchanged
                } else {
                    PublishStatus::Deleted
                },
                deleted: Some(deleted),
                ..PublishResult::of(&chat)
            })
        }
        _ => change(args, context, &chat).await,
    }
}

async fn change(args: &PublishArgs, context: &JobContext, chat: &Chat) -> Result<PublishResult, Outcome> {
    let Some(id) = args.message_id else {
        return Err(Outcome::Discard(JobError::permanent(
            "args_invalid",
            "args.message_id is missing.",
        )));
    };
    let telegram = &context.telegram;
    let (answer, status) = match args.action {
        PublishAction::Edit => {
            let draft = sending::draft(args);
            (telegram.edit_message(chat, id, &draft).await, PublishStatus::Edited)
        }
        PublishAction::Pin => (
            telegram.pin_message(chat, id, true, args.silent).await,
            PublishStatus::Pinned,
        ),
        _ => (
            telegram.pin_message(chat, id, false, args.silent).await,
            PublishStatus::Unpinned,
        ),
    };
    let changed = answered(answer, Changed::Unchanged)?;
    Ok(PublishResult {
        status: match changed {
            Changed::Changed => status,
            // An earlier attempt may have done it, and not have seen that.
            Changed::Unchanged if context.attempt > 1 => status,
            Changed::Unchanged => PublishStatus::Unchanged,
        },
        message_id: Some(id),
        link: message_link(chat, id),
        ..PublishResult::of(chat)
    })
}

/// That it was so already is no failure.
fn answered<T>(answer: Result<T, TelegramError>, already: T) -> Result<T, Outcome> {
    match answer {
        Err(error) if error.decision == Decision::Done => Ok(already),
        answer => Ok(answer?),
    }
}

#[cfg(test)]
mod tests;
