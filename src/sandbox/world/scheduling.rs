//! Messages that wait for their time, each account's own, with numbers of their own.

use grammers_tl_types as tl;

use super::World;
use super::hearing::Actor;
use super::messages::{Draft, Message};
use super::peers::PeerKey;
use super::refusal::bad;
use super::view::messages::tl_message;
use crate::sandbox::call::{Answer, UserId};

/// Telegram keeps this many messages of one chat.
const MOST_WAITING: usize = 100;
const LONGEST: i32 = 366 * 86_400;

#[derive(Debug, Clone)]
struct Waiting {
    account: UserId,
    message: Message,
    draft: Draft,
}

/// Every message that waits.
#[derive(Debug, Default)]
pub struct Scheduled {
    last_id: i32,
    waiting: Vec<Waiting>,
}

impl World {
    /// Keeps a message until `date`; returns its number among those that wait.
    ///
    /// # Errors
    /// `SCHEDULE_DATE_TOO_LATE`, `SCHEDULE_TOO_MUCH`.
    pub fn schedule(&mut self, account: UserId, chat: PeerKey, draft: Draft, date: i32) -> Answer<i32> {
        if date > self.now().saturating_add(LONGEST) {
            return Err(bad("SCHEDULE_DATE_TOO_LATE"));
        }
        let of_chat = |waiting: &&Waiting| waiting.account == account && waiting.message.chat == chat;
        if self.scheduled.waiting.iter().filter(of_chat).count() >= MOST_WAITING {
            return Err(bad("SCHEDULE_TOO_MUCH"));
        }
        self.scheduled.last_id += 1;
        let id = self.scheduled.last_id;
        let message = Message {
            id,
            origin: 0,
            chat,
            sender: PeerKey::User(account),
            date,
            edit_date: None,
            reply_to: draft.reply_to,
            silent: draft.silent,
            random_id: draft.random_id,
            content: draft.content.clone(),
            extras: draft.extras.clone(),
        };
        self.scheduled.waiting.push(Waiting {
            account,
            message,
            draft,
        });
        Ok(id)
    }

    /// A message that waits, as its account sees it.
    pub fn tl_scheduled(&self, account: UserId, id: i32) -> Option<tl::enums::Message> {
        let mut own = self.scheduled.waiting.iter();
        let waiting = own.find(|waiting| waiting.account == account && waiting.message.id == id)?;
        Some(tl_message(account, &waiting.message))
    }

    /// The messages of an account that wait in a chat, the latest first.
    pub fn waiting_in(&self, account: UserId, chat: PeerKey) -> Vec<&Message> {
        let own = self.scheduled.waiting.iter().rev();
        own.filter(|waiting| waiting.account == account && waiting.message.chat == chat)
            .map(|waiting| &waiting.message)
            .collect()
    }

    /// Shows what waited until now. One that may not be shown any more is dropped, as at Telegram.
    pub fn show_due(&mut self) {
        if self.scheduled.waiting.is_empty() {
            return;
        }
        let now = self.now();
        let (due, waiting) = std::mem::take(&mut self.scheduled.waiting)
            .into_iter()
            .partition(|waiting| waiting.message.date <= now);
        self.scheduled.waiting = waiting;
        let due: Vec<Waiting> = due;
        for waiting in due {
            let _shown = self.post(Actor::offstage(waiting.account), waiting.message.chat, waiting.draft);
        }
    }
}
