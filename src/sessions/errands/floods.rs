//! Floods of logins: each is recorded, and what was flooded rests for as long as Telegram said, under every label and in every
//! worker. A number or a token is known by its fingerprint alone.

use grammers_tl_types::name_for_id;
use zeroize::Zeroizing;

use super::{
    outcome::Refusal,
    run::{Run, StepError},
};
use crate::{
    config::Secret,
    store::{
        self,
        errands::Task,
        failed,
        floods::{self, Flood},
        login_rests,
    },
    telegram::login::LinkError,
};

impl Run {
    /// Refuses what Telegram told to wait, without asking it again. `input`: what the login begins with.
    pub(super) async fn refuse_if_resting(&mut self, input: Option<&Secret>) -> Result<(), StepError> {
        self.targets = self
            .desk
            .vault
            .fingerprints(&self.flooded_thing(input.map(Secret::expose)));
        let mut conn = store::connection(&self.desk.database, "current_login_rest").await?;
        let Some(rest) = login_rests::current(&mut conn, &self.targets).await? else {
            return Ok(());
        };
        let refusal = Refusal {
            reason: Some(rest.error),
            retry_after: Some(rest.left),
            ..Refusal::end(rest.problem)
        };
        Err(StepError::Refused(refusal))
    }

    /// What a login's floods are about.
    fn flooded_thing(&self, input: Option<&str>) -> Zeroizing<String> {
        let named = input.unwrap_or_default();
        let session = self.session.to_string();
        let (kind, of) = match self.task {
            Task::Phone => ("phone:", self.progress.phone().unwrap_or(named)),
            Task::Bot => ("bot:", named),
            _ => ("session:", session.as_str()),
        };
        let mut text = Zeroizing::new(String::with_capacity(kind.len() + of.len()));
        text.push_str(kind);
        text.push_str(of);
        text
    }

    /// Records a flood, and lets what it was about rest. What cannot be recorded is still told.
    pub(super) async fn note_flood(&mut self, error: &LinkError, refusal: &Refusal) {
        const OPERATION: &str = "note_login_flood";
        let LinkError::Rpc(error) = error else { return };
        if self.targets.is_empty() && self.task != Task::Bot {
            self.targets = self.desk.vault.fingerprints(&self.flooded_thing(None));
        }
        let flood = Flood {
            session: self.session,
            job: None,
            method: error.caused_by.map_or("auth", name_for_id),
            error: &error.name,
            seconds: error
                .value
                .map_or(0, |seconds| i32::try_from(seconds).unwrap_or(i32::MAX)),
            waited_in_place: false,
        };
        let noted = async {
            let mut conn = store::connection(&self.desk.database, OPERATION).await?;
            let mut transaction = store::begin(&mut conn, OPERATION).await?;
            floods::record(&mut transaction, &flood).await?;
            if let (true, Some(target), Some(seconds)) =
                (self.task.logs_in(), self.targets.first(), refusal.retry_after)
            {
                login_rests::begin(&mut transaction, target, refusal.problem, &error.name, seconds).await?;
            }
            transaction.commit().await.map_err(failed(OPERATION))
        };
        if let Err(error) = noted.await {
            tracing::error!(%error, session.id = %self.session, "a flood was not recorded");
        }
    }
}
