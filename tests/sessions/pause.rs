//! A worker that is stopped past its lease, as a frozen machine is, and wakes up with calls in its hands.

use serde_json::json;
use wireroom::sandbox::Misuse;

use super::*;
use crate::support::stack::{JOB_BOUND, Stack};

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_wakes_up_after_its_lease_sends_not_a_byte() {
    let stack = Stack::start().await;
    let mut stopped = stack.worker().await;
    // Answers come while it is stopped, and it would go on with the next page as soon as it wakes.
    let slow = Fault::once("channels.getParticipants", Effect::Delay { ms: 200 }).forever();
    stack.fault(slow);
    let args = json!({ "what": "members", "chat": "@big_bazaar", "purpose": "a test of a pause" });
    let id = stack.post("scan", args).await;
    let some_way = |job: &serde_json::Value| job["progress"]["done"].as_i64() >= Some(400);
    stack.job_when(&id, "some way in", some_way).await;
    stopped.pause();
    let _second = stack.worker().await;
    stack.sandbox.controls().clear_faults();
    let job = stack.finished(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    stopped.resume();
    stopped.wait_for_line("trust in the lease has ended", JOB_BOUND).await;
    let one_is_open = async || (stack.sandbox.controls().connections().len() == 1).then_some(());
    until("the old connection is closed", one_is_open).await;
    assert!(stopped.is_alive(), "losing a lease ends no process");
    let misuse = stack.sandbox.incidents();
    assert!(
        misuse.iter().all(|incident| incident.kind == Misuse::OpenTwice),
        "bytes of one key came from two places: {misuse:?}"
    );
}
