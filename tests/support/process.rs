//! Real processes, where processes matter: the built binary, started with an environment that the test chose, signalled by
//! its id, and gone with the test.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::wait::INTERVAL;

/// A child process in a process group of its own. When dropped it is killed, and its group with it; after a failed test its
/// output is shown.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// What it was started as, for messages. Without its environment, which may hold secrets.
    name: String,
    /// Its working directory, with its output. Empty otherwise: no `.env` of the developer's is found.
    dir: TempDir,
}

impl Process {
    /// Starts `wireroom` with `arguments`, and with `variables` as all of its environment but `PATH` and `HOME`.
    ///
    /// ```ignore
    /// let mut worker = Process::wireroom(&["worker"], &[("DATABASE_URL", database.url())]);
    /// worker.wait_for_line("ready", Duration::from_secs(10)).await;
    /// ```
    pub fn wireroom(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::start(env!("CARGO_BIN_EXE_wireroom"), arguments, variables)
    }

    /// Starts any program in the same way.
    pub fn start(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let output = File::create(dir.path().join(OUTPUT)).expect("a file for the output");
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("HOME", dir.path())
            .env("RUST_BACKTRACE", "1")
            .envs(variables.iter().copied())
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("an open file"))
            .stderr(output)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {program}: {error}"));
        Self {
            child,
            name: format!("{program} {}", arguments.join(" ")),
            dir,
        }
    }

    /// Its working directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All it has written to standard output and standard error, as one text.
    pub fn output(&self) -> String {
        let bytes = std::fs::read(self.dir.path().join(OUTPUT)).expect("the file of the output");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until it has written a whole line that contains `pattern`, and returns the first such line.
    ///
    /// # Panics
    ///
    /// When it ends without the line, or `bound` passes; with all it wrote.
    pub async fn wait_for_line(&mut self, pattern: &str, bound: Duration) -> String {
        let found = async {
            loop {
                // Asked before the output is read: what it wrote before its end is there to be read.
                let ended = self.ended();
                let output = self.output();
                let mut lines = output
                    .split_inclusive('\n')
                    .filter(|line| ended.is_some() || line.ends_with('\n'));
                if let Some(line) = lines.find(|line| line.contains(pattern)) {
                    return line.trim_end().to_owned();
                }
                if let Some(status) = ended {
                    panic!(
                        "{} ended ({status}) without a line with {pattern:?}; it wrote:\n{output}",
                        self.name
                    );
                }
                tokio::time::sleep(INTERVAL).await;
            }
        };
        let Ok(line) = tokio::time::timeout(bound, found).await else {
            panic!(
                "{}: no line with {pattern:?} within {bound:?}; it wrote:\n{}",
                self.name,
                self.output()
            );
        };
        line
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    ///
    /// When `bound` passes; with all it wrote.
    pub async fn wait_for_end(&mut self, bound: Duration) -> ExitStatus {
        let ended = async {
            loop {
                match self.ended() {
                    Some(status) => return status,
                    None => tokio::time::sleep(INTERVAL).await,
                }
            }
        };
        let Ok(status) = tokio::time::timeout(bound, ended).await else {
            panic!(
                "{} did not end within {bound:?}; it wrote:\n{}",
                self.name,
                self.output()
            );
        };
        status
    }

    /// Whether it runs or is stopped by a signal.
    pub fn is_alive(&mut self) -> bool {
        self.ended().is_none()
    }

    /// Sends SIGTERM: an orderly shutdown.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Sends SIGINT to its whole group, as Ctrl-C in a terminal does.
    pub fn interrupt(&self) {
        killpg(self.id(), Signal::SIGINT).expect("a group of ours that was not waited for");
    }

    /// Sends SIGKILL: a crash.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// Sends SIGSTOP: a frozen machine.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Sends SIGCONT: the machine thaws.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        kill(self.id(), signal).expect("a child of ours that was not waited for");
    }

    fn id(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of ours")
    }
}

