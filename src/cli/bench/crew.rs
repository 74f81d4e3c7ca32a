//! The worker processes of a run, as their parent sees them. They go when it goes: their standard input closes.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::mpsc,
    time::timeout,
};

use super::{
    site::Site,
    tally::{Handled, require_each_once},
    worker::{GO, Message, Progress, Report},
};

/// How long processes have to start and take their leases.
const START: Duration = Duration::from_mins(1);
/// How long a worker has to end and report.
const END: Duration = Duration::from_mins(1);
/// No job handled for that long: some are lost.
const STALL: Duration = Duration::from_mins(1);

/// Worker processes that were started together.
pub struct Crew {
    jobs: usize,
    children: Vec<Child>,
    inputs: Vec<ChildStdin>,
    messages: mpsc::UnboundedReceiver<(usize, anyhow::Result<Message>)>,
}

/// What the crew did, all together.
pub struct Ended {
    pub cpu_us: u64,
    /// The highest of any process, in bytes.
    pub peak_memory: u64,
    reports: Vec<Report>,
}

/// When it all happened, in microseconds since 1970.
pub struct Span {
    /// The first call of the function.
    pub first: i64,
    /// The last end was stored.
    pub stored: i64,
}

impl Crew {
    /// Starts the processes, which share the sessions evenly, and waits until each holds its leases. `jobs` is how many
    /// numbers of jobs there are.
    pub async fn start(site: &Site, workers: u32, sessions: usize, jobs: u64) -> anyhow::Result<Self> {
        let jobs = usize::try_from(jobs)?;
        let share = sessions.div_ceil(usize::try_from(workers)?);
        let program = std::env::current_exe().context("the program's own file is not known")?;
        let (sender, messages) = mpsc::unbounded_channel();
        let mut crew = Self {
            jobs,
            children: Vec::new(),
            inputs: Vec::new(),
            messages,
        };
        for nth in 0..usize::try_from(workers)? {
            let mut child = Command::new(&program)
                .args(["bench", "worker"])
                .args(["--jobs", &jobs.to_string(), "--share", &share.to_string()])
                // Not as an argument: those are there for everyone on the machine to see.
                .env("DATABASE_URL", site.url())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .context("a worker process did not start")?;
            crew.inputs.push(child.stdin.take().context("it has no input")?);
            let output = child.stdout.take().context("it has no output")?;
            tokio::spawn(listen(nth, output, sender.clone()));
            crew.children.push(child);
        }
        crew.until_ready(sessions).await?;
        Ok(crew)
    }

    async fn until_ready(&mut self, sessions: usize) -> anyhow::Result<()> {
        let mut held = 0;
        for _ in 0..self.children.len() {
            match self.message(START, "start").await? {
                (_, Message::Ready { sessions }) => held += sessions,
                (nth, message) => bail!("worker {nth} said {message:?} before it was ready"),
            }
        }
        if held != sessions {
            bail!("the workers hold {held} of {sessions} sessions");
        }
        Ok(())
    }

    /// Lets the queues begin.
    pub async fn go(&mut self) -> anyhow::Result<()> {
        for input in &mut self.inputs {
            input.write_all(format!("{GO}\n").as_bytes()).await?;
            input.flush().await?;
        }
        Ok(())
    }

    /// Waits until as many jobs as there are have been handled and their ends are stored.
    pub async fn until_done(&mut self) -> anyhow::Result<Span> {
        let mut all = vec![Progress::default(); self.children.len()];
        loop {
            let handled: u64 = all.iter().map(|progress| progress.handled).sum();
            let active = || all.iter().filter(|progress| progress.handled > 0);
            if handled >= self.jobs as u64 && active().all(|progress| progress.stored > 0) {
                return Ok(Span {
                    first: active().map(|progress| progress.first).min().unwrap_or(0),
                    stored: active().map(|progress| progress.stored).max().unwrap_or(0),
                });
            }
            let doing = format!("handle more than {handled} of {} jobs", self.jobs);
            match self.message(STALL, &doing).await? {
                (nth, Message::Progress(progress)) => all[nth] = progress,
                (nth, message) => bail!("worker {nth} said {message:?} in the middle of its work"),
            }
        }
    }

    /// Ends the processes and takes their reports.
    pub async fn end(mut self) -> anyhow::Result<Ended> {
        self.inputs.clear();
        let mut reports = Vec::new();
        while reports.len() < self.children.len() {
            if let (_, Message::Ended(report)) = self.message(END, "end").await? {
                reports.push(report);
            }
        }
        for child in &mut self.children {
            let status = timeout(END, child.wait()).await.context("a worker did not end")??;
            if !status.success() {
                bail!("a worker ended with {status}");
            }
        }
        Ok(Ended {
            cpu_us: reports.iter().map(|report| report.cpu_us).sum(),
            peak_memory: reports.iter().map(|report| report.peak_memory).max().unwrap_or(0),
            reports,
        })
    }

    async fn message(&mut self, bound: Duration, doing: &str) -> anyhow::Result<(usize, Message)> {
        let next = timeout(bound, self.messages.recv()).await;
        let next = next.with_context(|| format!("the workers did not {doing} within {} s", bound.as_secs()))?;
        let (nth, message) = next.context("all workers have ended")?;
        let message = message.with_context(|| format!("worker {nth} did not {doing}"))?;
        Ok((nth, message))
    }
}

impl Ended {
    /// Fails unless each job was handled exactly once.
    pub fn require_each_once(&self, jobs: u64) -> anyhow::Result<()> {
        require_each_once(usize::try_from(jobs)?, self.handled())
    }

    /// From sending to the call in microseconds, of all jobs whose number is at least `from`.
    pub fn latencies(&self, from: u64) -> Vec<i64> {
        let all = self.handled().flat_map(|handled| &handled.latencies);
        all.filter(|(i, _)| *i >= from).map(|(_, micros)| *micros).collect()
    }

    fn handled(&self) -> impl Iterator<Item = &Handled> {
        self.reports.iter().map(|report| &report.handled)
    }
}

/// Passes a worker's lines on, and its end when that comes before its report.
async fn listen(nth: usize, output: ChildStdout, into: mpsc::UnboundedSender<(usize, anyhow::Result<Message>)>) {
    let mut lines = BufReader::new(output).lines();
    loop {
        let message = match lines.next_line().await {
            Ok(Some(line)) => serde_json::from_str(&line).context("a line that is none of a worker's"),
            Ok(None) => Err(anyhow::anyhow!("it ended; its own words are above")),
            Err(error) => Err(error.into()),
        };
        let last = !matches!(message, Ok(Message::Ready { .. } | Message::Progress(_)));
        if into.send((nth, message)).is_err() || last {
            return;
        }
    }
}
