//! A whole Wireroom: a database of the test's own, a sandbox in this process, the API and workers as real processes.

use std::{
    fs::Permissions, net::SocketAddr, os::unix::fs::PermissionsExt, path::PathBuf, process::ExitStatus, time::Duration,
};

use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;
use tempfile::TempDir;
use wireroom::{
    cluster::{
        Cluster, ClusterConfig,
        testing::{NO_CAPS, TestDatabase},
    },
    sandbox::{Fault, Sandbox, SandboxConfig, SandboxHandle, call::UserId, world::PeerKey},
    vault::Vault,
};

use super::{process::Process, wait::eventually};

/// How long a process may take to come up, on a machine with other tests on it.
pub const START_BOUND: Duration = Duration::from_secs(30);
/// How long a job over the sandbox may take.
pub const JOB_BOUND: Duration = Duration::from_mins(1);

/// A variable for tests that hold a call, or kill a worker that waits for an answer: it waits for longer than they take.
pub fn patience() -> (&'static str, String) {
    ("WIREROOM_TELEGRAM_CALL_SECONDS", "60".to_owned())
}

/// What a test wants to be different.
pub struct Options {
    /// Accounts of the sandbox to log in, by username; each becomes a session of that label in the pool `default`.
    pub accounts: Vec<&'static str>,
    pub sandbox: SandboxConfig,
    /// More variables, for the API and the workers.
    pub variables: Vec<(&'static str, String)>,
    /// A Postgres server for this test alone.
    pub own_server: bool,
    /// The program of all processes, when it is not this build's: it migrates its database itself.
    pub program: Option<Program>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            accounts: vec!["alice"],
            sandbox: SandboxConfig::default(),
            variables: Vec::new(),
            own_server: false,
            program: None,
        }
    }
}

/// Where the test's rows are.
pub struct Database {
    url: String,
    pool: PgPool,
    /// Keeps it there.
    owner: Owner,
}

enum Owner {
    /// A database of the shared cluster.
    Shared(#[expect(dead_code, reason = "dropped with the test, which drops the database")] TestDatabase),
    /// A server of the test's own, durable, which it may restart.
    Own(
        Cluster,
        #[expect(dead_code, reason = "holds the server's files")] TempDir,
    ),
}

impl Database {
    async fn shared() -> Self {
        let database = TestDatabase::new().await;
        Self {
            url: database.url().to_owned(),
            pool: database.pool().clone(),
            owner: Owner::Shared(database),
        }
    }

    async fn own() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        // As root the server runs as another user, who must be able to pass through.
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).expect("ours");
        let config = ClusterConfig {
            dir: dir.path().join("postgres"),
            fresh: false,
            download: false,
            settings: vec![],
        };
        let cluster = Cluster::start(config).await.expect("the cluster starts");
        let url = cluster.ensure_database("wireroom").await.expect("a database");
        let pool = PgPool::connect(&url).await.expect("connected");
        wireroom::store::MIGRATOR.run(&pool).await.expect("migrated");
        sqlx::raw_sql(NO_CAPS).execute(&pool).await.expect("no caps");
        Self {
            url,
            pool,
            owner: Owner::Own(cluster, dir),
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Takes all of the schema away, as in a database that was never migrated.
    pub async fn empty(&self) {
        sqlx::raw_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            .execute(&self.pool)
            .await
            .expect("emptied");
    }

    /// Stops the server as a crash does, until [`start_again`](Self::start_again). For a server of the test's own.
    pub async fn halt(&mut self) {
        let Owner::Own(cluster, _) = &mut self.owner else {
            panic!("the shared cluster serves other tests")
        };
        cluster.halt(true).await.expect("it stops");
    }

    pub async fn start_again(&mut self) {
        let Owner::Own(cluster, _) = &mut self.owner else {
            panic!("the shared cluster serves other tests")
        };
        cluster.start_again().await.expect("it starts again");
    }

    /// Stops the server as a crash does and starts it again. For a server of the test's own.
    pub async fn crash(&mut self) {
        let Owner::Own(cluster, _) = &mut self.owner else {
            panic!("the shared cluster serves other tests")
        };
        cluster.crash().await.expect("it starts again");
    }
}

/// The running parts. Workers are started by the test.
pub struct Stack {
    pub database: Database,
    pub sandbox: SandboxHandle,
    api: Process,
    pub api_addr: SocketAddr,
    pub key: String,
    program: Program,
    variables: Vec<(String, String)>,
    client: Client,
    /// Holds the sandbox's public key for as long as processes read it.
    _files: TempDir,
}

impl Stack {
    /// The usual: alice, and the API.
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    /// The same with [`patience`].
    pub async fn patient() -> Self {
        Self::with(Options {
            variables: vec![patience()],
            ..Options::default()
        })
        .await
    }

