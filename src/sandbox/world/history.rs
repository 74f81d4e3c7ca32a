//! The window that `getHistory` and `search` cut out of a chat, by Telegram's rules.
//!
//! Messages are taken newest first. The offset names a place between two messages; `add_offset` moves it (negative:
//! towards newer ones), and only then do `limit`, `min_id` and `max_id` apply.

use super::messages::Message;

/// Telegram gives at most this many messages at once.
pub const LONGEST_PAGE: i32 = 100;

/// The paging part of a request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Window {
    pub offset_id: i32,
    pub offset_date: i32,
    pub add_offset: i32,
    pub limit: i32,
    /// Only messages below it, when positive.
    pub max_id: i32,
    /// Only messages above it, when positive.
    pub min_id: i32,
}

/// A page, and how many messages there are in all.
pub struct Page<'a> {
    pub messages: Vec<&'a Message>,
    pub count: i32,
}

impl Window {
    /// Cuts the window out of `messages`, which come newest first.
    pub fn cut<'a>(&self, messages: impl Iterator<Item = &'a Message>) -> Page<'a> {
        let all: Vec<&Message> = messages.collect();
        let place = all
            .iter()
            .position(|message| self.is_past_offset(message))
            .unwrap_or(all.len());
        let place = i64::try_from(place).unwrap_or(i64::MAX);
        let start = place.saturating_add(i64::from(self.add_offset));
        let end = start.saturating_add(i64::from(self.limit.clamp(0, LONGEST_PAGE)));
        let index = |at: i64| usize::try_from(at.max(0)).unwrap_or(usize::MAX).min(all.len());
        let messages = all[index(start)..index(end)]
            .iter()
            .filter(|message| self.max_id <= 0 || message.id < self.max_id)
            .filter(|message| self.min_id <= 0 || message.id > self.min_id)
            .copied()
            .collect();
        Page {
            messages,
            count: i32::try_from(all.len()).unwrap_or(i32::MAX),
        }
    }

    fn is_past_offset(&self, message: &Message) -> bool {
        if self.offset_id > 0 {
            message.id < self.offset_id
        } else {
            self.offset_date <= 0 || message.date < self.offset_date
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::Content;
    use super::super::peers::PeerKey;
    use super::*;

    /// Ids 1 to `count`, each a minute after the one before.
    fn chat(count: i32) -> Vec<Message> {
        (1..=count)
            .rev()
            .map(|id| Message {
                id,
                origin: 0,
                chat: PeerKey::Channel(1),
                sender: PeerKey::User(1),
                date: id * 60,
                edit_date: None,
                reply_to: None,
                silent: false,
                random_id: None,
                extras: None,
                content: Content::Text {
                    text: String::new(),
                    entities: Vec::new(),
                },
            })
            .collect()
    }

    fn ids(window: Window) -> Vec<i32> {
        window
            .cut(chat(10).iter())
            .messages
            .iter()
            .map(|message| message.id)
            .collect()
    }

    #[test]
    fn without_an_offset_the_newest_come_first() {
        let window = Window {
            limit: 3,
            ..Window::default()
        };
        assert_eq!(ids(window), [10, 9, 8]);
        assert_eq!(window.cut(chat(10).iter()).count, 10);
    }

    #[test]
    fn the_offset_itself_is_left_out() {
        assert_eq!(
            ids(Window {
                offset_id: 8,
                limit: 2,
                ..Window::default()
            }),
            [7, 6]
        );
        assert_eq!(
            ids(Window {
                offset_date: 8 * 60,
                limit: 2,
                ..Window::default()
            }),
            [7, 6]
        );
    }

    #[test]
    fn add_offset_moves_the_place() {
        assert_eq!(
            ids(Window {
                offset_id: 8,
                add_offset: 1,
                limit: 2,
                ..Window::default()
            }),
            [6, 5]
        );
        assert_eq!(
            ids(Window {
                offset_id: 5,
                add_offset: -3,
                limit: 3,
                ..Window::default()
            }),
            [7, 6, 5]
        );
        // Reading upwards from the very beginning, as clients do.
        assert_eq!(
            ids(Window {
                offset_id: 1,
                add_offset: -3,
                limit: 3,
                ..Window::default()
            }),
            [3, 2, 1]
        );
    }

    #[test]
    fn a_place_before_the_newest_shortens_the_page() {
        assert_eq!(
            ids(Window {
                offset_id: 10,
                add_offset: -3,
                limit: 3,
                ..Window::default()
            }),
            [10]
        );
    }

    #[test]
    fn min_and_max_cut_the_page_afterwards() {
        assert_eq!(
            ids(Window {
                limit: 5,
                min_id: 7,
                ..Window::default()
            }),
            [10, 9, 8]
        );
        assert_eq!(
            ids(Window {
                limit: 3,
                max_id: 10,
                ..Window::default()
            }),
            [9, 8]
        );
    }

    #[test]
    fn a_page_has_at_most_a_hundred() {
        let window = Window {
            limit: 1000,
            ..Window::default()
        };
        assert_eq!(window.cut(chat(250).iter()).messages.len(), 100);
        assert!(
            Window {
                limit: -1,
                ..Window::default()
            }
            .cut(chat(5).iter())
            .messages
            .is_empty()
        );
    }
}
