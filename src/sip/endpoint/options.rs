//! Option tags: what we support, what a request may require, what the peer says it can (RFC 3261 §8.2.2.3, §20.32).

use super::super::message::{Headers, Method, RequestMessage};
use super::Response;
use super::inbound::plain;

/// What we tell of ourselves in Supported.
pub(super) const SUPPORTED: &str = "100rel, timer, replaces, norefersub";
/// What a peer may require: the same, and what asks nothing of us but to know it (RFC 3327, RFC 5626).
const KNOWN: [&str; 6] = ["100rel", "timer", "replaces", "norefersub", "path", "outbound"];

/// Whether the comma list of this header names the tag.
pub(super) fn names(headers: &Headers, header: &str, tag: &str) -> bool {
    headers.list(header).any(|known| known.trim().eq_ignore_ascii_case(tag))
}

/// Whether the sender of these headers can `tag`, or demands it.
pub(super) fn can(headers: &Headers, tag: &str) -> bool {
    names(headers, "Supported", tag) || names(headers, "Require", tag)
}

/// Whether the Allow header names the method. Without the header nothing is known, and it is not assumed.
pub(super) fn allows(headers: &Headers, method: &Method) -> bool {
    headers.list("Allow").any(|known| known.trim() == method.as_str())
}

/// 420 with the tags that are unknown, when the request requires any (§8.2.2.3: not of ACK and CANCEL).
pub(super) fn refusal(request: &RequestMessage) -> Option<Response> {
    if matches!(request.method, Method::Ack | Method::Cancel) {
        return None;
    }
    let is_known = |tag: &&str| KNOWN.iter().any(|known| known.eq_ignore_ascii_case(tag));
    let required = request.headers.list("Require").map(str::trim).filter(|tag| !tag.is_empty());
    let unknown: Vec<&str> = required.filter(|tag| !is_known(tag)).collect();
    if unknown.is_empty() {
        return None;
    }
    let headers = vec![("Unsupported".to_owned(), unknown.join(", "))];
    Some(Response { headers, ..plain(420) })
}

#[cfg(test)]
mod tests {
    use super::super::super::uri::Uri;
    use super::*;

    fn requiring(method: Method, tags: &str) -> RequestMessage {
        let mut headers = Headers::default();
        headers.push("Require", tags);
        RequestMessage { method, uri: Uri::parse("sip:x@y").expect("a URI"), headers, body: Vec::new() }
    }

    #[test]
    fn only_the_unknown_tags_are_named_as_unsupported() {
        let refused = refusal(&requiring(Method::Invite, "100rel, precondition, timer, sec-agree"));
        let refused = refused.expect("a refusal");
        assert_eq!(refused.status, 420);
        assert_eq!(refused.headers, [("Unsupported".to_owned(), "precondition, sec-agree".to_owned())]);
        assert_eq!(refusal(&requiring(Method::Invite, "100REL")), None);
        assert_eq!(refusal(&requiring(Method::Ack, "precondition")), None);
    }

    #[test]
    fn a_peer_that_names_no_methods_is_not_believed_to_know_update() {
        let mut headers = Headers::default();
        assert!(!allows(&headers, &Method::Update));
        headers.push("Allow", "INVITE, ACK, UPDATE");
        assert!(allows(&headers, &Method::Update) && !allows(&headers, &Method::Refer));
    }
}
