//! `GET /v1/jobs/{id}/statistics`: how often what a job has published was seen, forwarded, answered and reacted to.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use poem::{http::HeaderMap, web::Data};
use poem_openapi::{
    OpenApi,
    param::{Path, Query},
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{job_id, not_found};
use crate::{
    api::{
        State,
        auth::{Allowed, Viewer},
        document::Tag,
        page::List,
        problem::{Code, Problem},
        table::{self, Row, Table, parameter, plain_cell, safe_cell, text_cell, time_cell},
    },
    store::{
        self, job_reads,
        publications::{self, StatisticsRecord},
    },
};

/// A published message and its counters.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "MessageStatistics")]
pub struct StatisticsView {
    /// In the Bot API's form.
    pub chat_id: i64,
    pub message_id: i32,
    pub published_at: Option<DateTime<Utc>>,
    /// When the counters were first seen to be these; null: nobody has read them yet.
    pub taken_at: Option<DateTime<Utc>>,
    /// How often it was seen; null where Telegram counts no views: outside of channels, and of what was forwarded from them.
    pub views: Option<i32>,
    /// How often it was forwarded; null where Telegram does not count that.
    pub forwards: Option<i32>,
    /// Comments or answers; null where Telegram does not count them.
    pub replies: Option<i32>,
    /// All reactions together.
    pub reactions: Option<i64>,
    /// The reactions by emoji; `custom:<id>` for one that is no emoji of Unicode, `paid` for stars.
    pub by_reaction: BTreeMap<String, i64>,
    /// When it was last looked at.
    pub looked_at: Option<DateTime<Utc>>,
    /// When it was first seen to be deleted; nobody looks at it any more.
    pub deleted_at: Option<DateTime<Utc>>,
    /// Why the last look found nothing, as a stable word such as `not_a_member`; null: it did.
    pub problem: Option<String>,
}

impl Row for StatisticsRecord {
    type View = StatisticsView;
    type Key = i64;

    const LIST: List = List::Statistics;
    const NAME: &'static str = "statistics";
    const COLUMNS: &'static [&'static str] = &[
        "chat_id",
        "message_id",
        "published_at",
        "taken_at",
        "views",
        "forwards",
        "replies",
        "reactions",
        "by_reaction",
        "looked_at",
        "deleted_at",
        "problem",
    ];

    fn key(&self) -> i64 {
        self.id
    }

    fn cells(&self) -> Vec<String> {
        let by_reaction = self.by_reaction.iter().flat_map(|counts| counts.iter());
        let by_reaction: Vec<String> = by_reaction.map(|(name, count)| format!("{name} {count}")).collect();
        vec![
            self.chat_id.to_string(),
            self.message_id.to_string(),
            time_cell(self.published_at),
            time_cell(self.taken_at),
            plain_cell(self.views),
            plain_cell(self.forwards),
            plain_cell(self.replies),
            plain_cell(self.reactions),
            safe_cell(&by_reaction.join(" ")),
            time_cell(self.looked_at),
            time_cell(self.deleted_at),
            text_cell(self.problem.as_deref()),
        ]
    }

    fn view(self) -> StatisticsView {
        StatisticsView {
            chat_id: self.chat_id,
            message_id: self.message_id,
            published_at: self.published_at,
            taken_at: self.taken_at,
            views: self.views,
            forwards: self.forwards,
            replies: self.replies,
            reactions: self.reactions,
            by_reaction: self.by_reaction.map(|counts| counts.0).unwrap_or_default(),
            looked_at: self.looked_at,
            deleted_at: self.deleted_at,
            problem: self.problem,
        }
    }
}

pub struct StatisticsApi;

#[OpenApi]
impl StatisticsApi {
    /// Read the statistics of a publish
    ///
    /// Lists the messages that the job has published, each with its newest counters; with `series=true` all counters that they
    /// ever had, in the order in which they were read: a row where one of them was another than before. They are read on the
    /// plan in `args.statistics`, and by any job with `action: "statistics"` that names this one. Answers a page as JSON, or
    /// all rows as CSV or NDJSON (by `Accept`, or by `format`). They are kept as long as finished jobs are, counted from the
    /// last look. Scope: viewer.
    #[oai(
        path = "/v1/jobs/:id/statistics",
        method = "get",
        operation_id = "list_statistics",
        tag = "Tag::Jobs"
    )]
    #[expect(clippy::too_many_arguments, reason = "one per part of the request")]
    async fn statistics(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        headers: &HeaderMap,
        /// The job's id: the one that published.
        id: Path<String>,
        /// `true`: all counters over time.
        series: Query<Option<String>>,
        /// How to write them; wins over `Accept`.
        format: Query<Option<String>>,
        /// Most rows of a JSON page.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before; JSON only.
        cursor: Query<Option<String>>,
    ) -> Result<Table<StatisticsRecord>, Problem> {
        let job = job_id(&id)?;
        let asked = table::asked::<StatisticsRecord>(headers, format.as_deref(), limit.as_deref(), cursor.as_deref())?;
        let series = parameter::<bool>("series", series.as_deref(), "true or false")?.unwrap_or(false);
        let mut conn = store::connection(&state.pool, "read_statistics").await?;
        if !publications::is_known(&mut conn, job).await? {
            drop(conn);
            return Err(match job_reads::get(&state.pool, job).await? {
                None => not_found(),
                Some(_) => Problem::new(
                    Code::RowsNotFound,
                    "Nobody looks at what the job published: give args.statistics when you publish, or run a publish job with \
                     the action statistics and this job in args.of_jobs.",
                ),
            });
        }
        drop(conn);
        let pool = state.pool.clone();
        table::write(asked, job, move |after, limit| {
            let pool = pool.clone();
            async move {
                let mut conn = store::connection(&pool, "read_statistics").await?;
                if series {
                    publications::series(&mut conn, job, after, limit).await
                } else {
                    publications::latest(&mut conn, job, after, limit).await
                }
            }
        })
        .await
    }
}
