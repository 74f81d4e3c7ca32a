//! A batch on its way in: items are checked as they come and stored a chunk at a time, each chunk in one statement, all in
//! one transaction that begins when there is something to store.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::json;
use uuid::Uuid;

use super::{
    BatchCreated, ItemError, ItemOutcome, ItemView, MAX_JOBS, TIME_LIMIT,
    parts::{Item, Part},
};
use crate::{
    api::{
        State,
        auth::Caller,
        idempotency::{self, Fingerprint},
        jobs::{admission, body::JobRequest},
        problem::{Code, Problem},
        shell::RequestContext,
        templates,
        typed::Answered,
    },
    ids::{BatchId, SessionId},
    store::{
        PgConnection, PgTransaction, audit,
        batches::{self, BatchMode},
        failed,
        idempotency::{Answer, Claim, RequestKey},
        jobs::{self, NewJob},
        unique_keys::{self, Enqueued, KeyedJob},
    },
};

/// Most jobs of one insert.
const CHUNK: usize = 1000;

/// Bytes of items after which a chunk is stored, however few they are: 4 MiB.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// A batch that was stored, now or by an equal request before.
pub struct Done {
    pub answer: Answered<BatchCreated>,
    pub location: String,
    pub is_replayed: bool,
    /// A job that is due and one that is not, as far as there are: all that a wake-up needs to know.
    pub wakes: Vec<NewJob>,
}

/// An item that waits to be stored.
struct Pending {
    index: usize,
    line: Option<u64>,
    request: JobRequest,
}

/// What items say of where they run.
type Place = (Option<String>, Option<String>);

pub struct Intake<'a> {
    state: &'a State,
    caller: &'a Caller,
    context: &'a RequestContext,
    key: Option<&'a str>,
    id: BatchId,
    mode: Option<BatchMode>,
    fingerprint: Fingerprint,
    transaction: Option<PgTransaction<'static>>,
    /// The answer of an equal request: nothing is stored.
    answered: Option<Answer>,
    pending: Vec<Pending>,
    pending_bytes: usize,
    /// Looked up once each: a batch names few.
    places: HashMap<Place, Result<Option<SessionId>, ItemError>>,
    /// Until when files are needed by the jobs so far.
    kept_files: HashMap<Uuid, DateTime<Utc>>,
    items: Vec<ItemView>,
    count: usize,
    refused: usize,
    due: Option<NewJob>,
    ahead: Option<NewJob>,
}

impl<'a> Intake<'a> {
    pub fn new(
        state: &'a State,
        caller: &'a Caller,
        context: &'a RequestContext,
        key: Option<&'a str>,
        mode: Option<BatchMode>,
    ) -> Self {
        Self {
            state,
            caller,
            context,
            key,
            id: BatchId::generate(),
            mode,
            fingerprint: Fingerprint::new("create_batch"),
            transaction: None,
            answered: None,
            pending: Vec::new(),
            pending_bytes: 0,
            places: HashMap::new(),
            kept_files: HashMap::new(),
            items: Vec::new(),
            count: 0,
            refused: 0,
            due: None,
            ahead: None,
        }
    }

    /// Takes the next part of the body.
    pub async fn take(&mut self, part: Part) -> Result<(), Problem> {
        match part {
            Part::Mode(mode) => self.mode = Some(mode),
            Part::Item(item) => self.read(*item).await?,
        }
        if self.pending.len() >= CHUNK || self.pending_bytes >= CHUNK_BYTES {
            self.store_pending().await?;
        }
        Ok(())
    }

    async fn read(&mut self, item: Item) -> Result<(), Problem> {
        let index = self.count;
        self.count += 1;
        if self.count > MAX_JOBS {
            let detail = format!("A batch has at most {MAX_JOBS} jobs. None was stored.");
            return Err(Problem::new(Code::TooManyJobs, detail).field("jobs"));
        }
        let request = match item.body {
            Ok(body) => {
                self.fingerprint.add(&body);
                match templates::filled(&self.state.pool, &body).await {
                    Ok(body) => JobRequest::read(&body, self.state.clock.now()),
                    Err(problem) => Err(problem),
                }
            }
            Err(broken) => {
                self.fingerprint.add_bytes(&broken.hash);
                Err(broken.problem)
            }
        };
        match request {
            Ok(request) => {
                self.pending_bytes += item.size;
                self.pending.push(Pending {
                    index,
                    line: item.line,
                    request,
                });
            }
            Err(problem) => self.refuse(index, item.line, ItemError::from(&problem)),
        }
        Ok(())
    }

    fn refuse(&mut self, index: usize, line: Option<u64>, error: ItemError) {
        self.refused += 1;
        self.items.push(ItemView {
            index,
            line,
            outcome: ItemOutcome::Refused,
            job: None,
            error: Some(error),
        });
    }

