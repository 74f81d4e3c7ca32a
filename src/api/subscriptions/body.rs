//! What a client says of a subscription, and what of it is refused.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::Url;

use crate::{
    addresses,
    api::{events, jobs::body::invalid, problem::Problem},
    store::subscriptions::Settings,
};

const LONGEST_URL: usize = 2000;
const LONGEST_DESCRIPTION: usize = 500;
const MOST_SUBJECTS: usize = 100;

/// A subscription to be made.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewSubscription")]
pub struct NewSubscriptionBody {
    /// Where events are posted: `https`, on the public internet unless `WIREROOM_WEBHOOK_ALLOW_PRIVATE` is on. Redirects are
    /// not followed.
    #[schemars(length(min = 1, max = 2000), example = &"https://example.com/wireroom")]
    pub url: String,
    /// For people, up to 500 characters.
    #[serde(default)]
    #[schemars(length(max = 500))]
    pub description: String,
    /// Types of events, `session.*` or `session.access_lost`; none: every type. Ends of jobs are events while a subscription
    /// or a consumer names `job.*` or one of its types, and not otherwise.
    #[serde(default)]
    #[schemars(length(max = 50), example = json!(["session.*", "schedule.missed"]))]
    pub types: Vec<String>,
    /// Only events of these subjects, such as `session:<id>`; none: every subject.
    #[serde(default)]
    #[schemars(length(max = 100))]
    pub subjects: Vec<String>,
    /// Whether it begins at once.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Begin after this position; 0: at the oldest event that is kept; null: with the next one.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub after: Option<i64>,
}

/// What is to be different; what is left out, or null, stays.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SubscriptionPatch {
    #[serde(default)]
    #[schemars(length(min = 1, max = 2000))]
    pub url: Option<String>,
    #[serde(default)]
    #[schemars(length(max = 500))]
    pub description: Option<String>,
    #[serde(default)]
    #[schemars(length(max = 50))]
    pub types: Option<Vec<String>>,
    #[serde(default)]
    #[schemars(length(max = 100))]
    pub subjects: Option<Vec<String>>,
    /// One that is enabled again goes on where it was.
    #[serde(default)]
    pub enabled: Option<bool>,
}

fn yes() -> bool {
    true
}

impl NewSubscriptionBody {
    pub fn settings(&self, allows_private: bool) -> Result<Settings, Problem> {
        checked(
            Settings {
                url: self.url.clone(),
                description: self.description.clone(),
                types: self.types.clone(),
                subjects: self.subjects.clone(),
                enabled: self.enabled,
            },
            allows_private,
        )
    }
}

impl SubscriptionPatch {
    pub fn settings(self, was: Settings, allows_private: bool) -> Result<Settings, Problem> {
        checked(
            Settings {
                url: self.url.unwrap_or(was.url),
                description: self.description.unwrap_or(was.description),
                types: self.types.unwrap_or(was.types),
                subjects: self.subjects.unwrap_or(was.subjects),
                enabled: self.enabled.unwrap_or(was.enabled),
            },
            allows_private,
        )
    }
}

fn checked(settings: Settings, allows_private: bool) -> Result<Settings, Problem> {
    check_url(&settings.url, allows_private).map_err(|message| invalid("url", message))?;
    if settings.description.chars().count() > LONGEST_DESCRIPTION || settings.description.contains('\0') {
        return Err(invalid(
            "description",
            format!("must be up to {LONGEST_DESCRIPTION} characters, and no NUL."),
        ));
    }
    events::known_types(&settings.types).map_err(|message| invalid("types", message))?;
    if settings.subjects.len() > MOST_SUBJECTS {
        return Err(invalid("subjects", format!("takes at most {MOST_SUBJECTS}.")));
    }
    if let Some(wrong) = settings
        .subjects
        .iter()
        .position(|subject| !events::subject_is_good(subject))
    {
        return Err(invalid(
            format!("subjects[{wrong}]"),
            "must be what an event names as its subject, such as session:<id>.",
        ));
    }
    Ok(settings)
}

fn check_url(text: &str, allows_private: bool) -> Result<(), String> {
    if text.len() > LONGEST_URL {
        return Err(format!("must be up to {LONGEST_URL} characters."));
    }
    let url = Url::parse(text).map_err(|_| "must be a whole URL, such as https://example.com/hook.".to_owned())?;
    match url.scheme() {
        "https" => {}
        "http" if allows_private => {}
        _ => return Err("must begin with https://: what is sent may hold people's messages.".to_owned()),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must have no user and no password in it: every webhook is signed.".to_owned());
    }
    if url.fragment().is_some() {
        return Err("must have no #fragment.".to_owned());
    }
    match addresses::literal(&url) {
        Some(address) if !allows_private && !addresses::is_public(address) => {
            Err("must be on the public internet, unless WIREROOM_WEBHOOK_ALLOW_PRIVATE is on.".to_owned())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_public_encrypted_and_without_secrets() {
        assert_eq!(check_url("https://example.com/hook?x=1", false), Ok(()));
        for wrong in [
            "http://example.com/",
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://169.254.169.254/latest",
            "https://2130706433/",
            "https://a:b@example.com/",
            "https://example.com/#x",
            "ftp://example.com/",
            "/hook",
            "",
        ] {
            assert!(check_url(wrong, false).is_err(), "{wrong}");
        }
        for allowed in ["http://example.com/", "http://127.0.0.1:8000/"] {
            assert_eq!(check_url(allowed, true), Ok(()));
        }
        assert!(check_url("https://a:b@example.com/", true).is_err());
    }
}
