//! Driver. One whole turn to one transcriber over HTTP.

use reqwest::multipart::{Form, Part};

use super::asking::{DEEPGRAM, OPENAI, secret};
use crate::codec::wav;
use crate::remote::address;
use crate::remote::http::{Http, send, whole};
use crate::talk::message::{Endpoint, Failure, Vendor};
use crate::talk::wire::{deepgram_listen, transcription};

/// The longest answer.
const ANSWER_MAX: usize = 1 << 20;

/// The text of these samples.
pub async fn transcribe(
    http: &Http,
    endpoint: &Endpoint,
    rate: u32,
    samples: &[i16],
) -> Result<String, Failure> {
    let file = wav::write(rate, samples);
    match endpoint.vendor {
        Vendor::Deepgram => of_deepgram(http, endpoint, file).await,
        Vendor::OpenAi | Vendor::Gemini | Vendor::Anthropic | Vendor::Espeak | Vendor::Mock => {
            of_openai(http, endpoint, file).await
        }
    }
}

async fn of_openai(http: &Http, endpoint: &Endpoint, file: Vec<u8>) -> Result<String, Failure> {
    let url = address::below(&address::root(&endpoint.base_url, OPENAI)?, "", "audio/transcriptions");
    let garbled = |error: reqwest::Error| Failure::Garbled(error.to_string());
    let file = Part::bytes(file).file_name("turn.wav").mime_str("audio/wav").map_err(garbled)?;
    let mut form = Form::new();
    for (name, value) in transcription::fields(endpoint) {
        form = form.text(name, value);
    }
    let mut asked = http.post(url)?.multipart(form.part("file", file));
    if !endpoint.api_key.is_empty() {
        asked = asked.header("authorization", secret(&format!("Bearer {}", endpoint.api_key))?);
    }
    let mut reply = send(endpoint.timeout_ms, &endpoint.api_key, asked).await?;
    let content_type = reply.content_type().to_owned();
    transcription::text(&content_type, &whole(&mut reply, ANSWER_MAX).await?)
}

async fn of_deepgram(http: &Http, endpoint: &Endpoint, file: Vec<u8>) -> Result<String, Failure> {
    let mut url = address::below(&address::root(&endpoint.base_url, DEEPGRAM)?, "v1", "listen");
    url.query_pairs_mut().extend_pairs(deepgram_listen::query(endpoint, 0, None, false));
    let mut asked = http.post(url)?.header("content-type", "audio/wav").body(file);
    if !endpoint.api_key.is_empty() {
        asked = asked.header("authorization", secret(&format!("Token {}", endpoint.api_key))?);
    }
    let mut reply = send(endpoint.timeout_ms, &endpoint.api_key, asked).await?;
    deepgram_listen::text_of_file(&whole(&mut reply, ANSWER_MAX).await?)
}
