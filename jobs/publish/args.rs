//! What a `publish` is told: what to do, where, with which message; and what of that can be refused at the door.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
};

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use uuid::Uuid;

use super::{
    personal::{self, TargetArgs},
    post::{Attachment, Button, MOST_ATTACHMENTS},
    statistics::{MOST_JOBS, StatisticsPlan},
};
use crate::{
    ArgsError,
    markup::{self, Rich},
    ports::TextFormat,
    target::{self, ChatRef},
};

/// What Telegram takes as one message, in UTF-16 code units, once markup is read.
pub const MAX_LENGTH: usize = 4096;
/// What it takes beneath a picture or a file.
pub const MAX_CAPTION: usize = 1024;
/// What is taken with markup in it, in bytes.
pub const MAX_RAW_BYTES: usize = 32_768;
/// Most chats of one job.
pub const MAX_CHATS: usize = 1000;
/// Most messages that are deleted or forwarded at once.
pub const MAX_MESSAGES: usize = 100;
/// Most buttons under a message, and in a row of them.
pub const MAX_BUTTONS: usize = 100;
pub const MAX_BUTTONS_IN_ROW: usize = 8;

/// What a `publish` does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PublishAction {
    /// A new message.
    #[default]
    Send,
    /// Another text for a message that is there.
    Edit,
    /// Messages are taken out, for everybody.
    Delete,
    Pin,
    Unpin,
    /// Messages of another chat, once to each chat.
    Forward,
    /// Nothing is sent: what jobs have published is looked at, and how often it was seen is kept.
    Statistics,
}

/// Sends a message to a group or channel, or to up to 1,000 of them, exactly once to each; or edits, deletes, pins or
/// forwards one.
///
/// After a lost connection or a crash the session's own messages are searched before anything is sent again. When the
/// chat's history cannot be read then, the job (of many chats: that chat) ends with `outcome_unknown` and a person decides.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = PublishArgs::plain("@reading_club", "The next meeting is on Friday."))]
#[schemars(example = PublishArgs {
    format: TextFormat::Markdown,
    silent: true,
    ..PublishArgs::plain("-1001234567890", "The **next** meeting is on [Friday](https://example.com).")
})]
#[schemars(example = PublishArgs {
    chats: vec!["@reading_club".into(), "@chess_club".into()],
    format: TextFormat::Html,
    ..PublishArgs::plain("", "The <b>library</b> is closed on Friday.")
})]
#[schemars(example = PublishArgs {
    targets: vec![TargetArgs::new("@reading_club", [("day", "Friday")]), TargetArgs::new("@chess_club", [("day", "Sunday")])],
    ..PublishArgs::plain("", "See you on {{day}}.")
})]
#[schemars(example = PublishArgs {
    action: PublishAction::Forward,
    chats: vec!["@reading_club".into()],
    from_chat: Some("@library_news".into()),
    message_ids: vec![41, 42],
    ..PublishArgs::plain("", "")
})]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own in the API")]
pub struct PublishArgs {
    /// What is done.
    #[serde(default, skip_serializing_if = "is_default")]
    pub action: PublishAction,
    /// The chat: `@name`, `t.me/name`, an invite link that the session has joined by, or an id such as `-1001234567890`
    /// of a chat that the session knows. Left out when `chats` or `targets` is given.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub chat: String,
    /// Instead of `chat`: up to 1,000 chats, each named as above. Each has an outcome of its own, in the result and at
    /// `GET /v1/jobs/{id}/targets`. With `send` and `forward` only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 256)))]
    pub chats: Vec<String>,
    /// Instead of `chats`, when the chats get different texts: up to 1,000 chats with values of their own. `text` is a template
    /// then, with variables such as `{{day}}`, filled in for each chat from its own `variables` and, for what these leave
    /// out, from `args.variables`. Every one of them is checked when the job is taken. With `send` only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub targets: Vec<TargetArgs>,
    /// The message, or what stands beneath `media`. It may have 4,096 UTF-16 code units once its markup is read, and 1,024
    /// beneath media; 32,768 bytes with the markup.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 32768))]
    pub text: String,
    /// Instead of `text`: a template's name, see `/v1/templates`. It is filled in when the job is taken, and stored as
    /// `text` and `format`; with `targets`, for each of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub template: Option<String>,
    /// What the template's variables stand for: each of them, and no other. Values are text, and never markup. With `targets`
    /// it is for what they have no value of their own for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// How `text` is written. What opens and does not close is refused, with its place.
    #[serde(default)]
    pub format: TextFormat,
    /// Members get no sound.
    #[serde(default)]
    pub silent: bool,
    /// Telegram shows a preview of the first link.
    #[serde(default = "shown")]
    pub link_preview: bool,
    /// The message that this one answers, by its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub reply_to: Option<i32>,
    /// The topic of a forum, by the id of its first message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub topic: Option<i32>,
    /// Telegram keeps the message and shows it at this time (RFC 3339), at most 365 days ahead. For a time at which
    /// Wireroom begins, use the job's `run_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_at: Option<DateTime<Utc>>,
    /// Members cannot forward or save it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protect: bool,
    /// Rows of buttons under the message. Only a bot's messages have them: with another session the job fails with
    /// `buttons_need_bot`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub buttons: Vec<Vec<Button>>,
    /// Pictures, videos or files; 2 to 10 of them become an album.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub media: Vec<Attachment>,
    /// The message to edit, pin or unpin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub message_id: Option<i32>,
    /// The messages to delete or to forward, at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub message_ids: Vec<i32>,
    /// Where the messages to forward are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub from_chat: Option<String>,
    /// Forwarded messages do not say whose they were.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hide_sender: bool,
    /// Looks at the messages again and again, and keeps how often they were seen, forwarded, answered and reacted to: see
    /// `GET /v1/jobs/{id}/statistics`. Left out: nobody looks. With `send` and `forward`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<StatisticsPlan>,
    /// The jobs whose messages are looked at once, at most 100. With `statistics` only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub of_jobs: Vec<Uuid>,
}

