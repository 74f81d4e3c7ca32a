//! Whether a reply asks not to be contacted any more. Rather one too many: whoever is left alone by mistake can be taken off
//! the list, whoever is written to again cannot be unwritten to.

/// Words and phrases that say stop, by language (ISO 639-1).
pub const STOP_WORDS: [(&str, &[&str]); 8] = [
    (
        "en",
        &[
            "stop",
            "unsubscribe",
            "remove me",
            "opt out",
            "do not contact me",
            "don't contact me",
            "do not write to me",
            "don't write to me",
            "don't message me",
            "leave me alone",
            "not interested",
        ],
    ),
    (
        "de",
        &[
            "stopp",
            "abmelden",
            "keine nachrichten mehr",
            "lass mich in ruhe",
            "lassen sie mich in ruhe",
            "kein interesse",
        ],
    ),
    (
        "es",
        &[
            "baja",
            "no me escribas",
            "no me contactes",
            "no me interesa",
            "déjame en paz",
        ],
    ),
    (
        "fr",
        &[
            "arrêtez",
            "arrête",
            "désabonner",
            "ne m'écrivez plus",
            "laissez-moi tranquille",
            "pas intéressé",
        ],
    ),
    (
        "it",
        &[
            "basta",
            "cancellami",
            "non scrivermi",
            "non mi interessa",
            "lasciami in pace",
        ],
    ),
    (
        "pt",
        &[
            "parar",
            "pare",
            "sair",
            "não me escreva",
            "não tenho interesse",
            "deixe-me em paz",
        ],
    ),
    (
        "ru",
        &[
            "стоп",
            "отписаться",
            "отпишите",
            "не пишите",
            "не пиши мне",
            "не интересно",
            "отстаньте",
        ],
    ),
    (
        "uk",
        &[
            "стоп",
            "відписатися",
            "відпишіть",
            "не пишіть",
            "не пиши мені",
            "не цікаво",
            "відчепіться",
        ],
    ),
];

/// A longer letter says stop only where it begins so: in the middle of it the word may be about anything.
const SHORT: usize = 8;

/// The words that say stop here, ready to be looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopWords {
    phrases: Vec<Vec<String>>,
    /// How much of a letter has to be looked at.
    longest: usize,
}

/// All that are built in.
impl Default for StopWords {
    fn default() -> Self {
        Self::new(stop_words(&[]))
    }
}

impl StopWords {
    /// These words and phrases, in any case; those without a letter are passed over.
    pub fn new<'w>(words: impl IntoIterator<Item = &'w str>) -> Self {
        let phrases: Vec<Vec<String>> = words
            .into_iter()
            .map(|phrase| folded(phrase).collect())
            .filter(|phrase: &Vec<String>| !phrase.is_empty())
            .collect();
        let longest = phrases.iter().map(Vec::len).max().unwrap_or(0);
        Self { phrases, longest }
    }

    /// Whether `text` asks not to be contacted any more: a short one that has one of the phrases in it as whole words, or a
    /// longer one that begins with it. Case, punctuation and space do not count.
    pub fn are_said(&self, text: &str) -> bool {
        let said: Vec<String> = folded(text).take(self.longest.max(SHORT + 1)).collect();
        self.phrases.iter().any(|phrase| {
            said.starts_with(phrase)
                || (said.len() <= SHORT && said.windows(phrase.len()).any(|window| window == phrase.as_slice()))
        })
    }
}

/// The languages that words are built in for.
pub fn languages() -> impl Iterator<Item = &'static str> {
    STOP_WORDS.into_iter().map(|(language, _)| language)
}

/// The words built in, of these languages; of all when none is named.
pub fn stop_words<'l>(languages: &'l [&'l str]) -> impl Iterator<Item = &'static str> + 'l {
    STOP_WORDS
        .into_iter()
        .filter(|(language, _)| languages.is_empty() || languages.contains(language))
        .flat_map(|(_, words)| words.iter().copied())
}

/// Lower-case words; an apostrophe of any shape belongs to its word.
fn folded(text: &str) -> impl Iterator<Item = String> + '_ {
    let is_part = |c: char| c.is_alphanumeric() || is_apostrophe(c);
    text.split(move |c: char| !is_part(c))
        .map(|word| word.trim_matches(is_apostrophe))
        .filter(|word| !word.is_empty())
        .map(|word| word.to_lowercase().replace(is_apostrophe, "'"))
}

fn is_apostrophe(c: char) -> bool {
    matches!(c, '\'' | '\u{2019}' | '\u{2bc}' | '`')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stops(text: &str) -> bool {
        StopWords::default().are_said(text)
    }

    #[test]
    fn a_stop_is_heard_in_each_language_and_however_it_is_written() {
        for text in [
            "STOP",
            "stop!!!",
            "  Please, stop. ",
            "Don\u{2019}t write to me",
            "Unsubscribe, or I will complain to everybody I know about this club",
            "Стоп",
            "Не пишите мне больше!",
            "Відпишіть мене",
            "Lassen Sie mich in Ruhe.",
            "Laissez-moi tranquille !",
            "Não me escreva",
            "¡Baja!",
            "basta…",
        ] {
            assert!(stops(text), "{text}");
        }
    }

    #[test]
    fn other_letters_are_not_taken_for_one() {
        for text in [
            "",
            "?!",
            "Yes, thank you, I would like to come",
            "Unstoppable",
            "When you come by bus, get out at the second stop after the bridge and ask there",
            "Спасибо, приду",
        ] {
            assert!(!stops(text), "{text}");
        }
    }

    #[test]
    fn words_are_the_operators_to_choose() {
        let german = StopWords::new(stop_words(&["de"]));
        assert!(!german.are_said("stop") && german.are_said("Stopp!"));
        assert!(StopWords::new(["wypisz"]).are_said("wypisz mnie"));
        assert!(!StopWords::new(["", "!"]).are_said("wypisz mnie"));
        let phrase = "please do take me off that very long list of yours at once";
        assert!(StopWords::new([phrase]).are_said(&format!("{phrase}, and for good")));
        assert_eq!(languages().count(), STOP_WORDS.len());
    }
}
