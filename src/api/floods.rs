//! `GET /v1/floods`: how often Telegram told sessions to wait; and the figures of it for a monitor, at `/v1/metrics`.

use std::{fmt::Write as _, sync::Arc};

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{
    OpenApi,
    param::Query,
    payload::{Json, PlainText},
};
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use super::{
    State,
    auth::{Allowed, Viewer},
    document::Tag,
    page::{self, List, Page},
    problem::{Code, Problem},
    session_health,
    typed::Typed,
};
use crate::{
    ids::SessionId,
    store::{
        self,
        floods::{self, FloodFilter, FloodRecord, FloodTotal},
        session_health as health,
    },
};

/// One time Telegram told a session to wait.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Flood")]
pub struct FloodView {
    pub at: DateTime<Utc>,
    pub session: Uuid,
    /// The job that met it; null: a call of no job.
    pub job: Option<Uuid>,
    /// The method that was called.
    #[schemars(example = &"channels.getParticipants")]
    pub method: String,
    /// Telegram's name of it.
    #[schemars(example = &"FLOOD_WAIT")]
    pub error: String,
    pub seconds: i32,
    /// It was short, and waited out; otherwise a gate was closed.
    pub waited_in_place: bool,
}

impl From<FloodRecord> for FloodView {
    fn from(flood: FloodRecord) -> Self {
        Self {
            at: flood.at,
            session: flood.session.0,
            job: flood.job.map(|job| job.0),
            method: flood.method,
            error: flood.error,
            seconds: flood.seconds,
            waited_in_place: flood.waited_in_place,
        }
    }
}

pub struct FloodsApi;

#[OpenApi]
impl FloodsApi {
    /// List floods
    ///
    /// Lists every time Telegram told a session to wait, however short, the latest first. Scope: viewer.
    #[oai(
        path = "/v1/floods",
        method = "get",
        operation_id = "list_floods",
        tag = "Tag::Sessions"
    )]
    #[expect(clippy::too_many_arguments, reason = "one per parameter of the query")]
    async fn list(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// Only those of this session, by id.
        session: Query<Option<String>>,
        /// Only those of this method, such as `messages.sendMessage`.
        method: Query<Option<String>>,
        /// Only those at or after this time (RFC 3339).
        since: Query<Option<String>>,
        /// Most floods of the page.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<Typed<Page<FloodView>>>, Problem> {
        let session: Option<SessionId> = session
            .as_deref()
            .map(session_health::parse)
            .transpose()
            .map_err(|problem| problem.field("session"))?;
        let since = since
            .as_deref()
            .map(|text| {
                DateTime::parse_from_rfc3339(text)
                    .map(|time| time.to_utc())
                    .map_err(|_| {
                        Problem::new(
                            Code::InvalidParameter,
                            "since takes a time with its offset (RFC 3339); in a URL, + is written %2B.",
                        )
                        .field("since")
                    })
            })
            .transpose()?;
        let filter = FloodFilter {
            session,
            method: method.as_deref(),
            since,
        };
        let limit = page::limit(limit.as_deref())?;
        let before: Option<i64> = page::decode(List::Floods, cursor.as_deref())?;
        let mut conn = store::connection(&state.pool, "list_floods").await?;
        let floods = floods::list(&mut conn, &filter, before, i64::from(limit) + 1).await?;
        let (floods, next_cursor) = page::cut(floods, limit, List::Floods, |flood| flood.id.to_string());
        let items = floods.into_iter().map(FloodView::from).collect();
        Ok(Json(Typed(Page { items, next_cursor })))
    }

    /// Read the metrics
    ///
    /// Figures over all workers for Prometheus, in its text format: floods and the seconds they asked for, sessions by
    /// state, and those whose breaker is open. Let it send the key as a bearer token. Scope: viewer.
    #[oai(
        path = "/v1/metrics",
        method = "get",
        operation_id = "read_metrics",
        tag = "Tag::Sessions"
    )]
    async fn metrics(&self, _caller: Allowed<Viewer>, state: Data<&Arc<State>>) -> Result<PlainText<String>, Problem> {
        let mut conn = store::connection(&state.pool, "flood_totals").await?;
        let totals = floods::totals(&mut conn).await?;
        let (states, resting) = health::counts(&mut conn).await?;
        Ok(PlainText(text(&totals, &states, resting)))
    }
}

