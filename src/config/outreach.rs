use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{ConfigError, Secret, Source, source::invalid};

/// What keeps people from being contacted against their will.
#[derive(Debug, Clone)]
pub struct OutreachConfig {
    /// `WIREROOM_PERSON_KEY`: 32 bytes in base64, the same for the API and the workers; phone numbers and erased people are
    /// known by what it marks them with.
    pub person_key: Option<Secret>,
}

impl OutreachConfig {
    pub fn read(source: &mut Source) -> Result<Self, ConfigError> {
        let person_key = source.text("WIREROOM_PERSON_KEY");
        let fits = |text: &String| STANDARD.decode(text).is_ok_and(|bytes| bytes.len() == 32);
        if person_key.as_ref().is_some_and(|text| !fits(text)) {
            return Err(invalid(
                "WIREROOM_PERSON_KEY",
                "must be 32 bytes in base64: make one with `openssl rand -base64 32`",
            ));
        }
        Ok(Self {
            person_key: person_key.map(Secret::new),
        })
    }
}
