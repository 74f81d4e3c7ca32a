//! Independent clients, Telethon and Kurigram: against the sandbox, since what grammers alone accepts could be a shared misreading;
//! and with the sessions that Wireroom hands out for them, and takes from them.

mod imports;
mod joins;
mod outreach;
mod publishing;
mod watching;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::{io::AsyncWriteExt, process::Command, sync::Mutex};
use wireroom::sandbox::{Sandbox, SandboxConfig, SandboxHandle};

use crate::support::stack::{Options, Stack};

const INSTALL_BOUND: Duration = Duration::from_mins(3);
const CHECK_BOUND: Duration = Duration::from_mins(2);

/// A library for Python, in a virtual environment of its own.
pub struct Library {
    pub name: &'static str,
    /// The exact packages, so that a new release cannot turn the test red or green.
    pub packages: &'static [&'static str],
    /// One test makes the environment, and the others wait.
    pub made: Mutex<()>,
}

static TELETHON: Library = Library {
    name: "telethon-1.45.0",
    packages: &["telethon==1.45.0", "pyaes==1.6.1", "rsa==4.9.1", "pyasn1==0.6.5"],
    made: Mutex::const_new(()),
};

/// The same with a way to Postgres, as a script has that stores what it reads.
static TELETHON_THAT_STORES: Library = Library {
    name: "telethon-1.45.0-asyncpg-0.32.0",
    packages: &[
        "telethon==1.45.0",
        "pyaes==1.6.1",
        "rsa==4.9.1",
        "pyasn1==0.6.5",
        "asyncpg==0.32.0",
    ],
    made: Mutex::const_new(()),
};

static KURIGRAM: Library = Library {
    name: "kurigram-2.2.26",
    packages: &["kurigram==2.2.26", "pyaes==1.6.1", "python-socks==3.2.1"],
    made: Mutex::const_new(()),
};

impl Library {
    /// Its Python. The environment is made once; a half-made one is made again.
    pub async fn python(&self) -> PathBuf {
        let _made = self.made.lock().await;
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(self.name);
        let complete = home.join("complete");
        let python = home.join("bin/python");
        if complete.exists() {
            return python;
        }
        let home_text = home.to_str().expect("the target directory has a UTF-8 path");
        run("python3", &["-m", "venv", "--clear", home_text], "", INSTALL_BOUND).await;
        let pip = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ];
        let arguments: Vec<&str> = pip.iter().chain(self.packages).copied().collect();
        run(python.to_str().expect("UTF-8"), &arguments, "", INSTALL_BOUND).await;
        std::fs::write(complete, "").expect("the environment is writable");
        python
    }

    /// Runs a script against a sandbox, which must find all well.
    async fn check(&self, script: &str, sandbox: &SandboxHandle, more: &[&str], input: &str) {
        let python = self.python().await;
        let key = NamedTempFile::new().expect("a temporary file");
        std::fs::write(key.path(), sandbox.public_key_pem()).expect("written");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
        let port = sandbox.addr().port().to_string();
        let mut arguments = vec![
            script.to_str().expect("UTF-8"),
            key.path().to_str().expect("UTF-8"),
            &port,
        ];
        arguments.extend(more);
        let said = run(python.to_str().expect("UTF-8"), &arguments, input, CHECK_BOUND).await;
        assert!(said.contains("all is well"), "{said}");
    }
}

/// A Python with Telethon and asyncpg.
pub async fn python_that_stores() -> PathBuf {
    TELETHON_THAT_STORES.python().await
}

/// Runs a program that must succeed; returns what it wrote.
async fn run(program: &str, arguments: &[&str], input: &str, bound: Duration) -> String {
    let child = async {
        let mut child = Command::new(program)
            .args(arguments)
            // Nothing of what they leave is left between the sources.
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(env!("CARGO_TARGET_TMPDIR"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(bound, child)
        .await
        .unwrap_or_else(|_| panic!("{program} {arguments:?} did not end within {bound:?}"))
        .unwrap_or_else(|error| panic!("{program} could not be started: {error}"));
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{program} {arguments:?} failed:\n{text}");
    text
}

/// The phone number of an account, as a client signs in with it.
fn phone(stack: &Stack, username: &str) -> String {
    let accounts = stack.sandbox.controls().with_world(|world| world.accounts());
    let row = accounts.iter().find(|row| row.username.as_deref() == Some(username));
    format!("+{}", row.expect("an account").phone)
}

async fn against_a_sandbox(library: &Library, script: &str) {
    let sandbox = Sandbox::start(SandboxConfig::default())
        .await
        .expect("the sandbox starts");
    library.check(script, &sandbox, &[], "").await;
    assert_eq!(sandbox.incidents(), []);
    sandbox.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn telethon_logs_in_joins_sends_lists_and_receives() {
    against_a_sandbox(&TELETHON, "telethon_check.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kurigram_logs_in_joins_sends_lists_and_receives() {
    against_a_sandbox(&KURIGRAM, "kurigram_check.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_an_older_layer_is_told_so() {
    against_a_sandbox(&TELETHON, "telethon_old_layer.py").await;
}

async fn post(stack: &Stack, path: &str, body: Value) -> Value {
    let answer = stack
        .request(Method::POST, path)
        .json(&body)
        .send()
        .await
        .expect("answered");
    let (status, body): (_, Value) = (answer.status(), answer.json().await.expect("JSON"));
    assert!(status.is_success(), "{path}: {body}");
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_session_works_in_the_library_it_was_exported_for() {
    let stack = Stack::with(Options {
        accounts: vec![],
        ..Options::default()
    })
    .await;
    let _worker = stack.worker().await;
    let begun = post(
        &stack,
        "/v1/sessions",
        json!({ "label": "alice", "phone": "+999 66 2 0001" }),
    )
    .await;
    let path = format!("/v1/sessions/{}", begun["session"].as_str().expect("a session"));
    let code = json!({ "code": wireroom::sandbox::LOGIN_CODE });
    assert_eq!(post(&stack, &format!("{path}/code"), code).await["state"], "done");
    for (format, library, script) in [
        ("telethon", &TELETHON, "telethon_exported.py"),
        ("pyrogram", &KURIGRAM, "kurigram_exported.py"),
    ] {
        let exported = post(&stack, &format!("{path}/export"), json!({ "format": format })).await;
        let text = exported["session"].as_str().expect("a string session");
        library
            .check(script, &stack.sandbox, &["alice"], &format!("{text}\n"))
            .await;
        let stopped = json!({ "stopped_elsewhere": true });
        assert_eq!(
            post(&stack, &format!("{path}/enable"), stopped).await["state"],
            "done",
            "it comes back"
        );
    }
    stack.finish().await;
}
