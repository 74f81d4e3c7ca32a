//! What the data of each type of event holds, for the API's document. A type that is missing here does not compile.

use serde_json::{Map, Value, json};

use crate::store::event_types::EventType;

/// A field of an event's data: its name, its type, and what it says. A type that ends in `?` may be null.
type Field = (&'static str, &'static str, &'static str);

/// A type of event as readers need to know it.
struct Described {
    /// What has happened.
    what: &'static str,
    /// Its subject.
    subject: &'static str,
    fields: &'static [Field],
}

const SESSION: Field = ("session", "uuid", "The session.");
const SESSION_STATE: &[Field] = &[
    SESSION,
    ("from", "text?", "The state before."),
    ("to", "text", "The state now."),
    ("reason", "text?", "Why, as a stable word."),
    ("by", "text?", "Who resumed it, where a person did."),
];
const JOB: &[Field] = &[
    ("job", "uuid", "The job; `GET /v1/jobs/{id}` has its result."),
    ("kind", "text", "Its kind."),
    ("state", "text", "`succeeded`, `failed` or `cancelled`."),
    ("session", "uuid?", "The session that it ran on."),
    ("attempt", "integer", "Which attempt was the last."),
    ("finished_at", "time", "When it ended."),
    ("error", "text?", "The code of the error of a job that failed."),
    ("batch", "uuid?", "The batch that it belongs to."),
    ("tags", "texts", "Its tags."),
];
const CAMPAIGN: Field = ("campaign", "uuid", "The campaign.");
const CAMPAIGN_JOB: Field = ("job", "uuid", "The job that works on it.");
const WATCHED: [Field; 3] = [
    ("watch", "uuid", "The watch that saw it."),
    ("session", "uuid", "The session that saw it."),
    ("chat", "integer?", "The chat, in the Bot API's form."),
];
const MESSAGE: &[Field] = &[
    WATCHED[0],
    WATCHED[1],
    WATCHED[2],
    ("message", "object", "The message as it is now, with its text."),
    FROM_HISTORY,
];
const FROM_HISTORY: Field = (
    "from_history",
    "boolean?",
    "It was missed at first, and read from the history.",
);
const MEMBER: &[Field] = &[
    WATCHED[0],
    WATCHED[1],
    WATCHED[2],
    ("user_id", "integer", "The person."),
    ("by", "integer?", "Who added or removed them."),
    (
        "message_id",
        "integer?",
        "The number of the message that says so; null: a channel, which writes none.",
    ),
    ("date", "time", "When."),
    FROM_HISTORY,
];

#[expect(clippy::too_many_lines, reason = "an arm for each type")]
fn described(event: EventType) -> Described {
    use EventType as E;
    let (what, subject, fields): (_, _, &'static [Field]) = match event {
        E::SessionStateChanged => ("A session is in another state.", "session:<id>", SESSION_STATE),
        E::SessionAccessLost => (
            "A session, or one chat of it, cannot be used any more.",
            "session:<id>",
            &[
                SESSION,
                (
                    "from",
                    "text?",
                    "The session's state before; not there where only a chat was lost.",
                ),
                (
                    "to",
                    "text?",
                    "The session's state now; not there where only a chat was lost.",
                ),
                (
                    "chat",
                    "integer?",
                    "The chat that was lost; not there where all of the session was.",
                ),
                ("reason", "text?", "Why, as a stable word."),
            ],
        ),
        E::SessionUpdatesGap => (
            "Telegram does not know any more how far the session has read: what came meanwhile is only in the histories.",
            "session:<id>",
            &[SESSION, ("reason", "text", "Telegram's word for it.")],
        ),
        E::SessionPoolChanged => (
            "A session is in another pool.",
            "session:<id>",
            &[
                SESSION,
                ("from", "text", "The pool before."),
                ("to", "text", "The pool now."),
            ],
        ),
        E::SessionBreakerChanged => (
            "A session's circuit breaker has opened or closed.",
            "session:<id>",
            &[
                SESSION,
                ("breaker", "text", "`open` or `closed`."),
                ("trips", "integer?", "How often it has opened in a row."),
                ("until", "time?", "When it is tried again."),
                ("error", "text?", "What Telegram answered."),
            ],
        ),
        E::ApplicationRefused => (
            "Telegram refuses an application's API id.",
            "application:<api_id>",
            &[
                ("api_id", "integer", "Telegram's number of it."),
                ("reason", "text", "Telegram's name of the error."),
                ("session", "uuid", "The session that met it."),
            ],
        ),
        E::ApplicationResumed => (
            "A person has let the sessions of a refused application be held again.",
            "application:<api_id>",
            &[
                ("api_id", "integer", "Telegram's number of it."),
                ("by", "text", "Who did."),
            ],
        ),
        E::JobSucceeded => ("A job ended well.", "job:<id>", JOB),
        E::JobFailed => ("A job ended without what it was for.", "job:<id>", JOB),
        E::JobCancelled => ("A job was cancelled.", "job:<id>", JOB),
        E::BatchFinished => (
            "The last job of a batch ended.",
            "batch:<id>",
            &[
                ("batch", "uuid", "The batch."),
                ("total", "integer", "Its jobs."),
                ("succeeded", "integer", "Those that ended well."),
                ("failed", "integer", "Those that failed."),
                ("cancelled", "integer", "Those that were cancelled."),
            ],
        ),
        E::ScheduleMissed => (
            "Ticks of a schedule made no job, because nobody took them in time or the job was refused.",
            "schedule:<id>",
            &[
                ("schedule", "uuid", "The schedule."),
                ("name", "text", "Its name."),
                ("missed", "integer", "How many ticks."),
                (
                    "ticks",
                    "objects",
                    "The newest 50 of them, each with `at`, `code` and `message`.",
                ),
            ],
        ),
        E::MessageNew => ("A message came into a watched chat.", "chat:<id>", MESSAGE),
        E::MessageEdited => ("A message of a watched chat was changed.", "chat:<id>", MESSAGE),
        E::MessageDeleted => (
            "A message of a watched chat was deleted.",
            "chat:<id>",
            &[
                WATCHED[0],
                WATCHED[1],
                WATCHED[2],
                ("message_id", "integer", "The message's number in its chat."),
            ],
        ),
        E::MessageReactions => (
            "The reactions to a message of a watched chat were counted anew.",
            "chat:<id>",
            &[
                WATCHED[0],
                WATCHED[1],
                WATCHED[2],
                ("message_id", "integer", "The message's number in its chat."),
                ("reactions", "objects", "Every reaction with its count."),
            ],
        ),
        E::MemberJoined => ("Somebody is a member of a watched chat now.", "chat:<id>", MEMBER),
        E::MemberLeft => ("Somebody is no member of a watched chat any more.", "chat:<id>", MEMBER),
        E::ChatChanged => (
            "A watched chat has another title or picture, or another pinned message.",
            "chat:<id>",
            MESSAGE,
        ),
        E::WatchStarted => (
            "A chat, or a session's private messages, is watched from here on.",
            "watch:<id>",
            &WATCHED,
        ),
        E::WatchSwitched => (
            "Another session records what happens in the chat.",
            "watch:<id>",
            &[
                WATCHED[0],
                ("from", "uuid", "The session before."),
                ("to", "uuid", "The session now."),
                WATCHED[2],
            ],
        ),
        E::WatchGap => (
            "Telegram did not keep what happened in the chat meanwhile: new messages are read from the history.",
            "chat:<id>",
            &WATCHED,
        ),
        E::WatchAccessLost => (
            "A watch's session cannot see the chat any more.",
            "watch:<id>",
            &[
                WATCHED[0],
                ("session", "uuid?", "The session."),
                ("reason", "text?", "Why, as a stable word."),
            ],
        ),
        E::WatchExhausted => (
            "No session of the watch's list can see the chat any more.",
            "watch:<id>",
            &[
                WATCHED[0],
                ("reason", "text?", "Why the last one cannot, as a stable word."),
            ],
        ),
        E::WatchStopped => ("Nothing is recorded of the chat any more.", "watch:<id>", &[WATCHED[0]]),
        E::CampaignResumed => (
            "A campaign was started or resumed.",
            "campaign:<id>",
            &[CAMPAIGN, CAMPAIGN_JOB, ("by", "text", "Who did.")],
        ),
        E::CampaignPaused => (
            "A person paused a campaign.",
            "campaign:<id>",
            &[CAMPAIGN, ("by", "text", "Who did.")],
        ),
        E::CampaignChanged => (
            "A person changed a campaign.",
            "campaign:<id>",
            &[
                CAMPAIGN,
                ("changed", "text[]", "Which of its fields are others now."),
                ("by", "text", "Who did."),
            ],
        ),
        E::CampaignDeleted => (
            "A person deleted a campaign; whom it has contacted is kept.",
            "campaign:<id>",
            &[CAMPAIGN, ("by", "text", "Who did.")],
        ),
        E::CampaignStopped => (
            "A campaign stopped by itself: a person has to see to it, and resumes it.",
            "campaign:<id>",
            &[
                CAMPAIGN,
                (
                    "code",
                    "text",
                    "Why, as a stable word: `peer_flood`, `refusals`, or the error's code.",
                ),
                ("reason", "text", "Why, for people."),
                CAMPAIGN_JOB,
            ],
        ),
        E::CampaignFinished => (
            "Everybody on a campaign's list was dealt with.",
            "campaign:<id>",
            &[CAMPAIGN, CAMPAIGN_JOB],
        ),
        E::SuppressionAdded => (
            "A person is left alone from here on, because they said so or blocked one of our accounts.",
            "suppression:<id>",
            &[
                ("suppression", "uuid", "The row of the list."),
                ("user_id", "integer", "The person."),
                ("source", "text", "`said_stop` or `blocked_us`."),
                ("session", "uuid?", "The session that was told so."),
            ],
        ),
        E::SubscriptionDisabled => (
            "A subscription was switched off, because too much of what was sent to it failed.",
            "subscription:<id>",
            &[
                ("subscription", "uuid", "The subscription."),
                ("reason", "text", "`failing` or `gone`."),
                ("failures", "integer", "How many attempts failed in a row."),
                ("failing_since", "time?", "Since when every attempt has failed."),
                (
                    "last_status",
                    "integer?",
                    "What the endpoint answered last; null: it did not.",
                ),
            ],
        ),
    };
    Described { what, subject, fields }
}

/// `SessionStateChangedData` for `session.state_changed`.
fn schema_name(event: EventType) -> String {
    let words = event.name().split(['.', '_']).map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_uppercase() + rest
    });
    format!("{}Data", words.collect::<String>())
}

