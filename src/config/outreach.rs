use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use wireroom_jobs::stop::{self, StopWords};

use super::{ConfigError, Secret, Source, source::invalid};

/// What keeps people from being contacted against their will.
#[derive(Debug, Clone)]
pub struct OutreachConfig {
    /// `WIREROOM_PERSON_KEY`: 32 bytes in base64, the same for the API and the workers; phone numbers and erased people are
    /// known by what it marks them with.
    pub person_key: Option<Secret>,
    /// `WIREROOM_STOP_LANGUAGES`: in which languages a reply may say stop, by ISO 639-1 and apart by commas; all that words are
    /// built in for by default.
    pub stop_languages: Vec<&'static str>,
    /// `WIREROOM_STOP_WORDS`: more words and phrases that say stop, apart by commas.
    pub stop_words: Vec<String>,
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
            stop_languages: read_languages(source.text("WIREROOM_STOP_LANGUAGES").as_deref())?,
            stop_words: read_words(source.text("WIREROOM_STOP_WORDS").as_deref())?,
        })
    }

    /// The words that say stop here.
    pub fn stop_words(&self) -> Arc<StopWords> {
        let mut words: Vec<&str> = stop::stop_words(&self.stop_languages).collect();
        words.extend(self.stop_words.iter().map(String::as_str));
        Arc::new(StopWords::new(words))
    }
}

fn entries(text: Option<&str>) -> impl Iterator<Item = &str> {
    let entries = text.unwrap_or_default().split(',').map(str::trim);
    entries.filter(|entry| !entry.is_empty())
}

fn read_languages(text: Option<&str>) -> Result<Vec<&'static str>, ConfigError> {
    entries(text)
        .map(|named| {
            let known = stop::languages().find(|language| language.eq_ignore_ascii_case(named));
            known.ok_or_else(|| {
                let all: Vec<&str> = stop::languages().collect();
                let all = all.join(", ");
                invalid(
                    "WIREROOM_STOP_LANGUAGES",
                    format!(
                        "has no words for \"{named}\": they are built in for {all}; name others in WIREROOM_STOP_WORDS"
                    ),
                )
            })
        })
        .collect()
}

fn read_words(text: Option<&str>) -> Result<Vec<String>, ConfigError> {
    entries(text)
        .map(|phrase| {
            let is_one = phrase.chars().any(char::is_alphanumeric) && phrase.chars().count() <= 100;
            is_one.then(|| phrase.to_owned()).ok_or_else(|| {
                invalid(
                    "WIREROOM_STOP_WORDS",
                    "must be words or phrases of at most 100 characters, apart by commas: wypisz mnie, nie pisz",
                )
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[(&str, &str)]) -> Result<OutreachConfig, ConfigError> {
        let values = values
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        OutreachConfig::read(&mut Source::from_values(values))
    }

    #[test]
    fn languages_are_chosen_and_words_are_added() {
        let all = read(&[]).expect("nothing need be set").stop_words();
        assert!(all.are_said("stop") && all.are_said("Hör auf: stopp") && !all.are_said("wypisz mnie"));
        let some = read(&[
            ("WIREROOM_STOP_LANGUAGES", "de, FR"),
            ("WIREROOM_STOP_WORDS", "Wypisz mnie, nie pisz,"),
        ]);
        let some = some.expect("fits").stop_words();
        assert!(!some.are_said("stop") && some.are_said("Stopp.") && some.are_said("proszę, wypisz mnie"));
        for wrong in [("WIREROOM_STOP_LANGUAGES", "tlh"), ("WIREROOM_STOP_WORDS", "basta, !!")] {
            let refused = read(&[wrong]).expect_err("refused").to_string();
            assert!(refused.contains(wrong.0), "{refused}");
        }
    }
}
