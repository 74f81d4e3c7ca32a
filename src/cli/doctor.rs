//! `wireroom doctor`: each thing a role depends on, what is wrong with it, and what to do.

use std::{error::Error as _, fmt::Write as _, net::TcpListener, path::Path, process::ExitCode, time::Duration};

use super::{descriptors, process::OLDEST_POSTGRES, stdout};
use crate::{
    clock::SystemClock,
    config::{ApiConfig, Config, DatabaseConfig, ServerConfig, TelegramConfig, VaultConfig},
    sessions::{MasterKeyError, check_master_keys},
    store::{self, PgConnection, PgPool, schema::SchemaState},
    vault::Vault,
};
use wireroom_jobs::ports::Clock;

/// Processes compare times that the database made; a log or a result of a machine this far off misleads people.
const SKEW: Duration = Duration::from_secs(2);

/// How long a server may take to answer a connection.
const REACH: Duration = Duration::from_secs(3);

/// One line of the answer.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    Good(String),
    /// Nothing fails, and somebody should know.
    Note(String),
    Bad {
        what: String,
        fix: String,
    },
}

use Finding::{Bad, Good, Note};

fn bad(what: impl Into<String>, fix: impl Into<String>) -> Finding {
    Bad {
        what: what.into(),
        fix: fix.into(),
    }
}

