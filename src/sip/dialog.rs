//! Dialogs, RFC 3261 §12: identifiers, route set, CSeq, remote target.
//!
//! What is sent inside a dialog and when belongs to the endpoint.

use super::header::NameAddr;
use super::message::{Headers, Method, RequestMessage, ResponseMessage};
use super::uri::Uri;

/// Call-ID, local tag, remote tag.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DialogKey {
    pub call_id: String,
    pub local_tag: String,
    pub remote_tag: String,
}

#[derive(Clone, Debug)]
pub struct Dialog {
    pub key: DialogKey,
    local: NameAddr,
    remote: NameAddr,
    local_cseq: u32,
    remote_cseq: Option<u32>,
    /// In sending order.
    routes: Vec<NameAddr>,
    pub remote_target: Uri,
}

impl Dialog {
    /// The dialog of an INVITE we answer (§12.1.1). `None`: From, To or Call-ID is missing or unusable.
    pub fn of_invited(invite: &RequestMessage, local_tag: &str, local_cseq: u32) -> Option<Dialog> {
        let remote = invite.from()?;
        let remote_uri = remote.uri.clone();
        let mut local = invite.to()?;
        local.set_tag(local_tag);
        let key = DialogKey {
            call_id: invite.call_id()?.to_owned(),
            local_tag: local_tag.to_owned(),
            // A peer of RFC 2543 may have no tag; the empty one stands for it.
            remote_tag: remote.tag().unwrap_or_default().to_owned(),
        };
        Some(Dialog {
            key,
            local,
            remote,
            local_cseq,
            remote_cseq: invite.cseq().map(|cseq| cseq.number),
            routes: record_routes(&invite.headers).collect(),
            // RFC 2543 asked for no Contact; From is then where its sender is.
            remote_target: invite.contact().map_or(remote_uri, |contact| contact.uri),
        })
    }

    /// The dialog a 2xx to our INVITE makes (§12.1.2).
    pub fn of_answer(invite: &RequestMessage, answer: &ResponseMessage) -> Option<Dialog> {
        let local = invite.from()?;
        let remote = answer.to()?;
        let key = DialogKey {
            call_id: invite.call_id()?.to_owned(),
            local_tag: local.tag().unwrap_or_default().to_owned(),
            remote_tag: remote.tag().unwrap_or_default().to_owned(),
        };
        let mut routes: Vec<NameAddr> = record_routes(&answer.headers).collect();
        routes.reverse();
        // An answer without Contact breaks §12.1.2; the address we dialled is the best guess left.
        let remote_target = answer.contact().map_or_else(|| invite.uri.clone(), |contact| contact.uri);
        let local_cseq = invite.cseq().map_or(1, |cseq| cseq.number);
        Some(Dialog { key, local, remote, local_cseq, remote_cseq: None, routes, remote_target })
    }

    /// Takes the number of a request of the peer. `false`: it is not higher than the last (§12.2.2).
    pub fn take_remote_cseq(&mut self, number: u32) -> bool {
        if self.remote_cseq.is_some_and(|last| number <= last) {
            return false;
        }
        self.remote_cseq = Some(number);
        true
    }

    /// The dialog was an early one before: its numbers go on; routes and target are those of the final response
    /// (§13.2.2.4).
    pub fn follow(&mut self, early: &Dialog) {
        self.local_cseq = self.local_cseq.max(early.local_cseq);
        self.remote_cseq = early.remote_cseq;
    }

    /// Takes the next number of our own.
    pub fn next_cseq(&mut self) -> u32 {
        self.local_cseq += 1;
        self.local_cseq
    }

    /// A target refresh request or its 2xx names a new Contact.
    pub fn refresh_target(&mut self, contact: Option<NameAddr>) {
        if let Some(contact) = contact {
            self.remote_target = contact.uri;
        }
    }

