//! What a dispatcher knows of pauses and limits. It is read before the first claim, after every notification of a change,
//! when a pause ends by itself, and when a promotion, of which there is one a second at least, says that something was
//! changed: so a claim needs no look at the pauses, and a limit costs nothing where there is none.

use std::time::Duration;

use wireroom_jobs::JobKind;

use super::ports::HeldSession;
use crate::store::{
    PgConnection, StoreError,
    limits::{self, Limits},
    pauses::{self, Pause, PauseScope},
};

/// The longest a change stays unnoticed when its notification is lost: so often a promotion looks for one.
pub const LOOK_EVERY: Duration = Duration::from_millis(900);

/// The pauses and limits of a moment.
#[derive(Debug, Default)]
pub struct Control {
    pauses: Vec<Pause>,
    pub limits: Limits,
}

impl Control {
    /// Reads them, and says how long until the first pause ends by itself.
    pub async fn load(conn: &mut PgConnection) -> Result<(Self, Option<Duration>), StoreError> {
        let (pauses, ends_in) = pauses::active(conn).await?;
        let limits = limits::all(conn).await?;
        Ok((Self { pauses, limits }, ends_in))
    }

    /// Whether nothing may be claimed for the session.
    pub fn holds_session(&self, session: &HeldSession) -> bool {
        self.pauses.iter().any(|pause| match pause.scope {
            PauseScope::Everything => true,
            PauseScope::Pool => pause.target == session.pool,
            PauseScope::Session => pause.target == session.id.to_string(),
            PauseScope::Kind => false,
        })
    }

    /// Whether no job of the kind may be claimed.
    pub fn holds_kind(&self, kind: JobKind) -> bool {
        let mut pauses = self.pauses.iter();
        pauses.any(|pause| pause.scope == PauseScope::Kind && pause.target == kind.as_str())
    }

    /// Whether the kind's jobs are counted, so that a claim must ask for each kind by itself: else it would read past the
    /// backlog of a kind whose limit is reached.
    pub fn counts_kind(&self, kind: JobKind) -> bool {
        self.limits.limits_kind(kind.as_str())
    }

    #[cfg(test)]
    pub fn with_pauses(pauses: Vec<Pause>) -> Self {
        Self {
            pauses,
            limits: Limits::default(),
        }
    }
}
