//! `wireroom session login`, from a pipe as from a terminal.

use super::*;
use crate::support::process::Process;

/// Runs `wireroom session login` with lines of input; whether it succeeded, and what it wrote.
async fn type_in(stack: &Stack, arguments: &str, lines: &str) -> (bool, String) {
    let script = format!(
        "printf '{lines}' | exec {} session login {arguments}",
        env!("CARGO_BIN_EXE_wireroom")
    );
    let variables: Vec<(&str, &str)> = stack
        .variables()
        .iter()
        .filter(|(name, _)| name != "WIREROOM_MASTER_KEYS")
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let mut process = Process::start("sh", &["-c", &script], &variables);
    let status = process.wait_for_end(BOUND).await;
    (status.success(), process.output())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_logged_in_from_a_terminal_without_the_master_key() {
    let stack = empty().await;
    let (done, output) = type_in(&stack, "alice", "9996620001\\n").await;
    assert!(!done && output.contains("wireroom worker"), "{output}");
    let _worker = stack.worker().await;
    // As the API checks it: labels are shown to everybody.
    let (done, output) = type_in(&stack, "9996620001", "9996620001\\n").await;
    assert!(!done && output.contains("label must not be a phone number"), "{output}");
    let (done, output) = type_in(&stack, "odd", "hello\\n").await;
    assert!(!done && output.contains("country code"), "{output}");
    assert_eq!(stack.figure("SELECT count(*) FROM sessions").await, 0);
    let (done, output) = type_in(&stack, "carol", "+999 66 2 0003\\n11111\\n22222\\nwrong\\nsandbox\\n").await;
    assert!(done, "{output}");
    for expected in [
        "The code is not that one",
        wireroom::sandbox::PASSWORD_HINT,
        "The password is not that one",
        "is ready",
    ] {
        assert!(output.contains(expected), "no {expected:?} in {output}");
    }
    for secret in ["0003", "22222", "wrong\n"] {
        assert!(!output.contains(secret), "{secret:?} in {output}");
    }
    let (done, output) = type_in(&stack, "banned", "9990000001\\n").await;
    assert!(!done && output.contains("banned this number"), "{output}");
    let (done, output) = type_in(&stack, "left", "9996620002\\n").await;
    assert!(!done && output.contains("standard input ended"), "{output}");
    let live = "SELECT count(*) FROM errands WHERE state NOT IN ('done', 'failed')";
    assert_eq!(stack.figure(live).await, 0, "nothing waits for somebody who has gone");
    let (done, output) = type_in(&stack, "carol", "9996620003\\n").await;
    assert!(!done && output.contains("logged in already"), "{output}");
    let bot = stack.account("harbour_bot");
    let (done, output) = type_in(&stack, "bot --bot", &format!("{bot}:harbour_bot-sandbox\\n")).await;
    assert!(done, "{output}");
    let by_cli = "SELECT count(*) FROM audit_log WHERE actor = 'cli' AND action = 'session.logged_in'";
    assert_eq!(stack.figure(by_cli).await, 2);
    assert_erased(&stack).await;
    stack.finish().await;
}
