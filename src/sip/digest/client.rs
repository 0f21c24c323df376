//! Proving who we are: RFC 7616 §3.4, RFC 8760 §2.4, RFC 3261 §22.2 and §22.3.
//!
//! Only realms we were given credentials for are answered, so that whoever can put a challenge in our way gets nothing
//! to guess a password with.

use super::{Algorithm, Credentials, Sum, Words, quoted};
use crate::sip::message::{Headers, RequestMessage};

/// What was already tried for one request, over all its repetitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    realms: Vec<String>,
    renewed: bool,
}

/// A challenge we have answered; its nonce may come again.
#[derive(Clone, Debug)]
struct Answered {
    header: &'static str,
    realm: String,
    nonce: String,
    opaque: Option<String>,
    algorithm: Algorithm,
    /// How it was written; `None`: it was not.
    algorithm_named: bool,
    quality: bool,
    count: u32,
}

/// One holder of credentials: an account, or a dialog we began.
#[derive(Clone, Debug)]
pub struct Client {
    credentials: Credentials,
    answered: Vec<Answered>,
}

impl Client {
    pub fn new(credentials: Credentials) -> Self {
        Client { credentials, answered: Vec::new() }
    }

    /// The realms that are answered; of a client without any, the one that asked first.
    pub fn realms(&self) -> &[String] {
        &self.credentials.realms
    }

    /// The realm answered last.
    pub fn proven(&self) -> Option<&str> {
        self.answered.last().map(|last| last.realm.as_str())
    }

    /// The headers that answer the challenges of a 401 or 407. `None`: none is for us, or they were answered before and
    /// refused.
    pub fn answer(
        &mut self,
        challenged: &Headers,
        attempts: &mut Attempts,
        request: &RequestMessage,
        cnonce: &str,
    ) -> Option<Vec<(&'static str, String)>> {
        let mut best: Vec<(Answered, bool)> = Vec::new();
        for (asks, header) in
            [("WWW-Authenticate", "Authorization"), ("Proxy-Authenticate", "Proxy-Authorization")]
        {
            for words in challenged.values(asks).take(8).flat_map(Words::all) {
                let Some(found) = self.consider(header, &words) else { continue };
                match best
                    .iter_mut()
                    .find(|(known, _)| known.header == header && known.realm == found.0.realm)
                {
                    Some(known) if known.0.algorithm < found.0.algorithm => *known = found,
                    Some(_) => {}
                    None => best.push(found),
                }
            }
        }
        let refused = |found: &(Answered, bool)| attempts.realms.contains(&found.0.realm);
        if best.is_empty() || best.iter().any(|found| refused(found) && (!found.1 || attempts.renewed)) {
            return None;
        }
        attempts.renewed |= best.iter().any(refused);
        if self.credentials.realms.is_empty() {
            best.truncate(1);
            self.credentials.realms.extend(best.first().map(|(first, _)| first.realm.clone()));
        }
        let mut answers = Vec::new();
        for (mut found, _) in best {
            attempts.realms.push(found.realm.clone());
            answers.push((found.header, self.value(&mut found, request, cnonce)));
            self.answered.retain(|known| known.header != found.header || known.realm != found.realm);
            self.answered.push(found);
        }
        Some(answers)
    }

    /// A challenge we can and may answer, and whether it says that only the nonce was too old.
    fn consider(&self, header: &'static str, words: &Words) -> Option<(Answered, bool)> {
        let (realm, nonce) = (words.get("realm")?, words.get("nonce")?);
        let realms = &self.credentials.realms;
        if !realms.is_empty() && !realms.iter().any(|known| known == realm) {
            return None;
        }
        let named = words.get("algorithm");
        let algorithm = Algorithm::parse(named)?;
        let quality = match words.get("qop") {
            None => false,
            Some(offered) if offered.split(',').any(|one| one.trim().eq_ignore_ascii_case("auth")) => true,
            // Integrity of bodies alone is not spoken by us.
            Some(_) => return None,
        };
        let stale = words.get("stale").is_some_and(|stale| stale.eq_ignore_ascii_case("true"));
        let answered = Answered {
            header,
            realm: realm.to_owned(),
            nonce: nonce.to_owned(),
            opaque: words.get("opaque").map(str::to_owned),
            algorithm,
            algorithm_named: named.is_some(),
            quality,
            // A nonce that is asked with again goes on counting (RFC 7616 §3.4).
            count: self.count_of(nonce),
        };
        Some((answered, stale))
    }

    fn count_of(&self, nonce: &str) -> u32 {
        self.answered.iter().find(|known| known.nonce == nonce).map_or(0, |known| known.count)
    }

