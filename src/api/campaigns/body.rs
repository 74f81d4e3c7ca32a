//! The body of `POST /v1/campaigns`, and what it must say.

use chrono::NaiveTime;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use wireroom_jobs::{
    markup,
    outreach::InviteMode,
    ports::TextFormat,
    publish::{MAX_LENGTH, MAX_RAW_BYTES},
    target::ChatRef,
};

use crate::{
    api::{
        auth::Caller,
        jobs::{invalid, within},
        problem::Problem,
    },
    ids::SessionId,
    store::campaigns::NewCampaign,
};

/// What stands in the text where the link goes.
const LINK: &str = "{link}";
const PER_DAY: i64 = 20;
const STOP_RATIO: f64 = 0.3;
const STOP_AFTER: i64 = 10;

/// A campaign to be made. It does not run until it is resumed.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewCampaign")]
pub struct NewCampaignBody {
    /// For people, 1 to 100 characters; no two campaigns have the same.
    #[schemars(length(min = 1, max = 100), example = &"Spring readers")]
    pub name: String,
    /// The chat people are invited into: `@name`, `t.me/name`, an invite link, or an id such as `-1001234567890`. The
    /// session that runs the campaign must see it.
    #[schemars(length(min = 1, max = 256), example = &"@reading_club")]
    pub chat: String,
    /// `message` (the default): a message with a link, which the person follows or not. `add`: directly into the chat.
    #[serde(default)]
    #[schemars(extend("enum" = ["message", "add", null]))]
    pub mode: Option<String>,
    /// What is sent, in the mode `message`: `{link}` stands where the link goes.
    #[serde(default)]
    #[schemars(length(min = 1, max = 32768), example = &"You asked about our club. Come in: {link}")]
    pub text: Option<String>,
    /// How `text` is written.
    #[serde(default)]
    pub format: TextFormat,
    /// The link in the message; left out: that of `chat`, when it is a name or an invite link.
    #[serde(default)]
    #[schemars(length(min = 1, max = 256))]
    pub link: Option<String>,
    /// Any session of this pool may run the campaign, and one does at a time. Left out: the pool of `session`, or `default`.
    #[serde(default)]
    #[schemars(length(min = 1, max = 63))]
    pub pool: Option<String>,
    /// The id or the label of the one session that runs it.
    #[serde(default)]
    #[schemars(length(min = 1, max = 100))]
    pub session: Option<String>,
    /// How many people it contacts in a day of `time_zone`, over all sessions; 20 when left out. The caps of the session and
    /// the limits of all outreach hold besides.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub per_day: Option<i64>,
    /// Nobody is contacted from then on, by the clock where they are: `22:00`.
    #[serde(default)]
    #[schemars(regex(pattern = r"^\d\d:\d\d$"))]
    pub quiet_from: Option<String>,
    /// Until then: `08:00`.
    #[serde(default)]
    #[schemars(regex(pattern = r"^\d\d:\d\d$"))]
    pub quiet_until: Option<String>,
    /// The zone of its days, and of people whose own is not known; `UTC` when left out.
    #[serde(default)]
    #[schemars(length(min = 1, max = 64), example = &"Europe/Lisbon")]
    pub time_zone: Option<String>,
    /// It stops by itself when more than this part of those who were asked refused; 0.3 when left out.
    #[serde(default)]
    #[schemars(range(min = 0.01, max = 1.0))]
    pub stop_ratio: Option<f64>,
    /// Not before so many were asked; 10 when left out.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub stop_after: Option<i64>,
}

impl NewCampaignBody {
    /// The campaign it asks for, on a session that was found.
    pub fn campaign(self, caller: &Caller, session: Option<SessionId>) -> Result<NewCampaign, Problem> {
        let name = name(&self.name)?;
        let chat = ChatRef::parse(&self.chat).map_err(|error| invalid("chat", error.to_string()))?;
        let mode = match self.mode.as_deref() {
            None => InviteMode::Message,
            Some(mode) => InviteMode::parse(mode).ok_or_else(|| invalid("mode", "takes one of message, add."))?,
        };
        let stop_ratio = stop_ratio(self.stop_ratio.unwrap_or(STOP_RATIO))?;
        Ok(NewCampaign {
            id: Uuid::now_v7(),
            text: self.message(mode, &chat)?,
            quiet: quiet(self.quiet_from.as_deref(), self.quiet_until.as_deref())?,
            per_day: people("per_day", self.per_day.unwrap_or(PER_DAY))?,
            stop_after: people("stop_after", self.stop_after.unwrap_or(STOP_AFTER))?,
            name,
            chat: self.chat,
            mode,
            format: self.format,
            pool: self.pool,
            session,
            time_zone: self.time_zone.unwrap_or_else(|| "UTC".to_owned()),
            stop_ratio,
            created_by: caller.actor(),
        })
    }

