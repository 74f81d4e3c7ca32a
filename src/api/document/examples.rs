//! What Swagger UI has in the box when a person opens an operation. Each can be sent as it is to a fresh `wireroom dev`: the chats
//! and the people are those of its made-up Telegram. A test sends every one.

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use serde_json::{Map, Value, json};
use wireroom_jobs::JobKind;

use super::example as args;

/// Puts an example into each body that there is. Without, Swagger UI fills in every field that may be left out, the words
/// "string" among them.
pub fn add(document: &mut Value) {
    for (path, item) in document["paths"].as_object_mut().into_iter().flatten() {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            let content = operation["requestBody"]["content"].as_object_mut();
            for (media_type, content) in content.into_iter().flatten() {
                let Some(example) = of(method, path, media_type) else {
                    continue;
                };
                match example {
                    Example::One(value) => content["example"] = value,
                    Example::Each(values) => content["examples"] = Value::Object(values),
                }
            }
        }
    }
}

enum Example {
    One(Value),
    /// By name.
    Each(Map<String, Value>),
}

fn of(method: &str, path: &str, media_type: &str) -> Option<Example> {
    match media_type.split(';').next()? {
        "application/json" => json_of(method, path),
        "application/x-ndjson" => rows(path).map(|rows| {
            let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
            Example::One(lines.join("\n").into())
        }),
        "text/csv" => csv(path).map(|text| Example::One(text.into())),
        _ => None,
    }
}

fn json_of(method: &str, path: &str) -> Option<Example> {
    if let Some(rows) = rows(path).filter(|_| path != "/v1/jobs/batch") {
        return Some(Example::One(json!({ "items": rows })));
    }
    if path == "/v1/jobs" {
        let each = JobKind::ALL.map(|kind| (kind.as_str().to_owned(), json!({ "value": job(kind) })));
        return Some(Example::Each(each.into_iter().collect()));
    }
    let value = work(method, path).or_else(|| control(method, path));
    let value = value
        .or_else(|| sessions(method, path))
        .or_else(|| outreach(method, path));
    value.or_else(|| events(method, path)).map(Example::One)
}

fn job(kind: JobKind) -> Value {
    json!({ "kind": kind.as_str(), "args": args(kind) })
}

fn work(method: &str, path: &str) -> Option<Value> {
    Some(match (method, path) {
        ("post", "/v1/jobs/batch") => {
            json!({ "mode": "all_or_nothing", "jobs": [job(JobKind::Join), job(JobKind::Scan)] })
        }
        ("patch", "/v1/jobs/{id}") => json!({ "priority": 10 }),
        ("post", "/v1/jobs/bulk/cancel" | "/v1/jobs/bulk/retry") => {
            json!({ "filter": { "kind": "publish", "tag": "campaign:spring" }, "dry_run": true })
        }
        ("post", "/v1/schedules") => json!({
            "name": "morning digest", "cron": "0 9 * * mon-fri", "time_zone": "Europe/Berlin",
            "job": job(JobKind::Publish),
        }),
        ("patch", "/v1/schedules/{id}") => json!({ "paused": { "reason": "holidays" } }),
        ("post", "/v1/templates") => json!({
            "name": "weekly_digest", "format": "markdown", "text": "Dear {{first_name}}, see you on **{{day}}**",
        }),
        ("put", "/v1/templates/{name}") => json!({ "text": "See you on **{{day}}**, {{first_name}}" }),
        ("post", "/v1/watches/{id}/switch") => json!({ "session": "bob" }),
        _ => return None,
    })
}

fn control(method: &str, path: &str) -> Option<Value> {
    Some(match (method, path) {
        ("put", "/v1/limits/key/{target}") => json!({ "starts": 20, "period_seconds": 60 }),
        ("put", "/v1/limits/kind/{target}" | "/v1/limits/pool/{target}") => json!({ "max_running": 10 }),
        ("put", "/v1/pauses/everything" | "/v1/pauses/{scope}/{target}") => {
            json!({ "reason": "Telegram is slow today" })
        }
        ("put", "/v1/caps/{action}" | "/v1/sessions/{id}/caps/{action}") => {
            json!({ "per_minute": 3, "per_hour": 10, "per_day": 20 })
        }
        ("post", "/v1/pools") => json!({ "name": "spring" }),
        ("post", "/v1/applications") => {
            json!({ "label": "shops", "api_id": 12_345, "api_hash": "0123456789abcdef0123456789abcdef" })
        }
        _ => return None,
    })
}

