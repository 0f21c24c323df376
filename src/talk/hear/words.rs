//! Which words only say "I am listening".
//!
//! Pure. A list of the usual ones in the languages most callers speak; what else a transcript holds is significant.

/// In lower case, without marks; several words are all of them on their own.
const BACKCHANNELS: &[&str] = &[
    // Sounds written in many ways.
    "mhm",
    "mmhm",
    "mmhmm",
    "mhmm",
    "mm",
    "mmm",
    "hm",
    "hmm",
    "hmmm",
    "uhhuh",
    "uhuh",
    "uh",
    "um",
    "uhm",
    "ah",
    "aha",
    "ahh",
    "oh",
    "ohh",
    "eh",
    "er",
    "huh",
    "ooh",
    "wow",
    // English.
    "yeah",
    "yea",
    "yep",
    "yup",
    "yes",
    "ok",
    "okay",
    "k",
    "right",
    "alright",
    "sure",
    "i",
    "see",
    "got",
    "it",
    "great",
    "cool",
    "nice",
    "good",
    "fine",
    "indeed",
    "exactly",
    "true",
    "understood",
    "gotcha",
    "really",
    "absolutely",
    "of",
    "course",
    // German.
    "ja",
    "jaja",
    "jo",
    "genau",
    "klar",
    "gut",
    "aha",
    "ach",
    "so",
    "stimmt",
    "richtig",
    "verstehe",
    "ich",
    "alles",
    "schön",
    // French.
    "oui",
    "ouais",
    "daccord",
    "d'accord",
    "bien",
    "sûr",
    "voilà",
    "ah",
    "bon",
    "exact",
    "je",
    "vois",
    // Spanish, Portuguese, Italian.
    "sí",
    "si",
    "claro",
    "vale",
    "ya",
    "bueno",
    "ajá",
    "sim",
    "tá",
    "pois",
    "isso",
    "certo",
    "sì",
    "esatto",
    "va",
    "bene",
    "capito",
    // Dutch, Polish, Russian.
    "precies",
    "goed",
    "oké",
    "tak",
    "dobrze",
    "jasne",
    "да",
    "угу",
    "ага",
    "ясно",
    "понятно",
    "хорошо",
    // Japanese, Chinese, Korean.
    "はい",
    "うん",
    "ええ",
    "そう",
    "そうですか",
    "嗯",
    "好",
    "好的",
    "对",
    "是",
    "네",
    "예",
    "응",
];

/// Of those, the ones that say it only together with others.
const COMPANIONS: &[&str] =
    &["i", "see", "got", "it", "of", "course", "ich", "je", "vois", "so", "alles", "va", "tá", "bon", "ya"];
/// Together with them: what people say in one breath.
const PHRASES: &[&str] = &[
    "i see",
    "got it",
    "i got it",
    "of course",
    "ich verstehe",
    "alles klar",
    "alles gut",
    "ach so",
    "je vois",
    "ah bon",
    "va bene",
    "tá bom",
];

/// What a transcript amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// Words that say something.
    pub significant: usize,
    /// Words in all.
    pub all: usize,
}

impl Words {
    /// Counts the words of `text`; `further`: backchannels besides the usual ones, in lower case.
    pub fn of(text: &str, further: &[String]) -> Words {
        let words: Vec<String> = text.split(is_gap).map(plain).filter(|word| !word.is_empty()).collect();
        let mut significant = 0;
        for (at, word) in words.iter().enumerate() {
            let known = BACKCHANNELS.contains(&word.as_str()) || further.contains(word);
            let alone = known && COMPANIONS.contains(&word.as_str()) && !in_phrase(&words, at);
            significant += usize::from(!known || alone);
        }
        Words { significant, all: words.len() }
    }

    /// Something was said, and none of it means more than "I am listening".
    pub fn is_backchannel(self) -> bool {
        self.all > 0 && self.significant == 0
    }
}

fn is_gap(letter: char) -> bool {
    letter.is_whitespace() || ",.;:!?…()\"“”。、！？".contains(letter)
}

fn plain(word: &str) -> String {
    let word = word.replace(['-', '’'], "").to_lowercase();
    word.trim_matches('\'').to_owned()
}

/// Whether the word at `at` is part of a phrase that is in the list as a whole.
fn in_phrase(words: &[String], at: usize) -> bool {
    PHRASES.iter().any(|phrase| {
        let phrase: Vec<&str> = phrase.split(' ').collect();
        (0..phrase.len()).any(|offset| {
            let Some(start) = at.checked_sub(offset) else { return false };
            words.get(start..start + phrase.len()).is_some_and(|part| part.iter().eq(phrase.iter()))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backchannels_are_known_however_they_are_written_and_nothing_else_is() {
        for text in [
            "mhm",
            "Mm-hmm.",
            "Uh-huh!",
            "Yeah.",
            "Okay, okay.",
            "yes yes",
            "I see.",
            "Got it",
            "Right, I see",
            "Of course.",
            "Ja, genau.",
            "Alles klar",
            "Ich verstehe",
            "D’accord",
            "はい。",
            "Ага",
            "嗯",
        ] {
            assert!(Words::of(text, &[]).is_backchannel(), "{text}");
        }
        for text in [
            "stop",
            "No.",
            "Wait a moment",
            "okay stop",
            "yes but",
            "I",
            "it",
            "I see a dog",
            "nein",
            "of",
            "Yes I got a question",
            "Right now",
            "so",
        ] {
            assert!(Words::of(text, &[]).significant > 0, "{text}");
        }
        assert!(!Words::of(" … ", &[]).is_backchannel());
        assert!(Words::of("Roger roger", &["roger".to_owned()]).is_backchannel());
    }
}