    /// Begins the transaction, claims the request's key, and opens the batch.
    async fn begin(&mut self) -> Result<(), Problem> {
        if self.transaction.is_some() || self.answered.is_some() {
            return Ok(());
        }
        let begun = self.state.pool.begin().await;
        let mut transaction = begun.map_err(failed("begin_create_batch"))?;
        batches::come_in_slowly(&mut transaction, TIME_LIMIT).await?;
        if let Some(key) = self.request_key()
            && let Claim::Answered(answer) = crate::store::idempotency::claim(&mut transaction, key).await?
        {
            self.answered = Some(answer);
            return Ok(());
        }
        let mode = self.mode.unwrap_or(BatchMode::AllOrNothing);
        batches::open(&mut transaction, self.id, mode, Some(&self.caller.actor())).await?;
        self.transaction = Some(transaction);
        Ok(())
    }

    fn request_key(&self) -> Option<RequestKey<'a>> {
        let owner = &self.caller.key_id;
        self.key.map(|key| RequestKey { owner, key })
    }

    /// Whether it is known already that no job of this batch will be stored.
    fn is_in_vain(&self) -> bool {
        self.refused > 0 && self.mode == Some(BatchMode::AllOrNothing)
    }

    async fn store_pending(&mut self) -> Result<(), Problem> {
        let pending = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        if pending.is_empty() {
            return Ok(());
        }
        self.begin().await?;
        if self.answered.is_some() {
            return Ok(());
        }
        let (mut places, mut keyed) = (Vec::new(), Vec::new());
        for Pending { index, line, request } in pending {
            match self.admit(request).await? {
                Ok(job) => {
                    places.push((index, line));
                    keyed.push(job);
                }
                Err(error) => self.refuse(index, line, error),
            }
        }
        if keyed.is_empty() || self.is_in_vain() {
            return Ok(());
        }
        let transaction = self.transaction.as_mut().ok_or_else(no_transaction)?;
        let ageing_step = self.state.config.queue.ageing_step;
        let outcomes = unique_keys::enqueue(transaction, Some(self.id), &keyed, ageing_step)
            .await
            .map_err(admission::refused)?;
        for (((index, line), job), outcome) in places.into_iter().zip(keyed).zip(outcomes) {
            self.note(index, line, job.job, outcome);
        }
        Ok(())
    }

    /// The job of a request, or why there can be none.
    async fn admit(&mut self, request: JobRequest) -> Result<Result<KeyedJob, ItemError>, Problem> {
        let place = (request.pool.clone(), request.session.clone());
        let session = if let Some(known) = self.places.get(&place) {
            known.clone()
        } else {
            let transaction = self.transaction.as_mut().ok_or_else(no_transaction)?;
            let found = match look_up(transaction, self.caller, &request).await {
                Err(problem) if problem.code().status().is_server_error() => return Err(problem),
                found => found.map_err(|problem| ItemError::from(&problem)),
            };
            self.places.insert(place, found.clone());
            found
        };
        if let Err(error) = self.keep_files(&request).await? {
            return Ok(Err(error));
        }
        match session {
            Ok(session) => admission::job(self.caller, request, session).map(Ok),
            Err(error) => Ok(Err(error)),
        }
    }

    /// A batch names few files, many times each: what is kept for long enough already is not asked for again.
    async fn keep_files(&mut self, request: &JobRequest) -> Result<Result<(), ItemError>, Problem> {
        let until = request.run_at.unwrap_or_else(|| self.state.clock.now());
        let is_kept = |id: &Uuid| self.kept_files.get(id).is_some_and(|kept| *kept >= until);
        if request.files().all(|(_, id)| is_kept(&id)) {
            return Ok(Ok(()));
        }
        let transaction = self.transaction.as_mut().ok_or_else(no_transaction)?;
        match admission::keep_files(transaction, request, self.state.files.keep_days()).await {
            Ok(()) => {
                for (_, id) in request.files() {
                    let kept = self.kept_files.entry(id).or_insert(until);
                    *kept = until.max(*kept);
                }
                Ok(Ok(()))
            }
            Err(problem) if problem.code().status().is_server_error() => Err(problem),
            Err(problem) => Ok(Err(ItemError::from(&problem))),
        }
    }

    fn note(&mut self, index: usize, line: Option<u64>, job: NewJob, outcome: Enqueued) {
        let is_ahead = job.run_at.is_some();
        let slot = if is_ahead { &mut self.ahead } else { &mut self.due };
        if matches!(outcome, Enqueued::Created(_) | Enqueued::Replaced(_)) {
            slot.get_or_insert(job);
        }
        let conflict = match outcome {
            Enqueued::Conflict(id) => Some(ItemError::from(&admission::key_taken(id))),
            _ => None,
        };
        self.refused += usize::from(conflict.is_some());
        self.items.push(ItemView {
            index,
            line,
            outcome: match outcome {
                Enqueued::Created(_) => ItemOutcome::Created,
                Enqueued::Existing(_) => ItemOutcome::Existing,
                Enqueued::Replaced(_) => ItemOutcome::Replaced,
                Enqueued::Conflict(_) => ItemOutcome::Refused,
            },
            job: Some(outcome.job().0),
            error: conflict,
        });
    }

    /// Stores the rest and commits.
    pub async fn finish(mut self) -> Result<Done, Problem> {
        if self.count == 0 {
            let detail = format!("jobs: must have 1 to {MAX_JOBS} jobs.");
            return Err(Problem::new(Code::InvalidValue, detail).field("jobs"));
        }
        self.store_pending().await?;
        if self.key.is_some() {
            // An equal request may have been stored when its jobs were still good.
            self.begin().await?;
        }
        let mode = self.mode.unwrap_or(BatchMode::AllOrNothing);
        self.fingerprint.add(&mode.as_str().into());
        let request_hash = self.fingerprint.hash();
        if let Some(answer) = self.answered {
            return replay(answer, request_hash);
        }
        self.items.sort_unstable_by_key(|item| item.index);
        if self.refused == self.items.len() || (self.refused > 0 && mode == BatchMode::AllOrNothing) {
            return Err(self.batch_refused());
        }
        self.commit(mode, request_hash).await
    }

    fn batch_refused(self) -> Problem {
        let wrong: Vec<ItemView> = self.items.into_iter().filter(|item| item.error.is_some()).collect();
        let detail = format!(
            "{} of {} jobs cannot be stored; none was. Put right what items says, or use the mode per_item.",
            wrong.len(),
            self.count
        );
        Problem::new(Code::BatchRefused, detail).items(wrong)
    }

    async fn commit(mut self, mode: BatchMode, request_hash: [u8; 32]) -> Result<Done, Problem> {
        let mut transaction = self.transaction.take().ok_or_else(no_transaction)?;
        let of = |outcome| self.items.iter().filter(|item| item.outcome == outcome).count();
        let created = of(ItemOutcome::Created);
        batches::close(&mut transaction, self.id, mode, created).await?;
        let entry = audit::Entry {
            actor: &self.caller.actor(),
            action: "batch.created",
            subject: &format!("batch:{}", self.id),
            request_id: Some(self.context.id()),
            details: json!({
                "mode": mode.as_str(), "created": created, "existing": of(ItemOutcome::Existing),
                "replaced": of(ItemOutcome::Replaced), "refused": self.refused,
            }),
        };
        audit::record(&mut transaction, entry).await?;
        let batch = batches::get(&mut *transaction, self.id)
            .await?
            .ok_or_else(|| Problem::internal("the batch that was just stored is not there"))?;
        let view = BatchCreated {
            batch: batch.into(),
            items: std::mem::take(&mut self.items),
        };
        let answer = Answered::of(&view).map_err(Problem::internal)?;
        let location = self.location();
        if let Some(key) = self.request_key() {
            let kept = Answer {
                request_hash,
                status: 202,
                location: Some(location.clone()),
                body: answer.body().clone(),
                args_of: None,
            };
            crate::store::idempotency::answer(&mut transaction, key, &kept).await?;
        }
        transaction.commit().await.map_err(failed("commit_create_batch"))?;
        Ok(Done {
            answer,
            location,
            is_replayed: false,
            wakes: self.due.into_iter().chain(self.ahead).collect(),
        })
    }

    fn location(&self) -> String {
        let base = self.state.config.api.public_url.as_deref().unwrap_or_default();
        format!("{}/v1/batches/{}", base.trim_end_matches('/'), self.id)
    }
}

/// The answer of an equal request.
fn replay(answer: Answer, request_hash: [u8; 32]) -> Result<Done, Problem> {
    if answer.request_hash != request_hash {
        return Err(idempotency::reused());
    }
    Ok(Done {
        location: answer.location.unwrap_or_default(),
        answer: Answered::again(answer.body),
        is_replayed: true,
        wakes: Vec::new(),
    })
}

fn no_transaction() -> Problem {
    Problem::internal("a batch with jobs has no transaction")
}

/// The session of a place, if jobs can be stored for it.
async fn look_up(conn: &mut PgConnection, caller: &Caller, request: &JobRequest) -> Result<Option<SessionId>, Problem> {
    let session = admission::session_of(conn, request).await?;
    let job = admission::job(caller, request.clone(), session)?.job;
    match jobs::check_place(conn, &job).await? {
        None => Ok(session),
        Some(error) => Err(admission::refused(error)),
    }
}
