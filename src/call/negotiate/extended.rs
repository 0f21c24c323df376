//! Extended reports (RFC 3611 §5): whether a line asks for the VoIP metrics block, and saying that we take it too.

use crate::sdp::{Attribute, Media, SessionDescription};

const NAME: &str = "rtcp-xr";
const VOIP_METRICS: &str = "voip-metrics";

/// Whether the writer of this line wants to be told how it is heard.
pub(super) fn wanted(description: &SessionDescription, media: &Media) -> bool {
    // For one line, or for all of them.
    let attributes = media.attributes.iter().chain(&description.attributes);
    attributes
        .filter(|attribute| attribute.name.eq_ignore_ascii_case(NAME))
        .filter_map(|attribute| attribute.value.as_deref())
        .any(|value| value.split_whitespace().any(|word| word.eq_ignore_ascii_case(VOIP_METRICS)))
}

/// Our line in the answer to one that asks.
pub(super) fn agreed() -> Attribute {
    Attribute::new(NAME, VOIP_METRICS)
}

#[cfg(test)]
mod tests {
    use super::super::tests::described;
    use super::*;

    #[test]
    fn the_block_is_asked_for_by_name_for_a_line_or_for_all() {
        for (lines, expected) in [
            ("m=audio 4000 RTP/AVP 0\r\na=rtcp-xr:rcvr-rtt=all voip-metrics\r\n", true),
            ("a=rtcp-xr:VoIP-Metrics\r\nm=audio 4000 RTP/AVP 0\r\n", true),
            ("m=audio 4000 RTP/AVP 0\r\na=rtcp-xr:rcvr-rtt=all\r\n", false),
            ("m=audio 4000 RTP/AVP 0\r\na=rtcp-xr\r\n", false),
            ("m=audio 4000 RTP/AVP 0\r\n", false),
        ] {
            let description = described(lines);
            assert_eq!(wanted(&description, &description.media[0]), expected, "{lines}");
        }
    }
}
