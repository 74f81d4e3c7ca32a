//! Who is in a group or channel: one of Telegram's lists, and when it ends at Telegram's cap, if wanted the same group
//! searched by each letter.

use serde::{Deserialize, Serialize};

use super::{
    Bound, Incomplete, MemberFilter, MembersArgs, ScanArgs, ScanResult, ScanWhat, begin, find, finish,
    ports::{Count, MemberList, PageEnd, Tally},
    rate::Rate,
    say_begin,
};
use crate::{
    JobContext, LogLevel, LogLine, Outcome,
    context::checkpoint_value,
    ports::{ChatDetails, ChatType, Decision, Member, MemberPage, TelegramError},
};

/// The most that Telegram returns at once.
const PAGE: i32 = 200;
/// Lists of groups end near 10,000, however large the group.
const CAP: i64 = 10_000;
const NEAR_CAP: i64 = 9_000;
/// Pages in a row that show nobody new before the list counts as read. One can happen when many joined in a long pause.
pub(super) const BARREN_PAGES: u32 = 3;
/// What names are searched by: enough for most, and few enough lists that a large group is read within a day.
pub(super) const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz0123456789абвгдежзийклмнопрстуфхцчшщъыьэюя";

/// The checkpoint: how far the list was read. What was seen is counted by the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    /// The chat of the first attempt. Its name may move to another chat; the scan does not.
    chat_id: i64,
    offset: i32,
    /// How many are in the chat.
    counted: Option<i64>,
    /// Telegram returned an empty page.
    ended: bool,
    /// How many are in the list that is read.
    #[serde(default)]
    listed: Option<i64>,
    /// How many letters the list was searched by, the one that is being read included; 0: it is the list itself.
    #[serde(default)]
    letter: usize,
}

pub(super) async fn read(args: &ScanArgs, context: &JobContext) -> Result<ScanResult, Outcome> {
    let kept: Option<Position> = context.read_checkpoint().await?;
    let chat = find(context, args, kept.map(|position| position.chat_id)).await?;
    let details = context.telegram.chat_details(&chat).await?;
    context.store.save_chat(&details.chat).await?;
    begin(context, args, Some(details.chat.id)).await?;
    let position = kept.unwrap_or(Position {
        chat_id: details.chat.id,
        offset: 0,
        counted: details.chat.member_count.or(chat.member_count),
        ended: false,
        listed: None,
        letter: 0,
    });
    let tally = say_begin(context, kept.is_some(), position.counted).await?;
    let wanted = args.members.clone().unwrap_or_default();
    let reading = Reading {
        context,
        details: &details,
        bound: Bound::new(args),
        wanted,
        position,
        tally,
        barren: 0,
        ahead: None,
        rate: Rate::new(context, tally.seen),
    };
    reading.run().await
}

/// One attempt to read a list to its end.
struct Reading<'a> {
    context: &'a JobContext,
    details: &'a ChatDetails,
    bound: Bound,
    wanted: MembersArgs,
    position: Position,
    /// Different people, over all attempts.
    tally: Tally,
    /// Pages in a row without a new person.
    barren: u32,
    /// The next page, when it was asked for already.
    ahead: Option<Result<MemberPage, TelegramError>>,
    rate: Rate,
}

impl<'a> Reading<'a> {
    async fn run(mut self) -> Result<ScanResult, Outcome> {
        // Asking for a list that is known to be closed would be a refused call for nothing. Admins are shown even so.
        let is_shown = self.details.can_view_participants || self.shows_in_hidden_lists();
        if self.is_closed_list() && !is_shown {
            return self.end(Some(self.refused_because())).await;
        }
        loop {
            while !self.is_at_end() {
                self.rate.stop_if_due(self.context)?;
                if let Some(refused) = self.page().await? {
                    return self.end(Some(refused)).await;
                }
            }
            if !self.goes_on_by_letters() {
                break;
            }
            self.position = Position {
                letter: self.position.letter + 1,
                offset: 0,
                ended: false,
                listed: None,
                ..self.position
            };
            self.barren = 0;
        }
        let reason = self.ended_because();
        self.end(reason).await
    }

