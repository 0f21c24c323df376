//! Access tokens of a LiveKit server: a JSON Web Token (RFC 7519) signed with HS256.
//!
//! Pure.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

/// Under which attribute a participant says for whom it publishes.
pub const ON_BEHALF: &str = "lk.publish_on_behalf";

/// What a token allows, and whom.
#[derive(Clone, Debug)]
pub enum Grant<'a> {
    /// To be in a room, to publish and to subscribe.
    Join {
        room: &'a str,
        identity: &'a str,
        name: &'a str,
        /// An agent, which publishes for this participant.
        on_behalf: Option<&'a str>,
    },
    /// The same as an agent that speaks for itself: workers listen to agents only.
    Speak { room: &'a str, identity: &'a str, name: &'a str },
    /// To administer a room: to remove who is in it.
    Administer { room: &'a str },
}

/// A token good from `now` (seconds of the Unix epoch) for `lives`. The clock of the server may be ten seconds behind.
pub fn access_token(key: &str, secret: &str, grant: &Grant<'_>, now: u64, lives: Duration) -> String {
    let mut claims = json!({
        "iss": key,
        "nbf": now.saturating_sub(10),
        "exp": now.saturating_add(lives.as_secs()),
    });
    match grant {
        Grant::Join { room, identity, name, on_behalf } => {
            claims["sub"] = json!(identity);
            claims["name"] = json!(name);
            claims["video"] = in_room(room);
            if let Some(behalf) = on_behalf {
                as_agent(&mut claims, lives);
                claims["attributes"] = json!({ ON_BEHALF: behalf });
            }
        }
        Grant::Speak { room, identity, name } => {
            claims["sub"] = json!(identity);
            claims["name"] = json!(name);
            claims["video"] = in_room(room);
            as_agent(&mut claims, lives);
        }
        Grant::Administer { room } => {
            claims["sub"] = json!(key);
            claims["video"] = json!({ "roomAdmin": true, "roomCreate": true, "room": room });
        }
    }
    let head = URL_SAFE_NO_PAD.encode(json!({ "alg": "HS256", "typ": "JWT" }).to_string());
    let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(sign(secret, &signed)))
}

fn in_room(room: &str) -> Value {
    json!({ "roomJoin": true, "room": room, "canPublish": true, "canSubscribe": true, "canPublishData": true })
}

/// A room in which only agents are closes after minutes, unless whoever makes it says otherwise.
fn as_agent(claims: &mut Value, lives: Duration) {
    claims["kind"] = json!("agent");
    claims["roomConfig"] = json!({ "emptyTimeout": lives.as_secs(), "departureTimeout": lives.as_secs() });
}

fn sign(secret: &str, text: &str) -> Vec<u8> {
    // A key of any length is taken.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return Vec::new() };
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(token: &str) -> Value {
        let body = token.split('.').nth(1).expect("three parts");
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).expect("base64")).expect("JSON")
    }

    #[test]
    fn the_signature_is_that_of_the_standard() {
        // RFC 7515 A.1, whose key is binary: the same text under a key of letters, checked with openssl.
        assert_eq!(
            URL_SAFE_NO_PAD.encode(sign("Jefe", "what do ya want for nothing?")),
            // RFC 4231 test case 2.
            "W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM"
        );
    }

    #[test]
    fn the_avatar_publishes_for_us_and_both_are_agents_in_a_room_that_stays() {
        let ours = Grant::Speak { room: "r", identity: "eyeline", name: "Eyeline" };
        let ours = claims(&access_token("key", "secret", &ours, 1_000, Duration::from_secs(60)));
        assert_eq!(ours["sub"], "eyeline");
        assert_eq!(ours["exp"], 1_060);
        assert_eq!(ours["nbf"], 990);
        assert_eq!(ours["video"]["room"], "r");
        assert_eq!((&ours["kind"], &ours["roomConfig"]["departureTimeout"]), (&"agent".into(), &60.into()));
        assert!(ours.get("attributes").is_none());
        let other = Grant::Join { room: "r", identity: "x", name: "", on_behalf: None };
        assert!(claims(&access_token("key", "secret", &other, 0, Duration::ZERO)).get("kind").is_none());
        let its = Grant::Join { room: "r", identity: "face", name: "", on_behalf: Some("eyeline") };
        let its = claims(&access_token("key", "secret", &its, 1_000, Duration::from_secs(60)));
        assert_eq!((&its["kind"], &its["roomConfig"]["emptyTimeout"]), (&"agent".into(), &60.into()));
        assert_eq!(its["attributes"]["lk.publish_on_behalf"], "eyeline");
        let token = access_token("key", "secret", &Grant::Administer { room: "r" }, 0, Duration::ZERO);
        assert!(!token.contains("secret"));
        assert_eq!(claims(&token)["video"]["roomAdmin"], true);
    }
}
