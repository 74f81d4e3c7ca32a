//! Changes of messages that are there: edited, deleted, pinned. Each can be repeated without harm, so an unknown outcome
//! is simply tried again. That a call may be made is durable before it is made: a change that is found made already is this
//! job's when an earlier call of it was never answered, and otherwise somebody else's.

use serde::{Deserialize, Serialize};

use super::{OUTCOME_UNKNOWN, PublishAction, PublishArgs, PublishResult, PublishStatus, ports::Changed, sending};
use crate::{
    JobContext, JobError, Outcome,
    chat::message_link,
    ports::{Chat, Decision, TelegramError},
    target,
};

/// The checkpoint: what later attempts must know. The database reads `change` as well (`outcome_in_doubt`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// The chat of the first attempt. Its name may move to another chat; the change does not.
    chat: Chat,
    change: Stage,
}

/// How far the change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stage {
    /// Nothing was changed: each call so far was refused by name.
    Open,
    /// A call may have been made that nobody saw end.
    Begun,
}

pub(super) async fn run(args: &PublishArgs, context: &JobContext) -> Outcome {
    let mut change = Change {
        args,
        context,
        in_doubt: false,
    };
    match change.attempt().await {
        Ok(result) => Outcome::done(&result),
        Err(outcome) => {
            context.log_stop(&outcome).await;
            change.settle(outcome)
        }
    }
}

/// One attempt of one change.
struct Change<'a> {
    args: &'a PublishArgs,
    context: &'a JobContext,
    /// A call was made, by this attempt or an earlier one, that nobody saw end.
    in_doubt: bool,
}

impl Change<'_> {
    async fn attempt(&mut self) -> Result<PublishResult, Outcome> {
        let (args, context) = (self.args, self.context);
        let kept: Option<Kept> = context.read_checkpoint().await?;
        self.in_doubt = kept.as_ref().is_some_and(|kept| kept.change == Stage::Begun);
        if args.action == PublishAction::Edit {
            sending::Message::of(args).check(context, args)?;
        }
        context.stop_if_cancelled()?;
        let reference = target::parse_for_run(&args.chat)?;
        let chat = match &kept {
            Some(kept) => target::resolve_again(context, &reference, kept.chat.id).await?,
            None => target::resolve(context, &reference).await?,
        };
        target::refuse_person(&chat)?;
        context.store.save_chat(&chat).await?;
        context.stop_if_cancelled()?;
        self.keep(&chat, Stage::Begun).await?;
        match args.action {
            PublishAction::Delete => self.delete(&chat).await,
            _ => self.change(&chat).await,
        }
    }

    async fn delete(&mut self, chat: &Chat) -> Result<PublishResult, Outcome> {
        let was_in_doubt = self.in_doubt;
        let answer = self
            .context
            .telegram
            .delete_messages(chat, &self.args.message_ids)
            .await;
        let there = self.answered(chat, answer, 0).await?;
        // What an earlier call has taken out is not there to be counted.
        let is_known = !was_in_doubt || there >= self.args.message_ids.len();
        Ok(PublishResult {
            status: if there == 0 && !was_in_doubt {
                PublishStatus::Unchanged
            } else {
                PublishStatus::Deleted
            },
            deleted: is_known.then(|| i64::try_from(there).unwrap_or(i64::MAX)),
            ..PublishResult::of(chat)
        })
    }

    async fn change(&mut self, chat: &Chat) -> Result<PublishResult, Outcome> {
        let (args, telegram) = (self.args, &self.context.telegram);
        let Some(id) = args.message_id else {
            return Err(Outcome::Discard(JobError::permanent(
                "args_invalid",
                "args.message_id is missing.",
            )));
        };
        let was_in_doubt = self.in_doubt;
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
        let changed = self.answered(chat, answer, Changed::Unchanged).await?;
        Ok(PublishResult {
            status: match changed {
                Changed::Changed => status,
                Changed::Unchanged if was_in_doubt => status,
                Changed::Unchanged => PublishStatus::Unchanged,
            },
            message_id: Some(id),
            link: message_link(chat, id),
            ..PublishResult::of(chat)
        })
    }

    /// That it was so already is no failure. A refusal by name settles this call, and none that came before it.
    async fn answered<T>(&mut self, chat: &Chat, answer: Result<T, TelegramError>, already: T) -> Result<T, Outcome> {
        let error = match answer {
            Ok(answer) => return Ok(answer),
            Err(error) if error.decision == Decision::Done => return Ok(already),
            Err(error) => error,
        };
        if matches!(error.decision, Decision::Retry | Decision::Session) {
            self.in_doubt = true;
        } else if !self.in_doubt {
            // Where this cannot be kept, the next attempt takes what it finds for its own: no more is lost.
            let _kept = self.keep(chat, Stage::Open).await;
        }
        Err(error.into())
    }

    async fn keep(&self, chat: &Chat, change: Stage) -> Result<(), Outcome> {
        let chat = chat.clone();
        self.context.write_checkpoint(&Kept { chat, change }).await
    }

    /// Says `outcome_unknown` instead of any error that would end the job and hide that the change may have been made.
    fn settle(&self, outcome: Outcome) -> Outcome {
        if !self.in_doubt {
            return outcome;
        }
        match outcome {
            Outcome::Retry(error) if error.code != "fenced" && self.context.is_last_attempt() => unknown(&error),
            Outcome::Discard(error) => unknown(&error),
            outcome => outcome,
        }
    }
}

fn unknown(error: &JobError) -> Outcome {
    Outcome::Discard(JobError::permanent(
        OUTCOME_UNKNOWN,
        format!(
            "The change may or may not have been made, and the job could not find out. Making it again with a new job does no \
             harm. {}",
            error.message
        ),
    ))
}

#[cfg(test)]
mod tests;
