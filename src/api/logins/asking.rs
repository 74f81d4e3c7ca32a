//! One caller's request for something that a worker does: stored with its audit row, the workers told, and what keeps it from
//! being asked as a problem.

use sqlx::{Postgres, Transaction};

use super::{LoginView, Patience, answer, busy, no_session, no_worker, view::problem_of};
use crate::{
    api::{
        State,
        auth::Caller,
        problem::{Code, Problem},
        shell::RequestContext,
    },
    ids::{ErrandId, SessionId},
    letterbox::Slot,
    store::{
        self,
        errands::{self, Task},
        failed,
        login_requests::{self, Asker, Begun, LoginRequest},
        session_reads,
    },
};

pub(super) struct Asking<'a> {
    pub state: &'a State,
    context: &'a RequestContext,
    actor: String,
}

impl<'a> Asking<'a> {
    pub fn new(state: &'a State, caller: &Caller, context: &'a RequestContext) -> Self {
        Self {
            state,
            context,
            actor: caller.actor(),
        }
    }

    /// Who asks, for the audit log.
    pub fn asker(&self) -> Asker<'_> {
        Asker {
            actor: &self.actor,
            request_id: Some(self.context.id()),
        }
    }

    /// Asks for a login, or an import.
    pub async fn login(&self, request: &LoginRequest<'_>) -> Result<(SessionId, ErrandId), Problem> {
        let mut transaction = self.begin().await?;
        let begun = login_requests::begin_login(&mut transaction, request, self.asker()).await?;
        match self.stored(transaction, begun).await? {
            Ok(asked) => Ok(asked),
            Err(session) => {
                let detail = "A session of that label is logged in. Choose another label, or log it out first.";
                Err(Problem::new(Code::SessionExists, detail)
                    .session(session)
                    .field("label"))
            }
        }
    }

    /// Asks for something to be done with a session that is there.
    pub async fn errand(
        &self,
        session: SessionId,
        task: Task,
        input: Option<&[u8]>,
        reply_to: Option<Slot>,
    ) -> Result<ErrandId, Problem> {
        let mut transaction = self.begin().await?;
        let begun = login_requests::begin_errand(&mut transaction, session, task, input, reply_to, self.asker());
        let begun = begun.await?.ok_or_else(no_session)?;
        match self.stored(transaction, begun).await? {
            Ok((_, errand)) => {
                // Its jobs are held back from now on.
                self.state.signals.control_changed();
                Ok(errand)
            }
            Err(session) => Err(self.wrong_state(session, task).await?),
        }
    }

    /// Waits for what was asked, and shows what came of it.
    pub async fn shown(&self, session: SessionId, errand: ErrandId, patience: &Patience) -> Result<LoginView, Problem> {
        LoginView::of(*answer(self.state, session, errand, 1, patience).await?)
    }

    async fn begin(&self) -> Result<Transaction<'static, Postgres>, Problem> {
        let begun = self.state.pool.begin().await;
        begun.map_err(|error| failed("begin_errand")(error).into())
    }

    /// Commits and rings. The session alone: it is in a state that does not allow it.
    async fn stored(
        &self,
        transaction: Transaction<'static, Postgres>,
        begun: Begun,
    ) -> Result<Result<(SessionId, ErrandId), SessionId>, Problem> {
        transaction.commit().await.map_err(failed("commit_errand"))?;
        match begun {
            Begun::Now { session, errand } => {
                self.state.signals.errand_asked();
                Ok(Ok((session, errand)))
            }
            Begun::Wrong { session } => Ok(Err(session)),
            Begun::NoWorker => Err(no_worker()),
            Begun::Busy { session } => Err(busy(session)),
            Begun::Rests { session } => {
                let mut conn = store::connection(&self.state.pool, "read_errand").await?;
                let last = errands::latest(&mut conn, session).await?;
                let told = last.and_then(|record| Some(problem_of(&record, record.problem?)));
                Err(told.unwrap_or_else(|| busy(session)))
            }
        }
    }

    async fn wrong_state(&self, session: SessionId, task: Task) -> Result<Problem, Problem> {
        let Some(row) = session_reads::get(&self.state.pool, session).await? else {
            return Ok(no_session());
        };
        let needs = match task {
            Task::Enable => "only a disabled session that has an authorisation can be enabled",
            _ => "it has no authorisation; a login with its label gives it one",
        };
        let detail = format!("The session is {}: {needs}.", row.state);
        Ok(Problem::new(Code::SessionStateConflict, detail).session(session))
    }
}