    /// A new request of ours with the next CSeq, without Via and Contact (§12.2.1.1).
    pub fn request(&mut self, method: Method) -> RequestMessage {
        let number = self.next_cseq();
        self.build(method, number)
    }

    /// The ACK of the 2xx to our INVITE `cseq` (§13.2.2.4).
    pub fn ack(&self, cseq: u32) -> RequestMessage {
        self.build(Method::Ack, cseq)
    }

    /// The URI the next request goes to: the first route, else the target.
    pub fn next_hop(&self) -> &Uri {
        self.routes.first().map_or(&self.remote_target, |route| &route.uri)
    }

    pub fn has_routes(&self) -> bool {
        !self.routes.is_empty()
    }

    fn build(&self, method: Method, cseq: u32) -> RequestMessage {
        let mut headers = Headers::default();
        let strict = self.routes.first().filter(|route| !route.uri.is_loose());
        let uri = match strict {
            None => {
                self.routes.iter().for_each(|route| headers.push("Route", route.to_string()));
                self.remote_target.clone()
            }
            // A strict router is named in the Request-URI and the target goes last.
            Some(first) => {
                self.routes[1..].iter().for_each(|route| headers.push("Route", route.to_string()));
                headers.push("Route", format!("<{}>", self.remote_target));
                first.uri.clone()
            }
        };
        headers.push("Max-Forwards", "70".to_owned());
        headers.push("From", self.local.to_string());
        headers.push("To", self.remote.to_string());
        headers.push("Call-ID", self.key.call_id.clone());
        headers.push("CSeq", format!("{cseq} {}", method.as_str()));
        RequestMessage { method, uri, headers, body: Vec::new() }
    }
}

fn record_routes(headers: &Headers) -> impl Iterator<Item = NameAddr> {
    headers.list("Record-Route").filter_map(NameAddr::parse)
}

#[cfg(test)]
mod tests {
    use super::super::message::Message;
    use super::super::parse::parse;
    use super::*;

    fn invite(routes: &str) -> RequestMessage {
        let text = format!(
            "INVITE sip:bob@10.0.0.2 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK1\r\n{routes}\
             From: <sip:alice@10.0.0.1>;tag=a\r\nTo: <sip:bob@10.0.0.2>\r\nCall-ID: c1\r\nCSeq: 7 INVITE\r\n\
             Contact: <sip:alice@10.0.0.1:5070>\r\nContent-Length: 0\r\n\r\n"
        );
        match parse(text.as_bytes()) {
            Ok(Message::Request(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn loose_routes_are_listed_and_the_target_is_asked() {
        let routes = "Record-Route: <sip:p2;lr>, <sip:p1;lr>\r\n";
        let mut dialog = Dialog::of_invited(&invite(routes), "b", 0).expect("a dialog");
        let bye = dialog.request(Method::Bye);
        assert_eq!(bye.uri.to_string(), "sip:alice@10.0.0.1:5070");
        let listed: Vec<&str> = bye.headers.list("Route").collect();
        assert_eq!(listed, ["<sip:p2;lr>", "<sip:p1;lr>"]);
        assert_eq!(dialog.next_hop().host, "p2");
    }

    #[test]
    fn a_strict_router_moves_into_the_request_uri() {
        let mut dialog = Dialog::of_invited(&invite("Record-Route: <sip:p1>\r\n"), "b", 0).expect("a dialog");
        let bye = dialog.request(Method::Bye);
        assert_eq!(bye.uri.host, "p1");
        assert_eq!(bye.headers.value("Route"), Some("<sip:alice@10.0.0.1:5070>"));
    }

    #[test]
    fn an_old_cseq_is_not_taken_again() {
        let mut dialog = Dialog::of_invited(&invite(""), "b", 0).expect("a dialog");
        assert!(!dialog.take_remote_cseq(7));
        assert!(dialog.take_remote_cseq(9));
        assert!(!dialog.take_remote_cseq(8));
    }
}
