//! What an error of a login's call means for the errand: each refusal its own word, and whether it can go on.

use crate::{
    store::errands::{CHALLENGE, ErrandProblem},
    telegram::{errors::Meaning, login::LinkError},
};

/// After so many wrong codes or passwords the login ends: Telegram would lock the number.
pub(super) const MOST_TRIES: i32 = 5;
/// How long a number rests that was tried too often, in seconds: Telegram does not say, and each try makes it longer.
const FLOODED_NUMBER_RESTS: u32 = 24 * 60 * 60;
/// How long to wait, in seconds, where Telegram asks for it and does not say how long.
const UNNAMED_WAIT: u32 = 60;

/// Why a step did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub problem: ErrandProblem,
    /// Telegram's own name.
    pub reason: Option<String>,
    /// Seconds.
    pub retry_after: Option<u32>,
    /// The errand ends with it.
    pub ends: bool,
    /// A code or a password was wrong.
    pub wrong: bool,
    /// To be written to the audit log, as this action.
    pub incident: Option<&'static str>,
}

impl Refusal {
    /// One that ends the errand, for no reason of Telegram's.
    pub fn end(problem: ErrandProblem) -> Self {
        Self {
            problem,
            reason: None,
            retry_after: None,
            ends: true,
            wrong: false,
            incident: None,
        }
    }

    /// What an error means after so many wrong tries. `first`: nothing was answered yet, so that there is nothing to go on with.
    pub fn of(error: &LinkError, first: bool, tries: i32) -> Self {
        let (problem, ends) = match error {
            LinkError::Rpc(error) => of_rpc(&error.name, Meaning::of(error)),
            LinkError::Unsupported(_) | LinkError::NoSuchDc(_) => (ErrandProblem::Unsupported, true),
            LinkError::Proxy(_) => (ErrandProblem::ProxyFailed, false),
            LinkError::Deadline
            | LinkError::Connection(_)
            | LinkError::Handshake(_)
            | LinkError::Relay(_)
            | LinkError::Unreadable
            | LinkError::Randomness => (ErrandProblem::NoAnswer, false),
        };
        let wrong = matches!(problem, ErrandProblem::CodeWrong | ErrandProblem::PasswordWrong);
        let too_many = wrong && tries + 1 >= MOST_TRIES;
        let (reason, value) = match error {
            LinkError::Rpc(error) => (Some(error.name.clone()), error.value),
            LinkError::Unsupported(what) => (Some((*what).to_owned()), None),
            LinkError::Proxy(fault) => (Some(fault.to_string()), None),
            _ => (None, None),
        };
        let retry_after = match problem {
            ErrandProblem::Flooded => Some(value.unwrap_or(UNNAMED_WAIT)),
            ErrandProblem::PhoneFlooded => Some(FLOODED_NUMBER_RESTS),
            _ => None,
        };
        // Its code would be over by then.
        let too_long = retry_after.is_some_and(|seconds| u64::from(seconds) > CHALLENGE.as_secs());
        Self {
            problem: if too_many { ErrandProblem::TooManyTries } else { problem },
            reason,
            retry_after,
            ends: ends || too_many || too_long || first,
            wrong,
            incident: is_duplicate(error).then_some(DUPLICATED),
        }
    }
}

/// The incident of a key that was used from two places.
pub(super) const DUPLICATED: &str = "session.auth_key_duplicated";

/// Whether Telegram saw the key in two places: it is dead from then on.
pub(super) fn is_duplicate(error: &LinkError) -> bool {
    matches!(error, LinkError::Rpc(error) if Meaning::of(error) == Meaning::KeyDuplicated)
}

