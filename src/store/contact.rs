//! The person whom an attempt has leave to call. Between that leave and the call time passes: for the pace, for a cap's counter, for a
//! flood that is waited out. So the transaction that lets the call through asks once more whether they are to be left alone.

use std::sync::{Arc, Mutex, PoisonError};

use sqlx::PgConnection;

use super::{
    StoreError, erasure, outreach_switch,
    suppressions::{self, Identity},
};
use crate::person_key::PersonKey;

/// Whom the attempt is about to call, shared by the port that asks for leave and the one that calls.
#[derive(Debug, Clone, Default)]
pub struct Contact(Arc<Mutex<Option<Contacted>>>);

#[derive(Debug, Clone)]
struct Contacted {
    identity: Identity,
    key: Option<PersonKey>,
}

impl Contact {
    /// Leave was granted for this person.
    pub fn is(&self, identity: Identity, key: Option<&PersonKey>) {
        let contacted = Contacted {
            identity,
            key: key.cloned(),
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(contacted);
    }

    /// Why the person is to be left alone: an outcome's code. Whoever adds somebody to the list waits until the caller's transaction
    /// ends, or has committed before this looks.
    pub async fn left_alone(&self, conn: &mut PgConnection) -> Result<Option<&'static str>, StoreError> {
        let contacted = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(Contacted { identity, key }) = contacted else {
            return Ok(None);
        };
        outreach_switch::require_key(&mut *conn, key.as_ref()).await?;
        let erased = erasure::erased_among(&mut *conn, key.as_ref(), &[identity.user]).await?;
        if !erased.is_empty() {
            return Ok(Some("erased"));
        }
        // In this order, as whoever hears that somebody says stop: two of these never wait for each other.
        suppressions::keep_as_it_is(&mut *conn).await?;
        Ok(suppressions::contains(conn, &identity).await?.then_some("suppressed"))
    }
}
