//! A model's words as they come, cut into pieces a voice can speak, without what is only for the eye.
//!
//! Pure. A piece ends with a sentence; the first may end sooner, at a comma, so that the voice can begin. Marks of Markdown,
//! emoji and code are left out, links keep their words.

/// How words are cut; lengths in letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentenceSettings {
    /// A shorter sentence goes with the next one.
    pub shortest: usize,
    /// The first piece may end at a comma, colon or dash once it is so long.
    pub first_clause: usize,
    /// Longer pieces are cut at a clause, then between words.
    pub longest: usize,
}

impl Default for SentenceSettings {
    fn default() -> Self {
        SentenceSettings { shortest: 12, first_clause: 32, longest: 300 }
    }
}

/// Text of one answer that has not been cut yet.
#[derive(Debug, Default)]
pub struct Sentences {
    settings: SentenceSettings,
    text: String,
    /// Inside of a block of code, which is not spoken.
    in_code: bool,
    has_begun: bool,
}

impl Sentences {
    pub fn new(settings: SentenceSettings) -> Self {
        Sentences { settings, ..Sentences::default() }
    }

    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// The next piece that is surely whole.
    pub fn poll(&mut self) -> Option<String> {
        self.cut(false)
    }

    /// The next of the remaining pieces: the answer is over.
    pub fn finish(&mut self) -> Option<String> {
        self.cut(true)
    }

    fn cut(&mut self, over: bool) -> Option<String> {
        loop {
            self.leave_code_out(over);
            let end = match self.end_of_piece(over) {
                Some(end) => end,
                None if over && !self.text.is_empty() => self.text.len(),
                None => return None,
            };
            let piece: String = self.text.drain(..end).collect();
            let spoken = speakable(&piece);
            if !spoken.is_empty() {
                self.has_begun = true;
                return Some(spoken);
            }
        }
    }

    /// Takes whole blocks of code out; what stands before one is left to be cut.
    fn leave_code_out(&mut self, over: bool) {
        const FENCE: &str = "```";
        loop {
            match (self.in_code, self.text.find(FENCE)) {
                (false, Some(at)) => {
                    self.text
                        .replace_range(at.., &format!("\n{}", &self.text[at + FENCE.len()..].to_owned()));
                    // What follows the fence is code up to the next one.
                    let code = self.text.split_off(at + 1);
                    match code.split_once(FENCE) {
                        Some((_, after)) => self.text.push_str(after),
                        None => {
                            self.in_code = true;
                            self.text.push(CODE);
                            self.text.push_str(&code);
                        }
                    }
                }
                (true, Some(end)) => {
                    let code = self.text.find(CODE).unwrap_or(end);
                    self.text.replace_range(code..end + FENCE.len(), "");
                    self.in_code = false;
                }
                (true, None) if over => {
                    let code = self.text.find(CODE).unwrap_or(self.text.len());
                    self.text.truncate(code);
                    self.in_code = false;
                }
                (_, None) => return,
            }
        }
    }

    /// Where the first piece ends, in bytes.
    fn end_of_piece(&self, over: bool) -> Option<usize> {
        let until = self.text.find(CODE).unwrap_or(self.text.len());
        let text = self.text.get(..until)?;
        let letters: Vec<(usize, char)> = text.char_indices().collect();
        let at = |index: usize| letters.get(index).map_or(until, |(at, _)| *at);
        let mut clause = None;
        for (index, (_, letter)) in letters.iter().enumerate() {
            let next = index + 1;
            if !over && next == letters.len() && until == self.text.len() {
                break;
            }
            if *letter == '\n' && ends_line(&letters[next..]) && index > 0 {
                return Some(at(next));
            }
            if is_end(&letters, index) {
                // Closing quotes and brackets belong to it.
                let closing = letters[next..].iter().take_while(|(_, l)| "\"'”’»)]*_".contains(*l)).count();
                let next = next + closing;
                if next >= self.settings.shortest.min(letters.len()) || at(next) == self.text.len() && over {
                    return Some(at(next));
                }
            }
            let pauses = ",;:–—，、；：".contains(*letter)
                && letters.get(next).is_none_or(|(_, l)| l.is_whitespace() || !letter.is_ascii());
            if pauses {
                if !self.has_begun && next >= self.settings.first_clause {
                    return Some(at(next));
                }
                clause = Some(next);
            }
            if next >= self.settings.longest {
                let space =
                    letters[..next].iter().rposition(|(_, l)| l.is_whitespace()).map(|space| space + 1);
                let next = clause.filter(|clause| *clause > next / 3).or(space).unwrap_or(next);
                return Some(at(next));
            }
        }
        None
    }
}

/// Stands where code begins whose end has not come; a letter no model writes.
const CODE: char = '\u{fdd0}';

/// A list goes on line by line, a paragraph ends with an empty one.
fn ends_line(rest: &[(usize, char)]) -> bool {
    let Some((_, first)) = rest.iter().find(|(_, letter)| *letter != ' ') else { return false };
    "\n-*•#>|0123456789".contains(*first)
}

