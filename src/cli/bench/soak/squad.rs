//! The worker processes of a soak: started, killed, replaced, ended. The first one lives throughout, so that its memory can be
//! watched; the others are killed in turn. A squad of one has nobody to spare.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::mpsc,
    time::timeout,
};

use super::{account::Account, worker};
use crate::{
    cli::bench::{site::Site, usage},
    ids::WorkerId,
};

/// How long a worker has to end.
const END: Duration = Duration::from_mins(1);

/// What came from the n-th worker started; `None`: it has ended.
type Said = (usize, Option<anyhow::Result<worker::Message>>);

pub struct Squad {
    url: String,
    /// Every worker that was ever started.
    members: Vec<Member>,
    /// Places in it of those that are to live.
    active: Vec<usize>,
    said: mpsc::UnboundedReceiver<Said>,
    sender: mpsc::UnboundedSender<Said>,
    /// Which of the active ones is killed next.
    next: usize,
}

struct Member {
    child: Child,
    /// Closed when it is to end.
    input: Option<ChildStdin>,
    /// Known when it is ready.
    worker: Option<WorkerId>,
    was_killed: bool,
    ended: bool,
}

impl Squad {
    /// Starts so many workers.
    pub fn start(site: &Site, workers: u32) -> anyhow::Result<Self> {
        let (sender, said) = mpsc::unbounded_channel();
        let mut squad = Self {
            url: site.url().to_owned(),
            members: Vec::new(),
            active: Vec::new(),
            said,
            sender,
            next: 0,
        };
        for _ in 0..workers {
            let nth = squad.add()?;
            squad.active.push(nth);
        }
        Ok(squad)
    }

    fn add(&mut self) -> anyhow::Result<usize> {
        let program = std::env::current_exe().context("the program's own file is not known")?;
        let mut child = Command::new(program)
            .args(["bench", "soak-worker"])
            .env("DATABASE_URL", &self.url)
            .env("WIREROOM_LOG", log_filter())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("a worker process did not start")?;
        let nth = self.members.len();
        let output = child.stdout.take().context("it has no output")?;
        tokio::spawn(listen(nth, output, self.sender.clone()));
        self.members.push(Member {
            input: Some(child.stdin.take().context("it has no input")?),
            child,
            worker: None,
            was_killed: false,
            ended: false,
        });
        Ok(nth)
    }

    /// How many workers are ready.
    pub fn ready(&self) -> usize {
        self.active
            .iter()
            .filter(|nth| self.members[**nth].worker.is_some())
            .count()
    }

    /// Kills a ready worker with SIGKILL and starts another one in its place; `false` when there is none to be killed.
    pub fn kill_one(&mut self) -> anyhow::Result<bool> {
        let spared = usize::from(self.active.len() > 1);
        let places = self.active.len() - spared;
        let place = (0..places)
            .map(|offset| spared + (self.next + offset) % places)
            .find(|place| self.members[self.active[*place]].worker.is_some());
        let Some(place) = place else { return Ok(false) };
        self.next = place - spared + 1;
        let member = &mut self.members[self.active[place]];
        member.was_killed = true;
        member.child.start_kill().context("a worker could not be killed")?;
        self.active[place] = self.add()?;
        Ok(true)
    }

    /// Takes in the next thing that a worker says. Safe to drop half-way.
    pub async fn hear(&mut self, account: &mut Account) -> anyhow::Result<()> {
        let Some((nth, said)) = self.said.recv().await else {
            bail!("all workers have ended");
        };
        let member = &mut self.members[nth];
        match said {
            Some(Ok(worker::Message::Ready { worker })) => member.worker = Some(worker),
            Some(Ok(worker::Message::Ran(text))) => account.ran(&worker::numbers(&text)?),
            Some(Ok(worker::Message::Ended { .. })) => {}
            // Its last line may be half of one.
            Some(Err(_)) if member.was_killed => {}
            Some(Err(error)) => return Err(error.context("a worker said something strange")),
            None if member.was_killed => {
                member.ended = true;
                if let Some(worker) = member.worker {
                    account.killed(worker);
                }
            }
            None if member.input.is_none() => member.ended = true,
            None => bail!("a worker ended by itself; its own words are above"),
        }
        Ok(())
    }

    /// Resident memory in bytes of the worker that lives longest, where the system tells.
    pub fn resident(&self) -> Option<u64> {
        let member = &self.members[*self.active.first()?];
        usage::resident_of(member.child.id()?)
    }

    /// Ends all workers and takes in what they still have to say.
    pub async fn end(&mut self, account: &mut Account) -> anyhow::Result<()> {
        for member in &mut self.members {
            member.input = None;
        }
        let all_ended = async {
            while self.members.iter().any(|member| !member.ended) {
                self.hear(account).await?;
            }
            anyhow::Ok(())
        };
        timeout(END, all_ended).await.context("the workers did not end")??;
        for member in &mut self.members {
            let status = timeout(END, member.child.wait())
                .await
                .context("a worker did not end")??;
            if !member.was_killed && !status.success() {
                bail!("a worker ended with {status}");
            }
        }
        Ok(())
    }
}

/// What a worker logs: not a line for each of the many jobs that were taken back from one that was killed.
fn log_filter() -> String {
    let asked = std::env::var("WIREROOM_LOG").unwrap_or_else(|_| "info".to_owned());
    format!("{asked},wireroom::queue::upkeep=error")
}

/// Passes a worker's lines on, then its end.
async fn listen(nth: usize, output: ChildStdout, into: mpsc::UnboundedSender<Said>) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let message = serde_json::from_str(&line).context("a line that is none of a worker's");
        if into.send((nth, Some(message))).is_err() {
            return;
        }
    }
    // Nobody listens when the soak was given up.
    let _ = into.send((nth, None));
}
