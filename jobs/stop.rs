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

/// Whether `text` asks not to be contacted any more: a short one that has one of `words` in it as whole words, or a longer one
/// that begins with it. Case, punctuation and space do not count.
pub fn says_stop<'w>(text: &str, words: impl IntoIterator<Item = &'w str>) -> bool {
    let said = folded(text);
    words.into_iter().any(|phrase| {
        let phrase = folded(phrase);
        if phrase.is_empty() || phrase.len() > said.len() {
            return false;
        }
        said.starts_with(&phrase)
            || (said.len() <= SHORT && said.windows(phrase.len()).any(|window| window == phrase.as_slice()))
    })
}

/// The words built in, of these languages; of all when none is named.
pub fn stop_words<'l>(languages: &'l [&'l str]) -> impl Iterator<Item = &'static str> + 'l {
    STOP_WORDS
        .into_iter()
        .filter(|(language, _)| languages.is_empty() || languages.contains(language))
        .flat_map(|(_, words)| words.iter().copied())
}

/// Lower-case words; an apostrophe of any shape belongs to its word.
fn folded(text: &str) -> Vec<String> {
    let text = text.to_lowercase().replace(['\u{2019}', '\u{2bc}', '`'], "'");
    let is_part = |c: char| c.is_alphanumeric() || c == '\'';
    text.split(|c: char| !is_part(c))
        .map(|word| word.trim_matches('\''))
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stops(text: &str) -> bool {
        says_stop(text, stop_words(&[]))
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
        assert!(!says_stop("stop", stop_words(&["de"])));
        assert!(says_stop("Stopp!", stop_words(&["de"])));
        assert!(says_stop("wypisz mnie", ["wypisz"]));
        assert!(!says_stop("wypisz mnie", ["", "!"]));
    }
}
