//! One stream of events. It keeps a place and the latest look, and reads lines page by page as the client takes them: a slow
//! client costs one page of memory and, between two pages, no connection; one that takes nothing is given up.

use std::{fmt, fmt::Write as _, io, sync::Arc, time::Duration};

use poem::Body;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

use super::{EventView, FinalEvent, LogEvent, StateEvent, StateView};
use crate::{
    api::{
        follow::{Following, Look},
        jobs::progress::timed,
    },
    store::{
        PgPool, StoreError,
        attempt_reads::LiveRecord,
        job_logs::{self, LogRecord},
        job_reads::{JobRecord, JobState},
    },
};

/// Lines in memory at a time.
const LINES: i64 = 100;

/// Says what a client waits before it connects again, in milliseconds.
const OPENING: &str = "retry: 2000\n\n";

const KEEP_ALIVE: &str = ": keep-alive\n\n";

/// The times of a stream.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The longest silence.
    pub keep_alive: Duration,
    /// How many keep-alives in a row end the stream.
    pub quiet_keep_alives: u32,
    /// The longest life: whoever connects again shows a key that is still good.
    pub age: Duration,
    /// How long a client may take nothing.
    pub patience: Duration,
}

/// How far a client is: which state it was told, and which line. Both grow, and so do ids made of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    stage: i64,
    line: i64,
}

impl Place {
    pub const START: Self = Self { stage: 0, line: 0 };

    /// The stage after all others.
    const END: i64 = i64::MAX;

    pub fn parse(text: &str) -> Option<Self> {
        let (stage, line) = text.split_once('-')?;
        let number = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten()
        };
        let stage = if stage == "end" { Self::END } else { number(stage)? };
        Some(Self {
            stage,
            line: number(line)?,
        })
    }

    /// Whether the client has seen the final event.
    pub fn is_the_end(self) -> bool {
        self.stage == Self::END
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_the_end() {
            write!(f, "end-{}", self.line)
        } else {
            write!(f, "{}-{}", self.stage, self.line)
        }
    }
}

/// Grows over a job's life: with the fence at each claim, and from running to waiting after it.
fn stage(job: &LiveRecord) -> i64 {
    let within = match job.state.as_str() {
        "running" => 0,
        "scheduled" => 1,
        _ => 2,
    };
    job.fence * 4 + within
}

/// Starts the stream; it ends when the returned body is dropped, too.
pub fn open(pool: PgPool, following: Following, place: Place, pace: Pace) -> Body {
    // One chunk on its way and one waiting, however many events there are.
    let (out, chunks) = mpsc::channel(1);
    let telling = Telling {
        pool,
        out,
        pace,
        place,
        told: (place.stage > 0).then_some(Told {
            stage: place.stage,
            state: None,
        }),
        progress: None,
    };
    tokio::spawn(telling.run(following));
    Body::from_bytes_stream(ReceiverStream::new(chunks).map(Ok::<_, io::Error>))
}

/// Why a stream ends.
enum Stop {
    /// The final event was sent, or the job is not there any more.
    Complete,
    /// The client has gone, or takes nothing.
    ClientGone,
    Store(StoreError),
}

/// The state a client was told.
struct Told {
    stage: i64,
    /// Its data, unless it was told by an earlier connection.
    state: Option<StateEvent>,
}

struct Telling {
    pool: PgPool,
    out: mpsc::Sender<String>,
    pace: Pace,
    place: Place,
    told: Option<Told>,
    progress: Option<Value>,
}

impl Telling {
    async fn run(mut self, mut following: Following) {
        if let Err(Stop::Store(error)) = self.tell_all(&mut following).await {
            // The client connects again and misses nothing.
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::debug!(job.id = %following.id(), error, "a stream of events broke off");
        }
    }

    async fn tell_all(&mut self, following: &mut Following) -> Result<(), Stop> {
        let mut age = Box::pin(tokio::time::sleep(self.pace.age));
        let mut quiet = 0;
        self.send(OPENING.to_owned()).await?;
        loop {
            match following.look() {
                Look::Unseen => {}
                Look::Live(job) => self.tell(&job).await?,
                Look::Finished(job) => return self.tell_the_end(&job.0).await,
                Look::Gone => return Err(Stop::Complete),
            }
            let changed = loop {
                tokio::select! {
                    changed = following.changed() => break changed,
                    () = &mut age => break false,
                    () = self.out.closed() => return Err(Stop::ClientGone),
                    () = tokio::time::sleep(self.pace.keep_alive) => {
                        quiet += 1;
                        if quiet >= self.pace.quiet_keep_alives {
                            break false;
                        }
                        self.send(KEEP_ALIVE.to_owned()).await?;
                    }
                }
            };
            if !changed {
                return Ok(());
            }
            quiet = 0;
        }
    }