/// Names and methods are Telegram's and ours: none has a quote or a backslash in it.
fn text(totals: &[FloodTotal], states: &[(String, i64)], resting: i64) -> String {
    let mut text = String::new();
    let mut line = |line: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = text.write_fmt(line);
        text.push('\n');
    };
    let labels = |total: &FloodTotal| {
        format!(
            "method=\"{}\",error=\"{}\",waited_in_place=\"{}\"",
            total.method, total.error, total.waited_in_place
        )
    };
    line(format_args!("# TYPE wireroom_floods_total counter"));
    for total in totals {
        line(format_args!(
            "wireroom_floods_total{{{}}} {}",
            labels(total),
            total.floods
        ));
    }
    line(format_args!("# TYPE wireroom_flood_seconds_total counter"));
    for total in totals {
        line(format_args!(
            "wireroom_flood_seconds_total{{{}}} {}",
            labels(total),
            total.seconds
        ));
    }
    line(format_args!("# TYPE wireroom_sessions gauge"));
    for (state, sessions) in states {
        line(format_args!("wireroom_sessions{{state=\"{state}\"}} {sessions}"));
    }
    line(format_args!("# TYPE wireroom_sessions_resting gauge"));
    line(format_args!("wireroom_sessions_resting {resting}"));
    text
}

#[cfg(test)]
mod tests {
    use crate::{
        api::tests::bed::TestApi,
        ids::SessionId,
        store::floods::{self, Flood},
    };

    #[tokio::test]
    async fn floods_are_listed_filtered_paged_and_counted() {
        let api = TestApi::new().await;
        let sessions = [api.session("one", "ready").await, api.session("two", "limited").await];
        let mut conn = api.pool().acquire().await.expect("a connection");
        let mut record = async |session: SessionId, seconds: i32| {
            let flood = Flood {
                session,
                job: None,
                method: "messages.sendMessage",
                error: "FLOOD_WAIT",
                seconds,
                waited_in_place: seconds <= 3,
            };
            floods::record(&mut conn, &flood).await.expect("recorded");
        };
        for (session, seconds) in [(sessions[0], 2), (sessions[0], 40), (sessions[1], 60)] {
            record(session, seconds).await;
        }
        let all = api.get("/v1/floods?limit=2").await.json();
        assert_eq!(
            (&all["items"][0]["seconds"], &all["items"][1]["seconds"]),
            (&60.into(), &40.into())
        );
        let cursor = all["next_cursor"].as_str().expect("there is one more");
        let rest = api.get(&format!("/v1/floods?limit=2&cursor={cursor}")).await.json();
        assert_eq!(rest["items"][0]["waited_in_place"], true, "{rest}");
        let one = api.get(&format!("/v1/floods?session={}", sessions[1])).await.json();
        assert_eq!(one["items"].as_array().map(Vec::len), Some(1));
        let none = api.get("/v1/floods?since=2098-01-01T00:00:00Z").await.json();
        assert_eq!(none["items"].as_array().map(Vec::len), Some(0));
        api.get("/v1/floods?since=yesterday").await.problem("invalid_parameter");
        let metrics = api.get("/v1/metrics").await.text;
        for line in [
            "wireroom_floods_total{method=\"messages.sendMessage\",error=\"FLOOD_WAIT\",waited_in_place=\"false\"} 2",
            "wireroom_flood_seconds_total{method=\"messages.sendMessage\",error=\"FLOOD_WAIT\",waited_in_place=\"false\"} 100",
            "wireroom_sessions{state=\"limited\"} 1",
            "wireroom_sessions_resting 0",
        ] {
            assert!(metrics.lines().any(|is| is == line), "{line} is not in\n{metrics}");
        }
    }
}