    pub async fn with(options: Options) -> Self {
        wireroom::tls::install();
        let database = if options.own_server {
            Database::own().await
        } else {
            Database::shared().await
        };
        let sandbox = Sandbox::start(options.sandbox).await.expect("the sandbox starts");
        let files = tempfile::tempdir().expect("a temporary directory");
        let key_file: PathBuf = files.path().join("sandbox.pem");
        std::fs::write(&key_file, sandbox.public_key_pem()).expect("written");
        let variables = variables(&database, &sandbox, &key_file, &options.variables);
        let is_other = options.program.is_some();
        let program = options.program.unwrap_or_else(Program::this_build);
        if is_other {
            database.empty().await;
            program.complete(&["migrate"], &variables).await;
        }
        for account in &options.accounts {
            let import = ["session", "import-sandbox", account];
            program.complete(&import, &variables).await;
        }
        let key = create_key(&program, &variables).await;
        let mut api = program.start(&["api"], &variables);
        let api_addr = listening(&mut api).await;
        Self {
            database,
            sandbox,
            api,
            api_addr,
            key,
            program,
            variables,
            client: http_client(),
            _files: files,
        }
    }

    /// Starts a worker and waits until it is ready.
    pub async fn worker(&self) -> Process {
        self.worker_with(&[]).await
    }

    pub async fn worker_with(&self, extra: &[(&str, String)]) -> Process {
        let mut variables = self.variables.clone();
        for (name, value) in extra {
            variables.retain(|(known, _)| known != name);
            variables.push(((*name).to_owned(), value.clone()));
        }
        let mut worker = self.program.start(&["worker"], &variables);
        worker.wait_for_line("worker is ready", START_BOUND).await;
        worker
    }

    /// From here on processes are of this build: those that run stay what they are.
    pub fn upgrade(&mut self) {
        self.program = Program::this_build();
    }

    /// Runs a command of the program that new processes are of; it must succeed. Returns what it wrote.
    pub async fn command(&self, arguments: &[&str]) -> String {
        self.program.complete(arguments, &self.variables).await
    }

    /// Starts one more API; requests go to it from here on. Returns the one they went to.
    pub async fn replace_api(&mut self) -> Process {
        let mut api = self.program.start(&["api"], &self.variables);
        self.api_addr = listening(&mut api).await;
        std::mem::replace(&mut self.api, api)
    }

    /// The client of requests, with the operator's key to go with it: for a task of its own.
    pub fn client(&self) -> (Client, String) {
        (self.client.clone(), self.key.clone())
    }

    /// Ends the API as a deploy does.
    pub async fn stop_api(&mut self, bound: Duration) -> ExitStatus {
        self.api.terminate();
        self.api.wait_for_end(bound).await
    }

    /// All that the API process has written.
    pub fn api_output(&self) -> String {
        self.api.output()
    }

    pub fn variables(&self) -> &[(String, String)] {
        &self.variables
    }

    /// A request to the API with the operator's key.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("http://{}{path}", self.api_addr))
            .bearer_auth(&self.key)
    }

    pub async fn get(&self, path: &str) -> Value {
        let response = self.request(Method::GET, path).send().await.expect("answered");
        assert_eq!(response.status(), StatusCode::OK, "GET {path}");
        response.json().await.expect("JSON")
    }

    /// Posts a job; returns its id.
    pub async fn post(&self, kind: &str, args: Value) -> String {
        self.post_job(json!({ "kind": kind, "args": args })).await
    }

    pub async fn post_job(&self, body: Value) -> String {
        let response = self
            .request(Method::POST, "/v1/jobs")
            .json(&body)
            .send()
            .await
            .expect("answered");
        let status = response.status();
        let job: Value = response.json().await.expect("JSON");
        assert_eq!(status, StatusCode::ACCEPTED, "{job}");
        job["id"].as_str().expect("an id").to_owned()
    }

    pub async fn job(&self, id: &str) -> Value {
        self.get(&format!("/v1/jobs/{id}")).await
    }

    /// Waits until the job is as `wanted` says.
    pub async fn job_when(&self, id: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(JOB_BOUND, async || {
            let job = self.job(id).await;
            if wanted(&job) {
                Ok(job)
            } else {
                Err(format!("not {what}: {job}"))
            }
        })
        .await
    }

    /// Waits for the final result.
    pub async fn finished(&self, id: &str) -> Value {
        self.job_when(id, "finished", |job| job["finished_at"].is_string())
            .await
    }

    /// Posts a job and waits for its final result.
    pub async fn run(&self, kind: &str, args: Value) -> Value {
        let id = self.post(kind, args).await;
        self.finished(&id).await
    }

