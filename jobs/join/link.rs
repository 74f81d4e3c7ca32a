//! What a target of `join` may be: all that names a chat, and links into a chat, which name the chat they lead into.

use crate::{
    ArgsError,
    target::{ChatRef, ChatRefError, MAX_BYTES},
};

const HOSTS: [&str; 3] = ["t.me", "telegram.me", "telegram.dog"];
/// A supergroup's or channel's id in the Bot API's form is this minus its number in links.
const CHANNEL_ID_BASE: i64 = -1_000_000_000_000;

/// A chat to join or leave, and the topic that the link was about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub chat: ChatRef,
    /// The first number behind the chat: a topic, when the chat has topics and one of that number.
    pub topic: Option<i32>,
}

impl Target {
    /// Reads a target; `field` names it in the error.
    pub fn parse(text: &str, field: &str) -> Result<Self, ArgsError> {
        Self::read(text.trim()).map_err(|message| ArgsError {
            field: field.to_owned(),
            message,
        })
    }

    /// The same for every way to write one chat, topics aside.
    pub fn key(&self) -> String {
        match &self.chat {
            ChatRef::Username(name) => format!("@{}", name.to_ascii_lowercase()),
            ChatRef::Invite(hash) => format!("+{hash}"),
            ChatRef::Id(id) => id.to_string(),
        }
    }

    fn read(text: &str) -> Result<Self, String> {
        if text.len() <= MAX_BYTES {
            if leads_to_folder(text) {
                return Err(
                    "is a link to a folder of chats, which cannot be joined as one; give the links of its chats \
                            in args.chats"
                        .to_owned(),
                );
            }
            if let Some(target) = into_chat(text) {
                return target.map_err(|error| error.to_string());
            }
        }
        let chat = ChatRef::parse(text).map_err(|error| error.to_string())?;
        Ok(Self { chat, topic: None })
    }
}

/// The parts of a link on one of Telegram's hosts, or of a `tg:` link: its path, and what follows `?`.
struct Parts<'a> {
    path: Vec<&'a str>,
    query: &'a str,
}

impl<'a> Parts<'a> {
    fn value(&self, key: &str) -> Option<&'a str> {
        self.query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find_map(|(name, value)| (name == key).then_some(value))
    }
}

fn without_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

/// A `tg:` link in parts.
fn app_link(text: &str) -> Option<Parts<'_>> {
    let rest = without_prefix(text, "tg:")?;
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let rest = rest.split('#').next().unwrap_or_default();
    let (command, query) = rest.split_once('?').unwrap_or((rest, ""));
    Some(Parts {
        path: vec![command.trim_end_matches('/')],
        query,
    })
}

/// A web link in parts; of `name.t.me` the name is the first.
fn web_link(text: &str) -> Option<Parts<'_>> {
    let rest = without_prefix(text, "https://")
        .or_else(|| without_prefix(text, "http://"))
        .unwrap_or(text);
    let rest = rest.split('#').next().unwrap_or_default();
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (host, path) = place.split_once('/').unwrap_or((place, ""));
    let host = without_prefix(host, "www.").unwrap_or(host);
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    let is_host = |host: &str| HOSTS.iter().any(|known| known.eq_ignore_ascii_case(host));
    if is_host(host) {
        return Some(Parts {
            path: segments.collect(),
            query,
        });
    }
    let at = host.len().checked_sub(".t.me".len())?;
    let name = host.get(..at)?;
    host.get(at..)?.eq_ignore_ascii_case(".t.me").then(|| Parts {
        path: std::iter::once(name).chain(segments).collect(),
        query,
    })
}

fn leads_to_folder(text: &str) -> bool {
    let first_is = |parts: &Parts<'_>| {
        parts
            .path
            .first()
            .is_some_and(|word| word.eq_ignore_ascii_case("addlist"))
    };
    app_link(text).as_ref().is_some_and(first_is) || web_link(text).as_ref().is_some_and(first_is)
}

