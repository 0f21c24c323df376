//! Bytes to [`SessionDescription`], forgiving (RFC 8866 §5 read with RFC 1122's robustness).
//!
//! Tolerated: line ends LF, CR or CRLF, blank and indented lines, lines that are not `x=` (Bria 4.1 `mid:1`), any order
//! within a level, missing `v= o= s= t= c=`, several spaces, tabs and other control characters, bytes that are not UTF-8, an `m=` without formats
//! (Edge 17), unreadable `b= o= t=`. Refused: nothing that looks like a description, another version, an `m=` line whose
//! place cannot be answered, and sizes beyond the limits below. Whether the content makes sense is not asked here.

use super::media::Media;
use super::session::{Attribute, Bandwidth, Connection, OriginLine, SessionDescription};

/// Largest description read, in bytes. The largest real offer seen (Chrome, audio and video) has 6 kB.
pub const MAX_BYTES: usize = 32 * 1024;
/// Most `m=` lines.
pub const MAX_MEDIA: usize = 32;
/// Most formats of one `m=` line.
pub const MAX_FORMATS: usize = 128;

/// Why bytes are not a session description. Becomes a 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("the body holds no session description")]
    Empty,
    #[error("a session description larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("SDP version other than 0")]
    Version,
    #[error("more than {MAX_MEDIA} m= lines")]
    TooManyMedia,
    #[error("unreadable m= line {0}")]
    Media(usize),
}

/// Reads one description.
pub fn parse(bytes: &[u8]) -> Result<SessionDescription, ParseError> {
    if bytes.len() > MAX_BYTES {
        return Err(ParseError::TooLarge);
    }
    let plain = |c: char| if c.is_control() && c != '\r' && c != '\n' { ' ' } else { c };
    let text: String = String::from_utf8_lossy(bytes).chars().map(plain).collect();
    let mut reader = Reader::default();
    for line in text.split(['\r', '\n']) {
        let Some((kind, value)) = line.trim().split_once('=') else { continue };
        reader.line(kind, value.trim())?;
    }
    if !reader.recognised {
        return Err(ParseError::Empty);
    }
    Ok(reader.description)
}

struct Reader {
    description: SessionDescription,
    recognised: bool,
    timed: bool,
}

impl Default for Reader {
    fn default() -> Self {
        let description = SessionDescription {
            origin: None,
            name: "-".to_owned(),
            connection: None,
            bandwidth: Vec::new(),
            time: (0, 0),
            attributes: Vec::new(),
            media: Vec::new(),
        };
        Reader { description, recognised: false, timed: false }
    }
}

