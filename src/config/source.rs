//! Where the values come from, and how a bad one is refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    str::FromStr,
    time::Duration,
};

/// A variable that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("{variable} is not set: {needed_for}")]
    Missing {
        variable: &'static str,
        needed_for: &'static str,
    },
    #[error("{variable}: {message}")]
    Invalid { variable: &'static str, message: String },
    #[error("{variable} is not a variable of Wireroom{}", suggestion(.nearest.as_deref()))]
    Unknown { variable: String, nearest: Option<String> },
    #[error(".env: {0}")]
    DotEnv(String),
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest
        .map(|name| format!("; did you mean {name}?"))
        .unwrap_or_default()
}

/// Variables by name, and which of them a section has asked for.
#[derive(Clone, Default)]
pub struct Source {
    values: BTreeMap<String, String>,
    asked: BTreeSet<&'static str>,
}

impl Source {
    /// The environment, over `.env` in the working directory when there is one.
    pub fn load() -> Result<Self, ConfigError> {
        let mut values = BTreeMap::new();
        match dotenvy::from_path_iter(".env") {
            Ok(entries) => {
                for entry in entries {
                    // dotenvy's parse errors quote the line, which may hold a secret.
                    let (name, value) =
                        entry.map_err(|_| ConfigError::DotEnv("a line is not of the form NAME=value".into()))?;
                    values.insert(name, value);
                }
            }
            Err(error) if error.not_found() => {}
            Err(_) => return Err(ConfigError::DotEnv("the file cannot be read".into())),
        }
        values.extend(
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        );
        Ok(Self::from_values(values))
    }

    pub fn from_values(values: impl IntoIterator<Item = (String, String)>) -> Self {
        Self {
            values: values.into_iter().collect(),
            asked: BTreeSet::new(),
        }
    }

    /// Sets a variable that is not set, or is empty.
    pub fn fill(&mut self, variable: &'static str, value: impl Into<String>) {
        let slot = self.values.entry(variable.to_owned()).or_default();
        if slot.trim().is_empty() {
            *slot = value.into();
        }
    }

    /// Sets a variable, whatever it was.
    pub fn set(&mut self, variable: &'static str, value: impl Into<String>) {
        self.values.insert(variable.to_owned(), value.into());
    }

    /// The value when it is set and not empty.
    pub fn text(&mut self, variable: &'static str) -> Option<String> {
        self.asked.insert(variable);
        self.values
            .get(variable)
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
    }

    /// The parsed value, or `default` when it is not set.
    pub fn parsed<T>(&mut self, variable: &'static str, default: T) -> Result<T, ConfigError>
    where
        T: FromStr,
        T::Err: Display,
    {
        match self.text(variable) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map_err(|error: T::Err| invalid(variable, error.to_string())),
        }
    }

    /// A number within bounds.
    pub fn within<T>(&mut self, variable: &'static str, default: T, min: T, max: T) -> Result<T, ConfigError>
    where
        T: FromStr + PartialOrd + Display + Copy,
        T::Err: Display,
    {
        let value = self.parsed(variable, default)?;
        // Written this way round so that NaN is refused too.
        if !(value >= min && value <= max) {
            return Err(invalid(variable, format!("must be from {min} to {max}")));
        }
        Ok(value)
    }

    /// Seconds, fractions allowed, within bounds.
    pub fn seconds(
        &mut self,
        variable: &'static str,
        default: f64,
        min: f64,
        max: f64,
    ) -> Result<Duration, ConfigError> {
        Ok(Duration::from_secs_f64(self.within(variable, default, min, max)?))
    }

    /// Refuses `WIREROOM_*` and `TELEGRAM_*` variables that no section asked for.
    pub fn refuse_unknown(&self) -> Result<(), ConfigError> {
        let unknown = self.values.keys().find(|name| {
            (name.starts_with("WIREROOM_") || name.starts_with("TELEGRAM_")) && !self.asked.contains(name.as_str())
        });
        match unknown {
            None => Ok(()),
            Some(variable) => Err(ConfigError::Unknown {
                variable: variable.clone(),
                nearest: self.nearest(variable),
            }),
        }
    }

    /// Every variable the sections asked for: what `.env.example` must list.
    pub fn asked(&self) -> impl Iterator<Item = &'static str> {
        self.asked.iter().copied()
    }

    fn nearest(&self, variable: &str) -> Option<String> {
        let shared = |known: &str| known.bytes().zip(variable.bytes()).take_while(|(a, b)| a == b).count();
        self.asked
            .iter()
            .filter(|known| known.len().abs_diff(variable.len()) <= 8)
            .max_by_key(|known| shared(known))
            .filter(|known| shared(known) > "WIREROOM_".len() + 2)
            .map(ToString::to_string)
    }
}

/// A value of the wrong form; the message never quotes it, since it may be a secret.
pub fn invalid(variable: &'static str, message: impl Into<String>) -> ConfigError {
    ConfigError::Invalid {
        variable,
        message: message.into(),
    }
}
