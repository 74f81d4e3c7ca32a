//! The cluster against real server programs: what it survives, and that nothing is left running. What happens when the
//! process itself ends is tried with child processes: this test binary again, running one ignored test.

use std::io::{BufRead, BufReader, Lines};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use sqlx::Connection;
use tempfile::TempDir;

use super::*;

const BOUND: Duration = Duration::from_secs(30);

fn quick(dir: &Path) -> ClusterConfig {
    let settings = [("fsync", "off"), ("shared_buffers", "16MB")];
    ClusterConfig {
        dir: dir.join("cluster"),
        settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..ClusterConfig::default()
    }
}

/// A directory that the server's user can reach, whoever runs the tests.
fn place() -> TempDir {
    let place = tempfile::tempdir().expect("a temporary directory");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(place.path(), mode).expect("our own directory");
    place
}

async fn ask(url: &str, statement: &str) -> Result<i64, sqlx::Error> {
    let mut connection = database::connect(url).await?;
    let answer = sqlx::query_scalar(sqlx::AssertSqlSafe(statement.to_owned()))
        .fetch_one(&mut connection)
        .await?;
    connection.close().await?;
    Ok(answer)
}

async fn execute(url: &str, statement: &str) {
    let mut connection = database::connect(url).await.expect("connected");
    database::run(&mut connection, statement.to_owned())
        .await
        .expect("executed");
    connection.close().await.expect("closed");
}