/// Words that end with a point and no sentence, in English and German, and more in their like.
const SHORTENED: [&str; 40] = [
    "dr", "mr", "mrs", "ms", "prof", "st", "sr", "jr", "vs", "etc", "e.g", "i.e", "approx", "dept", "est",
    "inc", "ltd", "z.b", "d.h", "u.a", "bzw", "ca", "usw", "hr", "fr", "str", "tel", "evtl", "ggf", "inkl",
    "max", "min", "mio", "mrd", "vgl", "sog", "a.m", "p.m", "u.s", "bspw",
];

/// The same before a number only.
const COUNTING: [&str; 4] = ["no", "nr", "fig", "abs"];

/// Whether a sentence ends with this letter.
fn is_end(letters: &[(usize, char)], index: usize) -> bool {
    let letter = letters[index].1;
    if "。！？".contains(letter) {
        return true;
    }
    if !".!?…".contains(letter) {
        return false;
    }
    let after = letters[index + 1..].iter().map(|(_, letter)| *letter);
    let mut after = after.skip_while(|letter| "\"'”’»)]*_".contains(*letter));
    match after.next() {
        None => return true,
        Some(next) if !next.is_whitespace() => return false,
        Some(_) => {}
    }
    if letter != '.' {
        return true;
    }
    let before: String =
        letters[..index].iter().rev().map(|(_, l)| *l).take_while(|l| !l.is_whitespace()).collect();
    let word: String = before.chars().rev().collect::<String>().to_lowercase();
    let word = word.trim_start_matches(['(', '"', '\'', '*', '_']);
    let is_number = !word.is_empty() && word.chars().all(|letter| letter.is_ascii_digit());
    // "3. Mai", "1. Item": an ordinal; a year or a price at the end of a sentence has more digits.
    let is_ordinal = is_number && word.len() <= 2;
    let is_initial = word.chars().count() == 1 && word.chars().all(char::is_alphabetic);
    // What follows decides, and may not be here yet.
    let is_number_next = letters.get(index + 2).is_none_or(|(_, letter)| letter.is_ascii_digit());
    let counts = is_number_next && COUNTING.contains(&word);
    !(is_ordinal || is_initial || counts || SHORTENED.contains(&word))
}

/// What of a piece is for the ear.
pub fn speakable(piece: &str) -> String {
    let mut spoken = String::with_capacity(piece.len());
    for line in piece.lines() {
        let line = line.trim();
        let line = line.trim_start_matches(['#', '>']).trim_start();
        let is_rule = line.len() >= 3 && line.chars().all(|letter| "-*_=| :".contains(letter));
        if is_rule {
            continue;
        }
        let line = ["- ", "* ", "• ", "+ "].iter().find_map(|mark| line.strip_prefix(mark)).unwrap_or(line);
        let line = without_links(line);
        if !spoken.is_empty() {
            spoken.push(' ');
        }
        let letters: Vec<char> = line.chars().collect();
        for (index, letter) in letters.iter().enumerate() {
            let before = index.checked_sub(1).and_then(|before| letters.get(before));
            let after = letters.get(index + 1);
            let joins = |side: Option<&char>| side.is_some_and(|side| side.is_alphanumeric());
            match letter {
                // "snake_case" and "3 * 4" are no marks.
                '_' if joins(before) && joins(after) => spoken.push(' '),
                '*' if before == Some(&' ') && after == Some(&' ') => spoken.push('*'),
                '*' | '_' | '`' | '~' => {}
                '|' => spoken.push(','),
                letter if is_emoji(*letter) => {}
                letter => spoken.push(*letter),
            }
        }
    }
    let joined = spoken.split_whitespace().collect::<Vec<_>>().join(" ");
    let has_words = joined.chars().any(char::is_alphanumeric);
    if has_words { joined } else { String::new() }
}

