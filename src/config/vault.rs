use std::fs;

use zeroize::Zeroizing;

use super::{ConfigError, Secret, Source};

const KEYS: &str = "WIREROOM_MASTER_KEYS";
const FILE: &str = "WIREROOM_MASTER_KEYS_FILE";

/// The keys that seal secrets at rest. Workers need them; the API does not.
#[derive(Debug, Clone)]
pub struct VaultConfig {
    /// `WIREROOM_MASTER_KEYS`: `id:base64` of 32 bytes each, separated by commas; the first seals, all open. Or
    /// `WIREROOM_MASTER_KEYS_FILE`: a file with one of them a line; lines that begin with `#` are left out.
    pub master_keys: Option<Secret>,
}

impl VaultConfig {
    pub fn read(source: &mut Source) -> Result<Self, ConfigError> {
        let keys = source.text(KEYS).map(Secret::new);
        let file = source.text(FILE);
        let master_keys = match (keys, file) {
            (Some(_), Some(_)) => {
                return Err(wrong(format!("is set beside {KEYS}; give one of them")));
            }
            (keys, None) => keys,
            (None, Some(path)) => Some(keys_of(&path)?),
        };
        Ok(Self { master_keys })
    }
}

fn keys_of(path: &str) -> Result<Secret, ConfigError> {
    let text = fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|error| wrong(format!("names a file that cannot be read: {error}")))?;
    let lines = text.lines().map(str::trim);
    let keys: Vec<&str> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    if keys.is_empty() {
        return Err(wrong(
            "names a file without a key; write one id:base64 a line".to_owned(),
        ));
    }
    Ok(Secret::new(keys.join(",")))
}

fn wrong(message: String) -> ConfigError {
    ConfigError::Invalid {
        variable: FILE,
        message,
    }
}