fn of_rpc(name: &str, meaning: Meaning) -> (ErrandProblem, bool) {
    match name {
        "PHONE_NUMBER_INVALID" => (ErrandProblem::PhoneInvalid, true),
        "PHONE_NUMBER_BANNED" => (ErrandProblem::PhoneBanned, true),
        "PHONE_NUMBER_FLOOD" | "PHONE_PASSWORD_FLOOD" => (ErrandProblem::PhoneFlooded, true),
        "PHONE_NUMBER_UNOCCUPIED" => (ErrandProblem::PhoneUnregistered, true),
        "PHONE_CODE_EXPIRED" => (ErrandProblem::CodeExpired, false),
        "ACCESS_TOKEN_INVALID" | "ACCESS_TOKEN_EXPIRED" => (ErrandProblem::BotTokenInvalid, true),
        _ => match meaning {
            Meaning::LoginCode => (ErrandProblem::CodeWrong, false),
            Meaning::PasswordWrong => (ErrandProblem::PasswordWrong, false),
            Meaning::Flood => (ErrandProblem::Flooded, false),
            Meaning::LoggedOut | Meaning::KeyDuplicated => (ErrandProblem::KeyDead, true),
            Meaning::Banned | Meaning::Frozen => (ErrandProblem::AccountBanned, true),
            Meaning::WrongApplication => (ErrandProblem::ApplicationInvalid, true),
            Meaning::TheirTrouble | Meaning::UnknownOutcome | Meaning::AfterFailedCall => {
                (ErrandProblem::NoAnswer, false)
            }
            _ => (ErrandProblem::Refused, false),
        },
    }
}

#[cfg(test)]
mod tests {
    use grammers_mtsender::RpcError;

    use super::*;

    fn refusal(code: i32, message: &str, first: bool, tries: i32) -> Refusal {
        let error = RpcError::from(grammers_tl_types::types::RpcError {
            error_code: code,
            error_message: message.into(),
        });
        Refusal::of(&LinkError::Rpc(error), first, tries)
    }

    #[test]
    fn each_refusal_has_its_own_word() {
        use ErrandProblem as P;
        for (code, message, problem, ends) in [
            (406, "PHONE_NUMBER_INVALID", P::PhoneInvalid, true),
            (400, "PHONE_NUMBER_BANNED", P::PhoneBanned, true),
            (400, "PHONE_NUMBER_FLOOD", P::PhoneFlooded, true),
            (400, "PHONE_PASSWORD_FLOOD", P::PhoneFlooded, true),
            (400, "PHONE_NUMBER_UNOCCUPIED", P::PhoneUnregistered, true),
            (400, "PHONE_CODE_INVALID", P::CodeWrong, false),
            (400, "PHONE_CODE_EXPIRED", P::CodeExpired, false),
            (400, "PASSWORD_HASH_INVALID", P::PasswordWrong, false),
            (400, "ACCESS_TOKEN_INVALID", P::BotTokenInvalid, true),
            (400, "API_ID_INVALID", P::ApplicationInvalid, true),
            (401, "SESSION_REVOKED", P::KeyDead, true),
            (406, "AUTH_KEY_DUPLICATED", P::KeyDead, true),
            (401, "USER_DEACTIVATED_BAN", P::AccountBanned, true),
            (500, "AUTH_RESTART", P::NoAnswer, false),
            (400, "SOMETHING_NEW", P::Refused, false),
        ] {
            let refusal = refusal(code, message, false, 0);
            assert_eq!((refusal.problem, refusal.ends), (problem, ends), "{message}");
            assert_eq!(refusal.reason.as_deref(), Some(message));
        }
    }

    #[test]
    fn a_flood_says_how_long_and_the_fifth_wrong_try_ends_it() {
        let flood = refusal(420, "FLOOD_WAIT_77", false, 0);
        assert_eq!(
            (flood.problem, flood.retry_after, flood.ends),
            (ErrandProblem::Flooded, Some(77), false)
        );
        assert!(refusal(420, "FLOOD_WAIT_77", true, 0).ends);
        assert!(
            refusal(420, "FLOOD_WAIT_301", false, 0).ends,
            "its code is over by then"
        );
        let number = refusal(400, "PHONE_NUMBER_FLOOD", false, 0);
        assert_eq!(number.retry_after, Some(86_400), "Telegram does not say: a day");
        assert!(!refusal(400, "PHONE_CODE_INVALID", false, 3).ends);
        let last = refusal(400, "PHONE_CODE_INVALID", false, 4);
        assert_eq!((last.problem, last.ends), (ErrandProblem::TooManyTries, true));
    }
}
