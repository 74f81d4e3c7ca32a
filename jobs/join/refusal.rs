//! Why a call did not do what it should: for this target alone, or for the job.

use crate::{
    JobError, Outcome,
    ports::{StoreError, TelegramError},
};

/// What ends work on a target.
pub(super) enum Stop {
    /// The job stops here, and goes on later or not at all.
    Job(Outcome),
    /// This target is given up; in a list the next one follows.
    Target(Refusal),
}

/// Why a target is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub code: String,
    pub message: String,
    /// Telegram's name of the error, when there is one.
    pub telegram_error: Option<String>,
}

pub(super) const CHANNEL_LIMIT: &str = "channel_limit";
pub(super) const PEER_FLOOD: &str = "peer_flood";

impl Refusal {
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            telegram_error: None,
        }
    }

    pub fn into_error(self) -> JobError {
        JobError::permanent(self.code, self.message)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Target(refusal)
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Job(error.into())
    }
}

impl From<Outcome> for Stop {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Discard(error) => Self::Target(Refusal::new(&error.code, error.message)),
            other => Self::Job(other),
        }
    }
}

impl From<TelegramError> for Stop {
    fn from(error: TelegramError) -> Self {
        let telegram_error = error
            .code
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
            .then(|| error.code.clone());
        if let Some((code, advice)) = of_joining(&error.code) {
            return Self::Target(Refusal {
                code: code.to_owned(),
                message: format!("{advice} Telegram's error: {}.", error.code),
                telegram_error,
            });
        }
        match Self::from(Outcome::from(error)) {
            Self::Target(refusal) => Self::Target(Refusal {
                telegram_error,
                ..refusal
            }),
            job @ Self::Job(_) => job,
        }
    }
}

/// What some of Telegram's names mean to whoever joins, where that is not what they mean to others.
fn of_joining(name: &str) -> Option<(&'static str, &'static str)> {
    Some(match name {
        "CHANNELS_TOO_MUCH" | "USER_CHANNELS_TOO_MUCH" => (
            CHANNEL_LIMIT,
            "The account is in as many supergroups and channels as it may be. Leave some, or use another session.",
        ),
        "USER_BANNED_IN_CHANNEL" => (
            "account_restricted",
            "Telegram does not let this account take part in public supergroups and channels.",
        ),
        "STARS_PAYMENT_REQUIRED" => (
            "payment_required",
            "Members of this chat pay for a subscription; Wireroom does not pay.",
        ),
        _ => return None,
    })
}

/// A place for one more supergroup or channel that there is not.
pub(super) fn channel_limit(used: i32, limit: i32) -> Refusal {
    Refusal::new(
        CHANNEL_LIMIT,
        format!(
            "The account is in {used} supergroups and channels, and may be in {limit}. Leave some, or use another session."
        ),
    )
}

/// The same after Telegram said so itself.
pub(super) fn account_full() -> Refusal {
    Refusal::new(
        CHANNEL_LIMIT,
        "The account is in as many supergroups and channels as it may be. Leave some, or use another session.",
    )
}
