//! The `Prefer` header (RFC 7240), of which `wait` is known: seconds to wait for a job's result.

use std::time::Duration;

use poem::http::HeaderMap;

use super::problem::{Code, Problem};

/// The longest wait; a longer one is cut, and `Preference-Applied` says so.
pub const MAX_WAIT_SECONDS: u64 = 60;

/// How long the client would wait; `None` when it would not.
pub fn wait(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    let wrong = || {
        let detail = format!("Prefer: wait=N takes whole seconds, 0 to {MAX_WAIT_SECONDS}.");
        Problem::new(Code::InvalidParameter, detail).field("Prefer")
    };
    for value in headers.get_all("prefer") {
        let value = value.to_str().map_err(|_| wrong())?;
        for preference in value.split(',') {
            let (name, argument) = preference.split_once('=').unwrap_or((preference, ""));
            if name.trim().eq_ignore_ascii_case("wait") {
                let argument = argument.split(';').next().unwrap_or_default().trim().trim_matches('"');
                if argument.is_empty() || !argument.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(wrong());
                }
                // Digits that do not fit are more than the most.
                let seconds = argument.parse().unwrap_or(MAX_WAIT_SECONDS).min(MAX_WAIT_SECONDS);
                return Ok((seconds > 0).then(|| Duration::from_secs(seconds)));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &'static str) -> Result<Option<u64>, Code> {
        let mut headers = HeaderMap::new();
        headers.insert("prefer", value.parse().expect("a header value"));
        wait(&headers)
            .map(|wait| wait.map(|wait| wait.as_secs()))
            .map_err(|problem| problem.code())
    }

    #[test]
    fn the_wait_is_found_among_preferences() {
        assert_eq!(parse("wait=10"), Ok(Some(10)));
        assert_eq!(parse("respond-async, Wait = \"7\"; x=y"), Ok(Some(7)));
        assert_eq!(parse("wait=0"), Ok(None));
        assert_eq!(parse("return=minimal"), Ok(None));
        assert_eq!(wait(&HeaderMap::new()).expect("no header"), None);
    }

    #[test]
    fn a_long_wait_is_cut_and_a_wrong_one_refused() {
        assert_eq!(parse("wait=600"), Ok(Some(60)));
        assert_eq!(parse("wait=99999999999999999999999"), Ok(Some(60)));
        for wrong in ["wait", "wait=", "wait=ten", "wait=-1", "wait=1.5"] {
            assert_eq!(parse(wrong), Err(Code::InvalidParameter), "{wrong}");
        }
    }
}
