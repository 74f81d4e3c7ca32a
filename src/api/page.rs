//! Pages of lists: a limit, and a cursor that names the last row seen. Rows that come in later do not shift a page.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;

use super::problem::{Code, Problem};

/// Rows of a page when the client does not say.
pub const DEFAULT_LIMIT: u16 = 50;

/// Most rows of a page.
pub const MAX_LIMIT: u16 = 1000;

/// One page.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "{T}Page")]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Pass it as `cursor` to read on; null at the end.
    pub next_cursor: Option<String>,
}

/// The rows of a page of at most `limit`, and the cursor after them. One row more than fits was read: so the end is known.
pub fn cut<R>(mut rows: Vec<R>, limit: u16, list: List, key: impl Fn(&R) -> String) -> (Vec<R>, Option<String>) {
    let more = rows.len() > usize::from(limit);
    rows.truncate(limit.into());
    let next = rows.last().filter(|_| more).map(|last| encode(list, &key(last)));
    (rows, next)
}

/// Which list a cursor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    Attempts,
    Audit,
    Deliveries,
    CampaignPeople,
    Campaigns,
    Files,
    Floods,
    Jobs,
    Counts,
    Finds,
    KnownMembers,
    Members,
    Messages,
    Schedules,
    Sessions,
    Statistics,
    Suppressions,
    Targets,
    Templates,
    Ticks,
    Watches,
    Workers,
}

impl List {
    const fn tag(self) -> char {
        match self {
            Self::Attempts => 'a',
            Self::Audit => 'x',
            Self::Deliveries => 'd',
            Self::CampaignPeople => 'p',
            Self::Campaigns => 'g',
            Self::Files => 'i',
            Self::Floods => 'f',
            Self::Jobs => 'j',
            Self::Counts => 'n',
            Self::Finds => 'h',
            Self::KnownMembers => 'k',
            Self::Members => 'm',
            Self::Messages => 'e',
            Self::Schedules => 'c',
            Self::Sessions => 's',
            Self::Statistics => 'q',
            Self::Suppressions => 'u',
            Self::Targets => 'r',
            Self::Templates => 'l',
            Self::Ticks => 't',
            Self::Watches => 'o',
            Self::Workers => 'w',
        }
    }
}

fn encode(list: List, key: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}{key}", list.tag()))
}

/// The key in a cursor of that list.
pub fn decode<K: std::str::FromStr>(list: List, cursor: Option<&str>) -> Result<Option<K>, Problem> {
    let Some(cursor) = cursor else { return Ok(None) };
    let key = URL_SAFE_NO_PAD
        .decode(cursor)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .and_then(|text| text.strip_prefix(list.tag())?.parse().ok());
    key.map(Some).ok_or_else(|| {
        let detail = "Pass next_cursor of the page before, unchanged, or leave cursor out for the first page.";
        Problem::new(Code::InvalidCursor, detail).field("cursor")
    })
}

/// The limit to use.
pub fn limit(given: Option<&str>) -> Result<u16, Problem> {
    let Some(given) = given else {
        return Ok(DEFAULT_LIMIT);
    };
    given
        .parse()
        .ok()
        .filter(|limit| (1..=MAX_LIMIT).contains(limit))
        .ok_or_else(|| {
            Problem::new(
                Code::InvalidParameter,
                format!("limit takes a number from 1 to {MAX_LIMIT}."),
            )
            .field("limit")
        })
}

/// A time in the query.
pub fn time(parameter: &'static str, text: Option<&str>) -> Result<Option<DateTime<Utc>>, Problem> {
    text.map(|text| {
        DateTime::parse_from_rfc3339(text)
            .map(|time| time.to_utc())
            .map_err(|_| {
                let detail =
                    format!("{parameter} takes a time with its offset (RFC 3339); in a URL, + is written %2B.");
                Problem::new(Code::InvalidParameter, detail).field(parameter)
            })
    })
    .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_belongs_to_its_list() {
        let cursor = encode(List::Members, "-42");
        assert_eq!(decode::<i64>(List::Members, Some(&cursor)).expect("its own"), Some(-42));
        assert_eq!(decode::<i64>(List::Members, None).expect("no cursor"), None);
        for (list, cursor) in [
            (List::Jobs, cursor.as_str()),
            (List::Members, "?"),
            (List::Members, ""),
            (List::Members, "bQ"),
        ] {
            let problem = decode::<i64>(list, Some(cursor)).expect_err("not a cursor of this list");
            assert_eq!(problem.code(), Code::InvalidCursor);
        }
    }

    #[test]
    fn a_limit_has_bounds() {
        assert_eq!(limit(None).expect("the default"), DEFAULT_LIMIT);
        assert_eq!(limit(Some("1000")).expect("the most"), MAX_LIMIT);
        for wrong in ["0", "1001", "-1", "many", ""] {
            assert_eq!(
                limit(Some(wrong)).expect_err("out of bounds").code(),
                Code::InvalidParameter
            );
        }
    }
}
