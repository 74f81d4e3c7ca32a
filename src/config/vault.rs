use super::{ConfigError, Secret, Source};

/// The keys that seal secrets at rest. Workers need them; the API does not.
#[derive(Debug, Clone)]
pub struct VaultConfig {
    /// `WIREROOM_MASTER_KEYS`: `id:base64` of 32 bytes each, separated by commas; the first seals, all open.
    pub master_keys: Option<Secret>,
}

impl VaultConfig {
    pub fn read(source: &mut Source) -> Result<Self, ConfigError> {
        Ok(Self {
            master_keys: source.text("WIREROOM_MASTER_KEYS").map(Secret::new),
        })
    }
}