pub async fn run() -> anyhow::Result<ExitCode> {
    let mut findings = Vec::new();
    match Config::load() {
        Err(error) => findings.push((
            "configuration",
            bad(error.to_string(), "correct the variable; .env.example lists them all"),
        )),
        Ok(config) => {
            findings.push(("configuration", Good("every variable is known and valid".into())));
            examine(&config, &mut findings).await;
        }
    }
    stdout::line(format_args!("{}", report(&findings).trim_end()))?;
    let failed = findings.iter().any(|(_, finding)| matches!(finding, Bad { .. }));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn examine(config: &Config, findings: &mut Vec<(&'static str, Finding)>) {
    let vault = master_keys(&config.vault);
    let reached = match reach(&config.database).await {
        Ok(pool) => pool
            .acquire()
            .await
            .map_err(|error| bad(error.to_string(), "look at the server's log")),
        Err(finding) => Err(finding),
    };
    match reached {
        Err(finding) => findings.push(("database", finding)),
        Ok(mut conn) => {
            findings.extend(database(&mut conn).await);
            let schema = schema(&mut conn).await;
            let migrated = matches!(schema, Good(_) | Note(_));
            findings.push(("migrations", schema));
            findings.push(match vault {
                Ok(vault) if migrated => ("master keys", keys_fit(&mut conn, &vault).await),
                Ok(_) => (
                    "master keys",
                    Note("well formed; checked once the database is migrated".into()),
                ),
                Err(finding) => ("master keys", finding),
            });
        }
    }
    findings.push(("telegram", telegram(&config.telegram).await));
    findings.push(("api port", port(&config.api)));
    findings.push(("open files", open_files(descriptors::hard_limit(), config.sessions.max)));
}

async fn reach(config: &DatabaseConfig) -> Result<PgPool, Finding> {
    let fix = "check DATABASE_URL (host, port, user, password, database), and that Postgres runs and accepts it";
    let pool = store::pool(config).map_err(|_| bad("DATABASE_URL is not a Postgres URL", fix))?;
    match store::server::reach(&pool).await {
        Ok(()) => Ok(pool),
        Err(error) => {
            let because = error.source().map(|source| format!(": {source}")).unwrap_or_default();
            Err(bad(format!("cannot be reached: {error}{because}"), fix))
        }
    }
}

async fn database(conn: &mut PgConnection) -> Vec<(&'static str, Finding)> {
    let clock = SystemClock;
    let before = clock.now();
    let facts = match store::server::facts(conn).await {
        Ok(facts) => facts,
        Err(error) => return vec![("database", bad(error.to_string(), "look at the server's log"))],
    };
    let middle = before + (clock.now() - before) / 2;
    let version = if facts.major < OLDEST_POSTGRES {
        bad(
            format!("runs Postgres {}", facts.version),
            format!("use Postgres {OLDEST_POSTGRES} or later"),
        )
    } else if facts.writable {
        Good(format!("Postgres {}, writable", facts.version))
    } else {
        bad("is read only", "name the primary in DATABASE_URL, not a standby")
    };
    vec![("database", version), ("clock", skew((facts.now - middle).abs()))]
}

fn skew(off: chrono::TimeDelta) -> Finding {
    let shown = format!("{} ms from the database's", off.num_milliseconds());
    if off.to_std().is_ok_and(|off| off <= SKEW) {
        Good(shown)
    } else {
        bad(shown, "set both machines' clocks by NTP")
    }
}

async fn schema(conn: &mut PgConnection) -> Finding {
    match store::schema::state(conn).await {
        Ok(SchemaState::Current) => Good("all applied".into()),
        Ok(SchemaState::Behind { missing }) => bad(format!("{missing} to be applied"), "run `wireroom migrate`"),
        Ok(SchemaState::Compatible { version }) => Note(format!(
            "migration {version} is of a newer Wireroom, which says that this release may run with it"
        )),
        Ok(SchemaState::Ahead { version, .. }) => bad(
            format!("migration {version} is of a newer Wireroom, which does not admit this release"),
            "start that version, or restore the database from before it",
        ),
        Ok(SchemaState::Different { version }) => bad(
            format!("migration {version} was applied with another text"),
            "use the build this database belongs to",
        ),
        Err(error) => bad(error.to_string(), "look at the server's log"),
    }
}

fn master_keys(config: &VaultConfig) -> Result<Vault, Finding> {
    let Some(keys) = &config.master_keys else {
        return Err(Note(
            "WIREROOM_MASTER_KEYS is not set: enough for `wireroom api`, not for `wireroom worker`".into(),
        ));
    };
    Vault::parse(keys).map_err(|error| bad(error.to_string(), "make one: echo \"k1:$(openssl rand -base64 32)\""))
}

async fn keys_fit(conn: &mut PgConnection, vault: &Vault) -> Finding {
    match check_master_keys(conn, vault).await {
        Ok(_) => Good(format!(
            "open what is sealed ({})",
            vault.key_ids().collect::<Vec<_>>().join(", ")
        )),
        Err(error @ (MasterKeyError::Other { .. } | MasterKeyError::Missing { .. })) => bad(
            error.to_string(),
            "set the keys this database was used with; a new key goes in front of them, under a new id",
        ),
        Err(error) => bad(error.to_string(), "look at the server's log"),
    }
}

async fn telegram(config: &TelegramConfig) -> Finding {
    match (&config.server, &config.api_id, &config.api_hash) {
        (Some(server), _, _) => sandbox(server).await,
        (None, Some(_), Some(_)) => Good("Telegram itself; the application's id and hash are well formed".into()),
        (None, None, None) => Note(
            "neither an application (TELEGRAM_API_ID, TELEGRAM_API_HASH) nor a sandbox (WIREROOM_TELEGRAM_SERVER): \
             enough for `wireroom api`"
                .into(),
        ),
        (None, _, _) => bad(
            "only one of TELEGRAM_API_ID and TELEGRAM_API_HASH is set",
            "set both, as https://my.telegram.org shows them",
        ),
    }
}

async fn sandbox(server: &ServerConfig) -> Finding {
    if let Err(what) = readable_key(&server.key_file) {
        return bad(
            what,
            "set WIREROOM_TELEGRAM_SERVER_KEY to the PEM file that the server wrote",
        );
    }
    match tokio::time::timeout(REACH, tokio::net::TcpStream::connect(server.address)).await {
        Ok(Ok(_)) => Good(format!("the server at {} answers; its key is readable", server.address)),
        Ok(Err(error)) => bad(
            format!("the server at {} cannot be reached: {error}", server.address),
            "start it (`wireroom sandbox`), or correct WIREROOM_TELEGRAM_SERVER",
        ),
        Err(_) => bad(
            format!(
                "the server at {} does not answer within {} s",
                server.address,
                REACH.as_secs()
            ),
            "check the address and the network between",
        ),
    }
}

fn readable_key(path: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    if text.contains("PUBLIC KEY") {
        Ok(())
    } else {
        Err(format!("{} is not a public key in PEM", path.display()))
    }
}

fn port(config: &ApiConfig) -> Finding {
    match TcpListener::bind(config.listen) {
        Ok(_) => Good(format!("{} is free", config.listen)),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Note(format!(
            "{} is taken: fine when that is this API, else set WIREROOM_API_LISTEN",
            config.listen
        )),
        Err(error) => bad(
            format!("{} cannot be listened on: {error}", config.listen),
            "set WIREROOM_API_LISTEN to an address of this machine",
        ),
    }
}

/// `limit`: the hard one, to which a worker raises its own.
fn open_files(limit: Option<u64>, sessions: usize) -> Finding {
    let needed = descriptors::needed(sessions);
    match limit {
        None => Note("the system does not say how many a process may have".into()),
        Some(limit) if limit >= needed => Good(format!("enough for {sessions} sessions in a worker")),
        Some(limit) => Note(format!(
            "a process may have {limit}: enough for {} sessions in a worker, and WIREROOM_SESSIONS_MAX is {sessions}, which \
             takes {needed}; raise the hard limit (ulimit -Hn, LimitNOFILE=) or lower the variable",
            descriptors::sessions_within(limit)
        )),
    }
}

fn report(findings: &[(&'static str, Finding)]) -> String {
    let mut text = String::new();
    for (name, finding) in findings {
        let written = match finding {
            Good(what) => writeln!(text, "ok    {name:<14} {what}"),
            Note(what) => writeln!(text, "note  {name:<14} {what}"),
            Bad { what, fix } => writeln!(text, "FAIL  {name:<14} {what}\n      {:<14} to fix: {fix}", ""),
        };
        written.expect("writing to a string does not fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_far_off_fails() {
        assert!(matches!(skew(chrono::TimeDelta::milliseconds(40)), Good(_)));
        assert!(matches!(skew(chrono::TimeDelta::seconds(3)), Bad { .. }));
    }

    #[test]
    fn a_failure_says_how_to_fix_it() {
        let text = report(&[("migrations", bad("3 to be applied", "run `wireroom migrate`"))]);
        assert!(
            text.starts_with("FAIL  migrations") && text.contains("to fix: run `wireroom migrate`"),
            "{text}"
        );
    }

    #[test]
    fn a_limit_of_open_files_below_what_the_sessions_take_is_noted() {
        assert!(matches!(open_files(Some(4_256), 1_000), Good(_)));
        let Note(text) = open_files(Some(1_024), 1_000) else {
            panic!("nothing is said");
        };
        assert!(text.contains("192 sessions") && text.contains("4256"), "{text}");
    }

    #[tokio::test]
    async fn a_server_without_its_key_file_fails() {
        let server = ServerConfig {
            address: "127.0.0.1:9".parse().unwrap(),
            other_dcs: std::collections::BTreeMap::new(),
            key_file: "/nonexistent/key.pem".into(),
        };
        assert!(matches!(sandbox(&server).await, Bad { .. }));
    }
}
