//! How far a running job is, and when it will be done at the rate it has.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use wireroom_jobs::ports::Progress;

/// Beyond it, a rate says nothing: a hundred years.
const MOST_SECONDS: f64 = 100.0 * 365.0 * 86_400.0;

/// Numbers a running job shows.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Progress")]
pub struct ProgressView {
    pub done: i64,
    /// How many there will be, when that is known.
    pub of: Option<i64>,
    pub per_second: f64,
    /// How many seconds are left at that rate; null when the rate or the end is not known. Waits that Telegram asks for come
    /// on top.
    pub seconds_left: Option<i64>,
}

/// The progress that is stored, with the time that is left; as it is when a version wrote it that this one does not read.
pub fn timed(progress: Value) -> Value {
    let Ok(read) = serde_json::from_value::<Progress>(progress.clone()) else {
        return progress;
    };
    let view = ProgressView {
        seconds_left: seconds_left(&read),
        done: read.done,
        of: read.of,
        per_second: read.per_second,
    };
    serde_json::to_value(view).unwrap_or(progress)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "an estimate, within bounds that are checked"
)]
fn seconds_left(progress: &Progress) -> Option<i64> {
    let left = progress.of?.saturating_sub(progress.done).max(0);
    if left == 0 {
        return Some(0);
    }
    let seconds = left as f64 / progress.per_second;
    (seconds.is_finite() && seconds > 0.0 && seconds < MOST_SECONDS).then(|| seconds.ceil() as i64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_time_left_is_what_is_left_by_the_rate() {
        for (done, of, per_second, left) in [
            (200, json!(300), 20.0, json!(5)),
            (200, json!(301), 20.0, json!(6)),
            (300, json!(300), 20.0, json!(0)),
            (400, json!(300), 20.0, json!(0)),
            (0, json!(300), 0.0, Value::Null),
            (10, Value::Null, 20.0, Value::Null),
        ] {
            let progress = json!({ "done": done, "of": of, "per_second": per_second });
            assert_eq!(timed(progress.clone())["seconds_left"], left, "{progress}");
        }
        let unknown = json!({ "steps": 3 });
        assert_eq!(timed(unknown.clone()), unknown);
    }
}
