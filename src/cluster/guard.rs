//! The process between us and the server: it starts the server, and stops it when we are gone, however we went.
//!
//! It reads the *lifeline*, a pipe whose other end only we hold (or, for a shared cluster, a FIFO that every user holds).
//! The kernel closes that end when its holder ends, `kill -9` included, and the guard reads the end of the file. Being
//! the server's parent, it never signals a process id that could have come to mean another process.
//!
//! It is in a process group of its own, so that Ctrl-C in a terminal reaches neither it nor the server: we get it, finish
//! our work against a server that still answers, and then let go.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};

use super::owner::Owner;

/// How many tenths of a second the server has for a fast shutdown, with its checkpoint, before it is cut off. A cut-off
/// server loses nothing: it replays its log at the next start.
const FAST_TENTHS: u32 = 100;

/// The line that, written to the lifeline before it is let go, makes the guard cut the server off as a crash would.
pub(super) const IMMEDIATE: &[u8] = b"immediate\n";

/// Arguments: the FIFO's path or nothing, tenths of a second to linger, tenths for a fast shutdown, the server's command.
///
/// `follow` reads the lifeline to its end. After that, a shared server lingers: the processes of one test run come one
/// after another. Each writes a line when it comes, so that `news` tells whether anybody came meanwhile. The FIFO is taken
/// away before the last look, so that who comes later sees that it is too late and starts another server.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
fifo=$1 linger=$2 patience=$3
shift 3
exec 3<&0 </dev/null
"$@" 3<&- &
server=$!
(
    signal=INT
    follow() {
        news=
        while read -r line <&3; do
            news=yes
            if [ "$line" = immediate ]; then signal=QUIT; fi
        done
    }
    tenths() {
        count=0
        while [ "$count" -lt "$1" ]; do
            sleep 0.1 >/dev/null 2>&1
            count=$((count + 1))
        done
    }
    follow
    while [ "$linger" -gt 0 ]; do
        tenths "$linger"
        follow
        if [ -z "$news" ]; then break; fi
    done
    if [ -n "$fifo" ]; then
        rm -f "$fifo"
        follow
    fi
    kill -s "$signal" "$server"
    tenths "$patience"
    kill -s QUIT "$server"
    tenths 50
    kill -s KILL "$server"
) &
watch=$!
exec 3<&-
wait "$server"
status=$?
kill -s KILL "$watch"
exit "$status"
"#;

/// When a guard lets its server go.
#[derive(Debug, Clone, Copy)]
pub(super) enum Until<'a> {
    /// The one holder of the lifeline is gone.
    HolderGone,
    /// The last of many holders is gone, and no other came for `tenths` tenths of a second.
    #[cfg_attr(
        not(any(test, feature = "testing")),
        expect(dead_code, reason = "only tests share a cluster")
    )]
    AllGone { fifo: &'a Path, tenths: u32 },
}

/// Starts the guard, and with it the server.
///
/// `lifeline` is what the guard reads; `log` takes what both write, and its lock lives as long as they do.
pub(super) fn spawn(
    owner: Owner,
    server: impl IntoIterator<Item = std::ffi::OsString>,
    until: Until<'_>,
    lifeline: Stdio,
    log: &File,
) -> io::Result<Child> {
    let (fifo, linger) = match until {
        Until::HolderGone => (Path::new(""), 0),
        Until::AllGone { fifo, tenths } => (fifo, tenths),
    };
    owner
        .command("/bin/sh")
        .args(["-c", SCRIPT, "wireroom-guard"])
        .arg(fifo)
        .args([linger.to_string(), FAST_TENTHS.to_string()])
        .args(server)
        .stdin(lifeline)
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .process_group(0)
        .spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_ends_by_itself_ends_its_guard_with_its_status() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let owner = Owner::choose(dir.path()).expect("an owner");
        let log = File::create(dir.path().join("log")).expect("a log");
        let server = ["/bin/sh", "-c", "echo up; exit 7"].map(Into::into);
        let mut guard = spawn(owner, server, Until::HolderGone, Stdio::piped(), &log).expect("started");
        // Its lifeline still holds: the end of the server is what ends it.
        let _lifeline = guard.stdin.take().expect("piped");
        assert_eq!(guard.wait().expect("ended").code(), Some(7));
        assert_eq!(
            std::fs::read_to_string(dir.path().join("log")).expect("the log"),
            "up\n"
        );
    }
}
