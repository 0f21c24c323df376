//! Which languages a caller's device asks for: Accept-Language (RFC 3261 §20.3, written as in RFC 9110 §12.5.4). Pure.

use crate::sip::Headers;

/// Languages read of one request.
const LANGUAGES_MAX: usize = 16;
/// The longest tag (RFC 5646 §4.4.1 expects 35).
const TAG_MAX: usize = 35;

/// The languages asked for in lower case, most wanted first. Those not wanted (`q=0`) and `*` are left out.
pub fn languages(headers: &Headers) -> Vec<String> {
    let values = headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("Accept-Language"));
    let mut wanted: Vec<(u16, String)> =
        values.flat_map(|(_, value)| value.split(',')).take(LANGUAGES_MAX).filter_map(range).collect();
    // Those wanted as much stay in the order of writing.
    wanted.sort_by_key(|(weight, _)| u16::MAX - weight);
    wanted.into_iter().map(|(_, tag)| tag).collect()
}

fn range(text: &str) -> Option<(u16, String)> {
    let (tag, parameters) = text.split_once(';').unwrap_or((text, ""));
    let tag = tag.trim();
    let good = (1..=TAG_MAX).contains(&tag.len())
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let weight = match parameters.trim().strip_prefix("q=").map(str::trim) {
        Some(weight) => weight.parse::<f32>().ok().filter(|weight| (0.0..=1.0).contains(weight))?,
        None => 1.0,
    };
    (good && weight > 0.0).then(|| ((weight * 1000.0) as u16, tag.to_ascii_lowercase()))
}

/// The first of `known` that serves one of `wanted`: itself, or the language without its region (`de` for `de-AT`).
pub fn best<'a>(wanted: &[String], known: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let primary = |tag: &str| tag.split('-').next().unwrap_or_default().to_ascii_lowercase();
    wanted.iter().find_map(|tag| {
        let exact = known.clone().find(|own| own.eq_ignore_ascii_case(tag));
        exact.or_else(|| known.clone().find(|own| primary(own) == primary(tag)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(value: &str) -> Vec<String> {
        let mut headers = Headers::default();
        headers.push("Accept-Language", value);
        languages(&headers)
    }

    #[test]
    fn languages_come_in_the_order_they_are_wanted_in() {
        assert_eq!(asked("da, en-gb;q=0.8, en;q=0.7"), ["da", "en-gb", "en"]);
        assert_eq!(asked("fr;q=0.1, de-AT, it;q=0, *;q=0.5, en;q=x, x y"), ["de-at", "fr"]);
        assert!(asked("").is_empty());
        assert_eq!(asked(&"de,".repeat(1_000)).len(), LANGUAGES_MAX);
    }

    #[test]
    fn a_region_is_served_by_its_language() {
        let wanted = asked("de-AT, en;q=0.5");
        assert_eq!(best(&wanted, ["en", "de"].into_iter()), Some("de"));
        assert_eq!(best(&wanted, ["fr", "en-US"].into_iter()), Some("en-US"));
        assert_eq!(best(&wanted, ["fr"].into_iter()), None);
    }
}
