//! What a failed call means for the attempt that met it: the one mapping from a Telegram decision to an outcome, so that
//! every kind answers the same error with the same code. The codes here are part of the API.

use crate::{
    JobError, Outcome, WaitReason,
    ports::{Decision, StoreError, TelegramError},
};

impl From<TelegramError> for Outcome {
    /// `Done` and `Pending` have a meaning of their own in each kind; where one arrives here, nobody expected it.
    fn from(error: TelegramError) -> Self {
        match error.decision {
            Decision::Gate { until } => Self::Snooze {
                until,
                reason: wait_reason(&error),
            },
            Decision::Elsewhere { until } => Self::Elsewhere {
                until,
                reason: wait_reason(&error),
            },
            Decision::Session => Self::Retry(JobError::transient(
                "session_unavailable",
                format!("The session cannot be used now: {}", sentence(&error)),
            )),
            Decision::Campaign => Self::Discard(JobError::permanent(
                "peer_flood",
                "Telegram limits this account for contacting too many people (PEER_FLOOD). Outreach with it stops until \
                 a person resumes it.",
            )),
            Decision::Retry => Self::Retry(JobError::transient(
                own_code(&error.code).unwrap_or("telegram_unavailable"),
                sentence(&error),
            )),
            Decision::Person { .. }
            | Decision::Target
            | Decision::Content
            | Decision::StaleMedia
            | Decision::Bug
            | Decision::Done
            | Decision::Pending => Self::Discard(refusal(&error)),
        }
    }
}

impl From<StoreError> for Outcome {
    fn from(error: StoreError) -> Self {
        Self::Retry(error.into())
    }
}

fn wait_reason(error: &TelegramError) -> WaitReason {
    if error.code.to_ascii_uppercase().starts_with("SLOWMODE_WAIT") || error.code == "slow_mode" {
        WaitReason::new("slow_mode", format!("The chat is in slow mode. {}", sentence(error)))
    } else if error.code == "cap_reached" || error.code == "outreach_stopped" {
        WaitReason::new(error.code.clone(), error.message.clone())
    } else {
        WaitReason::new(
            "flood",
            format!("Telegram asks this session to wait. {}", sentence(error)),
        )
    }
}

/// The error of a job that Telegram refused for good.
fn refusal(error: &TelegramError) -> JobError {
    if let Some(code) = own_code(&error.code) {
        return JobError::permanent(code, error.message.clone());
    }
    if let Some((code, advice)) = known_refusal(&error.code) {
        return JobError::permanent(code, format!("{advice} Telegram's error: {}.", error.code));
    }
    match error.decision {
        Decision::Person { .. } => JobError::permanent("person_refused", sentence(error)),
        _ => JobError::permanent("telegram_error", sentence(error)),
    }
}

/// Our code for one of Telegram's names, and what a person can do about it.
fn known_refusal(name: &str) -> Option<(&'static str, &'static str)> {
    Some(match name {
        "USERNAME_NOT_OCCUPIED" | "USERNAME_INVALID" => ("chat_not_found", "Nobody has this name. Check its spelling."),
        "CHAT_INVALID" => ("chat_invalid", "Telegram takes this for no chat that can be joined."),
        "USER_CREATOR" => (
            "creator_cannot_leave",
            "The session created this chat, and Telegram lets no creator leave one. Hand it over or delete it in an app.",
        ),
        "PEER_ID_INVALID" | "CHANNEL_INVALID" | "CHAT_ID_INVALID" | "USER_INVALID" => (
            "chat_not_found",
            "This session does not know the chat. Give its @name or a link in args.chat.",
        ),
        "INVITE_HASH_EXPIRED" => (
            "invite_link_expired",
            "The invite link works no more: it ran out, was used up or taken back, or the chat has banned the session. Ask an \
             admin of the chat for a new one.",
        ),
        "INVITE_HASH_INVALID" => (
            "invite_link_invalid",
            "Telegram knows no invite link like this one. Compare it with the one that was given out.",
        ),
        "INVITE_HASH_EMPTY" => (
            "invite_link_empty",
            "The invite link names no chat: what follows `+` is missing.",
        ),
        "CHANNEL_PRIVATE" | "CHAT_FORBIDDEN" | "CHANNEL_PUBLIC_GROUP_NA" => (
            "chat_inaccessible",
            "The session may not see this chat: it is private, or the session was removed from it.",
        ),
        "CHAT_ADMIN_REQUIRED" | "CHAT_ADMIN_INVITE_REQUIRED" | "RIGHT_FORBIDDEN" => (
            "admin_required",
            "The session needs to be an admin of the chat for this.",
        ),
        "CHAT_WRITE_FORBIDDEN"
        | "CHAT_SEND_MEDIA_FORBIDDEN"
        | "CHAT_SEND_PLAIN_FORBIDDEN"
        | "CHAT_GUEST_SEND_FORBIDDEN"
        | "CHAT_RESTRICTED"
        | "USER_BANNED_IN_CHANNEL" => ("write_forbidden", "The session may not post in this chat."),
        "PRIVACY_PREMIUM_REQUIRED" | "ALLOW_PAYMENT_REQUIRED" | "STARS_PAYMENT_REQUIRED" => (
            "payment_required",
            "The chat takes messages from paying accounts only; Wireroom does not pay.",
        ),
        "CHANNELS_TOO_MUCH" => (
            "account_full",
            "The session's account is in as many chats as Telegram allows. Leave some, or use another session.",
        ),
        "USERS_TOO_MUCH" => ("chat_full", "The chat has as many members as Telegram allows."),
        _ => return refused_message(name),
    })
}

