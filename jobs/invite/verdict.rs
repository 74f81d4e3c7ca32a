//! What an answer of Telegram's means for the person it is about: the outcomes of `docs/OUTREACH.md`, each with its code.

use crate::{
    outreach::{InviteMode, Verdict, VerdictClass},
    ports::{Decision, SentMessage, TelegramError},
};

/// Whom an error is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Judged {
    /// This person.
    Person(Verdict),
    /// This person, who is to be left alone since a moment ago: nothing was sent.
    LeftAlone(Verdict),
    /// Nobody: it is so already.
    AlreadySo,
    /// The session, for now: nothing was sent.
    NotSent,
    /// The campaign: nothing was sent, and nobody else would be reached either.
    Halt,
    /// Nobody knows whether it was done.
    Unknown,
}

fn verdict(outcome: &'static str, class: VerdictClass, why: Option<String>) -> Verdict {
    Verdict {
        outcome,
        class,
        why,
        message: None,
        suppress: false,
    }
}

pub(super) fn invited(outcome: &'static str, message: Option<SentMessage>) -> Verdict {
    Verdict {
        message,
        ..verdict(outcome, VerdictClass::Invited, None)
    }
}

pub(super) fn skipped(outcome: &'static str, why: Option<String>) -> Verdict {
    verdict(outcome, VerdictClass::Skipped, why)
}

pub(super) fn unknown() -> Verdict {
    verdict("outcome_unknown", VerdictClass::Unknown, None)
}

/// They are in the chat: by an attempt of ours, when there was one.
pub(super) fn already(was_begun: bool) -> Verdict {
    if was_begun {
        invited("added", None)
    } else {
        skipped("already_member", None)
    }
}

/// Somebody whom a call that succeeded left out.
pub(super) fn missing(premium_would_allow_invite: bool, premium_required_for_pm: bool) -> Verdict {
    let (outcome, why) = match (premium_would_allow_invite, premium_required_for_pm) {
        (false, false) => ("privacy", "MISSING_INVITEE"),
        (true, false) => ("message_only", "PREMIUM_WOULD_ALLOW_INVITE"),
        (_, true) => ("premium_needed", "PREMIUM_REQUIRED_FOR_PM"),
    };
    verdict(outcome, VerdictClass::Refused, Some(why.to_owned()))
}

/// What is answered instead of a call to somebody whom nobody may contact any more: outcomes of ours, no names of Telegram's.
const LEFT_ALONE: [&str; 2] = ["suppressed", "erased"];

/// What a refusal, or the want of an answer, means.
pub(super) fn judge(error: &TelegramError, mode: InviteMode) -> Judged {
    if let Some(outcome) = LEFT_ALONE.into_iter().find(|outcome| *outcome == error.code) {
        return Judged::LeftAlone(skipped(outcome, None));
    }
    match error.decision {
        Decision::Done => Judged::AlreadySo,
        Decision::Pending => Judged::Person(verdict(
            "approval_pending",
            VerdictClass::Invited,
            Some(error.code.clone()),
        )),
        Decision::Gate { .. } | Decision::Elsewhere { .. } => Judged::NotSent,
        Decision::Retry | Decision::Session => Judged::Unknown,
        Decision::Campaign | Decision::Content | Decision::StaleMedia | Decision::Bug => Judged::Halt,
        Decision::Person { suppress } => Judged::Person(Verdict {
            suppress,
            ..refused(&error.code, suppress)
        }),
        Decision::Target => match of_target(&error.code, mode) {
            Some(outcome) => Judged::Person(verdict(outcome, VerdictClass::Refused, Some(error.code.clone()))),
            None => Judged::Halt,
        },
    }
}

