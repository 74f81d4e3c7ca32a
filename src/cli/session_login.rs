//! `wireroom session login`: an account logged in from a terminal. What is typed is not shown, is sealed for the workers as the
//! API seals it, and a running worker does the rest; the database is all this needs.

use std::{
    io::{BufRead, IsTerminal},
    time::Duration,
};

use anyhow::{Context, bail};
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};
use tokio::time::{Instant, sleep};

use super::process;
use crate::{
    config::{Config, Secret},
    ids::{ErrandId, SessionId},
    login_input,
    proxy::Proxy,
    queue::Waker,
    store::{
        self, PgPool, applications,
        errands::{self, ErrandProblem, ErrandRecord, ErrandState, MOST_RESENDS, Step, Task},
        login_requests::{self, Asker, Begun, LoginRequest, StepAsked},
        session_reads,
    },
};

/// Who did it, in the audit log.
const ACTOR: &str = "cli";
/// How long a worker has to answer.
const ANSWER: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_millis(100);
/// Bytes of a line that is typed.
const LINE: usize = 4_096;

#[derive(Debug, clap::Args)]
pub struct Login {
    /// The session's name, 1 to 100 characters; one of that name that is not in use is logged in again.
    label: String,
    /// The pool of sessions it may stand in for [default: its own, and of a new session `default`].
    #[arg(long)]
    pool: Option<String>,
    /// The application's id or label [default: its own, and of a new session the default one].
    #[arg(long)]
    application: Option<String>,
    /// Log a bot in, by its token.
    #[arg(long, conflicts_with = "qr")]
    bot: bool,
    /// Log in by a QR code that the account's own app scans.
    #[arg(long)]
    qr: bool,
    /// Connect the session through a SOCKS5 proxy; its URL is asked for.
    #[arg(long)]
    proxy: bool,
}

/// Logs an account in, asking for what it takes.
pub async fn login(config: &Config, args: Login) -> anyhow::Result<()> {
    login_input::label(&args.label)?;
    let pool = process::connect(&config.database).await?;
    let waker = Waker::start(pool.clone());
    let terminal = Terminal { pool, waker };
    let (task, input) = match (args.qr, args.bot) {
        (true, _) => (Task::Qr, None),
        (_, true) => (Task::Bot, Some(login_input::bot_token(ask("Bot token")?.expose())?)),
        _ => {
            let typed = ask("Phone number, with its country code")?;
            (Task::Phone, Some(login_input::phone_number(typed.expose())?))
        }
    };
    let proxy = if args.proxy {
        let url = ask("SOCKS5 proxy, socks5://user:password@host:port")?;
        Some(Proxy::parse(url.expose()).map_err(|error| anyhow::anyhow!("the proxy {error}"))?)
    } else {
        None
    };
    let input = input.as_ref().map(|input| input.as_bytes());
    let (session, errand) = terminal.begin(&args, task, input, proxy.as_ref()).await?;
    let ended = tokio::select! {
        ended = terminal.converse(session, errand) => ended,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("given up")),
    };
    if ended.is_err() {
        terminal.give_up(session).await?;
    }
    ended?;
    println!("Logged in: the session {session} is ready.");
    Ok(())
}

struct Terminal {
    pool: PgPool,
    waker: Waker,
}

impl Terminal {
    async fn begin(
        &self,
        args: &Login,
        task: Task,
        input: Option<&[u8]>,
        proxy: Option<&Proxy>,
    ) -> anyhow::Result<(SessionId, ErrandId)> {
        if let Some(pool) = &args.pool
            && !session_reads::pool_exists(&self.pool, pool).await?
        {
            bail!("there is no pool `{pool}`");
        }
        let mut transaction = self.pool.begin().await.context("the database went away")?;
        let application = match &args.application {
            None => None,
            Some(name) => {
                let found = applications::find(&mut transaction, name).await?;
                Some(found.with_context(|| format!("there is no application `{name}`"))?)
            }
        };
        let request = LoginRequest {
            label: &args.label,
            pool: args.pool.as_deref(),
            application,
            proxy,
            task,
            input,
        };
        let begun = login_requests::begin_login(&mut transaction, &request, asker()).await?;
        let (session, errand) = match begun {
            Begun::Now { session, errand } => (session, errand),
            Begun::NoWorker => bail!("no worker has started on this database yet: start `wireroom worker` first"),
            Begun::Wrong { .. } => bail!("the session `{}` is logged in already", args.label),
            Begun::Busy { .. } => bail!("somebody is logging the session `{}` in", args.label),
            Begun::Rests { .. } => bail!("Telegram asks to wait before this is tried again"),
        };
        transaction.commit().await.context("the login was not stored")?;
        self.waker.errand_asked();
        Ok((session, errand))
    }