/// A link to a message or a topic, as the chat that it is in; `None` for any other text.
fn into_chat(text: &str) -> Option<Result<Target, ChatRefError>> {
    if let Some(parts) = app_link(text) {
        let topic = ["topic", "thread", "post"]
            .iter()
            .find_map(|key| number(parts.value(key)?));
        return match parts.path.first()?.to_ascii_lowercase().as_str() {
            "privatepost" => Some(private(parts.value("channel").unwrap_or_default(), topic)),
            "resolve" if parts.value("post").is_some() || topic.is_some() => {
                Some(named(parts.value("domain").unwrap_or_default(), topic))
            }
            _ => None,
        };
    }
    let parts = web_link(text)?;
    let topic = ["topic", "thread"].iter().find_map(|key| number(parts.value(key)?));
    match parts.path.as_slice() {
        ["c", id, rest @ ..] if !rest.is_empty() && rest.iter().all(|part| number(part).is_some()) => {
            Some(private(id, topic.or_else(|| number(rest[0]))))
        }
        ["c", ..] => Some(Err(ChatRefError::PrivateMessageLink)),
        ["s", name, post] if number(post).is_some() => Some(named(name, None)),
        [name, rest @ ..] if (1..=2).contains(&rest.len()) && rest.iter().all(|part| number(part).is_some()) => {
            Some(named(name, topic.or_else(|| number(rest[0]))))
        }
        [name] if topic.is_some() => Some(named(name, topic)),
        _ => None,
    }
}

fn number(text: &str) -> Option<i32> {
    text.parse().ok().filter(|number| *number > 0)
}

fn named(name: &str, topic: Option<i32>) -> Result<Target, ChatRefError> {
    let chat = ChatRef::parse(&format!("t.me/{name}"))?;
    Ok(Target { chat, topic })
}

fn private(id: &str, topic: Option<i32>) -> Result<Target, ChatRefError> {
    let id: i64 = id.parse().map_err(|_| ChatRefError::BadId)?;
    if !(1..1_000_000_000_000).contains(&id) {
        return Err(ChatRefError::BadId);
    }
    Ok(Target {
        chat: ChatRef::Id(CHANNEL_ID_BASE - id),
        topic,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Target, ArgsError> {
        Target::parse(text, "args.chat")
    }

    #[test]
    fn every_form_of_link_names_its_chat() {
        let club = || ChatRef::Username("reading_club".into());
        let invite = || ChatRef::Invite("AbCdEf1234".into());
        let private = || ChatRef::Id(-1_001_234_567_890);
        for (text, chat, topic) in [
            ("@reading_club", club(), None),
            ("t.me/reading_club", club(), None),
            ("https://telegram.me/reading_club", club(), None),
            ("telegram.dog/reading_club?start=a", club(), None),
            ("https://reading_club.t.me", club(), None),
            ("tg://resolve?domain=reading_club", club(), None),
            ("t.me/reading_club/12", club(), Some(12)),
            ("https://t.me/reading_club/12/345?single", club(), Some(12)),
            ("t.me/reading_club/345?thread=12", club(), Some(12)),
            ("reading_club.t.me/12/345", club(), Some(12)),
            ("t.me/s/reading_club/345", club(), None),
            ("tg://resolve?domain=reading_club&post=345&thread=12", club(), Some(12)),
            ("tg://resolve?domain=reading_club&topic=12", club(), Some(12)),
            ("t.me/+AbCdEf1234", invite(), None),
            ("https://t.me/joinchat/AbCdEf1234", invite(), None),
            ("tg://join?invite=AbCdEf1234", invite(), None),
            ("telegram.me/+AbCdEf1234", invite(), None),
            ("https://t.me/c/1234567890/345", private(), Some(345)),
            ("t.me/c/1234567890/12/345", private(), Some(12)),
            (
                "tg://privatepost?channel=1234567890&post=345&thread=12",
                private(),
                Some(12),
            ),
            ("-1001234567890", private(), None),
        ] {
            assert_eq!(read(text), Ok(Target { chat, topic }), "{text}");
        }
    }

    #[test]
    fn folders_and_what_is_no_chat_are_refused_with_the_fix() {
        for (text, part) in [
            ("https://t.me/addlist/AbCdEf", "folder"),
            ("tg://addlist?slug=AbCdEf", "folder"),
            ("t.me/c/1234567890", "private"),
            ("t.me/c/0/5", "not a valid id"),
            ("t.me/addstickers/Animals", "not a chat"),
            ("t.me/reading_club/app", "not a chat"),
            ("t.me/ab/12", "no valid name"),
            ("t.me/proxy/12", "not a chat"),
            ("https://example.com/reading_club/12", "another site"),
            ("reading_club", "bare word"),
            ("", "empty"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.message.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn one_chat_has_one_key() {
        let key = |text| read(text).expect(text).key();
        assert_eq!(key("@Reading_Club"), key("https://t.me/reading_club/12/345"));
        assert_ne!(key("t.me/+AbCdEf1234"), key("t.me/+abcdef1234"));
    }
}
