//! The chat a job is about: one parser for every way to name it, and the look-up that all kinds share.
//!
//! No error here repeats what was given: an invite link lets its reader in, and a mistaken value can be a phone number.

use std::fmt;

use crate::{
    ArgsError, JobContext, JobError, Outcome,
    ports::{Chat, Decision, Invite, TelegramError},
};

/// What `args.chat` may be at most, in bytes.
pub const MAX_BYTES: usize = 256;

const HOSTS: [&str; 3] = ["t.me", "telegram.me", "telegram.dog"];

/// First words of `t.me/` paths that lead to something else than a chat.
const RESERVED: [&str; 21] = [
    "addemoji",
    "addlist",
    "addstickers",
    "addtheme",
    "auction",
    "bg",
    "boost",
    "call",
    "confirmphone",
    "contact",
    "giftcode",
    "invoice",
    "iv",
    "joinchat",
    "login",
    "msg",
    "nft",
    "proxy",
    "setlanguage",
    "share",
    "socks",
];

/// A chat as a client names it.
#[derive(Clone, PartialEq, Eq)]
pub enum ChatRef {
    /// A public name, without `@`.
    Username(String),
    /// The secret part of an invite link.
    Invite(String),
    /// An id in the Bot API's form; of use only to a session that has met the chat.
    Id(i64),
}

/// Why a text names no chat. The message holds the fix and nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChatRefError {
    #[error("is empty; give @name, a t.me link, or an id such as -1001234567890")]
    Empty,
    #[error("is longer than {MAX_BYTES} bytes; give @name, a t.me link, or an id such as -1001234567890")]
    TooLong,
    #[error("is a bare word; write @ in front of a public name, or give its whole t.me link")]
    BareWord,
    #[error("holds no valid name: 4 to 32 letters, digits and underscores, beginning with a letter")]
    BadName,
    #[error("looks like a phone number; chats are named by @name, link or id")]
    PhoneNumber,
    #[error("is the id of a person; groups and channels have negative ids, such as -1001234567890")]
    PersonId,
    #[error("is not a valid id; a supergroup's or channel's begins with -100, such as -1001234567890")]
    BadId,
    #[error("is a link to another site; chat links are on t.me, telegram.me or telegram.dog, or begin with tg://")]
    OtherSite,
    #[error("is a link without a chat; give t.me/name or t.me/+ and the invite's code")]
    NoChat,
    #[error("is an invite link whose code has the wrong shape; copy the whole link again")]
    BadInvite,
    #[error("is a link to one message; leave out the number at its end")]
    MessageLink,
    #[error("is a link to a message in a private chat, which lets nobody in; give an invite link, or the chat's id")]
    PrivateMessageLink,
    #[error("is a link to something in Telegram that is not a chat")]
    NotAChat,
}

impl ChatRef {
    /// Reads a name, link or id. Spaces around it are ignored.
    pub fn parse(text: &str) -> Result<Self, ChatRefError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(ChatRefError::Empty);
        }
        if text.len() > MAX_BYTES {
            return Err(ChatRefError::TooLong);
        }
        if let Some(name) = text.strip_prefix('@') {
            return username(name);
        }
        if text.starts_with('+') {
            return Err(ChatRefError::PhoneNumber);
        }
        if is_number(text.strip_prefix('-').unwrap_or(text)) {
            return id(text);
        }
        if let Some(rest) = strip_prefix_ignoring_case(text, "tg:") {
            return app_link(rest.strip_prefix("//").unwrap_or(rest));
        }
        web_link(text)
    }

    /// Reads `args.chat` at the API's door.
    pub fn of_args(text: &str) -> Result<Self, ArgsError> {
        Self::parse(text).map_err(|error| ArgsError {
            field: "args.chat".into(),
            message: error.to_string(),
        })
    }
}

/// Shows the shape of an invite link and not its code.
impl fmt::Debug for ChatRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Username(name) => write!(f, "@{name}"),
            Self::Invite(_) => f.write_str("t.me/+…"),
            Self::Id(id) => write!(f, "{id}"),
        }
    }
}

/// What may be shown of an `args.chat` that may hold an invite link or anything else.
pub(crate) fn shape(text: &str) -> String {
    ChatRef::parse(text).map_or_else(
        |_| format!("({} bytes that name no chat)", text.len()),
        |chat| format!("{chat:?}"),
    )
}

