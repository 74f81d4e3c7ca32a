//! The fields of a job that say how it is to be alone.

use super::body::{invalid, within};
use crate::{
    api::problem::Problem,
    store::unique_keys::{OnConflict, Scope, Unique},
};

/// Most characters of a key.
const MAX_LENGTH: usize = 200;

/// The longest period: 30 days, in seconds.
const MAX_SECONDS: i64 = 30 * 24 * 3600;

/// Reads `unique_key`, `unique_scope`, `unique_seconds` and `on_conflict`.
pub fn read(
    key: Option<String>,
    scope: Option<&str>,
    seconds: Option<i64>,
    on_conflict: Option<&str>,
) -> Result<Option<Unique>, Problem> {
    let Some(key) = key else {
        let given = [
            ("unique_scope", scope.is_some()),
            ("unique_seconds", seconds.is_some()),
            ("on_conflict", on_conflict.is_some()),
        ];
        return match given.into_iter().find(|(_, given)| *given) {
            Some((field, _)) => Err(invalid(field, "means something beside a unique_key only.")),
            None => Ok(None),
        };
    };
    if !(1..=MAX_LENGTH).contains(&key.chars().count()) {
        return Err(invalid(
            "unique_key",
            format!("must have 1 to {MAX_LENGTH} characters."),
        ));
    }
    Ok(Some(Unique {
        key,
        scope: read_scope(scope, seconds)?,
        on_conflict: match on_conflict {
            None | Some("reject") => OnConflict::Reject,
            Some("return_existing") => OnConflict::ReturnExisting,
            Some("replace") => OnConflict::Replace,
            Some(_) => return Err(invalid("on_conflict", "known are reject, return_existing, replace.")),
        },
    }))
}

fn read_scope(scope: Option<&str>, seconds: Option<i64>) -> Result<Scope, Problem> {
    let seconds: Option<i32> = within("unique_seconds", seconds, 1, MAX_SECONDS)?;
    match (scope, seconds) {
        (Some("period"), Some(seconds)) => Ok(Scope::Period { seconds }),
        (Some("period"), None) => Err(invalid(
            "unique_seconds",
            format!("a period needs a length, from 1 to {MAX_SECONDS}."),
        )),
        (None | Some("live" | "queued"), Some(_)) => {
            Err(invalid("unique_seconds", "is of the unique_scope period only."))
        }
        (None | Some("live"), None) => Ok(Scope::Live),
        (Some("queued"), None) => Ok(Scope::Queued),
        (Some(_), _) => Err(invalid("unique_scope", "known are queued, live, period.")),
    }
}
