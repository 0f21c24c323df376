//! [`SessionDescription`] to bytes, strict: the order of RFC 8866 §5, CRLF, no line a reader could stumble over.
//!
//! Control characters never leave: a name from a configuration file cannot add a line.

use std::fmt::{self, Display, Formatter, Write};

use super::media::Media;
use super::session::{Attribute, Bandwidth, Connection, SessionDescription};

impl Display for SessionDescription {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("v=0\r\no=")?;
        match &self.origin {
            Some(origin) => {
                let (user, id, version) = (&origin.username, &origin.session_id, &origin.session_version);
                write!(f, "{} {} {} {}", Word(user), Word(id), Word(version), origin.address)?;
            }
            None => f.write_str("- 0 0 IN IP4 0.0.0.0")?,
        }
        write!(f, "\r\ns={}\r\n", Text(if self.name.is_empty() { "-" } else { &self.name }))?;
        connection_and_bandwidth(f, self.connection.as_ref(), &self.bandwidth)?;
        write!(f, "t={} {}\r\n", self.time.0, self.time.1)?;
        attributes(f, &self.attributes)?;
        self.media.iter().try_for_each(|media| write!(f, "{media}"))
    }
}

impl Display for Media {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "m={} {} {}", Word(&self.kind), self.port, Word(&self.protocol))?;
        if self.formats.is_empty() {
            // The grammar wants at least one; on a refused line its value means nothing.
            f.write_str(" 0")?;
        }
        for format in &self.formats {
            write!(f, " {}", Word(format))?;
        }
        f.write_str("\r\n")?;
        connection_and_bandwidth(f, self.connection.as_ref(), &self.bandwidth)?;
        attributes(f, &self.attributes)
    }
}

impl Display for Connection {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "IN {} {}", if self.ip6 { "IP6" } else { "IP4" }, Word(&self.host))
    }
}

fn connection_and_bandwidth(
    f: &mut Formatter<'_>,
    connection: Option<&Connection>,
    bandwidth: &[Bandwidth],
) -> fmt::Result {
    if let Some(connection) = connection {
        write!(f, "c={connection}\r\n")?;
    }
    bandwidth.iter().try_for_each(|line| write!(f, "b={}:{}\r\n", Word(&line.kind), line.value))
}

fn attributes(f: &mut Formatter<'_>, attributes: &[Attribute]) -> fmt::Result {
    attributes.iter().try_for_each(|attribute| match &attribute.value {
        Some(value) => write!(f, "a={}:{}\r\n", Word(&attribute.name), Text(value)),
        None => write!(f, "a={}\r\n", Word(&attribute.name)),
    })
}

/// One field: spaces become `_`, an empty one `-`.
struct Word<'a>(&'a str);

impl Display for Word<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_char('-');
        }
        self.0.chars().try_for_each(|c| match c {
            c if c.is_whitespace() || c.is_control() => f.write_char('_'),
            c => f.write_char(c),
        })
    }
}

/// The rest of a line.
struct Text<'a>(&'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.chars().filter(|c| !c.is_control()).try_for_each(|c| f.write_char(c))
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[test]
    fn lines_are_written_in_the_order_of_the_standard() {
        let wild =
            "m=audio 4000/2  RTP/AVP 0 8\na=sendonly\nb=AS:64\nc=IN IP6 2001:db8::1\nm=video 0 RTP/AVP\n";
        let expected = "v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0 8\r\n\
            c=IN IP6 2001:db8::1\r\nb=AS:64\r\na=sendonly\r\nm=video 0 RTP/AVP 0\r\n";
        assert_eq!(parse(wild.as_bytes()).unwrap().to_string(), expected);
    }

    #[test]
    fn a_name_cannot_smuggle_a_line_in() {
        let mut description = parse(b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\n").unwrap();
        description.name = "x\r\na=inactive".to_owned();
        description.origin.as_mut().unwrap().username = "Front Door\r\n".to_owned();
        let text = description.to_string();
        assert_eq!(text, "v=0\r\no=Front_Door__ 1 1 IN IP4 192.0.2.1\r\ns=xa=inactive\r\nt=0 0\r\n");
    }
}