    /// The text with its link.
    fn message(&self, mode: InviteMode, chat: &ChatRef) -> Result<Option<String>, Problem> {
        if mode == InviteMode::Add {
            refuse_words(self.text.is_some(), self.link.is_some())?;
            return Ok(None);
        }
        let Some(text) = &self.text else {
            return Err(invalid("text", "is needed in the mode message, with {link} in it."));
        };
        message(text, self.link.as_deref(), chat, self.format).map(Some)
    }
}

/// In the mode `add` nothing is said.
pub fn refuse_words(has_text: bool, has_link: bool) -> Result<(), Problem> {
    let fields = [("text", has_text), ("link", has_link)];
    match fields.into_iter().find(|(_, is_there)| *is_there) {
        Some((field, _)) => Err(invalid(
            field,
            "is of the mode message; leave it out with the mode add.",
        )),
        None => Ok(()),
    }
}

/// A campaign's message: the text with its link.
pub fn message(text: &str, link: Option<&str>, chat: &ChatRef, format: TextFormat) -> Result<String, Problem> {
    if !text.contains(LINK) {
        return Err(invalid("text", "must have {link} where the link to the chat goes."));
    }
    // Whatever the link holds, nothing of it is markup.
    let text = text.replace(LINK, &markup::escape(&link_to(link, chat)?, format));
    if text.len() > MAX_RAW_BYTES {
        let message = format!("is too long with its link: {} bytes of {MAX_RAW_BYTES}.", text.len());
        return Err(invalid("text", message));
    }
    let rich = markup::read(&text, format).map_err(|error| invalid("text", error.to_string()))?;
    let length = rich.visible_length();
    if length > MAX_LENGTH {
        let message = format!("is too long with its link: {length} of {MAX_LENGTH}.");
        return Err(invalid("text", message));
    }
    Ok(text)
}

fn link_to(link: Option<&str>, chat: &ChatRef) -> Result<String, Problem> {
    let wrong = |field, message: &str| Err(invalid(field, message));
    let named = match link {
        Some(link) => ChatRef::parse(link).map_err(|error| invalid("link", error.to_string()))?,
        None => chat.clone(),
    };
    match named {
        ChatRef::Username(name) => Ok(format!("https://t.me/{name}")),
        ChatRef::Invite(hash) => Ok(format!("https://t.me/+{hash}")),
        ChatRef::Id(_) if link.is_some() => wrong("link", "must be @name or a link that leads into the chat."),
        ChatRef::Id(_) => wrong(
            "link",
            "is needed where chat is an id: a link that leads into the chat.",
        ),
    }
}

/// From when until when nobody is contacted, by the clock.
pub fn quiet(from: Option<&str>, until: Option<&str>) -> Result<Option<(NaiveTime, NaiveTime)>, Problem> {
    let time = |field: &str, text: &str| {
        NaiveTime::parse_from_str(text, "%H:%M").map_err(|_| invalid(field, "must be a time such as 22:00."))
    };
    match (from, until) {
        (None, None) => Ok(None),
        (Some(from), Some(until)) => {
            let (from, until) = (time("quiet_from", from)?, time("quiet_until", until)?);
            if from == until {
                return Err(invalid("quiet_until", "must be another time than quiet_from."));
            }
            Ok(Some((from, until)))
        }
        (Some(_), None) => Err(invalid("quiet_until", "is needed with quiet_from.")),
        (None, Some(_)) => Err(invalid("quiet_from", "is needed with quiet_until.")),
    }
}

/// A campaign's name, without spaces around it.
pub fn name(text: &str) -> Result<String, Problem> {
    let name = text.trim().to_owned();
    if (1..=100).contains(&name.chars().count()) {
        return Ok(name);
    }
    Err(invalid("name", "must be 1 to 100 characters."))
}

pub fn stop_ratio(given: f64) -> Result<f64, Problem> {
    if (0.01..=1.0).contains(&given) {
        return Ok(given);
    }
    Err(invalid("stop_ratio", "must be from 0.01 to 1."))
}

/// How many people a day, or before refusals count.
pub fn people(field: &str, given: i64) -> Result<i32, Problem> {
    Ok(within(field, Some(given), 1, 1_000_000)?.unwrap_or(1))
}