/// Waits until no process of the server is left in `dir`.
async fn gone(dir: &Path) {
    let log = dir.join("server.log");
    let freed = async {
        while home::try_lock(&log).expect("the log can be opened").is_none() {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(BOUND, freed)
        .await
        .expect("the server ends when its process has");
}

fn refuses(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_err()
}

#[tokio::test]
async fn data_and_port_survive_a_stop_and_fresh_starts_over() {
    let place = place();
    let cluster = Cluster::start(quick(place.path())).await.expect("started");
    let url = cluster.ensure_database("app").await.expect("created");
    assert_eq!(cluster.ensure_database("app").await.expect("it exists"), url);
    execute(&url, "CREATE TABLE kept AS SELECT 7::bigint AS n").await;
    let port = cluster.port();
    let dir = cluster.dir().to_owned();
    assert!(
        dir.starts_with(place.path().canonicalize().expect("it exists")),
        "a reachable place is used as it is"
    );
    cluster.stop().await.expect("stopped");
    assert!(refuses(port));
    gone(&dir).await;

    let cluster = Cluster::start(quick(place.path())).await.expect("started again");
    assert_eq!(cluster.url("app"), url, "a URL lasts over restarts");
    assert_eq!(ask(&url, "SELECT n FROM kept").await.expect("the row is there"), 7);
    drop(cluster);
    assert!(refuses(port), "dropping it stops it");

    let cluster = Cluster::start(ClusterConfig {
        fresh: true,
        ..quick(place.path())
    })
    .await
    .expect("started over");
    assert_ne!(cluster.url("app"), url, "a new cluster has a new password");
    ask(&cluster.url("app"), "SELECT 1::bigint")
        .await
        .expect_err("the database is gone");
}

#[tokio::test]
async fn the_loopback_address_is_not_open_without_the_password() {
    let place = place();
    let cluster = Cluster::start(quick(place.path())).await.expect("started");
    assert_eq!(
        ask(&cluster.url("postgres"), "SELECT 1::bigint")
            .await
            .expect("the password opens it"),
        1
    );
    let guessed = url("guess", cluster.port(), "postgres");
    let error = ask(&guessed, "SELECT 1::bigint")
        .await
        .expect_err("a wrong password is refused");
    let code = error
        .as_database_error()
        .and_then(|error| error.code().map(std::borrow::Cow::into_owned));
    assert_eq!(code.as_deref(), Some("28P01"), "{error}");
    assert!(
        !format!("{cluster:?}").contains(&cluster.password),
        "the password shows in Debug"
    );
}

#[tokio::test]
async fn a_second_process_at_the_same_directory_is_refused() {
    let place = place();
    let cluster = Cluster::start(quick(place.path())).await.expect("started");
    let error = Cluster::start(quick(place.path())).await.expect_err("taken");
    assert!(matches!(error, ClusterError::InUse { .. }), "{error}");
    assert_eq!(
        ask(&cluster.url("postgres"), "SELECT 1::bigint")
            .await
            .expect("the first is unharmed"),
        1
    );
}

#[tokio::test]
async fn a_restart_and_a_crash_keep_the_port_and_what_was_committed() {
    let place = place();
    // Durable: a crash replays the log.
    let config = ClusterConfig {
        settings: Vec::new(),
        ..quick(place.path())
    };
    let mut cluster = Cluster::start(config).await.expect("started");
    let url = cluster.url("postgres");
    execute(&url, "CREATE TABLE kept (n bigint); INSERT INTO kept VALUES (1)").await;
    cluster.restart().await.expect("restarted");
    execute(&url, "INSERT INTO kept VALUES (2)").await;
    cluster.crash().await.expect("restarted");
    assert_eq!(ask(&url, "SELECT sum(n)::bigint FROM kept").await.expect("answered"), 3);
    let log = std::fs::read_to_string(cluster.home.log()).expect("a log");
    assert!(log.contains("not properly shut down"), "the crash was none: {log}");
}

#[tokio::test]
async fn a_start_that_fails_says_why_and_leaves_nothing() {
    let place = place();
    let mut config = quick(place.path());
    config.settings.push(("shared_buffers".into(), "lots".into()));
    let error = Cluster::start(config).await.expect_err("no such size");
    assert!(error.to_string().contains("shared_buffers"), "{error}");
    gone(&place.path().join("cluster")).await;
    Cluster::start(quick(place.path()))
        .await
        .expect("the next start is not hindered");
}

#[tokio::test]
async fn a_server_left_behind_is_stopped_by_the_next_start() {
    let place = place();
    let mut cluster = Cluster::start(quick(place.path())).await.expect("started");
    let url = cluster.url("postgres");
    // The guard lives and holds on, as if it could not tell that we are gone; only the claim on the directory is let go.
    let left = cluster.running.take().expect("it runs");
    drop(cluster);
    assert_eq!(ask(&url, "SELECT 1::bigint").await.expect("it still runs"), 1);

    let cluster = Cluster::start(quick(place.path()))
        .await
        .expect("started beside the one left behind");
    assert_eq!(
        ask(&cluster.url("postgres"), "SELECT 1::bigint")
            .await
            .expect("answered"),
        1
    );
    drop(left);
    assert_eq!(
        ask(&cluster.url("postgres"), "SELECT 1::bigint")
            .await
            .expect("its own guard has it"),
        1
    );
}

#[tokio::test]
async fn a_panic_stops_the_server() {
    let place = place();
    let cluster = Cluster::start(quick(place.path())).await.expect("started");
    let (port, dir) = (cluster.port(), cluster.dir().to_owned());
    let task = tokio::spawn(async move {
        let _cluster = cluster;
        panic!("on purpose");
    });
    assert!(task.await.expect_err("it panicked").is_panic());
    assert!(refuses(port));
    gone(&dir).await;
}

/// This test binary again, running the test `role` below with a cluster in `place`.
struct Elsewhere {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Elsewhere {
    fn start(role: &str, place: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().expect("this binary"))
            .args([
                "--exact",
                &format!("cluster::tests::{role}"),
                "--ignored",
                "--nocapture",
            ])
            .env("CLUSTER_TEST_PLACE", place)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("started");
        let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        Self { process, lines }
    }

    /// What follows `word` in the next line that begins with it.
    fn said(&mut self, word: &str) -> String {
        self.lines
            .by_ref()
            .map(|line| line.expect("text"))
            .find_map(|line| line.split_once(word).map(|(_, rest)| rest.trim().to_owned()))
            .unwrap_or_else(|| panic!("it ended without saying {word}"))
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().cast_signed())
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A process that starts a cluster and never ends by itself; the terminal's Ctrl-C makes it use the cluster once more.
#[tokio::test]
#[ignore = "run by other tests, as a process of its own"]
async fn elsewhere() {
    let place = std::env::var_os("CLUSTER_TEST_PLACE").expect("run by another test");
    let mut interrupts = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()).expect("a handler");
    let cluster = Cluster::start(quick(Path::new(&place))).await.expect("started");
    println!("url {}", cluster.url("postgres"));
    interrupts.recv().await;
    println!(
        "answer {}",
        ask(&cluster.url("postgres"), "SELECT 42::bigint")
            .await
            .expect("answered")
    );
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_process_takes_its_server_along() {
    let place = place();
    let mut elsewhere = Elsewhere::start("elsewhere", place.path());
    let url = elsewhere.said("url ");
    assert_eq!(ask(&url, "SELECT 1::bigint").await.expect("it runs"), 1);
    kill(elsewhere.pid(), Signal::SIGKILL).expect("our child");
    gone(&place.path().join("cluster")).await;
    ask(&url, "SELECT 1::bigint").await.expect_err("nothing listens");

    let cluster = Cluster::start(quick(place.path())).await.expect("started after it");
    assert_eq!(
        ask(&cluster.url("postgres"), "SELECT 1::bigint")
            .await
            .expect("answered"),
        1
    );
}

#[tokio::test]
async fn a_start_right_after_a_kill_waits_for_the_old_server() {
    let place = place();
    let mut elsewhere = Elsewhere::start("elsewhere", place.path());
    elsewhere.said("url ");
    kill(elsewhere.pid(), Signal::SIGKILL).expect("our child");
    elsewhere.process.wait().expect("ended");
    let cluster = Cluster::start(quick(place.path())).await.expect("started");
    assert_eq!(
        ask(&cluster.url("postgres"), "SELECT 1::bigint")
            .await
            .expect("answered"),
        1
    );
}

#[tokio::test]
async fn ctrl_c_in_the_terminal_reaches_the_process_and_not_its_server() {
    let place = place();
    let mut elsewhere = Elsewhere::start("elsewhere", place.path());
    elsewhere.said("url ");
    killpg(elsewhere.pid(), Signal::SIGINT).expect("our children");
    assert_eq!(elsewhere.said("answer "), "42");
    kill(elsewhere.pid(), Signal::SIGTERM).expect("our child");
    gone(&place.path().join("cluster")).await;
}

/// A process that shares a cluster and never ends by itself.
#[tokio::test]
#[ignore = "run by other tests, as a process of its own"]
async fn sharing() {
    let place = std::env::var_os("CLUSTER_TEST_PLACE").expect("run by another test");
    let shared = testing::attach(Path::new(&place).join("cluster"))
        .await
        .expect("attached");
    println!("url {}", shared.url("postgres"));
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_shared_server_lives_as_long_as_any_of_its_processes_and_no_longer() {
    let place = place();
    let mut starter = Elsewhere::start("sharing", place.path());
    let url = starter.said("url ");
    let mut joiner = Elsewhere::start("sharing", place.path());
    assert_eq!(joiner.said("url "), url, "the two do not share");
    kill(starter.pid(), Signal::SIGKILL).expect("our child");
    starter.process.wait().expect("ended");

    let mut late = Elsewhere::start("sharing", place.path());
    assert_eq!(
        late.said("url "),
        url,
        "the server ended with the process that started it"
    );
    for last in [&mut joiner, &mut late] {
        kill(last.pid(), Signal::SIGKILL).expect("our child");
        last.process.wait().expect("ended");
    }
    gone(&place.path().join("cluster")).await;
    ask(&url, "SELECT 1::bigint").await.expect_err("nothing listens");
}
