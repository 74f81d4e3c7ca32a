//! An event as clients see it: the same in a list, in a stream and in a webhook.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::store::event_log::EventRecord;

/// Something that happened, once.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Event")]
pub struct StoredEvent {
    /// Its number: every event has the next one after that before it.
    #[schemars(example = 4711)]
    pub position: i64,
    /// What happened. Clients leave types alone that they do not know.
    #[serde(rename = "type")]
    #[schemars(example = &"session.access_lost")]
    pub event_type: String,
    /// Of what `data` holds: within a version it only gains fields.
    pub version: i16,
    /// When it happened. Positions, not times, tell the order.
    pub at: DateTime<Utc>,
    /// What it is about. The events of one subject come in the order in which they happened.
    #[schemars(example = &"session:0190c5a0-0000-7000-8000-000000000000")]
    pub subject: String,
    /// What the type says.
    #[schemars(schema_with = "data_schema")]
    pub data: Value,
}

fn data_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "$ref": "#/components/schemas/EventData" })
}

impl From<EventRecord> for StoredEvent {
    fn from(record: EventRecord) -> Self {
        Self {
            position: record.position,
            event_type: record.event_type,
            version: record.version,
            at: record.at,
            subject: record.subject,
            data: record.data,
        }
    }
}

/// Events from a place on.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct EventPage {
    pub items: Vec<StoredEvent>,
    /// Every event up to here that fits is in this page or one before: pass it as `after` to read on, and acknowledge it
    /// when the work is done. It may grow without items, past events that do not fit.
    pub position: i64,
    /// The newest event there is.
    pub head: i64,
}