/// `[words](address)` and `![words](address)` to their words, `<tag>` to nothing.
fn without_links(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(['[', '<']) {
        let (before, from) = rest.split_at(at);
        let link = from.strip_prefix('[').and_then(|inner| {
            let (words, after) = inner.split_once("](")?;
            let (_, after) = after.split_once(')')?;
            (!words.contains('[')).then_some((words, after))
        });
        let tag = from.strip_prefix('<').and_then(|inner| {
            let (name, after) = inner.split_once('>')?;
            let is_tag =
                name.trim_start_matches('/').starts_with(|letter: char| letter.is_ascii_alphabetic());
            (is_tag && name.len() < 80).then_some(("", after))
        });
        match link.or(tag) {
            Some((words, after)) => {
                out.push_str(if link.is_some() {
                    before.strip_suffix('!').unwrap_or(before)
                } else {
                    before
                });
                out.push_str(words);
                rest = after;
            }
            None => {
                let (head, after) = rest.split_at(at + 1);
                out.push_str(head);
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// Pictures among letters, and what joins and colours them.
fn is_emoji(letter: char) -> bool {
    matches!(u32::from(letter),
        0x1f000..=0x1faff | 0x2600..=0x27bf | 0x2b00..=0x2bff | 0xfe00..=0xfe0f | 0x200d | 0x20e3
        | 0xe0020..=0xe007f | 0x2190..=0x21ff | 0x2300..=0x23ff | 0xfffd | 0xfdd0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str, step: usize) -> Vec<String> {
        let mut sentences = Sentences::new(SentenceSettings::default());
        let (mut pieces, letters) = (Vec::new(), text.chars().collect::<Vec<_>>());
        for delta in letters.chunks(step) {
            sentences.push(&delta.iter().collect::<String>());
            pieces.extend(std::iter::from_fn(|| sentences.poll()));
        }
        pieces.extend(std::iter::from_fn(|| sentences.finish()));
        pieces
    }

    #[test]
    fn sentences_are_cut_the_same_however_they_come() {
        for (text, pieces) in [
            ("Hello there, caller. How are you?", &["Hello there, caller.", "How are you?"][..]),
            ("Yes. I can see a red door.", &["Yes. I can see a red door."]),
            (
                "Dr. Smith is at No. 7 Main St. today. He waits.",
                &["Dr. Smith is at No. 7 Main St. today.", "He waits."],
            ),
            (
                "It costs 3.50 euros at example.com. Right?",
                &["It costs 3.50 euros at example.com.", "Right?"],
            ),
            (
                "Wir treffen uns am 3. Mai, z. B. um zehn. Gut?",
                &["Wir treffen uns am 3. Mai, z. B. um zehn.", "Gut?"],
            ),
            (
                "She said \"come in please.\" Then she left.",
                &["She said \"come in please.\"", "Then she left."],
            ),
            (
                "今日はとてもいい天気ですね。散歩しましょう。",
                &["今日はとてもいい天気ですね。", "散歩しましょう。"],
            ),
            ("No end", &["No end"]),
            ("", &[]),
        ] {
            for step in [1, 2, 3, 7, 1_000] {
                assert_eq!(cut(text, step), pieces, "{step}");
            }
        }
    }

    #[test]
    fn the_first_piece_may_end_at_a_comma_and_later_ones_do_not() {
        let text = "I can see a tall person with a parcel, and behind them there is a van. The van is white, and it has a long blue stripe on its side.";
        assert_eq!(
            cut(text, 4),
            [
                "I can see a tall person with a parcel,",
                "and behind them there is a van.",
                "The van is white, and it has a long blue stripe on its side.",
            ]
        );
    }

    #[test]
    fn an_endless_sentence_is_cut_between_words() {
        let pieces = cut(&"word ".repeat(200), 5);
        assert!(pieces.len() >= 3 && pieces.iter().all(|piece| piece.chars().count() <= 300));
        assert!(pieces.iter().all(|piece| piece.split(' ').all(|word| word == "word")));
        assert_eq!(cut(&"x".repeat(1_000), 10).concat().len(), 1_000);
    }

    #[test]
    fn what_is_for_the_eye_is_not_spoken() {
        for (text, spoken) in [
            ("**Bold** and *slanted* `code`.", "Bold and slanted code."),
            ("# Title", "Title"),
            ("Great 🎉👍🏽! See [the manual](https://a.example/b_c).", "Great ! See the manual."),
            ("![a door](x.png) Look.", "a door Look."),
            ("file_name and 3 * 4 < 5", "file name and 3 * 4 < 5"),
            ("- one\n- two", "one two"),
            ("| a | b |\n|---|---|", ", a , b ,"),
            ("<b>Now</b><br/> go", "Now go"),
            ("---", ""),
            ("👍", ""),
            ("[not a link] (yet", "[not a link] (yet"),
        ] {
            assert_eq!(speakable(text), spoken, "{text}");
        }
    }

    #[test]
    fn code_is_left_out_whole_wherever_it_is_cut() {
        let text = "Run this command now:\n```sh\nrm -rf. /tmp; ls.\n```\nThen call me back. ```x``` Done and dusted.";
        for step in [1, 2, 5, 1_000] {
            assert_eq!(
                cut(text, step).join(" "),
                "Run this command now: Then call me back. Done and dusted.",
                "{step}"
            );
        }
        assert_eq!(cut("Look here please. ```never closed. and more", 3), ["Look here please."]);
    }

    #[test]
    fn lists_are_spoken_line_by_line() {
        let text = "I see these things:\n1. a red door\n2. a white van\n\nAnything else?";
        assert_eq!(
            cut(text, 3),
            ["I see these things:", "1. a red door", "2. a white van", "Anything else?"]
        );
    }

    #[test]
    fn no_text_makes_it_panic_or_loop() {
        let pieces = [
            "```", "`", "*", "[", "](", ")", "<", ">", "\n", " ", ".", "ä", "🙂", "\u{fdd0}", "word", ",",
            "1.",
        ];
        let mut seed = 7_u64;
        for _ in 0..400 {
            let mut text = String::new();
            for _ in 0..60 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push_str(pieces[(seed >> 33) as usize % pieces.len()]);
            }
            let all = cut(&text, 3);
            assert!(all.iter().all(|piece| !piece.is_empty()), "{text:?}");
        }
    }
}
