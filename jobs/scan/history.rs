//! What was written in a group or channel, from its newest message to its oldest: so what is written meanwhile shifts no
//! page, and the place where an attempt stopped is one number.

use serde::{Deserialize, Serialize};

use super::{
    Bound, HistoryArgs, Incomplete, ScanArgs, ScanResult, ScanWhat, begin,
    files::Downloads,
    find, finish,
    ports::{ChatProfile, Count, MessageCut, MessagePage, PageEnd, ScannedMessage, Tally},
    rate::Rate,
    say_begin,
};
use crate::{
    JobContext, LogLine, Outcome,
    context::checkpoint_value,
    ports::{Chat, ChatType, TelegramError},
};

/// The most that Telegram returns at once.
pub(super) const PAGE: i32 = 100;

/// The checkpoint: how far down the history was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    chat_id: i64,
    /// Only older ones are left; 0: none was read.
    before: i32,
    /// How many there are in the chat.
    counted: Option<i64>,
    /// The lower end of what was asked for was reached.
    ended: bool,
    /// There was nothing older.
    exhausted: bool,
}

pub(super) async fn read(args: &ScanArgs, context: &JobContext) -> Result<ScanResult, Outcome> {
    let kept: Option<Position> = context.read_checkpoint().await?;
    let found = find(context, args, kept.map(|position| position.chat_id)).await?;
    let profile = context.telegram.chat_in_full(&found).await?;
    let chat = Chat {
        member_count: profile.member_count.or(found.member_count),
        ..found
    };
    context.store.save_chat(&chat).await?;
    begin(context, args, Some(chat.id)).await?;
    let wanted = args.history.clone().unwrap_or_default();
    let position = match kept {
        Some(position) => position,
        None => start(context, &chat, &wanted).await?,
    };
    let tally = say_begin(context, kept.is_some(), position.counted).await?;
    let reading = Reading {
        context,
        owner: owner(context, &chat),
        chat: &chat,
        profile: &profile,
        bound: Bound::new(args),
        wanted,
        position,
        tally,
        ahead: None,
        rate: Rate::new(context, tally.seen),
        downloads: Downloads::begin(context, args.download.as_ref()).await?,
    };
    reading.run().await
}

/// Whose the message numbers of a chat are: 0 when everybody's.
pub(super) fn owner(context: &JobContext, chat: &Chat) -> i64 {
    match chat.chat_type {
        ChatType::Supergroup | ChatType::Channel => 0,
        ChatType::Group | ChatType::Private => context.telegram.account_id(),
    }
}

/// The place to begin at, from the upper end of what was asked for.
async fn start(context: &JobContext, chat: &Chat, wanted: &HistoryArgs) -> Result<Position, Outcome> {
    let mut before = wanted.max_id.map_or(0, |newest| newest.saturating_add(1));
    let mut exhausted = false;
    if let Some(to) = wanted.to {
        let newest = context.telegram.newest_message_until(chat, to).await?;
        exhausted = newest == 0;
        let below = newest.saturating_add(1);
        before = if before == 0 { below } else { before.min(below) };
    }
    Ok(Position {
        chat_id: chat.id,
        before,
        counted: None,
        ended: exhausted,
        exhausted,
    })
}

/// One attempt to read a history to its end.
struct Reading<'a> {
    context: &'a JobContext,
    chat: &'a Chat,
    profile: &'a ChatProfile,
    owner: i64,
    bound: Bound,
    wanted: HistoryArgs,
    position: Position,
    tally: Tally,
    /// The next page, when it was asked for already.
    ahead: Option<Result<MessagePage, TelegramError>>,
    rate: Rate,
    downloads: Option<Downloads<'a>>,
}

impl<'a> Reading<'a> {
    async fn run(mut self) -> Result<ScanResult, Outcome> {
        // What an earlier attempt has left.
        self.download().await?;
        while !self.position.ended && !self.has_enough() {
            self.rate.stop_if_due(self.context)?;
            let page = match self.ahead.take() {
                Some(answer) => answer?,
                None => self.ask().await?,
            };
            self.keep(page).await?;
            self.download().await?;
        }
        let count = Count {
            chat_id: self.chat.id,
            what: ScanWhat::History,
            list: None,
            counted: self.counted(),
            tally: self.tally,
            reason: self.ended_because(),
        };
        let scanned = finish(self.context, self.chat, count, None).await?;
        let files = match self.downloads {
            Some(downloads) => Some(downloads.report().await?),
            None => None,
        };
        Ok(ScanResult { files, ..scanned })
    }

    /// Files are downloaded page by page: their references are fresh then.
    async fn download(&mut self) -> Result<(), Outcome> {
        match &mut self.downloads {
            Some(downloads) => downloads.run(&mut self.rate).await,
            None => Ok(()),
        }
    }