    /// Posts a job that must succeed; returns its result.
    pub async fn succeed(&self, kind: &str, args: Value) -> Value {
        let job = self.run(kind, args).await;
        assert_eq!(job["state"], "succeeded", "{job}");
        job["result"].clone()
    }

    /// Posts a job that must fail; returns its error's code.
    pub async fn fail(&self, kind: &str, args: Value) -> String {
        let job = self.run(kind, args).await;
        assert_eq!(job["state"], "failed", "{job}");
        job["error"]["code"].as_str().expect("a code").to_owned()
    }

    /// Scripts a fault.
    pub fn fault(&self, fault: Fault) {
        self.sandbox.controls().add_fault(fault);
    }

    /// The id of a chat of the sandbox, by username or title.
    pub fn chat(&self, name: &str) -> PeerKey {
        let found = self.sandbox.controls().with_world(|world| world.find_peer(name));
        found.unwrap_or_else(|| panic!("the sandbox has no chat {name}"))
    }

    /// The id of an account of the sandbox.
    pub fn account(&self, username: &str) -> UserId {
        match self.chat(username) {
            PeerKey::User(id) => id,
            other => panic!("{username} is no account but {other:?}"),
        }
    }

    /// How many messages of `chat` say exactly this.
    pub fn count_messages(&self, chat: &str, text: &str) -> usize {
        let chat = self.chat(chat);
        let messages = self.sandbox.controls().with_world(|world| world.messages_of(chat));
        messages.iter().filter(|message| message.text == text).count()
    }

    /// How often `method` was called, by anyone.
    pub fn calls(&self, method: &str) -> u64 {
        self.sandbox
            .controls()
            .calls()
            .by_method
            .get(method)
            .copied()
            .unwrap_or(0)
    }

    /// A figure from the database.
    pub async fn figure(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query)
            .fetch_one(self.database.pool())
            .await
            .expect("answered")
    }

    /// Sets the database's clock to noon in UTC, from where it goes on: no day ends during the test. Before workers start.
    pub async fn noon(&self) {
        // Tomorrow's, so that no clock goes back.
        sqlx::raw_sql(
            "CREATE TABLE test_start AS SELECT clock_timestamp() AS at;
            CREATE OR REPLACE FUNCTION wireroom_now() RETURNS timestamptz LANGUAGE sql VOLATILE AS
            'SELECT date_trunc(''day'', at, ''UTC'') + interval ''36 hours 5 seconds'' + (clock_timestamp() - at)
                FROM test_start'",
        )
        .execute(self.database.pool())
        .await
        .expect("set");
    }

    /// Makes a schedule that joins `chat` at every second, and makes up for seconds that nobody took in time.
    pub async fn schedule_each_second(&self, chat: &str) -> String {
        let body = json!({
            "name": "each second", "cron": "* * * * * *", "job": { "kind": "join", "args": { "chat": chat } },
            "missed": "all", "missed_max": 1000,
        });
        let request = self.request(Method::POST, "/v1/schedules").json(&body);
        let response = request.send().await.expect("answered");
        let status = response.status();
        let schedule: Value = response.json().await.expect("JSON");
        assert_eq!(status, StatusCode::CREATED, "{schedule}");
        schedule["id"].as_str().expect("an id").to_owned()
    }

    /// Waits until so many more ticks were taken from now on.
    pub async fn ticks_go_on(&self, more: i64) {
        let query = "SELECT count(*) FROM schedule_ticks";
        let wanted = self.figure(query).await + more;
        eventually(JOB_BOUND, async || match self.figure(query).await {
            ticks if ticks >= wanted => Ok(()),
            ticks => Err(ticks),
        })
        .await;
    }

    /// Removes the schedule of [`Stack::schedule_each_second`]: each second from its first tick to its last has one tick,
    /// each tick one job, and each job was made by a tick.
    pub async fn end_of_each_second(&self, schedule: &str) {
        let query = "SELECT count(*), count(DISTINCT tick_at), count(DISTINCT job_id),
                extract(epoch FROM max(tick_at) - min(tick_at))::bigint + 1,
                (SELECT count(*) FROM all_jobs WHERE created_by LIKE 'schedule:%')
            FROM schedule_ticks";
        let (ticks, times, with_job, seconds, jobs): (i64, i64, i64, i64, i64) = sqlx::query_as(query)
            .fetch_one(self.database.pool())
            .await
            .expect("answered");
        assert!(ticks >= 5, "{ticks} ticks");
        assert_eq!((ticks, ticks, ticks, ticks), (times, with_job, seconds, jobs));
        let request = self.request(Method::DELETE, &format!("/v1/schedules/{schedule}"));
        assert_eq!(request.send().await.expect("answered").status(), StatusCode::NO_CONTENT);
    }

    /// The end of a test: no job is left running, once those that nobody waited for have ended, and no key was used from two
    /// places.
    pub async fn finish(self) {
        let running = "SELECT count(*) FROM jobs WHERE state = 'running'";
        eventually(JOB_BOUND, async || match self.figure(running).await {
            0 => Ok(()),
            left => Err(format!("{left} jobs are left running")),
        })
        .await;
        assert_eq!(self.sandbox.incidents(), [], "a key was used from two places");
    }
}

