//! Which m-line of the subscriber's offer carries whose track.
//!
//! Pure. The server writes the participant and the track into `a=msid` (RFC 8830); numbers of m-lines are used again for
//! other tracks, so only the last offer counts.

use crate::webrtc::event::Kind;

/// One m-line that brings something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub mid: String,
    pub kind: Kind,
    /// The participant's `PA_…`.
    pub participant: String,
    /// The track's `TR_…`.
    pub track: String,
}

/// The m-lines of an offer over which the server sends.
pub fn lines(sdp: &str) -> Vec<Line> {
    let mut found = Vec::new();
    for section in sdp.split("\nm=").skip(1) {
        let kind = match section.split(' ').next() {
            Some("audio") => Kind::Sound,
            Some("video") => Kind::Video,
            _ => continue,
        };
        let value = |name: &str| {
            section.lines().find_map(|line| line.trim_end().strip_prefix(name)).unwrap_or_default()
        };
        let sends = !section.lines().any(|line| matches!(line.trim_end(), "a=inactive" | "a=recvonly"))
            && section.split(' ').nth(1) != Some("0");
        let msid = value("a=msid:");
        let Some((participant, track)) = whose(msid).filter(|_| sends) else { continue };
        found.push(Line { mid: value("a=mid:").to_owned(), kind, participant, track });
    }
    found
}

/// The participant's and the track's ids in `PA_x|stream TR_y`, or in `PA_x|TR_y id`.
fn whose(msid: &str) -> Option<(String, String)> {
    let (stream, id) = msid.split_once(' ').unwrap_or((msid, ""));
    let (participant, rest) = stream.split_once('|').unwrap_or((stream, ""));
    let track = if rest.starts_with("TR_") && !id.starts_with("TR_") { rest } else { id };
    (!participant.is_empty() && !track.is_empty()).then(|| (participant.to_owned(), track.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_track_stands_in_the_stream_or_behind_it_and_what_does_not_send_is_nobodys() {
        let sdp = "v=0\r\ns=-\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:0\r\n\
            m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:1\r\na=sendonly\r\na=msid:PA_1|camera TR_a\r\n\
            m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:2\r\na=msid:PA_1|TR_v 7f1c\r\na=sendrecv\r\n\
            m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:3\r\na=msid:PA_2|TR_w x\r\na=inactive\r\n\
            m=audio 0 UDP/TLS/RTP/SAVPF 111\r\na=mid:4\r\na=msid:PA_2|TR_w x\r\na=sendonly\r\n\
            m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:5\r\na=sendonly\r\n";
        let line = |mid: &str, kind, track: &str| Line {
            mid: mid.to_owned(),
            kind,
            participant: "PA_1".to_owned(),
            track: track.to_owned(),
        };
        assert_eq!(lines(sdp), [line("1", Kind::Sound, "TR_a"), line("2", Kind::Video, "TR_v")]);
    }

    #[test]
    fn nonsense_is_nobodys() {
        for sdp in [
            "",
            "m=",
            "\nm=video",
            "x\nm=video 9\na=msid:|",
            "x\nm=audio 9\na=msid: ",
            "x\nm=audio 9\na=msid:P T\n",
        ] {
            assert!(lines(sdp).len() <= 1, "{sdp}");
        }
    }
}
