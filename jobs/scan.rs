//! Placeholder that the kind's own work replaces.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ArgsError, Job, JobContext, JobError, Outcome};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScanArgs {
    pub chat: String,
}

#[async_trait]
impl Job for ScanArgs {
    fn validate(&self) -> Result<(), ArgsError> {
        Ok(())
    }

    async fn run(&self, _context: &JobContext) -> Outcome {
        Outcome::Discard(JobError::permanent("not_there", "Not there yet."))
    }
}