/// Reads `args.chat` while the job runs. The door has checked it; rows of an older version may still be wrong.
pub(crate) fn parse_for_run(text: &str) -> Result<ChatRef, Outcome> {
    ChatRef::of_args(text).map_err(|error| Outcome::Discard(JobError::permanent("args_invalid", error.to_string())))
}

/// Finds a chat that the session can already look into. An invite link works when the session is a member.
pub(crate) async fn resolve(context: &JobContext, chat: &ChatRef) -> Result<Chat, Outcome> {
    match chat {
        ChatRef::Username(name) => Ok(context.telegram.resolve_username(name).await?),
        ChatRef::Id(id) => Ok(context.telegram.chat_by_id(*id).await?),
        ChatRef::Invite(hash) => match context.telegram.check_invite(hash).await? {
            Invite::Member(chat) => Ok(chat),
            Invite::Peek(_) | Invite::Preview { .. } => Err(Outcome::Discard(JobError::permanent(
                "not_a_member",
                "The session is not a member of the chat behind this link. Run a join job with it first.",
            ))),
        },
    }
}

/// Finds the chat that an earlier attempt worked on, also when its name has moved to another chat since.
pub(crate) async fn resolve_again(context: &JobContext, chat: &ChatRef, id: i64) -> Result<Chat, Outcome> {
    let error = match context.telegram.chat_by_id(id).await {
        Ok(found) => return Ok(found),
        Err(error) => error,
    };
    if !session_forgot_chat(&error) {
        return Err(error.into());
    }
    let found = resolve(context, chat).await?;
    if found.id == id { Ok(found) } else { Err(error.into()) }
}

/// Groups and channels only: one person is contacted by kinds that check a basis and the suppressions.
pub(crate) fn refuse_person(chat: &Chat) -> Result<(), Outcome> {
    if chat.chat_type == crate::ports::ChatType::Private {
        return Err(Outcome::Discard(JobError::permanent(
            "chat_is_person",
            "args.chat names a person or a bot; this kind works with groups and channels.",
        )));
    }
    Ok(())
}