/// The same of a message and what it carries.
fn refused_message(name: &str) -> Option<(&'static str, &'static str)> {
    Some(match name {
        "MESSAGE_ID_INVALID" | "REPLY_MESSAGE_ID_INVALID" | "MSG_ID_INVALID" => {
            ("message_not_found", "There is no such message in the chat (any more).")
        }
        "MESSAGE_AUTHOR_REQUIRED" => (
            "not_the_author",
            "Only the account that wrote a message may edit it, and this session did not.",
        ),
        "MESSAGE_EDIT_TIME_EXPIRED" => (
            "edit_too_late",
            "The message is too old to be edited: Telegram lets its author do that for two days.",
        ),
        "MESSAGE_DELETE_FORBIDDEN" => (
            "delete_forbidden",
            "The session may not delete that message: it is another's, and the session is no admin of the chat.",
        ),
        "CHAT_FORWARDS_RESTRICTED" => (
            "forwards_restricted",
            "The chat in args.from_chat does not let its messages be forwarded.",
        ),
        "TOPIC_CLOSED" | "TOPIC_DELETED" | "TOPIC_ID_INVALID" => (
            "topic_closed",
            "The topic in args.topic takes no messages: it is closed, or there is none of that number.",
        ),
        "SCHEDULE_DATE_INVALID" | "SCHEDULE_DATE_TOO_LATE" | "SCHEDULE_TOO_MUCH" => (
            "schedule_invalid",
            "Telegram does not keep the message for args.schedule_at: the time is not ahead, or too far ahead, or too many \
             messages wait in the chat.",
        ),
        "BUTTON_URL_INVALID" | "BUTTON_DATA_INVALID" | "BUTTON_INVALID" => {
            ("buttons_invalid", "Telegram does not take one of args.buttons.")
        }
        "CHAT_SEND_PHOTOS_FORBIDDEN"
        | "CHAT_SEND_VIDEOS_FORBIDDEN"
        | "CHAT_SEND_DOCS_FORBIDDEN"
        | "CHAT_SEND_VOICES_FORBIDDEN" => (
            "media_forbidden",
            "The chat does not take this sort of media from the session.",
        ),
        "MEDIA_CAPTION_TOO_LONG" => (
            "message_too_long",
            "args.text is longer than Telegram takes beneath media. Shorten it.",
        ),
        "PHOTO_INVALID_DIMENSIONS"
        | "PHOTO_EXT_INVALID"
        | "IMAGE_PROCESS_FAILED"
        | "PHOTO_SAVE_FILE_INVALID"
        | "FILE_REFERENCE_EXPIRED"
        | "FILE_REFERENCE_INVALID"
        | "FILE_REFERENCE_EMPTY"
        | "MEDIA_EMPTY" => (
            "media_invalid",
            "Telegram cannot read the media as what args.media says it is. Check the file, or send it as a document.",
        ),
        "MESSAGE_TOO_LONG" => (
            "message_too_long",
            "args.text is longer than Telegram takes. Shorten it.",
        ),
        "MESSAGE_EMPTY" => ("message_empty", "args.text shows nothing once its markup is read."),
        "ENTITY_BOUNDS_INVALID" | "MEDIA_INVALID" => (
            "message_invalid",
            "Telegram does not take the markup of args.text. Check it, or send it as format plain.",
        ),
        _ => return None,
    })
}

/// The port's own codes are in snake case already and pass as they are.
fn own_code(code: &str) -> Option<&str> {
    let own = code
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    (own && !code.is_empty()).then_some(code)
}

fn sentence(error: &TelegramError) -> String {
    format!("{} ({})", error.message, error.code)
}