/// The file in the working directory that takes the output.
const OUTPUT: &str = "output.log";

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_alive() {
            let _ = killpg(self.id(), Signal::SIGKILL);
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- {} wrote:\n{}---", self.name, self.output());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;
    use crate::support::wait::eventually;

    const BOUND: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Process {
        Process::start("/bin/sh", &["-c", script], &[("GIVEN", "value")])
    }

    #[tokio::test]
    async fn it_sees_the_given_variables_and_none_of_ours() {
        let mut process = shell("env; pwd; echo done");
        process.wait_for_line("done", BOUND).await;
        assert!(process.wait_for_end(BOUND).await.success());
        let output = process.output();
        assert!(output.contains("GIVEN=value"), "{output}");
        assert!(!output.contains("CARGO"), "{output}");
        let dir = process.dir().canonicalize().expect("it exists");
        assert!(output.contains(dir.to_str().expect("text")), "{output}");
    }

    #[tokio::test]
    async fn a_line_counts_when_it_is_whole() {
        let mut process = shell("printf 'rea'; sleep 0.1; echo 'dy on 8080'; sleep 60");
        assert_eq!(process.wait_for_line("rea", BOUND).await, "ready on 8080");
    }

    #[tokio::test]
    #[should_panic(expected = "ended (exit status: 3) without a line with \"ready\"; it wrote:\nno such thing")]
    async fn a_process_that_ends_instead_fails_at_once() {
        shell("echo no such thing; exit 3").wait_for_line("ready", BOUND).await;
    }

    #[tokio::test]
    async fn it_gets_each_signal() {
        let script = "trap 'echo term' TERM; trap 'echo int' INT; echo up; while :; do sleep 0.02; done";
        // A shell cannot trap what was ignored when it began, as SIGINT is in whatever was started in the background.
        let arguments = ["--default-signal=INT", "/bin/sh", "-c", script];
        let mut process = Process::start("/usr/bin/env", &arguments, &[]);
        process.wait_for_line("up", BOUND).await;
        process.terminate();
        process.wait_for_line("term", BOUND).await;
        process.interrupt();
        process.wait_for_line("int", BOUND).await;
        assert!(process.is_alive());
        process.kill();
        assert_eq!(process.wait_for_end(BOUND).await.signal(), Some(Signal::SIGKILL as i32));
    }

    #[tokio::test]
    async fn a_paused_process_does_nothing_until_it_is_resumed() {
        let mut process = shell("trap 'echo term' TERM; echo up; while :; do sleep 0.02; done");
        process.wait_for_line("up", BOUND).await;
        process.pause();
        process.terminate();
        let heard = tokio::time::timeout(INTERVAL * 10, process.wait_for_line("term", BOUND)).await;
        heard.expect_err("it is frozen");
        process.resume();
        process.wait_for_line("term", BOUND).await;
    }

    #[tokio::test]
    async fn it_goes_with_its_group_when_it_is_dropped() {
        let mut process = shell("sleep 1000 & echo child $!; wait");
        let line = process.wait_for_line("child", BOUND).await;
        let child = Pid::from_raw(line.trim_start_matches("child ").parse().expect("a process id"));
        let parent = Pid::from_raw(process.pid().cast_signed());
        kill(child, None).expect("it runs");
        drop(process);
        kill(parent, None).expect_err("it was waited for");
        // Whoever adopts orphans waits for this one: until then it is a zombie, without a command line.
        let command_line = format!("/proc/{child}/cmdline");
        eventually(BOUND, || async {
            let gone = kill(child, None).is_err() || std::fs::read(&command_line).is_ok_and(|text| text.is_empty());
            if gone { Ok(()) } else { Err("the child runs on") }
        })
        .await;
    }

    #[tokio::test]
    async fn the_built_binary_can_be_started() {
        let mut process = Process::wireroom(&["--version"], &[]);
        process.wait_for_end(BOUND).await;
    }
}