fn session_forgot_chat(error: &TelegramError) -> bool {
    matches!(
        error.decision,
        Decision::Target | Decision::Person { .. } | Decision::Content | Decision::Bug
    )
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

fn username(name: &str) -> Result<ChatRef, ChatRefError> {
    let first_is_letter = name.starts_with(|first: char| first.is_ascii_alphabetic());
    let clean = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if first_is_letter && clean && (4..=32).contains(&name.len()) {
        Ok(ChatRef::Username(name.to_owned()))
    } else {
        Err(ChatRefError::BadName)
    }
}

fn invite(hash: &str) -> Result<ChatRef, ChatRefError> {
    let clean = hash
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if clean && (4..=64).contains(&hash.len()) {
        Ok(ChatRef::Invite(hash.to_owned()))
    } else {
        Err(ChatRefError::BadInvite)
    }
}

fn id(text: &str) -> Result<ChatRef, ChatRefError> {
    let id: i64 = text.parse().map_err(|_| ChatRefError::BadId)?;
    match id {
        0 | -1_000_000_000_000 => Err(ChatRefError::BadId),
        1.. => Err(ChatRefError::PersonId),
        _ => Ok(ChatRef::Id(id)),
    }
}

/// The part of a `tg:` link after its scheme: `resolve?domain=…`, `join?invite=…`.
fn app_link(rest: &str) -> Result<ChatRef, ChatRefError> {
    let (command, query) = rest.split_once('?').unwrap_or((rest, ""));
    let query = query.split('#').next().unwrap_or_default();
    let value = |key: &str| {
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find_map(|(name, value)| (name == key).then_some(value))
    };
    match command.trim_end_matches('/').to_ascii_lowercase().as_str() {
        "resolve" if value("phone").is_some() => Err(ChatRefError::PhoneNumber),
        "resolve" if value("post").is_some() => Err(ChatRefError::MessageLink),
        "resolve" => username(value("domain").ok_or(ChatRefError::NoChat)?),
        "join" => invite(value("invite").ok_or(ChatRefError::NoChat)?),
        "privatepost" => Err(ChatRefError::PrivateMessageLink),
        _ => Err(ChatRefError::NotAChat),
    }
}

fn web_link(text: &str) -> Result<ChatRef, ChatRefError> {
    let with_scheme =
        strip_prefix_ignoring_case(text, "https://").or_else(|| strip_prefix_ignoring_case(text, "http://"));
    let rest = with_scheme.unwrap_or(text);
    let end_of_path = rest.find(['?', '#']).unwrap_or(rest.len());
    let (host, path) = rest[..end_of_path]
        .split_once('/')
        .unwrap_or((&rest[..end_of_path], ""));
    let host = host.to_ascii_lowercase();
    let host = host.strip_prefix("www.").unwrap_or(&host);
    if HOSTS.contains(&host) {
        return chat_path(path);
    }
    if let Some(name) = host.strip_suffix(".t.me") {
        return if path.trim_matches('/').is_empty() {
            username(name)
        } else {
            named_path(name, &path.split('/').collect::<Vec<_>>())
        };
    }
    if with_scheme.is_some() || text.contains(['/', '.', ':']) {
        Err(ChatRefError::OtherSite)
    } else {
        Err(ChatRefError::BareWord)
    }
}

/// The path of a link on one of Telegram's own hosts, without its leading slash.
fn chat_path(path: &str) -> Result<ChatRef, ChatRefError> {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    match segments.as_slice() {
        [] | ["joinchat"] => Err(ChatRefError::NoChat),
        [plus] if plus.starts_with('+') => match plus.trim_start_matches('+') {
            digits if is_number(digits) => Err(ChatRefError::PhoneNumber),
            hash => invite(hash),
        },
        ["joinchat", hash] => invite(hash),
        ["c", ..] => Err(ChatRefError::PrivateMessageLink),
        // The preview of a channel in a browser.
        ["s", name] => username(name),
        [first, ..] if RESERVED.contains(&first.to_ascii_lowercase().as_str()) || first.starts_with('$') => {
            Err(ChatRefError::NotAChat)
        }
        [name] => username(name),
        [name, rest @ ..] => named_path(name, rest),
    }
}

/// What follows a name in a path: a message, a topic's message, a story, a mini app.
fn named_path(name: &str, rest: &[&str]) -> Result<ChatRef, ChatRefError> {
    username(name)?;
    Err(
        if rest
            .iter()
            .filter(|segment| !segment.is_empty())
            .all(|segment| is_number(segment))
        {
            ChatRefError::MessageLink
        } else {
            ChatRefError::NotAChat
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Fakes};

    fn name(name: &str) -> ChatRef {
        ChatRef::Username(name.into())
    }

    fn link(hash: &str) -> ChatRef {
        ChatRef::Invite(hash.into())
    }

    #[test]
    fn every_way_to_name_a_chat_is_read() {
        for (text, expected) in [
            ("@reading_club", name("reading_club")),
            ("  @Reading_Club ", name("Reading_Club")),
            ("@news", name("news")),
            ("t.me/reading_club", name("reading_club")),
            ("https://t.me/reading_club", name("reading_club")),
            ("HTTP://T.ME/reading_club/", name("reading_club")),
            ("https://www.t.me/reading_club?utm=1#top", name("reading_club")),
            ("https://telegram.me/reading_club", name("reading_club")),
            ("telegram.dog/reading_club", name("reading_club")),
            ("https://t.me/s/reading_club", name("reading_club")),
            ("reading_club.t.me", name("reading_club")),
            ("https://reading_club.t.me/", name("reading_club")),
            ("tg://resolve?domain=reading_club", name("reading_club")),
            ("tg:resolve?domain=reading_club", name("reading_club")),
            ("tg://resolve/?start=a&domain=reading_club", name("reading_club")),
            ("t.me/+AbCd-Ef_1234", link("AbCd-Ef_1234")),
            ("https://t.me/joinchat/AbCdEf1234", link("AbCdEf1234")),
            ("https://telegram.me/+AbCdEf1234", link("AbCdEf1234")),
            ("tg://join?invite=AbCdEf1234", link("AbCdEf1234")),
            ("-1001234567890", ChatRef::Id(-1_001_234_567_890)),
            ("-4567", ChatRef::Id(-4567)),
        ] {
            assert_eq!(ChatRef::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused_with_its_fix() {
        for (text, expected) in [
            ("", ChatRefError::Empty),
            ("   ", ChatRefError::Empty),
            ("reading_club", ChatRefError::BareWord),
            ("reading club", ChatRefError::BareWord),
            ("@abc", ChatRefError::BadName),
            ("@", ChatRefError::BadName),
            ("@1club", ChatRefError::BadName),
            ("@_club", ChatRefError::BadName),
            ("@reading-club", ChatRefError::BadName),
            ("@читатели", ChatRefError::BadName),
            ("@a23456789012345678901234567890123", ChatRefError::BadName),
            ("t.me/ab", ChatRefError::BadName),
            ("+99966612345", ChatRefError::PhoneNumber),
            ("t.me/+99966612345", ChatRefError::PhoneNumber),
            ("tg://resolve?phone=99966612345", ChatRefError::PhoneNumber),
            ("777000", ChatRefError::PersonId),
            ("0", ChatRefError::BadId),
            ("-1000000000000", ChatRefError::BadId),
            ("-99999999999999999999", ChatRefError::BadId),
            ("https://example.com/reading_club", ChatRefError::OtherSite),
            ("https://t.me@example.com/reading_club", ChatRefError::OtherSite),
            ("example.com/t.me/reading_club", ChatRefError::OtherSite),
            ("https://t.me/", ChatRefError::NoChat),
            ("t.me", ChatRefError::NoChat),
            ("t.me/joinchat", ChatRefError::NoChat),
            ("tg://resolve?start=a", ChatRefError::NoChat),
            ("tg://join", ChatRefError::NoChat),
            ("t.me/+ab", ChatRefError::BadInvite),
            ("t.me/+", ChatRefError::BadInvite),
            ("t.me/+AbCd%20Ef", ChatRefError::BadInvite),
            ("t.me/reading_club/123", ChatRefError::MessageLink),
            ("t.me/reading_club/12/345", ChatRefError::MessageLink),
            ("https://reading_club.t.me/123", ChatRefError::MessageLink),
            ("tg://resolve?domain=reading_club&post=5", ChatRefError::MessageLink),
            ("t.me/c/1234567/8", ChatRefError::PrivateMessageLink),
            ("tg://privatepost?channel=1&post=2", ChatRefError::PrivateMessageLink),
            ("t.me/addstickers/Animals", ChatRefError::NotAChat),
            ("t.me/proxy?server=example.com", ChatRefError::NotAChat),
            ("t.me/$abcdef", ChatRefError::NotAChat),
            ("t.me/reading_club/app", ChatRefError::NotAChat),
            ("tg://addstickers?set=Animals", ChatRefError::NotAChat),
            ("tg://", ChatRefError::NotAChat),
        ] {
            assert_eq!(ChatRef::parse(text), Err(expected), "{text}");
        }
        assert_eq!(ChatRef::parse(&"@".repeat(MAX_BYTES + 1)), Err(ChatRefError::TooLong));
    }

    #[test]
    fn an_invite_code_is_shown_nowhere() {
        let debug = format!(
            "{:?} {}",
            ChatRef::parse("t.me/+SecretCode1"),
            shape("t.me/+SecretCode1")
        );
        assert!(!debug.contains("Secret"), "{debug}");
        let error = ChatRef::of_args("t.me/+Secret Code").unwrap_err();
        assert_eq!(error.field, "args.chat");
        assert!(!format!("{error} {error:?}").contains("Secret"), "{error}");
        assert!(!shape("t.me/+Secret Code").contains("Secret"));
    }

    #[tokio::test]
    async fn an_invite_link_needs_a_member() {
        let fakes = Fakes::new();
        fakes.telegram.check_invite(Ok(testing::preview()));
        let outcome = resolve(&fakes.context(), &ChatRef::Invite("AbCdEf".into()))
            .await
            .unwrap_err();
        assert_eq!(testing::discarded(outcome).code, "not_a_member");
    }

    #[tokio::test]
    async fn a_name_that_moved_does_not_change_the_chat() {
        let fakes = Fakes::new();
        let (old, new) = (testing::supergroup(1), testing::supergroup(2));
        let reference = ChatRef::Username("reading_club".into());
        fakes.telegram.chat_by_id(Err(testing::target_error("PEER_ID_INVALID")));
        fakes.telegram.resolve_username(Ok(new));
        let outcome = resolve_again(&fakes.context(), &reference, old.id).await.unwrap_err();
        assert_eq!(testing::discarded(outcome).code, "chat_not_found");

        fakes.telegram.chat_by_id(Err(testing::target_error("PEER_ID_INVALID")));
        fakes.telegram.resolve_username(Ok(old.clone()));
        assert_eq!(resolve_again(&fakes.context(), &reference, old.id).await, Ok(old));
    }
}
