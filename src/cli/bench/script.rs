//! A Python script beside which something is measured: lines go in, lines come out, and it ends with its input.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use super::{sessions::telegram::Telegram, usage};

/// How long it may take to end.
const END: Duration = Duration::from_secs(30);

/// The process. It is killed when this is dropped.
pub struct Script {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Script {
    /// Starts it against the made-up Telegram. `source` is the script itself.
    pub fn start(python: &Path, source: &str, telegram: &Telegram) -> anyhow::Result<Self> {
        let mut child = Command::new(python)
            .args(["-c", source])
            .arg(telegram.key_file())
            .arg(telegram.port().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} did not start", python.display()))?;
        let input = child.stdin.take().context("it has no input")?;
        let lines = BufReader::new(child.stdout.take().context("it has no output")?).lines();
        Ok(Self { child, input, lines })
    }

    /// Writes a line to it.
    pub async fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        let line = format!("{line}\n");
        self.input
            .write_all(line.as_bytes())
            .await
            .context("Telethon has ended; its own words are above")
    }

    /// Its next line, which must come within `bound`.
    pub async fn hear(&mut self, bound: Duration) -> anyhow::Result<String> {
        match timeout(bound, self.lines.next_line()).await {
            Ok(Ok(Some(line))) => Ok(line),
            Ok(_) => bail!("Telethon has ended; its own words are above"),
            Err(_) => bail!("Telethon said nothing within {} s", bound.as_secs()),
        }
    }

    /// Its next line, which must be this word.
    pub async fn expect(&mut self, word: &str, bound: Duration) -> anyhow::Result<()> {
        let line = self.hear(bound).await?;
        if line != word {
            bail!("Telethon did not come to `{word}`; its own words are above");
        }
        Ok(())
    }

    /// The CPU it has used, in microseconds.
    pub fn cpu_us(&self) -> anyhow::Result<u64> {
        let cpu = self.child.id().and_then(usage::cpu_us_of);
        cpu.context("its CPU time is not known here: this bench needs /proc")
    }

    /// Its resident memory now in bytes.
    pub fn resident(&self) -> anyhow::Result<u64> {
        let resident = self.child.id().and_then(usage::resident_of);
        resident.context("its memory is not known here: this bench needs /proc")
    }

    pub async fn end(mut self) -> anyhow::Result<()> {
        drop(self.input);
        let status = timeout(END, self.child.wait())
            .await
            .context("Telethon did not end")??;
        if !status.success() {
            bail!("Telethon ended with {status}; its own words are above");
        }
        Ok(())
    }
}
