//! Who is in a group or channel: one of Telegram's lists, and when it ends at Telegram's cap, if wanted the same group
//! searched by each letter. What changes while it is read is made up for, as far as Telegram's counts tell of it.

mod position;

use self::position::Position;
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
/// How often the head of a list is read again while more people come than are found.
const MOST_LOOKS_AT_HEAD: u32 = 3;
/// Pages in a row that show nobody new before the list counts as read. One can happen when many joined in a long pause.
pub(super) const BARREN_PAGES: u32 = 3;
/// What names are searched by: enough for most, and few enough lists that a large group is read within a day.
pub(super) const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz0123456789абвгдежзийклмнопрстуфхцчшщъыьэюя";

pub(super) async fn read(args: &ScanArgs, context: &JobContext) -> Result<ScanResult, Outcome> {
    let kept: Option<Position> = context.read_checkpoint().await?;
    let chat = find(context, args, kept.map(|position| position.chat_id)).await?;
    let details = context.telegram.chat_details(&chat).await?;
    context.store.save_chat(&details.chat).await?;
    begin(context, args, Some(details.chat.id)).await?;
    let position = kept.unwrap_or(Position::new(
        details.chat.id,
        details.chat.member_count.or(chat.member_count),
    ));
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
    /// Pages in a row without a new person; less than 0 where some are expected.
    barren: i64,
    /// The next page, when it was asked for already.
    ahead: Option<Asked>,
    rate: Rate,
}

/// What came of asking for a page.
struct Asked {
    /// The place that it begins at.
    start: i32,
    answer: Result<MemberPage, TelegramError>,
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
            if self.goes_on_by_letters() {
                self.position = self.position.next_letter();
                self.barren = 0;
            } else if self.wants_a_look_at_the_head() {
                if let Some(refused) = self.look_at_the_head().await? {
                    return self.end(Some(refused)).await;
                }
            } else {
                break;
            }
        }
        let reason = self.ended_because();
        self.end(reason).await
    }

    /// Reads and stores a page. `Some`: Telegram does not show the rest.
    async fn page(&mut self) -> Result<Option<Incomplete>, Outcome> {
        let asked = match self.ahead.take() {
            Some(asked) => asked,
            None => self.ask().await,
        };
        match asked.answer {
            Ok(page) => self.keep(asked.start, page).await.map(|()| None),
            Err(error) => self.not_given(error).await.map(Some),
        }
    }

    async fn not_given(&self, error: TelegramError) -> Result<Incomplete, Outcome> {
        if !is_refusal_to_list(&error) {
            return Err(error.into());
        }
        let refused = LogLine::new("list_refused", "Telegram does not show the rest of the list.");
        let refused = refused.with("seen", self.tally.seen);
        self.context.log(LogLevel::Warn, refused).await;
        Ok(self.refused_because())
    }

    /// The next page, from the place that is known: it may be on its way while the page before is stored.
    fn ask(&self) -> impl Future<Output = Asked> + Send + use<'a> {
        let (context, chat, list) = (self.context, &self.details.chat, self.list());
        let asked = self.bound.room(self.tally.seen, PAGE);
        // What a page shows again would have no room in a smaller one.
        let margin = if asked < PAGE { 0 } else { self.position.margin };
        let start = self.position.offset.saturating_sub(margin).max(0);
        async move {
            let answer = context.telegram.members(chat, &list, start, asked).await;
            Asked { start, answer }
        }
    }

    /// Once after a list that was read in several answers, for those who came meanwhile; again while they are not all found.
    fn wants_a_look_at_the_head(&self) -> bool {
        let Position {
            counted,
            letter,
            looks_at_head,
            ..
        } = self.position;
        let is_short = self.tally.seen < counted.unwrap_or(0);
        let is_read = if letter == 0 {
            self.has_read_to_the_end()
        } else {
            !is_short
        };
        let is_plain = self.wanted.filter == MemberFilter::Recent && !self.is_closed_list();
        // Nothing would be any more certain by it.
        let is_hopeless = self.position.undescribed || self.position.has_given_up() || self.tally.left_out > 0;
        is_plain
            && is_read
            && !is_hopeless
            && self.position.answers > 1
            && !self.bound.is_reached(self.tally.seen)
            && (looks_at_head == 0 || is_short && looks_at_head < MOST_LOOKS_AT_HEAD)
    }

    /// Reads the head of the list again, as far as it shows somebody new.
    async fn look_at_the_head(&mut self) -> Result<Option<Incomplete>, Outcome> {
        self.position.looks_at_head += 1;
        let mut start = 0;
        loop {
            self.rate.stop_if_due(self.context)?;
            let (context, chat) = (self.context, &self.details.chat);
            let asked = self.bound.room(self.tally.seen, PAGE);
            let page = match context.telegram.members(chat, &MemberList::Recent, start, asked).await {
                Ok(page) => page,
                Err(error) => return self.not_given(error).await.map(Some),
            };
            self.position = self.position.after_head(&page);
            let before = self.tally.seen;
            self.store(&page.members, checkpoint_value(&self.position)?).await?;
            start = start.saturating_add(page.returned.max(0));
            let is_end = page.returned <= 0 || i64::from(start) >= page.count;
            if self.tally.seen == before || is_end || self.bound.is_reached(self.tally.seen) {
                return Ok(None);
            }
        }
    }

    fn has_read_to_the_end(&self) -> bool {
        i64::from(self.position.offset) >= self.position.counted.unwrap_or(0)
    }

    /// Whether the next page will be wanted whatever becomes of the one that is about to be stored.
    fn is_next_certain(&self, people: usize) -> bool {
        let seen = self.tally.seen + i64::try_from(people).unwrap_or(i64::MAX / 2) + i64::from(PAGE);
        !self.is_at_end() && self.barren <= 0 && seen <= self.bound.rows && !self.context.cancellation.is_cancelled()
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
        let is_barren = self.position.letter == 0 && self.barren >= i64::from(BARREN_PAGES);
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
    async fn keep(&mut self, start: i32, page: MemberPage) -> Result<(), Outcome> {
        let counted = if self.is_whole_list() {
            Some(self.counted_with(page.count))
        } else {
            self.position.counted
        };
        let stepped_back = self.position.stepped_back;
        self.position = Position {
            counted,
            ..self.position.after(start, &page)
        };
        // What was seen is seen once more.
        let again = self.position.stepped_back - stepped_back;
        if again > 0 {
            self.barren = -1 - i64::from(again / PAGE);
            let line = LogLine::new(
                "stepped_back",
                "People have left meanwhile: a part of the list is read again.",
            );
            let line = line.with("places", i64::from(again));
            self.context.log(LogLevel::Info, line).await;
        }
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
            self.barren.min(0)
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
        let is_plain = is_whole && self.position.letter == 0;
        // Those who left count as seen, and may stand for as many who were not.
        let is_certain = if is_plain {
            self.has_read_to_the_end() && !self.position.undescribed && !self.position.has_given_up()
        } else {
            !self.position.shrank
        };
        if self.tally.seen >= counted && is_certain && (is_whole || self.position.counted.is_some()) {
            None
        } else if self.bound.is_reached(self.tally.seen) {
            Some(self.bound.reason())
        } else if !is_whole {
            Some(Incomplete::FilteredList)
        } else if self.is_closed_list() {
            Some(self.refused_because())
        } else if counted > CAP && (self.position.letter > 0 || i64::from(self.position.offset) >= NEAR_CAP) {
            Some(Incomplete::Cap10000)
        } else if self.position.shrank {
            Some(Incomplete::ListChanged)
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
