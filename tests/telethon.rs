//! An independent client, Telethon, against the sandbox: what grammers alone accepts could be a shared misreading.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::process::Command;
use wireroom::sandbox::{Sandbox, SandboxConfig};

/// The exact packages, so that a new release cannot turn the test red or green.
const PACKAGES: [&str; 4] = ["telethon==1.45.0", "pyaes==1.6.1", "rsa==4.9.1", "pyasn1==0.6.5"];
const INSTALL_BOUND: Duration = Duration::from_mins(3);
const CHECK_BOUND: Duration = Duration::from_mins(1);

/// Makes the virtual environment once; a half-made one is made again.
async fn python() -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("telethon-1.45.0");
    let complete = home.join("complete");
    let python = home.join("bin/python");
    if complete.exists() {
        return python;
    }
    let home_text = home.to_str().expect("the target directory has a UTF-8 path");
    run("python3", &["-m", "venv", "--clear", home_text], INSTALL_BOUND).await;
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ];
    let arguments: Vec<&str> = pip.into_iter().chain(PACKAGES).collect();
    run(python.to_str().expect("UTF-8"), &arguments, INSTALL_BOUND).await;
    std::fs::write(complete, "").expect("the environment is writable");
    python
}

async fn run(program: &str, arguments: &[&str], bound: Duration) -> String {
    let child = Command::new(program).args(arguments).kill_on_drop(true).output();
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

#[tokio::test(flavor = "multi_thread")]
async fn telethon_logs_in_joins_sends_lists_and_receives() {
    let python = python().await;
    let sandbox = Sandbox::start(SandboxConfig::default())
        .await
        .expect("the sandbox starts");
    let key = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(key.path(), sandbox.public_key_pem()).expect("written");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/telethon/check.py");
    let port = sandbox.addr().port().to_string();
    let arguments = [
        script.to_str().expect("UTF-8"),
        key.path().to_str().expect("UTF-8"),
        &port,
    ];
    let said = run(python.to_str().expect("UTF-8"), &arguments, CHECK_BOUND).await;
    assert!(said.contains("all is well"), "{said}");
    assert_eq!(sandbox.incidents(), []);
    sandbox.shutdown().await;
}