    /// Reads and stores a page. `Some`: Telegram does not show the rest.
    async fn page(&mut self) -> Result<Option<Incomplete>, Outcome> {
        let answer = match self.ahead.take() {
            Some(answer) => answer,
            None => self.ask().await,
        };
        match answer {
            Ok(page) => self.keep(page).await.map(|()| None),
            Err(error) if is_refusal_to_list(&error) => {
                let refused = LogLine::new("list_refused", "Telegram does not show the rest of the list.");
                let refused = refused.with("seen", self.tally.seen);
                self.context.log(LogLevel::Warn, refused).await;
                Ok(Some(self.refused_because()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The next page, from the place that is known: it may be on its way while the page before is stored.
    fn ask(&self) -> impl Future<Output = Result<MemberPage, TelegramError>> + Send + use<'a> {
        let (context, chat) = (self.context, &self.details.chat);
        let (list, offset) = (self.list(), self.position.offset);
        let asked = self.bound.room(self.tally.seen, PAGE);
        async move { context.telegram.members(chat, &list, offset, asked).await }
    }

    /// Whether the next page will be wanted whatever becomes of the one that is about to be stored.
    fn is_next_certain(&self, people: usize) -> bool {
        let seen = self.tally.seen + i64::try_from(people).unwrap_or(i64::MAX / 2) + i64::from(PAGE);
        !self.is_at_end() && self.barren == 0 && seen <= self.bound.rows && !self.context.cancellation.is_cancelled()
    }

    fn list(&self) -> MemberList {
        if let Some(letter) = self.letter() {
            return MemberList::Search(letter.to_string());
        }
        let query = || self.wanted.query.as_deref().unwrap_or_default().trim().to_owned();
        match self.wanted.filter {
            MemberFilter::Recent => MemberList::Recent,
            MemberFilter::Admins => MemberList::Admins,
            MemberFilter::Bots => MemberList::Bots,
            MemberFilter::Search => MemberList::Search(query()),
            MemberFilter::Contacts => MemberList::Contacts(query()),
        }
    }

    /// The letter that the list is searched by.
    fn letter(&self) -> Option<char> {
        let at = self.position.letter.checked_sub(1)?;
        LETTERS.chars().nth(at)
    }

    /// Telegram shows admins and bots also where the other members are hidden.
    fn shows_in_hidden_lists(&self) -> bool {
        let is_listed = matches!(self.wanted.filter, MemberFilter::Admins | MemberFilter::Bots);
        is_listed && self.details.chat.chat_type != ChatType::Channel
    }

    /// Some people may see all of such a list, some a part, most nothing.
    fn is_closed_list(&self) -> bool {
        self.details.participants_hidden || self.details.chat.chat_type == ChatType::Channel
    }

    fn is_whole_list(&self) -> bool {
        self.wanted.filter == MemberFilter::Recent && self.position.letter == 0
    }

    fn is_at_end(&self) -> bool {
        let Position { offset, ended, .. } = self.position;
        let of = if self.is_whole_list() {
            self.position.counted
        } else {
            self.position.listed
        };
        let all_listed = offset > 0 && of.is_some_and(|of| i64::from(offset) >= of);
        // A search by letters shows people again that the list itself has shown, page after page.
        let is_barren = self.position.letter == 0 && self.barren >= BARREN_PAGES;
        ended || all_listed || is_barren || self.bound.is_reached(self.tally.seen)
    }

    /// Only where the list itself was cut, and only until everybody was seen.
    fn goes_on_by_letters(&self) -> bool {
        let counted = self.position.counted.unwrap_or(0);
        let is_cut = counted > CAP && !self.is_closed_list();
        let is_wanted = self.wanted.by_letters && self.wanted.filter == MemberFilter::Recent;
        let is_more = self.tally.seen < counted && !self.bound.is_reached(self.tally.seen);
        is_wanted && is_cut && is_more && self.position.letter < LETTERS.chars().count()
    }

    /// Stores a page, while the next one is on its way.
    async fn keep(&mut self, page: MemberPage) -> Result<(), Outcome> {
        let counted = if self.is_whole_list() {
            Some(self.counted_with(page.count))
        } else {
            self.position.counted
        };
        self.position = Position {
            offset: self.position.offset.saturating_add(page.returned.max(0)),
            counted,
            listed: Some(page.count),
            ended: page.returned <= 0,
            ..self.position
        };
        let checkpoint = checkpoint_value(&self.position)?;
        if !self.is_next_certain(page.members.len()) {
            return self.store(&page.members, checkpoint).await;
        }
        let ask = self.ask();
        let (stored, ahead) = tokio::join!(self.store(&page.members, checkpoint), ask);
        self.ahead = Some(ahead);
        stored
    }

    async fn store(&mut self, members: &[Member], checkpoint: serde_json::Value) -> Result<(), Outcome> {
        let Position { chat_id, counted, .. } = self.position;
        let of = if self.is_whole_list() || self.position.letter > 0 {
            self.position.counted
        } else {
            self.position.listed
        };
        let of = self.bound.total(of);
        self.rate.tick(self.context);
        let rate = &self.rate;
        let end = |tally: Tally| PageEnd {
            checkpoint: checkpoint.clone(),
            progress: rate.progress(tally.seen, of),
            line: LogLine::new("page_stored", "A page of the list is stored.")
                .with("people", i64::try_from(members.len()).unwrap_or(i64::MAX))
                .with("seen", tally.seen)
                .with("counted", counted.unwrap_or(0)),
        };
        let tally = self.context.store.save_members(chat_id, members, &end).await?;
        self.barren = if tally.seen > self.tally.seen {
            0
        } else {
            self.barren + 1
        };
        self.tally = tally;
        Ok(())
    }

    /// A closed list may count only the part that the session sees; the chat's own number is the whole.
    fn counted_with(&self, page_count: i64) -> i64 {
        match self.position.counted {
            Some(whole) if self.is_closed_list() => whole.max(page_count),
            _ => page_count,
        }
    }

    fn refused_because(&self) -> Incomplete {
        if self.details.chat.chat_type == ChatType::Channel {
            Incomplete::BroadcastChannel
        } else if self.details.participants_hidden {
            Incomplete::ParticipantsHidden
        } else {
            Incomplete::NotPermitted
        }
    }

    /// Why the list that was read to its end is short; `None` when it is not.
    fn ended_because(&self) -> Option<Incomplete> {
        let counted = self.position.counted.unwrap_or(0);
        let is_whole = self.wanted.filter == MemberFilter::Recent;
        if self.tally.seen >= counted && (is_whole || self.position.counted.is_some()) {
            None
        } else if self.bound.is_reached(self.tally.seen) {
            Some(self.bound.reason())
        } else if !is_whole {
            Some(Incomplete::FilteredList)
        } else if self.is_closed_list() {
            Some(self.refused_because())
        } else if counted > CAP && (self.position.letter > 0 || i64::from(self.position.offset) >= NEAR_CAP) {
            Some(Incomplete::Cap10000)
        } else {
            Some(self.tally.short_of(self.position.counted))
        }
    }

    async fn end(&self, reason: Option<Incomplete>) -> Result<ScanResult, Outcome> {
        let count = Count {
            chat_id: self.position.chat_id,
            what: ScanWhat::Members,
            list: Some(self.wanted.filter.as_str()),
            counted: self.position.counted,
            tally: self.tally,
            reason,
        };
        let listed = self.position.listed.filter(|_| self.position.letter == 0);
        finish(self.context, &self.details.chat, count, listed).await
    }
}

fn is_refusal_to_list(error: &TelegramError) -> bool {
    error.decision == Decision::Target && matches!(error.code.as_str(), "CHAT_ADMIN_REQUIRED" | "RIGHT_FORBIDDEN")
}