/// A schema for the data of each type.
pub fn register(schemas: &mut Map<String, Value>) {
    for event in EventType::ALL {
        let Described { what, subject, fields } = described(*event);
        let properties: Map<String, Value> = fields
            .iter()
            .map(|field| (field.0.to_owned(), property(field)))
            .collect();
        let required: Vec<&str> = fields
            .iter()
            .filter(|field| !field.1.ends_with('?'))
            .map(|field| field.0)
            .collect();
        let schema = json!({
            "type": "object",
            "description": format!("`{}`, version {}, about `{subject}`: {what}", event.name(), event.version()),
            "properties": properties,
            "required": required,
        });
        schemas.insert(schema_name(*event), schema);
    }
}

/// The union of them, with a table.
pub fn union() -> Value {
    let rows = EventType::ALL.iter().map(|event| {
        let Described { what, subject, .. } = described(*event);
        format!(
            "| `{}` | `{subject}` | `{}` | {what} |",
            event.name(),
            schema_name(*event)
        )
    });
    let rows: Vec<String> = rows.collect();
    let any: Vec<Value> = EventType::ALL
        .iter()
        .map(|event| json!({ "$ref": format!("#/components/schemas/{}", schema_name(*event)) }))
        .collect();
    json!({
        "description": format!(
            "What the event's type says it holds.\n\n| type | subject | data | |\n| --- | --- | --- | --- |\n{}",
            rows.join("\n")
        ),
        "anyOf": any,
    })
}

fn property((_, kind, what): &Field) -> Value {
    let (kind, nullable) = match kind.strip_suffix('?') {
        Some(kind) => (kind, true),
        None => (*kind, false),
    };
    let mut schema = match kind {
        "uuid" => json!({ "type": "string", "format": "uuid" }),
        "time" => json!({ "type": "string", "format": "date-time" }),
        "integer" => json!({ "type": "integer", "format": "int64" }),
        "boolean" => json!({ "type": "boolean" }),
        "object" => json!({ "type": "object" }),
        "objects" => json!({ "type": "array", "items": { "type": "object" } }),
        "texts" => json!({ "type": "array", "items": { "type": "string" } }),
        _ => json!({ "type": "string" }),
    };
    schema["description"] = json!(what);
    if nullable {
        schema["nullable"] = json!(true);
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_a_schema_of_its_own() {
        let mut schemas = Map::new();
        register(&mut schemas);
        assert_eq!(schemas.len(), EventType::ALL.len());
        assert!(schemas.contains_key("SessionStateChangedData"), "{:?}", schemas.keys());
        assert_eq!(union()["anyOf"].as_array().map(Vec::len), Some(EventType::ALL.len()));
    }
}