impl Reader {
    fn line(&mut self, kind: &str, value: &str) -> Result<(), ParseError> {
        let description = &mut self.description;
        match kind {
            "v" if value != "0" => return Err(ParseError::Version),
            "v" => self.recognised = true,
            "o" => description.origin = description.origin.take().or_else(|| origin(value)),
            "s" if !value.is_empty() => description.name = value.to_owned(),
            "t" if !self.timed => {
                self.timed = true;
                description.time = time(value).unwrap_or_default();
            }
            "m" => {
                if description.media.len() >= MAX_MEDIA {
                    return Err(ParseError::TooManyMedia);
                }
                let place = description.media.len() + 1;
                description.media.push(media(value).ok_or(ParseError::Media(place))?);
                self.recognised = true;
            }
            "c" => {
                let slot = match description.media.last_mut() {
                    Some(media) => &mut media.connection,
                    None => &mut description.connection,
                };
                *slot = slot.take().or_else(|| connection(value));
            }
            "b" => {
                let list = match description.media.last_mut() {
                    Some(media) => &mut media.bandwidth,
                    None => &mut description.bandwidth,
                };
                list.extend(bandwidth(value));
            }
            "a" => {
                let list = match description.media.last_mut() {
                    Some(media) => &mut media.attributes,
                    None => &mut description.attributes,
                };
                list.extend(attribute(value));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Read from the right: user names with spaces exist.
fn origin(value: &str) -> Option<OriginLine> {
    let words: Vec<&str> = value.split_whitespace().collect();
    let [username @ .., session_id, session_version, _network, kind, host] = words.as_slice() else {
        return None;
    };
    let username = if username.is_empty() { "-".to_owned() } else { username.join("_") };
    Some(OriginLine {
        username,
        session_id: (*session_id).to_owned(),
        session_version: (*session_version).to_owned(),
        address: address(kind, host)?,
    })
}

fn connection(value: &str) -> Option<Connection> {
    let mut words = value.split_whitespace();
    let (_network, kind, host) = (words.next()?, words.next()?, words.next()?);
    address(kind, host)
}

fn address(kind: &str, host: &str) -> Option<Connection> {
    let host = host.split('/').next().filter(|host| !host.is_empty())?;
    Some(Connection { host: host.to_owned(), ip6: kind.eq_ignore_ascii_case("IP6") })
}

fn time(value: &str) -> Option<(u64, u64)> {
    let mut words = value.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

fn bandwidth(value: &str) -> Option<Bandwidth> {
    let (kind, number) = value.split_once(':')?;
    // A fraction (`AS:256.5`) is cut.
    let digits = number.trim().split('.').next()?;
    let kind = kind.trim();
    (!kind.is_empty()).then_some(())?;
    Some(Bandwidth { kind: kind.to_owned(), value: digits.parse().ok()? })
}

fn attribute(value: &str) -> Option<Attribute> {
    let (name, value) = match value.split_once(':') {
        Some((name, value)) => (name.trim(), Some(value.trim().to_owned())),
        None => (value.trim(), None),
    };
    (!name.is_empty()).then(|| Attribute { name: name.to_owned(), value })
}

fn media(value: &str) -> Option<Media> {
    let mut words = value.split_whitespace();
    let kind = words.next()?.to_owned();
    let port = words.next()?.split('/').next()?.parse().ok()?;
    let protocol = words.next()?.to_owned();
    let formats: Vec<String> = words.map(str::to_owned).collect();
    (formats.len() <= MAX_FORMATS).then_some(())?;
    Some(Media {
        kind,
        port,
        protocol,
        formats,
        connection: None,
        bandwidth: Vec::new(),
        attributes: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "v=0\r\no=- 7 8 IN IP4 192.0.2.1\r\ns=call\r\nc=IN IP4 192.0.2.1\r\nt=3 4\r\n\
        m=audio 4000 RTP/AVP 0 8\r\na=ptime:20\r\na=sendonly\r\n";

    fn plain() -> SessionDescription {
        parse(PLAIN.as_bytes()).unwrap()
    }

    #[test]
    fn a_description_is_read_line_by_line() {
        let read = plain();
        let origin = read.origin.as_ref().unwrap();
        assert_eq!((origin.session_id.as_str(), origin.session_version.as_str()), ("7", "8"));
        assert_eq!((read.name.as_str(), read.time), ("call", (3, 4)));
        let audio = &read.media[0];
        assert_eq!((audio.port, audio.protocol.as_str()), (4000, "RTP/AVP"));
        assert_eq!(audio.payload_types(), [0, 8]);
        assert_eq!(read.connection_of(audio).unwrap().ip(), "192.0.2.1".parse().ok());
        assert_eq!(audio.ptime(), Some(20));
        assert_eq!(read.direction_of(audio), super::super::Direction::SendOnly);
    }

    #[test]
    fn what_does_not_change_the_meaning_is_forgiven() {
        let unchanged = [
            PLAIN.replace("\r\n", "\n"),
            PLAIN.replace("\r\n", "\r"),
            PLAIN.replace("\r\n", " \r\n"),
            PLAIN.replace("\r\n", "\r\n\r\n"),
            PLAIN.replace("\r\nm=", "\r\n  m="),
            PLAIN.replace("v=0\r\n", ""),
            PLAIN.replace("audio 4000", "audio  4000"),
            PLAIN.replace("a=ptime", "mid:1\r\na=ptime"),
            PLAIN.replace("a=ptime:20", "a= ptime: 20"),
            PLAIN.replace("c=IN IP4 192.0.2.1\r\nt=3 4", "t=3 4\r\nc=IN IP4 192.0.2.1"),
            PLAIN.replace("t=3 4", "t=3 4\r\nr=7d 1h\r\nz=0 0\r\nk=clear:x\r\ni=x\r\nu=x\r\ne=x\r\np=x"),
            PLAIN.replace("192.0.2.1\r\nt", "192.0.2.1/127\r\nc=IN IP4 192.0.2.9\r\nt"),
            PLAIN.replace("t=3 4", "t=3 4\r\nb=AS:many\r\nb=x"),
            format!("{PLAIN}\0\0"),
            format!("\r\n\r\n{PLAIN}"),
        ];
        for text in unchanged {
            assert_eq!(parse(text.as_bytes()), Ok(plain()), "{text}");
        }
    }

    #[test]
    fn missing_lines_get_their_neutral_value() {
        let read = parse(b"m=audio 4000 RTP/AVP 0").unwrap();
        assert_eq!((read.origin, read.name.as_str(), read.connection, read.time), (None, "-", None, (0, 0)));
    }

    #[test]
    fn odd_origins_are_kept_or_dropped_but_never_refused() {
        let with = |line: &str| parse(format!("v=0\r\n{line}\r\n").as_bytes()).unwrap().origin;
        let origin = with("o=Front Door 1 99999999999999999999999 IN IP4 192.0.2.1").unwrap();
        assert_eq!((origin.username.as_str(), origin.session_version.len()), ("Front_Door", 23));
        assert_eq!(with("o=- 1 1"), None);
    }

    #[test]
    fn bytes_that_are_not_utf8_do_not_cost_the_call() {
        let mut bytes = PLAIN.as_bytes().to_vec();
        let at = PLAIN.find("call").unwrap();
        bytes[at] = 0xfc;
        assert_eq!(parse(&bytes).unwrap().media, plain().media);
    }

    #[test]
    fn fractions_of_bandwidth_are_cut() {
        let read = parse(b"v=0\r\nb=AS:256.5\r\nb=TIAS: 1000\r\n").unwrap();
        assert_eq!(read.bandwidth[0], Bandwidth { kind: "AS".into(), value: 256 });
        assert_eq!(read.bandwidth[1], Bandwidth { kind: "TIAS".into(), value: 1000 });
    }

    #[test]
    fn a_refusing_line_may_have_no_format() {
        let read = parse(b"v=0\r\nm=video 0 UDP/TLS/RTP/SAVPF\r\n").unwrap();
        assert_eq!((read.media[0].port, read.media[0].formats.len()), (0, 0));
    }

    #[test]
    fn what_cannot_be_answered_is_refused() {
        assert_eq!(parse(b""), Err(ParseError::Empty));
        assert_eq!(parse(b"<xml a=\"1\"/>"), Err(ParseError::Empty));
        assert_eq!(parse(b"v=1\r\ns=-\r\n"), Err(ParseError::Version));
        assert_eq!(parse(b"v=0\r\nm=audio\r\n"), Err(ParseError::Media(1)));
        assert_eq!(
            parse(b"v=0\r\nm=audio 1 RTP/AVP 0\r\nm=video 70000 RTP/AVP 96\r\n"),
            Err(ParseError::Media(2))
        );
        let many = format!("v=0\r\n{}", "m=audio 1 RTP/AVP 0\r\n".repeat(MAX_MEDIA + 1));
        assert_eq!(parse(many.as_bytes()), Err(ParseError::TooManyMedia));
        let formats = format!("v=0\r\nm=audio 1 RTP/AVP{}\r\n", " 0".repeat(MAX_FORMATS + 1));
        assert_eq!(parse(formats.as_bytes()), Err(ParseError::Media(1)));
        assert_eq!(parse(&vec![b'a'; MAX_BYTES + 1]), Err(ParseError::TooLarge));
    }
}