fn sessions(method: &str, path: &str) -> Option<Value> {
    Some(match (method, path) {
        ("post", "/v1/sessions") => json!({ "label": "shop-1", "phone": "+999 66 2 0001" }),
        ("post", "/v1/sessions/qr") => json!({ "label": "shop-2" }),
        ("post", "/v1/sessions/import") => json!({ "label": "shop-3", "session": telethon() }),
        ("post", "/v1/sessions/{id}/code") => json!({ "code": "22222" }),
        ("post", "/v1/sessions/{id}/password") => json!({ "password": "sandbox" }),
        ("post", "/v1/sessions/{id}/enable") => json!({ "stopped_elsewhere": true }),
        ("post", "/v1/sessions/{id}/export") => json!({ "format": "telethon" }),
        ("put", "/v1/sessions/{id}/pool") => json!({ "pool": "default" }),
        ("put", "/v1/sessions/{id}/proxy") => json!({ "proxy": "socks5://user:password@proxy.example.com:1080" }),
        ("put", "/v1/sessions/{id}/time-zone") => json!({ "time_zone": "Europe/Lisbon" }),
        _ => return None,
    })
}

/// Of the right form, for data centre 2; its key is nobody's.
fn telethon() -> String {
    let mut bytes = vec![2, 127, 0, 0, 1, 1, 187];
    bytes.extend((0..=u8::MAX).rev());
    format!("1{}", URL_SAFE.encode(bytes))
}

fn outreach(method: &str, path: &str) -> Option<Value> {
    Some(match (method, path) {
        ("put", "/v1/outreach") => json!({ "state": "running", "reason": "Looked into the complaint: it is settled" }),
        ("put", "/v1/outreach/limits") => json!({ "per_target_per_day": 50, "person_rest_days": 30 }),
        ("post", "/v1/suppressions") => suppression(),
        ("post", "/v1/campaigns") => json!({
            "name": "Spring readers", "chat": "@reading_club", "per_day": 20, "time_zone": "Europe/Lisbon",
            "text": "You asked about our club. Come in: {link}",
        }),
        ("patch", "/v1/campaigns/{id}") => json!({ "per_day": 30 }),
        ("post", "/v1/campaigns/{id}/pause") => json!({ "reason": "The text has a mistake" }),
        _ => return None,
    })
}

fn suppression() -> Value {
    json!({ "username": "@friendly_person", "reason": "Asked by letter not to be contacted" })
}

fn events(method: &str, path: &str) -> Option<Value> {
    Some(match (method, path) {
        ("put", "/v1/events/consumers/{name}") => json!({ "types": ["session.*", "schedule.missed"] }),
        ("post", "/v1/events/ack") => json!({ "consumer": "billing", "position": 1 }),
        ("post", "/v1/subscriptions") => {
            json!({ "url": "https://example.com/wireroom", "types": ["session.*", "schedule.missed"] })
        }
        ("patch", "/v1/subscriptions/{id}") => json!({ "enabled": false }),
        ("post", "/v1/subscriptions/{id}/redeliver") => json!({ "from": 1 }),
        ("post", "/v1/subscriptions/{id}/secret") => json!({ "overlap_seconds": 3600 }),
        _ => return None,
    })
}

/// The rows of lists that may be sent in several forms.
fn rows(path: &str) -> Option<Vec<Value>> {
    Some(match path {
        "/v1/jobs/batch" => vec![job(JobKind::Join), job(JobKind::Scan)],
        "/v1/campaigns/{id}/people" => vec![json!({
            "username": "@friendly_person", "basis": "import",
            "proof": "Ticked `invite me` in the form of 2030-01-12", "supplied_by": "Maria, membership desk",
        })],
        "/v1/campaigns/{id}/ledger/import" => vec![json!({ "user_id": 7_100_000_005_i64 })],
        "/v1/suppressions/import" => vec![suppression()],
        _ => return None,
    })
}

fn csv(path: &str) -> Option<&'static str> {
    Some(match path {
        "/v1/campaigns/{id}/people" => {
            "username,basis,proof,supplied_by\n@friendly_person,import,Ticked `invite me` in the form of 2030-01-12,Maria\n"
        }
        "/v1/campaigns/{id}/ledger/import" => "user_id\n7100000005\n",
        "/v1/suppressions/import" => "username,reason\n@friendly_person,Asked by letter not to be contacted\n",
        _ => return None,
    })
}
