use super::{ConfigError, Secret, Source};

/// What a client of the API uses. `wireroom dev` writes both variables to `.wireroom/dev.env`; they are known here so
/// that a shell which has read that file can still start every role.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// `WIREROOM_URL`: where the API is, `http://127.0.0.1:8080`.
    pub url: Option<String>,
    /// `WIREROOM_API_KEY`: the key to call it with.
    pub api_key: Option<Secret>,
}

impl ClientConfig {
    pub fn read(source: &mut Source) -> Result<Self, ConfigError> {
        let url = source.text("WIREROOM_URL");
        if url
            .as_deref()
            .is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://"))
        {
            return Err(super::source::invalid(
                "WIREROOM_URL",
                "must begin with http:// or https://",
            ));
        }
        Ok(Self {
            url,
            api_key: source.text("WIREROOM_API_KEY").map(Secret::new),
        })
    }
}