impl PublishArgs {
    /// Plain text with everything else as by default.
    pub fn plain(chat: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            action: PublishAction::Send,
            chat: chat.into(),
            chats: Vec::new(),
            targets: Vec::new(),
            text: text.into(),
            template: None,
            variables: BTreeMap::new(),
            format: TextFormat::Plain,
            silent: false,
            link_preview: shown(),
            reply_to: None,
            topic: None,
            schedule_at: None,
            protect: false,
            buttons: Vec::new(),
            media: Vec::new(),
            message_id: None,
            message_ids: Vec::new(),
            from_chat: None,
            hide_sender: false,
            statistics: None,
            of_jobs: Vec::new(),
        }
    }

    /// The chats of a job that has several, in their order.
    pub fn places(&self) -> Vec<&str> {
        let targets = self.targets.iter().map(|target| target.chat.as_str());
        self.chats.iter().map(String::as_str).chain(targets).collect()
    }

    /// Everything that needs no database and no Telegram.
    pub(super) fn check(&self) -> Result<(), ArgsError> {
        if self.template.is_some() || (self.targets.is_empty() && !self.variables.is_empty()) {
            let message = "is filled in when a job or a schedule is taken; give args.text here";
            return Err(wrong("args.template", message));
        }
        self.check_unused()?;
        if self.action == PublishAction::Statistics {
            return self.check_of_jobs();
        }
        self.check_chats()?;
        if let Some(plan) = &self.statistics {
            plan.check()?;
            if self.schedule_at.is_some() {
                let message = "cannot follow a message that Telegram keeps for later: it gets another id when it is shown. Use \
                               the job's run_at in the place of args.schedule_at";
                return Err(wrong("args.statistics", message));
            }
        }
        match self.action {
            PublishAction::Send => {
                self.check_media()?;
                self.check_buttons()?;
                self.check_texts()
            }
            PublishAction::Edit => {
                self.check_message_id()?;
                self.check_buttons()?;
                self.check_text(false)
            }
            PublishAction::Pin | PublishAction::Unpin => self.check_message_id(),
            PublishAction::Delete => self.check_message_ids(),
            PublishAction::Statistics => Ok(()),
            PublishAction::Forward => {
                self.check_message_ids()?;
                match &self.from_chat {
                    None => Err(wrong("args.from_chat", "is missing; name the chat the messages are in")),
                    Some(chat) => named("args.from_chat".into(), chat).map(|_| ()),
                }
            }
        }
    }

    fn check_chats(&self) -> Result<(), ArgsError> {
        let places = self.places();
        if places.is_empty() {
            return ChatRef::of_args(&self.chat).map(|_| ());
        }
        let list = if self.targets.is_empty() {
            "args.chats"
        } else {
            "args.targets"
        };
        if !self.targets.is_empty() && !self.chats.is_empty() {
            return Err(wrong(list, "stands beside args.chats; give one of the two"));
        }
        if !self.chat.is_empty() {
            return Err(wrong(list, "stands beside args.chat; give one of the two"));
        }
        if !matches!(self.action, PublishAction::Send | PublishAction::Forward) {
            return Err(wrong(
                list,
                "works with the actions send and forward; name one chat in args.chat",
            ));
        }
        if places.len() > MAX_CHATS {
            let message = format!("names {} chats; at most {MAX_CHATS} are taken", places.len());
            return Err(wrong(list, message));
        }
        if self.reply_to.is_some() || self.topic.is_some() {
            let field = if self.topic.is_some() {
                "args.topic"
            } else {
                "args.reply_to"
            };
            return Err(wrong(
                field,
                "names a message of one chat; it goes with args.chat alone",
            ));
        }
        let mut seen = HashSet::new();
        let field = |index: usize| {
            if self.targets.is_empty() {
                format!("args.chats[{index}]")
            } else {
                format!("args.targets[{index}].chat")
            }
        };
        for (index, chat) in places.into_iter().enumerate() {
            let reference = named(field(index), chat)?;
            let key = match reference {
                ChatRef::Username(name) => format!("@{}", name.to_ascii_lowercase()),
                ChatRef::Invite(hash) => format!("+{hash}"),
                ChatRef::Id(id) => id.to_string(),
            };
            if !seen.insert(key) {
                return Err(wrong(field(index), "names a chat that stands before it already"));
            }
        }
        Ok(())
    }

    /// Fields that the action has no use for: whoever gives one means something else.
    fn check_unused(&self) -> Result<(), ArgsError> {
        use PublishAction::{Delete, Edit, Forward, Pin, Send, Statistics, Unpin};
        let given: [(&str, bool, &[PublishAction]); 16] = [
            (
                "args.chat",
                !self.chat.is_empty(),
                &[Send, Edit, Delete, Pin, Unpin, Forward],
            ),
            (
                "args.chats",
                !self.chats.is_empty(),
                &[Send, Edit, Delete, Pin, Unpin, Forward],
            ),
            ("args.targets", !self.targets.is_empty(), &[Send]),
            ("args.statistics", self.statistics.is_some(), &[Send, Forward]),
            ("args.of_jobs", !self.of_jobs.is_empty(), &[Statistics]),
            ("args.text", !self.text.is_empty(), &[Send, Edit]),
            ("args.reply_to", self.reply_to.is_some(), &[Send]),
            ("args.topic", self.topic.is_some(), &[Send, Forward]),
            ("args.schedule_at", self.schedule_at.is_some(), &[Send]),
            ("args.protect", self.protect, &[Send, Forward]),
            ("args.buttons", !self.buttons.is_empty(), &[Send, Edit]),
            ("args.media", !self.media.is_empty(), &[Send]),
            ("args.message_id", self.message_id.is_some(), &[Edit, Pin, Unpin]),
            ("args.message_ids", !self.message_ids.is_empty(), &[Delete, Forward]),
            ("args.from_chat", self.from_chat.is_some(), &[Forward]),
            ("args.hide_sender", self.hide_sender, &[Forward]),
        ];
        for (field, is_given, actions) in given {
            if is_given && !actions.contains(&self.action) {
                return Err(wrong(field, "has no meaning for this args.action; leave it out"));
            }
        }
        for (field, value) in [("args.reply_to", self.reply_to), ("args.topic", self.topic)] {
            if value.is_some_and(|id| id < 1) {
                return Err(wrong(field, "must be a message's id, from 1 on"));
            }
        }
        Ok(())
    }

    fn check_message_id(&self) -> Result<(), ArgsError> {
        match self.message_id {
            Some(id) if id > 0 => Ok(()),
            Some(_) => Err(wrong("args.message_id", "must be a message's id, from 1 on")),
            None => Err(wrong("args.message_id", "is missing; name the message")),
        }
    }

    fn check_message_ids(&self) -> Result<(), ArgsError> {
        let ids = &self.message_ids;
        if ids.is_empty() || ids.len() > MAX_MESSAGES {
            let message = format!("must name 1 to {MAX_MESSAGES} messages");
            return Err(wrong("args.message_ids", message));
        }
        let mut seen = HashSet::new();
        for (index, id) in ids.iter().enumerate() {
            if *id < 1 || !seen.insert(id) {
                let field = format!("args.message_ids[{index}]");
                return Err(wrong(field, "must be a message's id, from 1 on, and stand there once"));
            }
        }
        Ok(())
    }

    fn check_of_jobs(&self) -> Result<(), ArgsError> {
        if self.of_jobs.is_empty() || self.of_jobs.len() > MOST_JOBS {
            let message = format!("must name 1 to {MOST_JOBS} jobs whose messages are looked at");
            return Err(wrong("args.of_jobs", message));
        }
        Ok(())
    }

    /// The text, or what it becomes for each target.
    fn check_texts(&self) -> Result<(), ArgsError> {
        let is_caption = !self.media.is_empty();
        if self.targets.is_empty() {
            return self.check_text(is_caption);
        }
        if self.text.len() > MAX_RAW_BYTES {
            let message = format!("has {} bytes; at most {MAX_RAW_BYTES} are taken", self.text.len());
            return Err(wrong("args.text", message));
        }
        for index in 0..self.targets.len() {
            let filled = Self {
                text: personal::text_of(self, index)?,
                format: self.format,
                ..Self::plain("", "")
            };
            filled.check_text(is_caption).map_err(|error| {
                wrong(
                    format!("args.targets[{index}]"),
                    format!("filled in, its text {}", error.message),
                )
            })?;
        }
        Ok(())
    }

    fn check_text(&self, is_caption: bool) -> Result<(), ArgsError> {
        let wrong = |message: String| wrong("args.text", message);
        if self.text.trim().is_empty() {
            return if is_caption {
                Ok(())
            } else {
                Err(wrong("is empty; give the message's text".into()))
            };
        }
        if self.text.contains('\0') {
            return Err(wrong("holds a NUL character (U+0000); leave it out".into()));
        }
        if self.text.len() > MAX_RAW_BYTES {
            return Err(wrong(format!(
                "has {} bytes; at most {MAX_RAW_BYTES} are taken",
                self.text.len()
            )));
        }
        let rich = self.rich()?;
        let most = if is_caption { MAX_CAPTION } else { MAX_LENGTH };
        match rich.visible_length() {
            0 => Err(wrong("shows nothing once its markup is read".into())),
            units if units > most => Err(wrong(format!(
                "has {units} UTF-16 code units; Telegram takes {most} {}",
                if is_caption { "beneath media" } else { "in one message" }
            ))),
            _ => Ok(()),
        }
    }

    fn rich(&self) -> Result<Rich, ArgsError> {
        markup::read(&self.text, self.format).map_err(|error| wrong("args.text", error.to_string()))
    }

    fn check_media(&self) -> Result<(), ArgsError> {
        if self.media.len() > MOST_ATTACHMENTS {
            let message = format!(
                "has {} items; an album has at most {MOST_ATTACHMENTS}",
                self.media.len()
            );
            return Err(wrong("args.media", message));
        }
        for (index, item) in self.media.iter().enumerate() {
            item.check()
                .map_err(|message| wrong(format!("args.media[{index}]"), message))?;
        }
        if self.media.len() > 1 && !Attachment::go_together(&self.media) {
            return Err(wrong(
                "args.media",
                "cannot be one album: pictures and videos go together, files with files only, and a voice message alone",
            ));
        }
        if self.media.len() > 1 && !self.buttons.is_empty() {
            return Err(wrong("args.buttons", "cannot stand under an album"));
        }
        Ok(())
    }

    fn check_buttons(&self) -> Result<(), ArgsError> {
        let count: usize = self.buttons.iter().map(Vec::len).sum();
        if count > MAX_BUTTONS {
            return Err(wrong(
                "args.buttons",
                format!("has {count} buttons; Telegram takes {MAX_BUTTONS}"),
            ));
        }
        for (row, buttons) in self.buttons.iter().enumerate() {
            if buttons.is_empty() || buttons.len() > MAX_BUTTONS_IN_ROW {
                let message = format!("must have 1 to {MAX_BUTTONS_IN_ROW} buttons");
                return Err(wrong(format!("args.buttons[{row}]"), message));
            }
            for (place, button) in buttons.iter().enumerate() {
                button
                    .check()
                    .map_err(|message| wrong(format!("args.buttons[{row}][{place}]"), message))?;
            }
        }
        Ok(())
    }
}

fn named(field: String, chat: &str) -> Result<ChatRef, ArgsError> {
    ChatRef::parse(chat).map_err(|error| wrong(field, error.to_string()))
}

pub(super) fn wrong(field: impl Into<String>, message: impl Into<String>) -> ArgsError {
    ArgsError {
        field: field.into(),
        message: message.into(),
    }
}

const fn shown() -> bool {
    true
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Leaves the text out, and shows an invite link without its code.
impl fmt::Debug for PublishArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishArgs")
            .field("action", &self.action)
            .field("chat", &target::shape(&self.chat))
            .field("chats", &self.chats.len())
            .field("targets", &self.targets.len())
            .field("text_bytes", &self.text.len())
            .field("format", &self.format)
            .field("silent", &self.silent)
            .field("link_preview", &self.link_preview)
            .field("media", &self.media.len())
            .finish_non_exhaustive()
    }
}
