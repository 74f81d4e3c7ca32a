//! What a newcomer reads once everything runs.

use std::fmt::Write as _;

use crate::{sessions::Imported, telegram::ProxyFault};

/// What the banner names.
#[derive(Debug)]
pub struct Ready<'a> {
    pub url: &'a str,
    pub key: &'a str,
    pub database: &'a str,
    pub env_file: &'a str,
    pub sandbox: &'a str,
    pub control: &'a str,
    pub sessions: &'a [Imported],
    /// Sessions that were not logged in, and why.
    pub left_out: &'a [(String, ProxyFault)],
    /// The database is that of an earlier start.
    pub again: bool,
    /// Sessions that were logged in then, and are not any more.
    pub lost: &'a [String],
    pub seconds: f64,
}

/// The chat of the examples: public, 1,250 members, everybody may write.
pub const CHAT: &str = "@harbour_market";

/// What a second start finds.
const AGAIN: &str = "Started again: the database is as it was. The made-up Telegram is new: its accounts are logged in and in their \
                     chats,\nbut what was written or made there is gone. `wireroom dev --fresh` forgets both.";

impl Ready<'_> {
    /// The whole banner.
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("writing to a string does not fail");
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let labels: Vec<&str> = self.sessions.iter().map(|session| session.label.as_str()).collect();
        writeln!(text, "Wireroom is ready ({:.1} s).\n", self.seconds)?;
        writeln!(text, "  Swagger UI   {}/docs", self.url)?;
        writeln!(text, "  API key      {}", self.key)?;
        writeln!(text, "  Database     {}", self.database)?;
        writeln!(
            text,
            "  Telegram     made up, at {} (faults and counts: {})",
            self.sandbox, self.control
        )?;
        writeln!(text, "  Sessions     {}", labels.join(", "))?;
        for (label, fault) in self.left_out {
            writeln!(text, "               without {label}: {fault}")?;
        }
        if !self.lost.is_empty() {
            writeln!(text, "               to be logged in again: {}", self.lost.join(", "))?;
        }
        writeln!(text, "  For scripts  {}\n", self.env_file)?;
        if self.again {
            writeln!(text, "{AGAIN}\n")?;
        }
        writeln!(
            text,
            "Join a group, write to it, and list its members, each call waiting for its result:\n"
        )?;
        for line in self.examples() {
            writeln!(text, "{line}\n")?;
        }
        writeln!(text, "Ctrl-C ends all of it.")
    }

    /// Three lines for a shell. The same session in each: writing needs the one that joined.
    pub fn examples(&self) -> Vec<String> {
        let session = self
            .sessions
            .first()
            .map_or("null".into(), |first| format!("\"{}\"", first.label));
        [
            format!(r#"{{"kind":"join","session":{session},"args":{{"chat":"{CHAT}"}}}}"#),
            format!(
                r#"{{"kind":"publish","session":{session},"args":{{"chat":"{CHAT}","text":"Hello from Wireroom"}}}}"#
            ),
            format!(r#"{{"kind":"scan","session":{session},"args":{{"chat":"{CHAT}","purpose":"first look"}}}}"#),
        ]
        .iter()
        .map(|body| self.curl(body))
        .collect()
    }

    fn curl(&self, body: &str) -> String {
        format!(
            "curl -sS {}/v1/jobs -H 'Authorization: Bearer {}' -H 'Prefer: wait=30' -H 'Content-Type: application/json' -d '{body}'",
            self.url, self.key
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SessionId;

    #[test]
    fn the_examples_are_shell_lines_with_json_bodies() {
        let sessions = [Imported {
            id: SessionId::generate(),
            label: "alice".into(),
            account_id: 1,
            username: None,
        }];
        let ready = Ready {
            url: "http://127.0.0.1:8080",
            key: "wr_1_2",
            database: "private",
            env_file: ".wireroom/dev.env",
            sandbox: "127.0.0.1:1",
            control: "http://127.0.0.1:2",
            sessions: &sessions,
            left_out: &[("bob".into(), ProxyFault::Unreachable)],
            again: false,
            lost: &[],
            seconds: 1.0,
        };
        assert!(!ready.text().contains("Started again"));
        let lost = ["herald".to_owned()];
        let again = Ready {
            again: true,
            lost: &lost,
            ..ready
        };
        assert!(again.text().contains("Started again: the database is as it was."));
        assert!(again.text().contains("to be logged in again: herald"));
        let without = "without bob: the session's SOCKS5 proxy cannot be reached";
        assert!(again.text().contains(without));
        let examples = again.examples();
        assert_eq!(examples.len(), 3);
        for line in examples {
            let body = line.split("-d '").nth(1).unwrap().trim_end_matches('\'');
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(body["session"], "alice");
            assert_eq!(line.matches('\'').count() % 2, 0);
        }
    }
}