#[cfg(test)]
mod tests {
    use chrono::{TimeZone, Utc};

    use super::*;

    fn error(code: &str, decision: Decision) -> TelegramError {
        TelegramError {
            code: code.into(),
            message: "As Telegram says.".into(),
            decision,
        }
    }

    #[test]
    fn a_flood_and_slow_mode_snooze_until_the_gate_opens() {
        let until = Utc.with_ymd_and_hms(2030, 1, 1, 0, 0, 30).unwrap();
        for (name, code) in [
            ("FLOOD_WAIT", "flood"),
            ("FLOOD_WAIT_30", "flood"),
            ("SLOWMODE_WAIT", "slow_mode"),
            ("SLOWMODE_WAIT_30", "slow_mode"),
            ("slow_mode", "slow_mode"),
            ("cap_reached", "cap_reached"),
        ] {
            let Outcome::Snooze { until: at, reason } = Outcome::from(error(name, Decision::Gate { until })) else {
                panic!("{name} does not snooze");
            };
            assert_eq!((at, reason.code.as_str()), (until, code), "{name}");
        }
    }

    #[test]
    fn what_this_session_may_not_do_before_its_first_call_is_anothers() {
        let until = Utc.with_ymd_and_hms(2030, 1, 1, 0, 0, 30).unwrap();
        let outcome = Outcome::from(error("cap_reached", Decision::Elsewhere { until }));
        let Outcome::Elsewhere { until: at, reason } = outcome else {
            panic!("it waits for this session");
        };
        assert_eq!((at, reason.code.as_str()), (until, "cap_reached"));
    }

    #[test]
    fn passing_trouble_is_tried_again() {
        for (name, decision, code) in [
            ("RPC_CALL_FAIL", Decision::Retry, "telegram_unavailable"),
            ("call_deadline", Decision::Retry, "call_deadline"),
            ("AUTH_KEY_UNREGISTERED", Decision::Session, "session_unavailable"),
        ] {
            let Outcome::Retry(failure) = Outcome::from(error(name, decision)) else {
                panic!("{name} is not tried again");
            };
            assert!(failure.retryable, "{name}");
            assert_eq!(failure.code, code, "{name}");
        }
    }

    #[test]
    fn refusals_have_a_code_and_keep_telegrams_name() {
        for (name, decision, code) in [
            ("USERNAME_NOT_OCCUPIED", Decision::Target, "chat_not_found"),
            ("USERNAME_INVALID", Decision::Target, "chat_not_found"),
            ("PEER_ID_INVALID", Decision::Target, "chat_not_found"),
            ("INVITE_HASH_EXPIRED", Decision::Target, "invite_link_expired"),
            ("INVITE_HASH_INVALID", Decision::Target, "invite_link_invalid"),
            ("INVITE_HASH_EMPTY", Decision::Target, "invite_link_empty"),
            ("CHANNEL_PRIVATE", Decision::Target, "chat_inaccessible"),
            ("CHAT_INVALID", Decision::Target, "chat_invalid"),
            ("USER_CREATOR", Decision::Target, "creator_cannot_leave"),
            ("CHAT_ADMIN_REQUIRED", Decision::Target, "admin_required"),
            ("CHAT_WRITE_FORBIDDEN", Decision::Target, "write_forbidden"),
            ("ALLOW_PAYMENT_REQUIRED", Decision::Target, "payment_required"),
            ("CHANNELS_TOO_MUCH", Decision::Target, "account_full"),
            ("USERS_TOO_MUCH", Decision::Target, "chat_full"),
            ("PEER_FLOOD", Decision::Campaign, "peer_flood"),
            (
                "USER_PRIVACY_RESTRICTED",
                Decision::Person { suppress: false },
                "person_refused",
            ),
            ("MESSAGE_TOO_LONG", Decision::Content, "message_too_long"),
            ("MESSAGE_EMPTY", Decision::Content, "message_empty"),
            ("ENTITY_BOUNDS_INVALID", Decision::Content, "message_invalid"),
            ("SOMETHING_NEW", Decision::Bug, "telegram_error"),
        ] {
            let Outcome::Discard(failure) = Outcome::from(error(name, decision)) else {
                panic!("{name} is not refused");
            };
            assert!(!failure.retryable, "{name}");
            assert_eq!(failure.code, code, "{name}");
            assert!(failure.message.contains(name), "{name}: {}", failure.message);
        }
    }

    #[test]
    fn our_own_codes_pass_as_they_are() {
        let failure = Outcome::from(error("markup_invalid", Decision::Content));
        assert_eq!(
            failure,
            Outcome::Discard(JobError::permanent("markup_invalid", "As Telegram says."))
        );
    }
}