    fn value(&self, answered: &mut Answered, request: &RequestMessage, cnonce: &str) -> String {
        answered.count = answered.count.saturating_add(1);
        let count = format!("{:08x}", answered.count);
        let uri = request.uri.to_string();
        let Credentials { username, password, .. } = &self.credentials;
        let sum = Sum {
            algorithm: answered.algorithm,
            username,
            realm: &answered.realm,
            password,
            nonce: &answered.nonce,
            method: request.method.as_str(),
            uri: &uri,
            quality: answered.quality.then_some((cnonce, &count)),
            cnonce,
        };
        let mut value = format!(
            "Digest username={},realm={},nonce={},uri={},response=\"{}\"",
            quoted(username),
            quoted(&answered.realm),
            quoted(&answered.nonce),
            quoted(&uri),
            sum.response()
        );
        if answered.algorithm_named {
            value.push_str(&format!(",algorithm={}", answered.algorithm.name()));
        }
        if answered.quality {
            value.push_str(&format!(",qop=auth,nc={count}"));
        }
        if answered.quality || answered.algorithm.session {
            value.push_str(&format!(",cnonce=\"{cnonce}\""));
        }
        if let Some(opaque) = &answered.opaque {
            value.push_str(&format!(",opaque={}", quoted(opaque)));
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::message::Method;
    use crate::sip::uri::Uri;

    fn client(realms: &[&str]) -> Client {
        let realms = realms.iter().map(|realm| (*realm).to_owned()).collect();
        Client::new(Credentials { username: "200".to_owned(), password: "p".to_owned(), realms })
    }

    fn request() -> RequestMessage {
        RequestMessage::new(Method::Register, Uri::parse("sip:pbx").unwrap())
    }

    fn challenge(lines: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in lines {
            headers.push(name, *value);
        }
        headers
    }

    #[test]
    fn the_strongest_known_algorithm_is_taken_and_the_count_rises() {
        let mut client = client(&["pbx"]);
        let asked = challenge(&[
            ("WWW-Authenticate", "Digest realm=\"pbx\",nonce=\"m\",qop=\"auth\",algorithm=MD5"),
            ("WWW-Authenticate", "Digest realm=\"pbx\",nonce=\"x\",algorithm=WHIRLPOOL"),
            (
                "WWW-Authenticate",
                "Digest realm=\"pbx\",nonce=\"s\",qop=\"auth\",algorithm=SHA-256,opaque=\"o\"",
            ),
        ]);
        let answers = client.answer(&asked, &mut Attempts::default(), &request(), "c").unwrap();
        assert_eq!(answers.len(), 1);
        let (header, value) = &answers[0];
        assert_eq!(*header, "Authorization");
        assert!(value.contains("nonce=\"s\"") && value.contains("algorithm=SHA-256"), "{value}");
        assert!(value.contains("nc=00000001") && value.contains("opaque=\"o\""), "{value}");
        let answers = client.answer(&asked, &mut Attempts::default(), &request(), "c").unwrap();
        assert!(answers[0].1.contains("nc=00000002"), "{answers:?}");
    }

    #[test]
    fn a_realm_that_was_not_configured_gets_nothing() {
        let mut client = client(&["pbx"]);
        let asked = challenge(&[("Proxy-Authenticate", "Digest realm=\"evil\",nonce=\"1\"")]);
        assert_eq!(client.answer(&asked, &mut Attempts::default(), &request(), "c"), None);
    }

    #[test]
    fn without_a_realm_the_first_that_asks_is_kept() {
        let mut client = client(&[]);
        let asked = challenge(&[("WWW-Authenticate", "Digest realm=\"pbx\",nonce=\"1\"")]);
        assert!(client.answer(&asked, &mut Attempts::default(), &request(), "c").is_some());
        assert_eq!(client.realms(), ["pbx"]);
        let other = challenge(&[("WWW-Authenticate", "Digest realm=\"evil\",nonce=\"1\"")]);
        assert_eq!(client.answer(&other, &mut Attempts::default(), &request(), "c"), None);
    }

    #[test]
    fn a_refusal_ends_it_and_a_stale_nonce_is_renewed_once() {
        let mut client = client(&["pbx"]);
        let mut attempts = Attempts::default();
        let asked = |nonce: &str, stale: &str| {
            challenge(&[("WWW-Authenticate", &format!("Digest realm=\"pbx\",nonce=\"{nonce}\"{stale}"))])
        };
        assert!(client.answer(&asked("1", ""), &mut attempts, &request(), "c").is_some());
        assert!(client.answer(&asked("2", ""), &mut attempts.clone(), &request(), "c").is_none());
        assert!(client.answer(&asked("2", ",stale=true"), &mut attempts, &request(), "c").is_some());
        assert!(client.answer(&asked("3", ",stale=true"), &mut attempts, &request(), "c").is_none());
    }

    #[test]
    fn a_proxy_and_the_registrar_behind_it_are_both_answered() {
        let mut client = client(&["proxy", "pbx"]);
        let mut attempts = Attempts::default();
        let proxy = challenge(&[("Proxy-Authenticate", "Digest realm=\"proxy\",nonce=\"1\",qop=\"auth\"")]);
        let answers = client.answer(&proxy, &mut attempts, &request(), "c").unwrap();
        assert_eq!(answers[0].0, "Proxy-Authorization");
        let behind = challenge(&[("WWW-Authenticate", "Digest realm=\"pbx\",nonce=\"2\",qop=\"auth-int\"")]);
        assert!(client.answer(&behind, &mut attempts.clone(), &request(), "c").is_none(), "not spoken");
        let behind =
            challenge(&[("WWW-Authenticate", "Digest realm=\"pbx\",nonce=\"2\",qop=\"auth-int, auth\"")]);
        let answers = client.answer(&behind, &mut attempts, &request(), "c").unwrap();
        assert_eq!(answers[0].0, "Authorization");
        assert!(answers[0].1.contains("qop=auth,"));
    }
}
