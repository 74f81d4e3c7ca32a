//! What is common to outreach: the switch that stops it, the limits no campaign can raise, and the people to leave alone.

mod suppressions;
mod switch;
#[cfg(test)]
mod tests;

pub use self::{
    suppressions::{ImportView, SuppressionBody, SuppressionView, SuppressionsApi},
    switch::{LimitsBody, OutreachApi, OutreachBody, OutreachView},
};
use super::{
    State,
    problem::{Code, Problem},
};
use crate::{
    person_key::PersonKey,
    store::{PgConnection, outreach_switch},
};

/// The key that marks people, settled in the caller's transaction: from then on no other one is taken.
pub fn person_key(state: &State) -> Result<PersonKey, Problem> {
    let text = state.config.outreach.person_key.as_ref().ok_or_else(|| {
        let detail = "Give the API and every worker the same WIREROOM_PERSON_KEY, and start them again.";
        Problem::new(Code::PersonKeyMissing, detail)
    })?;
    PersonKey::parse(text).map_err(Problem::internal)
}

/// Before anything is marked with it.
pub async fn settle_key(conn: &mut PgConnection, key: &PersonKey) -> Result<(), Problem> {
    if outreach_switch::settle_key(conn, key).await? {
        return Ok(());
    }
    let detail = "People are marked with another WIREROOM_PERSON_KEY than this process has: it would find nobody.";
    Err(Problem::new(Code::PersonKeyMissing, detail))
}
