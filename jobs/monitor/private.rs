//! Reading the account's private chats after a break. What was read before a flood is stored before that is waited for.

use std::time::Duration;

use tokio::time::sleep;

use super::Stretch;
use crate::{
    JobContext, LogLevel, LogLine, Outcome,
    message::Message,
    ports::{Chat, Decision, HistoryPage, TelegramError},
};

/// How long a flood is waited for where it is met. After a longer one the chats are read from the first on again.
const LONGEST_WAIT: Duration = Duration::from_mins(15);

/// What is kept until it is stored together, in the order of its numbers.
const TOGETHER: usize = 5_000;

/// Stores what private chats have that is newer than `after`, and counts it; answers with how far that goes. `Err`: it came
/// to something else.
///
/// The numbers of their messages are one sequence, the account's, so the watch moves on when every chat is read, and not
/// before: one would run ahead of another. What comes meanwhile is left out, which may have come to one chat after that was
/// read and to another before.
pub(super) async fn read(
    context: &JobContext,
    after: i32,
    count: &mut i64,
) -> Result<Result<HistoryPage, Stretch>, Outcome> {
    let news = match context.telegram.private_news(after).await {
        Ok(news) => news,
        Err(error) => return Ok(Err(Stretch::Lost(super::lost(error)?))),
    };
    let mut reading = Reading {
        context,
        after,
        until: news.reaches,
        messages: Vec::new(),
        count,
    };
    for chat in &news.chats {
        let mut from = after;
        loop {
            let page = match reading.page(chat, from).await? {
                Page::Read(page) => page,
                Page::Refused => break,
                Page::Over => return Ok(Err(Stretch::Over)),
            };
            from = page.reaches;
            let is_last = page.is_last;
            reading.take(page).await?;
            if is_last {
                break;
            }
        }
    }
    reading.store().await?;
    Ok(Ok(HistoryPage {
        messages: Vec::new(),
        reaches: news.reaches,
        is_last: true,
    }))
}

enum Page {
    Read(HistoryPage),
    /// Telegram does not give this chat's history.
    Refused,
    /// The function was asked to stop.
    Over,
}

struct Reading<'a> {
    context: &'a JobContext,
    after: i32,
    until: i32,
    /// Read, and not stored yet.
    messages: Vec<Message>,
    count: &'a mut i64,
}

impl Reading<'_> {
    /// A page of one chat; a flood is waited for, so that what was read before it need not be read again.
    async fn page(&mut self, chat: &Chat, after: i32) -> Result<Page, Outcome> {
        loop {
            if self.context.cancellation.is_cancelled() {
                return Ok(Page::Over);
            }
            let error = match self.context.telegram.history_after(chat, after).await {
                Ok(page) => return Ok(Page::Read(page)),
                Err(error) => error,
            };
            if matches!(error.decision, Decision::Target | Decision::Person { .. }) {
                let line = LogLine::new("chat_not_read", "Telegram does not give the history of a private chat.");
                let line = line.with("chat", chat.id);
                self.context.log(LogLevel::Warn, line).await;
                return Ok(Page::Refused);
            }
            self.store().await?;
            let Some(wait) = wait(self.context, &error) else {
                return Err(error.into());
            };
            tokio::select! {
                () = self.context.cancellation.cancelled() => return Ok(Page::Over),
                () = sleep(wait) => {}
            }
        }
    }

    async fn take(&mut self, page: HistoryPage) -> Result<(), Outcome> {
        let until = self.until;
        self.messages
            .extend(page.messages.into_iter().filter(|message| message.id <= until));
        if self.messages.len() >= TOGETHER {
            self.store().await?;
        }
        Ok(())
    }

    /// Stores what was read so far. The watch stays where it is.
    async fn store(&mut self) -> Result<(), Outcome> {
        if self.messages.is_empty() {
            return Ok(());
        }
        let mut messages = std::mem::take(&mut self.messages);
        messages.sort_unstable_by_key(|message| message.id);
        *self.count += i64::try_from(messages.len()).unwrap_or(i64::MAX);
        let page = HistoryPage {
            messages,
            reaches: self.after,
            is_last: false,
        };
        Ok(self.context.store.record_history(&page).await?)
    }
}

/// How long it takes until the call may be made again, when that is worth waiting for.
fn wait(context: &JobContext, error: &TelegramError) -> Option<Duration> {
    let Decision::Gate { until } = error.decision else {
        return None;
    };
    let wait = (until - context.clock.now()).to_std().unwrap_or_default();
    // Never at once: a gate that is over and still refuses must not be asked in a loop.
    (wait <= LONGEST_WAIT).then_some(wait.max(Duration::from_secs(1)))
}