    /// Tells what is new: the lines of earlier attempts, the state, the lines of this attempt, the progress.
    async fn tell(&mut self, job: &LiveRecord) -> Result<(), Stop> {
        while self.place.line < job.last_line {
            let lines = self.lines(job.id).await?;
            // Lines of a later attempt than this look knows wait for the next look.
            let known: Vec<&LogRecord> = lines.iter().filter(|line| line.fence <= job.fence).collect();
            let mut chunk = String::new();
            for line in &known {
                if job.state == "running" && line.fence == job.fence {
                    self.add_state(&mut chunk, job);
                }
                self.add_line(&mut chunk, line);
            }
            self.send(chunk).await?;
            if known.len() < lines.len() || lines.is_empty() {
                break;
            }
        }
        let mut chunk = String::new();
        self.add_state(&mut chunk, job);
        if job.progress.is_some() && job.progress != self.progress {
            self.progress.clone_from(&job.progress);
            add(
                &mut chunk,
                "progress",
                None,
                &EventView::Progress(job.progress.clone().map(timed).unwrap_or_default()),
            );
        }
        self.send(chunk).await
    }

    async fn tell_the_end(&mut self, job: &Arc<JobRecord>) -> Result<(), Stop> {
        loop {
            let lines = self.lines(job.id).await?;
            let mut chunk = String::new();
            for line in &lines {
                self.add_line(&mut chunk, line);
            }
            self.send(chunk).await?;
            if i64::try_from(lines.len()).is_ok_and(|count| count < LINES) {
                break;
            }
        }
        self.place.stage = Place::END;
        let event = EventView::Final(FinalEvent {
            state: job.state.into(),
            attempt: job.attempt,
            finished_at: job.finished_at,
            result: job.result.clone(),
            error: job.error.clone(),
        });
        let mut chunk = String::new();
        add(&mut chunk, "final", Some(self.place), &event);
        self.send(chunk).await?;
        Err(Stop::Complete)
    }

    async fn lines(&self, job: crate::ids::JobId) -> Result<Vec<LogRecord>, Stop> {
        job_logs::after(&self.pool, job, self.place.line, LINES)
            .await
            .map_err(Stop::Store)
    }

    fn add_line(&mut self, chunk: &mut String, line: &LogRecord) {
        self.place.line = line.line;
        let event = EventView::Log(LogEvent {
            at: line.at,
            attempt: line.attempt,
            level: line.level.clone(),
            code: line.code.clone(),
            message: line.message.clone(),
            data: line.data.clone(),
        });
        add(chunk, "log", Some(self.place), &event);
    }

    /// Adds the job's state when the client does not know it.
    fn add_state(&mut self, chunk: &mut String, job: &LiveRecord) {
        let stage = stage(job);
        let state = StateEvent {
            state: JobState::parse(&job.state).map_or(StateView::Queued, StateView::from),
            attempt: job.attempt,
            worker: job.worker.map(|id| id.0),
            session: job.session.map(|id| id.0),
            run_at: job.run_at,
            wait_reason: job.wait_reason.clone(),
        };
        let known = self
            .told
            .as_ref()
            .is_some_and(|told| told.stage == stage && told.state.as_ref().is_none_or(|told| *told == state));
        // A job that is put off while it is queued is scheduled again under the same fence: ids grow all the same.
        self.place.stage = self.place.stage.max(stage);
        if !known {
            add(chunk, "state", Some(self.place), &EventView::State(state.clone()));
        }
        self.told = Some(Told {
            stage,
            state: Some(state),
        });
    }

    async fn send(&self, chunk: String) -> Result<(), Stop> {
        if chunk.is_empty() {
            return Ok(());
        }
        self.out
            .send_timeout(chunk, self.pace.patience)
            .await
            .map_err(|_| Stop::ClientGone)
    }
}

/// Writes an event. JSON has no line breaks of its own, so one `data` line holds it.
fn add(chunk: &mut String, name: &str, id: Option<Place>, event: &EventView) {
    // The types of the API have string keys only, and numbers that JSON knows: they always serialize. A string takes
    // whatever is written.
    let data = serde_json::to_string(event).unwrap_or_default();
    let _ = writeln!(chunk, "event: {name}");
    if let Some(id) = id {
        let _ = writeln!(chunk, "id: {id}");
    }
    let _ = writeln!(chunk, "data: {data}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_back_and_grows_with_the_job() {
        let end = Place {
            stage: Place::END,
            line: 9,
        };
        let places = [
            Place::START,
            Place { stage: 4, line: 0 },
            Place { stage: 4, line: 7 },
            end,
        ];
        assert!(places.is_sorted());
        for place in places {
            assert_eq!(Place::parse(&place.to_string()), Some(place));
        }
        for wrong in [
            "",
            "1",
            "1-",
            "-1-2",
            "a-b",
            "1-2-3",
            "end",
            "+1-2",
            "99999999999999999999-1",
        ] {
            assert_eq!(Place::parse(wrong), None, "{wrong}");
        }
    }
}
