//! The made-up Telegram of a run, in a process of its own, so that its memory and its CPU do not count: with as many accounts as
//! asked for, ending with its parent.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, stdin},
    process::{Child, ChildStdin, Command},
    time::{MissedTickBehavior, interval, timeout},
};
use uuid::Uuid;

use crate::{
    cli::{
        bench::{
            http::client::{Client, request},
            now_us,
        },
        descriptors,
    },
    config::{Secret, Source, TelegramConfig, TelemetryConfig},
    sandbox::{Controls, Effect, Fault, LOGIN_CODE, Sandbox, SandboxConfig, call::UserId, world::PeerKey},
    telemetry,
    vault::Vault,
};

/// How long it has to start, and to end.
const BOUND: Duration = Duration::from_mins(1);
/// How often messages are written that are due.
const TALK_TICK: Duration = Duration::from_millis(5);

/// What is in it, beside what every sandbox has.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Args {
    /// Accounts.
    #[arg(long)]
    pub accounts: u32,
    /// Chats, dealt to these accounts in turn.
    #[arg(long, default_value_t = 0)]
    pub chats: u32,
    /// Members of one more group, whose list ends with its last member.
    #[arg(long, default_value_t = 0)]
    pub crowd: u32,
    /// Milliseconds from when a page of members is asked for until the answer is made.
    #[arg(long, default_value_t = 0)]
    pub answer_after: u64,
}

/// What it tells: where it is, and who can sign in.
#[derive(Serialize, Deserialize)]
struct Ready {
    server: SocketAddr,
    control: SocketAddr,
    public_key: String,
    accounts: Vec<Account>,
}

/// Somebody who can sign in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Account {
    pub username: String,
    /// Of the range that no country has.
    pub phone: String,
}

/// Serves until standard input closes.
pub async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut source = Source::load()?;
    telemetry::init(&TelemetryConfig::read(&mut source)?)?;
    descriptors::raise_limit();
    let sandbox = Sandbox::start(SandboxConfig::default()).await?;
    let controls = sandbox.controls();
    let accounts = usize::try_from(args.accounts)?;
    let rows = controls.with_world(|world| world.add_accounts(accounts));
    let ids: Vec<UserId> = rows.iter().map(|row| row.id).collect();
    let count = usize::try_from(args.chats)?;
    let chats = controls.with_world(|world| world.add_stalls(count, &ids));
    if args.crowd > 0 {
        controls.with_world(|world| world.add_crowded(args.crowd));
    }
    if args.answer_after > 0 {
        let late = Effect::Delay { ms: args.answer_after };
        controls.add_fault(Fault::once("channels.getParticipants", late).forever());
    }
    let account = |row: crate::sandbox::world::control::AccountRow| Account {
        username: row.username.unwrap_or_default(),
        phone: row.phone,
    };
    let ready = Ready {
        server: sandbox.addr(),
        control: sandbox.control_addr(),
        public_key: sandbox.public_key_pem().to_owned(),
        accounts: rows.into_iter().map(account).collect(),
    };
    println!("{}", serde_json::to_string(&ready)?);
    let mut lines = BufReader::new(stdin()).lines();
    // The end of its input, of whatever kind, is the parent's.
    while let Ok(Some(line)) = lines.next_line().await {
        let talk: Talk = serde_json::from_str(&line).context("not a task")?;
        talk.run(controls, &chats).await?;
    }
    sandbox.shutdown().await;
    Ok(ExitCode::SUCCESS)
}

/// What it is told to do: to have `@alice` write to all chats in turn.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Talk {
    /// Messages a second.
    pub rate: u32,
    pub secs: u32,
}

impl Talk {
    /// How many messages it comes to.
    pub fn messages(self) -> u64 {
        u64::from(self.rate) * u64::from(self.secs)
    }

    /// The text of each message is the time at which it was written, in microseconds since 1970.
    async fn run(self, controls: &Controls, chats: &[PeerKey]) -> anyhow::Result<()> {
        let alice = controls
            .with_world(|world| world.find_peer("alice"))
            .and_then(|peer| match peer {
                PeerKey::User(id) => Some(id),
                PeerKey::Group(_) | PeerKey::Channel(_) => None,
            })
            .context("nobody writes")?;
        let mut tick = interval(TALK_TICK);
        // A machine that cannot keep up is not given the rest at once.
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (messages, mut written) = (self.messages(), 0);
        let mut chats = chats.iter().cycle();
        let mut due = 0.0;
        while written < messages {
            tick.tick().await;
            due += f64::from(self.rate) * TALK_TICK.as_secs_f64();
            for chat in chats.by_ref() {
                if due < 1.0 || written == messages {
                    break;
                }
                let text = now_us().to_string();
                controls
                    .with_world(|world| world.post_as(alice, *chat, &text))
                    .map_err(|refusal| anyhow::anyhow!("the sandbox refused a message: {refusal:?}"))?;
                due -= 1.0;
                written += 1;
            }
        }
        Ok(())
    }
}

