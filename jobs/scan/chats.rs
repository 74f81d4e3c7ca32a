//! Which public chats there are, by keywords. Each that was found is looked at once: how many members, which language, when
//! something was posted last. A standing search reports what no run of it has found before.

use serde::{Deserialize, Serialize};

use super::{
    Bound, Incomplete, ScanArgs, ScanResult, ScanWhat, SearchArgs, begin,
    language::guess,
    ports::{FoundChat, MessageCut, Tally},
    rate::Rate,
    say_begin,
};
use crate::{
    JobContext, JobError, LogLevel, LogLine, Outcome,
    context::checkpoint_value,
    ports::{Chat, Decision, TelegramError},
};

/// Messages that are looked through for the language; their texts go no further.
const SAMPLE: i32 = 20;

/// The checkpoint: which keyword.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    query: usize,
}

pub(super) async fn search(args: &ScanArgs, context: &JobContext) -> Result<ScanResult, Outcome> {
    let kept: Option<Position> = context.read_checkpoint().await?;
    context.stop_if_cancelled()?;
    let wanted = args.search.clone().ok_or_else(|| {
        Outcome::Discard(JobError::permanent(
            "args_invalid",
            "args.search: is missing; say what to look for.",
        ))
    })?;
    begin(context, args, None).await?;
    let tally = say_begin(context, kept.is_some(), None).await?;
    let position = kept.unwrap_or_default();
    let done = i64::try_from(position.query).unwrap_or(0);
    let searching = Searching {
        context,
        bound: Bound::new(args),
        wanted,
        position,
        tally,
        rate: Rate::new(context, done),
    };
    searching.run().await
}

/// One attempt to search for all keywords.
struct Searching<'a> {
    context: &'a JobContext,
    bound: Bound,
    wanted: SearchArgs,
    position: Position,
    tally: Tally,
    rate: Rate,
}

impl Searching<'_> {
    async fn run(mut self) -> Result<ScanResult, Outcome> {
        while let Some(query) = self.wanted.queries.get(self.position.query).cloned() {
            if self.bound.is_reached(self.tally.seen) {
                break;
            }
            self.rate.stop_if_due(self.context)?;
            self.search(query.trim()).await?;
            if !self.bound.is_reached(self.tally.seen) {
                self.position.query += 1;
            }
            self.context.write_checkpoint(&self.position).await?;
            let done = i64::try_from(self.position.query).unwrap_or(0);
            let of = i64::try_from(self.wanted.queries.len()).ok();
            self.rate.show(self.context, done, of).await?;
        }
        let is_cut = self.position.query < self.wanted.queries.len();
        Ok(ScanResult {
            what: ScanWhat::Chats,
            chat: None,
            counted: None,
            listed: None,
            seen: self.tally.seen,
            new: self.tally.new,
            complete: false,
            reason: Some(if is_cut {
                self.bound.reason()
            } else {
                Incomplete::SearchIsPartial
            }),
            files: None,
        })
    }

    async fn search(&mut self, query: &str) -> Result<(), Outcome> {
        self.context.stop_if_cancelled()?;
        let found = self.context.telegram.search_chats(query).await?;
        let ids: Vec<i64> = found.iter().map(|chat| chat.id).collect();
        let known = self.context.store.known_finds(&ids).await?;
        let total = i64::try_from(found.len()).unwrap_or(i64::MAX);
        for chat in found.into_iter().filter(|chat| !known.contains(&chat.id)) {
            if self.bound.is_reached(self.tally.seen) {
                break;
            }
            self.context.stop_if_cancelled()?;
            let Some(find) = self.look_at(chat).await? else {
                continue;
            };
            self.context.store.save_chat(&find.chat).await?;
            let checkpoint = checkpoint_value(&self.position)?;
            self.tally = self.context.store.save_find(&find, checkpoint).await?;
        }
        let searched = LogLine::new("keyword_searched", "A keyword was searched for.")
            .with("found", total)
            .with("seen", self.tally.seen);
        self.context.log(LogLevel::Info, searched).await;
        Ok(())
    }

    /// What a chat shows of itself; `None`: it is too small.
    async fn look_at(&self, mut chat: Chat) -> Result<Option<FoundChat>, Outcome> {
        if chat.member_count.is_none() {
            match self.context.telegram.chat_in_full(&chat).await {
                Ok(profile) => chat.member_count = profile.member_count,
                Err(error) if is_closed(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let least = self.wanted.min_members.unwrap_or(0);
        if chat.member_count.unwrap_or(0) < least {
            return Ok(None);
        }
        let cut = MessageCut {
            before: 0,
            limit: SAMPLE,
        };
        let page = match self.context.telegram.messages(&chat, cut).await {
            Ok(page) => page.messages,
            Err(error) if is_closed(&error) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let texts = page.iter().map(|scanned| scanned.message.text.as_str());
        Ok(Some(FoundChat {
            language: guess(std::iter::once(chat.title.as_str()).chain(texts)),
            last_post_at: page.iter().map(|scanned| scanned.message.date).max(),
            chat,
        }))
    }
}

/// The chat does not show this to somebody who is not in it.
fn is_closed(error: &TelegramError) -> bool {
    error.decision == Decision::Target
}

#[cfg(test)]
mod tests;