fn variables(
    database: &Database,
    sandbox: &SandboxHandle,
    key_file: &std::path::Path,
    extra: &[(&'static str, String)],
) -> Vec<(String, String)> {
    let master = Vault::generate("test").expect("random").expose().to_owned();
    let mut variables = vec![
        ("DATABASE_URL".to_owned(), database.url().to_owned()),
        ("WIREROOM_MASTER_KEYS".to_owned(), master),
        ("WIREROOM_TELEGRAM_SERVER".to_owned(), sandbox.addr().to_string()),
        ("WIREROOM_TELEGRAM_SERVER_DCS".to_owned(), sandbox.other_dcs()),
        (
            "WIREROOM_TELEGRAM_SERVER_KEY".to_owned(),
            key_file.display().to_string(),
        ),
        ("WIREROOM_API_LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
        ("WIREROOM_LOG_FORMAT".to_owned(), "text".to_owned()),
        // A distance between calls is for people who have floods to fear.
        ("WIREROOM_SESSIONS_PACE_SECONDS".to_owned(), "0".to_owned()),
        // Short, so that a test that kills a worker does not take long.
        ("WIREROOM_SESSIONS_LEASE_SECONDS".to_owned(), "3".to_owned()),
        ("WIREROOM_QUEUE_HEARTBEAT_SECONDS".to_owned(), "0.5".to_owned()),
        ("WIREROOM_QUEUE_WORKER_DEAD_SECONDS".to_owned(), "3".to_owned()),
        ("WIREROOM_TELEGRAM_CALL_SECONDS".to_owned(), "5".to_owned()),
    ];
    for (name, value) in extra {
        variables.retain(|(known, _)| known != name);
        variables.push(((*name).to_owned(), value.clone()));
    }
    variables
}

/// A client; the first one of a process needs the source of cryptography to be there.
pub fn http_client() -> Client {
    wireroom::tls::install();
    Client::new()
}

/// A built program, of this release or another.
#[derive(Debug, Clone)]
pub struct Program {
    path: String,
    /// Its `.env.example`; `None`: it knows all variables that tests set.
    known: Option<String>,
}

impl Program {
    fn this_build() -> Self {
        Self {
            path: env!("CARGO_BIN_EXE_wireroom").to_owned(),
            known: None,
        }
    }

    /// The program at `path`, whose `.env.example` is `known`: it refuses variables that came later, and is not given any.
    pub fn other(path: String, known: String) -> Self {
        Self {
            path,
            known: Some(known),
        }
    }

    /// Starts it.
    pub fn start(&self, arguments: &[&str], variables: &[(String, String)]) -> Process {
        let variables: Vec<(&str, &str)> = variables
            .iter()
            .filter(|(name, _)| self.knows(name))
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        Process::start(&self.path, arguments, &variables)
    }

    fn knows(&self, variable: &str) -> bool {
        let mut lines = self.known.iter().flat_map(|text| text.lines());
        self.known.is_none() || lines.any(|line| line.split_once('=').is_some_and(|(name, _)| name == variable))
    }

    /// Runs a command that must succeed; returns what it wrote.
    async fn complete(&self, arguments: &[&str], variables: &[(String, String)]) -> String {
        let mut process = self.start(arguments, variables);
        let status = process.wait_for_end(START_BOUND).await;
        assert!(status.success(), "{}", process.output());
        process.output()
    }
}

async fn create_key(program: &Program, variables: &[(String, String)]) -> String {
    let arguments = ["keys", "create", "--label", "test", "--scope", "admin"];
    let output = program.complete(&arguments, variables).await;
    let key = output.split_whitespace().find(|word| word.starts_with("wr_"));
    key.unwrap_or_else(|| panic!("no key in {output}")).to_owned()
}

async fn listening(api: &mut Process) -> SocketAddr {
    let line = api.wait_for_line("http://127.0.0.1:", START_BOUND).await;
    let (_, rest) = line.split_once("http://").expect("waited for");
    let address: String = rest
        .chars()
        .take_while(|c| c.is_ascii_digit() || ".:".contains(*c))
        .collect();
    address.parse().unwrap_or_else(|_| panic!("no address in {line}"))
}