    /// Asks for what the login waits for until it is over.
    async fn converse(&self, session: SessionId, errand: ErrandId) -> anyhow::Result<()> {
        let mut seq = 1;
        let mut shown = None;
        loop {
            let record = self.answered(errand, seq).await?;
            if let Some(problem) = record.problem {
                if record.state.is_final() {
                    bail!("{}", told(problem, &record));
                }
                println!("{}", told(problem, &record));
            }
            seq = match record.state {
                ErrandState::Done => return Ok(()),
                ErrandState::Failed => bail!("the login ended"),
                ErrandState::Working => seq,
                ErrandState::CodeNeeded => {
                    if let Some(code) = &record.code {
                        println!("Telegram sent a code ({}).", code.sent_by);
                    }
                    let code = typed("Code, or nothing for another one").await?;
                    if code.expose().trim().is_empty() {
                        self.step(session, Step::Resend, None).await?
                    } else {
                        self.step(session, Step::Code, Some(&code)).await?
                    }
                }
                ErrandState::PasswordNeeded => {
                    let hint = record
                        .password_hint
                        .map(|hint| format!(" (hint: {hint})"))
                        .unwrap_or_default();
                    let password = typed(&format!("Password{hint}")).await?;
                    self.step(session, Step::Password, Some(&password)).await?
                }
                ErrandState::ScanNeeded => {
                    if record.qr_url != shown {
                        shown.clone_from(&record.qr_url);
                        show(record.qr_url.as_deref().unwrap_or_default())?;
                    }
                    sleep(LOOK).await;
                    seq
                }
            };
        }
    }

    async fn step(&self, session: SessionId, step: Step, input: Option<&Secret>) -> anyhow::Result<i32> {
        let mut transaction = self.pool.begin().await.context("the database went away")?;
        let input = input.map(|input| input.expose().trim().as_bytes());
        let asked = login_requests::ask_step(&mut transaction, session, step, input).await?;
        transaction.commit().await.context("the step was not stored")?;
        self.waker.errand_asked();
        match asked {
            StepAsked::Now { seq, .. } => Ok(seq),
            StepAsked::Over(_) => bail!("the login is over: it waited too long, or somebody gave it up"),
            StepAsked::Busy | StepAsked::OutOfTurn(_) => bail!("somebody else goes on with this login"),
            StepAsked::NoWorker => bail!("no worker has started on this database yet"),
            // It is told, and asked for, once more.
            StepAsked::Rests(record) => Ok(record.answered),
            StepAsked::TooOften(record) => {
                println!("The code was sent again {MOST_RESENDS} times: enter the last one.");
                Ok(record.answered)
            }
        }
    }

    async fn answered(&self, errand: ErrandId, seq: i32) -> anyhow::Result<ErrandRecord> {
        let until = Instant::now() + ANSWER;
        loop {
            let mut conn = store::connection(&self.pool, "read_errand").await?;
            let record = errands::get(&mut conn, errand).await?;
            drop(conn);
            let record = record.context("the session was deleted meanwhile")?;
            if record.answered >= seq || record.state.is_final() {
                return Ok(record);
            }
            if Instant::now() > until {
                bail!("no worker has answered within {} s: is one running?", ANSWER.as_secs());
            }
            sleep(LOOK).await;
        }
    }

    /// Leaves nothing behind that waits for somebody who has gone.
    async fn give_up(&self, session: SessionId) -> anyhow::Result<()> {
        let mut transaction = self.pool.begin().await.context("the database went away")?;
        login_requests::give_up(&mut transaction, session, asker()).await?;
        transaction.commit().await.context("the login was not given up")?;
        self.waker.errand_asked();
        Ok(())
    }
}

fn asker() -> Asker<'static> {
    Asker {
        actor: ACTOR,
        request_id: None,
    }
}

fn told(problem: ErrandProblem, record: &ErrandRecord) -> String {
    let mut text = problem.sentence().to_owned();
    if let Some(reason) = &record.reason {
        text = format!("{text} ({reason})");
    }
    match record.retry_at {
        Some(at) => format!("{text} Not before {}.", at.format("%Y-%m-%d %H:%M:%S UTC")),
        None => text,
    }
}

/// Shows a QR code with half-blocks, dark on light.
fn show(url: &str) -> anyhow::Result<()> {
    let code = QrCode::with_error_correction_level(url.as_bytes(), EcLevel::L).context("the code is too long")?;
    let picture = code
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .build();
    println!("{picture}\nScan it in the account's own app: Settings, Devices, Link a device.");
    Ok(())
}

/// The same without keeping the runtime from its other work.
async fn typed(what: &str) -> anyhow::Result<Secret> {
    let what = what.to_owned();
    tokio::task::spawn_blocking(move || ask(&what))
        .await
        .context("the terminal went away")?
}

/// What somebody types, unseen; a line of standard input when that is no terminal.
fn ask(what: &str) -> anyhow::Result<Secret> {
    if std::io::stdin().is_terminal() {
        let typed = rpassword::prompt_password(format!("{what}: ")).context("the terminal cannot be read")?;
        return Ok(Secret::new(typed));
    }
    println!("{what}:");
    // With room for any of them: a text that grew would leave copies behind.
    let mut line = zeroize::Zeroizing::new(String::with_capacity(LINE));
    let read = std::io::stdin()
        .lock()
        .read_line(&mut line)
        .context("standard input cannot be read")?;
    if read == 0 {
        bail!("standard input ended where `{what}` was asked for");
    }
    Ok(Secret::new(line.trim_end_matches(['\r', '\n'])))
}