    /// The next page, from the place that is known: it may be on its way while the page before is stored.
    fn ask(&self) -> impl Future<Output = Result<MessagePage, TelegramError>> + Send + use<'a> {
        let (context, chat) = (self.context, self.chat);
        let cut = MessageCut {
            before: self.position.before,
            limit: self.asked(),
        };
        async move { context.telegram.messages(chat, cut).await }
    }

    /// Whether the next page will be wanted whatever becomes of the one that is about to be stored.
    fn is_next_certain(&self, messages: usize) -> bool {
        let seen = self.tally.seen + i64::try_from(messages).unwrap_or(i64::MAX / 2) + i64::from(PAGE);
        !self.position.ended && seen <= self.most() && !self.context.cancellation.is_cancelled()
    }

    /// The rows that are left to be read: of the newest that were asked for, or of the bound.
    fn most(&self) -> i64 {
        self.wanted
            .last
            .map_or(self.bound.rows, |last| last.min(self.bound.rows))
    }

    fn has_enough(&self) -> bool {
        self.tally.seen >= self.most()
    }

    fn asked(&self) -> i32 {
        // Of a page of which most may be left out, a part is no less work than the whole.
        if !self.wanted.media.is_empty() {
            return PAGE;
        }
        i32::try_from(self.most() - self.tally.seen).map_or(PAGE, |rest| rest.clamp(1, PAGE))
    }

    /// Stores what is wanted of a page, while the next one is on its way.
    async fn keep(&mut self, page: MessagePage) -> Result<(), Outcome> {
        let lowest = self.wanted.min_id.unwrap_or(0);
        let is_past = page.messages.iter().any(|message| self.is_before_begin(message));
        let exhausted = page.oldest <= 1;
        self.position = Position {
            before: if page.oldest > 0 {
                page.oldest
            } else {
                self.position.before
            },
            counted: self.position.counted.or(page.count),
            ended: exhausted || is_past || page.oldest <= lowest,
            exhausted: exhausted && !is_past,
            ..self.position
        };
        let room = usize::try_from(self.most() - self.tally.seen).unwrap_or(usize::MAX);
        let wanted = page.messages.into_iter().filter(|message| self.is_wanted(message));
        let mut kept: Vec<ScannedMessage> = wanted.collect();
        if kept.len() > room {
            kept.truncate(room);
            let oldest = kept.last().map_or(self.position.before, |last| last.message.id);
            self.position = Position {
                before: oldest,
                ended: false,
                exhausted: false,
                ..self.position
            };
        }
        Downloads::plan(self.downloads.as_ref(), &mut kept);
        let checkpoint = checkpoint_value(&self.position)?;
        if !self.is_next_certain(kept.len()) {
            return self.store(&kept, checkpoint).await;
        }
        let ask = self.ask();
        let (stored, ahead) = tokio::join!(self.store(&kept, checkpoint), ask);
        self.ahead = Some(ahead);
        stored
    }

    async fn store(&mut self, kept: &[ScannedMessage], checkpoint: serde_json::Value) -> Result<(), Outcome> {
        let (chat_id, owner) = (self.chat.id, self.owner);
        let of = match self.wanted.last {
            Some(last) => Some(self.counted().map_or(last, |counted| last.min(counted))),
            None => self.counted(),
        };
        let of = self.bound.total(of);
        self.rate.tick(self.context);
        let rate = &self.rate;
        let end = |tally: Tally| PageEnd {
            checkpoint: checkpoint.clone(),
            progress: rate.progress(tally.seen, of),
            line: LogLine::new("page_stored", "A page of the history is stored.")
                .with("messages", i64::try_from(kept.len()).unwrap_or(i64::MAX))
                .with("seen", tally.seen),
        };
        let store = &self.context.store;
        self.tally = store.save_messages(chat_id, owner, None, kept, &end).await?;
        Ok(())
    }

    fn is_before_begin(&self, scanned: &ScannedMessage) -> bool {
        self.wanted.from.is_some_and(|from| scanned.message.date < from)
    }

    fn is_wanted(&self, scanned: &ScannedMessage) -> bool {
        let message = &scanned.message;
        let in_range = self.wanted.min_id.is_none_or(|lowest| message.id >= lowest)
            && self.wanted.to.is_none_or(|to| message.date <= to)
            && !self.is_before_begin(scanned);
        let media = &self.wanted.media;
        in_range && (media.is_empty() || message.media.is_some_and(|kind| media.contains(&kind)))
    }

    /// Telegram counts the messages of a chat, and not those of a part of it.
    fn counted(&self) -> Option<i64> {
        let HistoryArgs {
            from,
            to,
            min_id,
            max_id,
            last: _,
            media,
        } = &self.wanted;
        let is_part = from.is_some() || to.is_some() || min_id.is_some() || max_id.is_some() || !media.is_empty();
        self.position.counted.filter(|_| !is_part)
    }

    fn ended_because(&self) -> Option<Incomplete> {
        let is_cut = self.has_enough() && !self.position.ended;
        if self.wanted.last.is_some_and(|last| self.tally.seen >= last) {
            return None;
        }
        if is_cut {
            return Some(self.bound.reason());
        }
        let is_hidden =
            self.profile.history_hidden || self.profile.first_visible_message.is_some_and(|first| first > 1);
        let is_short = self.counted().is_some_and(|counted| self.tally.seen < counted);
        if self.position.exhausted && is_hidden && self.position.before > 1 {
            Some(Incomplete::HistoryHidden)
        } else if is_short {
            Some(self.tally.short_of(self.counted()))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests;
