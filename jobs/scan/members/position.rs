//! Where the reading of a list is. A list is asked for by places, newest first, and people come and go while it is read.
//!
//! Whoever leaves moves all who stand behind them forward: past the place where the next page begins, when those who left
//! had been read already. So whenever a page counts fewer than the one before, the reading steps back by as many places; and
//! from then on pages begin a bit before the place where it is, so that few of them have to be asked for twice. Whoever comes
//! stands before all who were read, and moves nobody out of sight.

use serde::{Deserialize, Serialize};

use crate::ports::MemberPage;

/// The most that a page begins before the place where the reading is.
const MOST_MARGIN: i32 = 100;
/// How many places a scan steps back in all before it gives up on a list that never stands still.
const MOST_STEPPED_BACK: i32 = 10_000;

/// The checkpoint: how far the list was read. What was seen is counted by the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// The chat of the first attempt. Its name may move to another chat; the scan does not.
    pub chat_id: i64,
    /// Whoever stands before this place was seen, or came after the reading began.
    pub offset: i32,
    /// How many are in the chat.
    pub counted: Option<i64>,
    /// Nobody stands behind.
    pub ended: bool,
    /// How many are in the list that is read.
    #[serde(default)]
    pub listed: Option<i64>,
    /// How many letters the list was searched by, the one that is being read included; 0: it is the list itself.
    #[serde(default)]
    pub letter: usize,
    /// How far before `offset` a page begins.
    #[serde(default)]
    pub margin: i32,
    /// How many places the reading went back, over all.
    #[serde(default)]
    pub stepped_back: i32,
    /// People have left while the list was read, as far as its counts tell.
    #[serde(default)]
    pub shrank: bool,
    /// Telegram did not describe everybody it listed.
    #[serde(default)]
    pub undescribed: bool,
    /// How many answers the list itself took: while one was made nobody came or went.
    #[serde(default)]
    pub answers: u32,
    /// How often the head of the list was read again.
    #[serde(default)]
    pub looks_at_head: u32,
}

impl Position {
    pub fn new(chat_id: i64, counted: Option<i64>) -> Self {
        Self {
            chat_id,
            offset: 0,
            counted,
            ended: false,
            listed: None,
            letter: 0,
            margin: 0,
            stepped_back: 0,
            shrank: false,
            undescribed: false,
            answers: 0,
            looks_at_head: 0,
        }
    }

    /// The head of the next letter's list.
    pub fn next_letter(self) -> Self {
        Self {
            letter: self.letter + 1,
            offset: 0,
            ended: false,
            listed: None,
            ..self
        }
    }

    /// The place after a page that begins at `start`, at or before `offset`.
    pub fn after(self, start: i32, page: &MemberPage) -> Self {
        let gone = gone(self.listed, page.count);
        // Before this place nobody was moved out of sight.
        let sure = self.offset.saturating_sub(gone).max(0);
        let end = start.saturating_add(page.returned.max(0));
        let is_hole = start > sure && !self.has_given_up();
        let reached = if is_hole { sure } else { sure.max(end) };
        Self {
            offset: reached,
            ended: !is_hole && end <= sure,
            listed: Some(page.count),
            margin: self.margin.max(gone.saturating_mul(2).min(MOST_MARGIN)),
            stepped_back: self.stepped_back.saturating_add(if is_hole { gone } else { 0 }),
            shrank: self.shrank || gone > 0,
            answers: self.answers + u32::from(self.letter == 0),
            ..self.with_described(page)
        }
    }

    /// After a page of the list's head, which is read again when the list was read to its end.
    pub fn after_head(self, page: &MemberPage) -> Self {
        let before = if self.letter == 0 { self.listed } else { self.counted };
        Self {
            counted: Some(page.count),
            shrank: self.shrank || gone(before, page.count) > 0,
            // Whoever came has moved the end of what was read.
            offset: if self.letter == 0 {
                self.offset.max(i32::try_from(page.count).unwrap_or(i32::MAX))
            } else {
                self.offset
            },
            listed: if self.letter == 0 {
                Some(page.count)
            } else {
                self.listed
            },
            ..self.with_described(page)
        }
    }

    /// The list never stood still: what was moved out of sight is not looked for any more.
    pub fn has_given_up(&self) -> bool {
        self.stepped_back > MOST_STEPPED_BACK
    }

    fn with_described(self, page: &MemberPage) -> Self {
        let described = i32::try_from(page.members.len()).unwrap_or(i32::MAX);
        Self {
            undescribed: self.undescribed || described < page.returned,
            ..self
        }
    }
}

/// How many fewer there are than before.
fn gone(before: Option<i64>, now: i64) -> i32 {
    let gone = before.map_or(0, |before| before.saturating_sub(now));
    i32::try_from(gone.max(0)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::page;

    fn at(offset: i32, listed: i64) -> Position {
        Position {
            offset,
            listed: Some(listed),
            ..Position::new(-1, Some(listed))
        }
    }

    #[test]
    fn a_list_that_stands_still_is_read_page_by_page() {
        let after = Position::new(-1, Some(450)).after(0, &page(0..200, 450));
        assert_eq!(
            (after.offset, after.margin, after.ended, after.answers),
            (200, 0, false, 1)
        );
        assert!(after.after(200, &page(0..0, 450)).ended);
    }

    #[test]
    fn the_reading_steps_back_by_as_many_as_left() {
        let after = at(400, 1000).after(400, &page(400..600, 990));
        assert_eq!((after.offset, after.margin, after.shrank), (390, 20, true));
        // From there on a page begins early enough for as many.
        let next = after.after(370, &page(370..570, 980));
        assert_eq!((next.offset, next.stepped_back), (570, 10));
    }

    #[test]
    fn a_page_behind_the_end_of_a_list_that_shrank_is_not_the_end() {
        let after = at(400, 450).after(400, &page(0..0, 390));
        assert_eq!((after.offset, after.ended), (340, false));
    }

    #[test]
    fn a_page_that_brings_nothing_beyond_its_margin_is_the_end() {
        let position = Position {
            margin: 20,
            ..at(400, 12_000)
        };
        assert!(position.after(380, &page(380..400, 12_000)).ended);
        assert!(!position.after(380, &page(380..401, 12_000)).ended);
    }

    #[test]
    fn a_list_that_never_stands_still_ends_all_the_same() {
        let mut position = at(400, 100_000);
        let mut counts = (0..).map(|turn| if turn % 2 == 0 { 99_000 } else { 100_000 });
        for _ in 0..1_000 {
            let start = position.offset - position.margin;
            let count = counts.next().expect("for ever");
            position = position.after(start, &page(i64::from(start)..i64::from(start) + 200, count));
        }
        assert!(position.has_given_up());
        assert!(position.offset > 50_000, "{position:?}");
    }
}
