//! Keys and words of the documented configuration that this version does not know yet, so that writing one gets an
//! honest answer instead of a guess. A key that is read must not stand here.

/// Paths of keys; `*` is any name. A section covers everything in it.
const KEYS: &[&str] = &[
    "detector.*.device",
    "recording.wav",
    "recording.consent",
    "recording.retain_days",
    "recording.max_gib",
    "recording.key",
    "recording.upload",
    "recording.*.wav",
    "recording.*.consent",
    "recording.*.retain_days",
    "recording.*.max_gib",
    "recording.*.key",
    "recording.*.upload",
    "events",
];

/// Words that later versions take, by key.
const WORDS: &[(&str, &[&str])] = &[
    ("recording.video", &["agent", "side_by_side"]),
    ("source.*.kind", &["rtp", "websocket"]),
    ("agent.*.kind", &["bridge", "source"]),
];

/// Whether a key (`recording.wav`) belongs to a later version.
pub fn is_later_key(path: &str) -> bool {
    KEYS.iter().any(|pattern| matches(pattern, path))
}

/// Whether a word at a key belongs to a later version.
pub fn is_later_word(path: &str, word: &str) -> bool {
    let path = path.split('[').next().unwrap_or(path);
    WORDS.iter().any(|(pattern, words)| {
        let profile = *pattern == "recording.video" && matches("recording.*.video", path);
        (profile || matches(pattern, path)) && words.contains(&word)
    })
}

fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, path) = (pattern.split('.'), path.split('.'));
    pattern.clone().count() == path.clone().count()
        && pattern.zip(path).all(|(wanted, found)| wanted == "*" || wanted == found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_keys_and_words_are_known_by_their_path() {
        assert!(is_later_key("recording.wav"));
        assert!(is_later_key("recording.night.wav"));
        assert!(!is_later_key("sip.listen"));
        assert!(!is_later_key("recording.wave"));
        assert!(!is_later_word("media.audio_codecs[0]", "opus"));
        assert!(is_later_word("recording.night.video", "agent"));
        assert!(!is_later_word("media.audio_codecs", "pcma"));
    }
}
