//! Driver. One sentence to one provider of speech over HTTP, and its sound as it is streamed.

use super::asking::{OPENAI, secret};
use crate::remote::address;
use crate::remote::http::{Http, Reply, send};
use crate::talk::message::{Endpoint, Failure};
use crate::talk::wire::pcm::Pcm;
use crate::talk::wire::speech;

/// Sound being streamed.
pub struct Spoken {
    reply: Reply,
    pcm: Pcm,
    over: bool,
}

/// Where sentences of an endpoint that speaks like OpenAI go.
pub fn place(endpoint: &Endpoint) -> Result<reqwest::Url, Failure> {
    Ok(address::below(&address::root(&endpoint.base_url, OPENAI)?, "", "audio/speech"))
}

impl Spoken {
    /// Asks; waits for the head of the answer.
    pub async fn begin(http: &Http, endpoint: &Endpoint, text: &str, rate: u32) -> Result<Self, Failure> {
        let mut asked = http.post(place(endpoint)?)?.json(&speech::body(endpoint, text));
        if !endpoint.api_key.is_empty() {
            asked = asked.header("authorization", secret(&format!("Bearer {}", endpoint.api_key))?);
        }
        let reply = send(endpoint.timeout_ms, &endpoint.api_key, asked).await?;
        let content_type = reply.content_type();
        if content_type.starts_with("application/json") || content_type.starts_with("text/") {
            return Err(Failure::Garbled(format!("{content_type} instead of sound")));
        }
        let pcm = Pcm::new(speech::rate_of(content_type), rate);
        Ok(Spoken { reply, pcm, over: false })
    }

    /// The next samples; `None`: there are no more.
    pub async fn next(&mut self) -> Result<Option<Vec<i16>>, Failure> {
        let mut samples = Vec::new();
        while samples.is_empty() && !self.over {
            match self.reply.chunk().await? {
                Some(bytes) => self.pcm.push(&bytes, &mut samples)?,
                None => {
                    self.over = true;
                    self.pcm.finish(&mut samples)?;
                }
            }
        }
        Ok((!samples.is_empty()).then_some(samples))
    }
}