fn refused(name: &str, blocked_us: bool) -> Verdict {
    let (outcome, class) = match name {
        _ if blocked_us => ("blocked_us", VerdictClass::Refused),
        "YOU_BLOCKED_USER" => ("we_blocked", VerdictClass::Skipped),
        "USER_PRIVACY_RESTRICTED" | "USER_NOT_MUTUAL_CONTACT" | "CHAT_SEND_PLAIN_FORBIDDEN" => {
            ("privacy", VerdictClass::Refused)
        }
        _ => ("not_eligible", VerdictClass::Skipped),
    };
    verdict(outcome, class, Some(name.to_owned()))
}

/// Refusals that the table has for chats, where the chat is the dialogue with one person. `None`: it is the campaign's chat.
fn of_target(name: &str, mode: InviteMode) -> Option<&'static str> {
    match (name, mode) {
        ("PRIVACY_PREMIUM_REQUIRED", _) => Some("premium_needed"),
        ("ALLOW_PAYMENT_REQUIRED", _) => Some("payment_required"),
        (_, InviteMode::Message) => Some("unreachable"),
        (_, InviteMode::Add) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: &str, decision: Decision) -> TelegramError {
        TelegramError {
            code: code.into(),
            message: "As Telegram says.".into(),
            decision,
        }
    }

    fn outcome(code: &str, decision: Decision, mode: InviteMode) -> &'static str {
        match judge(&error(code, decision), mode) {
            Judged::Person(verdict) => verdict.outcome,
            other => panic!("{code} is about {other:?}"),
        }
    }

    #[test]
    fn refusals_are_told_apart() {
        let (person, blocked) = (
            Decision::Person { suppress: false },
            Decision::Person { suppress: true },
        );
        for (name, decision, mode, expected) in [
            ("USER_PRIVACY_RESTRICTED", person, InviteMode::Add, "privacy"),
            ("USER_NOT_MUTUAL_CONTACT", person, InviteMode::Add, "privacy"),
            ("USER_KICKED", person, InviteMode::Add, "not_eligible"),
            ("USER_CHANNELS_TOO_MUCH", person, InviteMode::Add, "not_eligible"),
            ("YOU_BLOCKED_USER", person, InviteMode::Message, "we_blocked"),
            ("USER_IS_BLOCKED", blocked, InviteMode::Message, "blocked_us"),
            (
                "PRIVACY_PREMIUM_REQUIRED",
                Decision::Target,
                InviteMode::Message,
                "premium_needed",
            ),
            (
                "ALLOW_PAYMENT_REQUIRED",
                Decision::Target,
                InviteMode::Message,
                "payment_required",
            ),
            ("PEER_ID_INVALID", Decision::Target, InviteMode::Message, "unreachable"),
        ] {
            assert_eq!(outcome(name, decision, mode), expected, "{name}");
        }
    }

    #[test]
    fn what_is_the_chats_or_the_sessions_is_nobodys_outcome() {
        let at = chrono::DateTime::UNIX_EPOCH;
        for (name, decision, expected) in [
            ("CHAT_ADMIN_REQUIRED", Decision::Target, Judged::Halt),
            ("USERS_TOO_MUCH", Decision::Target, Judged::Halt),
            ("PEER_FLOOD", Decision::Campaign, Judged::Halt),
            ("SOMETHING_NEW", Decision::Bug, Judged::Halt),
            ("FLOOD_WAIT", Decision::Gate { until: at }, Judged::NotSent),
            ("cap_reached", Decision::Elsewhere { until: at }, Judged::NotSent),
            ("call_deadline", Decision::Retry, Judged::Unknown),
            ("AUTH_KEY_UNREGISTERED", Decision::Session, Judged::Unknown),
            ("USER_ALREADY_PARTICIPANT", Decision::Done, Judged::AlreadySo),
        ] {
            assert_eq!(judge(&error(name, decision), InviteMode::Add), expected, "{name}");
        }
    }

    #[test]
    fn missing_invitees_have_three_reasons() {
        assert_eq!(missing(false, false).outcome, "privacy");
        assert_eq!(missing(true, false).outcome, "message_only");
        assert_eq!(missing(true, true).outcome, "premium_needed");
        assert_eq!(missing(false, true).outcome, "premium_needed");
    }
}