/// The process, as its parent sees it. It is killed when this is dropped.
pub struct Telegram {
    pub accounts: Vec<Account>,
    server: SocketAddr,
    control: SocketAddr,
    key_file: KeyFile,
    child: Child,
    input: ChildStdin,
}

impl Telegram {
    pub async fn start(with: Args) -> anyhow::Result<Self> {
        let Args {
            accounts,
            chats,
            crowd,
            answer_after,
        } = with;
        let mut child = Command::new(std::env::current_exe().context("the program's own file is not known")?)
            .args(["bench", "sandbox", "--accounts", &accounts.to_string()])
            .args(["--chats", &chats.to_string()])
            .args(["--crowd", &crowd.to_string()])
            .args(["--answer-after", &answer_after.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("the sandbox did not start")?;
        let input = child.stdin.take().context("it has no input")?;
        let mut lines = BufReader::new(child.stdout.take().context("it has no output")?).lines();
        let line = timeout(BOUND, lines.next_line()).await;
        let Ok(Ok(Some(line))) = line else {
            bail!("the sandbox did not start; its own words are above");
        };
        let ready: Ready = serde_json::from_str(&line).context("the sandbox did not say where it is")?;
        Ok(Self {
            accounts: ready.accounts,
            server: ready.server,
            control: ready.control,
            key_file: KeyFile::write(&ready.public_key).context("the sandbox's public key could not be written")?,
            child,
            input,
        })
    }

    /// The port that clients connect to, on the loopback address.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// The file of its public key.
    pub fn key_file(&self) -> &Path {
        &self.key_file.0
    }

    /// What a worker is told of it.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("WIREROOM_TELEGRAM_SERVER", self.server.to_string()),
            ("WIREROOM_TELEGRAM_SERVER_KEY", self.key_file().display().to_string()),
        ]
    }

    /// The same for logging accounts in from this process.
    pub fn config(&self) -> anyhow::Result<TelegramConfig> {
        let variables = self
            .variables()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        Ok(TelegramConfig::read(&mut Source::from_values(variables))?)
    }

    /// With which everybody signs in.
    pub fn login_code() -> Secret {
        Secret::new(LOGIN_CODE)
    }

    /// Has messages written to all its chats; it answers nothing, and ends when it cannot.
    pub async fn talk(&mut self, talk: Talk) -> anyhow::Result<()> {
        let line = format!("{}\n", serde_json::to_string(&talk)?);
        self.input
            .write_all(line.as_bytes())
            .await
            .context("the sandbox has ended")
    }

    /// Somebody to write to the accounts.
    pub async fn writer(&self) -> anyhow::Result<Writer> {
        Ok(Writer(Client::connect(self.control).await?))
    }

    pub async fn end(mut self) -> anyhow::Result<()> {
        drop(self.input);
        let status = timeout(BOUND, self.child.wait())
            .await
            .context("the sandbox did not end")??;
        if !status.success() {
            bail!("the sandbox ended with {status}; its own words are above");
        }
        Ok(())
    }
}

/// Alice, who writes private messages, over one connection to the control interface.
pub struct Writer(Client);

impl Writer {
    /// Returns when the message is in the account's box and on its way to whoever is connected as it.
    pub async fn write(&mut self, to: &Account, text: &str) -> anyhow::Result<()> {
        let body = serde_json::json!({ "account": "alice", "chat": to.username, "text": text }).to_string();
        let reply = self.0.send(&request("POST", "/messages", "none", Some(&body))).await?;
        if reply.status != 200 {
            bail!("the sandbox refused a message: {}", String::from_utf8_lossy(reply.body));
        }
        Ok(())
    }
}

/// A fresh vault, and the variable that a worker needs to open what it seals.
pub fn vault() -> anyhow::Result<(Vault, (&'static str, String))> {
    let key = Vault::generate("bench")?;
    Ok((Vault::parse(&key)?, ("WIREROOM_MASTER_KEYS", key.expose().to_owned())))
}

/// A file that is removed with the run.
struct KeyFile(PathBuf);

impl KeyFile {
    fn write(text: &str) -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("wireroom-bench-{}.pem", Uuid::new_v4().simple()));
        std::fs::write(&path, text)?;
        Ok(Self(path))
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        // What cannot be removed is a public key.
        let _ = std::fs::remove_file(&self.0);
    }
}
