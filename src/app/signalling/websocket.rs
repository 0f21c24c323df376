//! Driver. SIP over WebSocket, RFC 7118: handshakes of both roles with the subprotocol `sip`, one message per frame.
//!
//! A double CRLF the endpoint sends as a keep-alive travels as a ping frame, and a pong comes back to it as a CRLF.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode, Uri, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::Inbound;
use super::origin::Origins;
use crate::base::queue::{Fifo, Receiver, Sender, Wait};
use crate::base::stop::{Outcome, StopToken};
use crate::sip::ConnectionId;

const SUBPROTOCOL: &str = "sip";
const PROTOCOL_HEADER: &str = "Sec-WebSocket-Protocol";
/// Longest message, and what may wait to be written before the stream is given up.
const LARGEST_MESSAGE: usize = 64 * 1024;
const PING: &[u8] = b"\r\n\r\n";
const PONG: &[u8] = b"\r\n";

fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(LARGEST_MESSAGE))
        .max_frame_size(Some(LARGEST_MESSAGE))
        .max_write_buffer_size(8 * LARGEST_MESSAGE)
        .write_buffer_size(0)
}

/// The server's part. Refused: who does not ask for `sip`, and scripts of pages that may not.
#[expect(clippy::result_large_err, reason = "the callback's type is the library's")]
pub(super) async fn accept<S>(stream: S, origins: &Origins) -> Result<WebSocketStream<S>, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let check = |request: &Request, mut response: Response| {
        let text = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
        if !origins.allows(text(header::ORIGIN), text(header::HOST)) {
            let mut refusal = ErrorResponse::new(Some("sip.origins does not name this page".to_owned()));
            *refusal.status_mut() = StatusCode::FORBIDDEN;
            return Err(refusal);
        }
        let asked = request.headers().get_all(PROTOCOL_HEADER);
        let asked = asked.iter().filter_map(|value| value.to_str().ok());
        if asked.flat_map(|value| value.split(',')).any(|name| name.trim().eq_ignore_ascii_case(SUBPROTOCOL))
        {
            response.headers_mut().insert(PROTOCOL_HEADER, HeaderValue::from_static(SUBPROTOCOL));
            return Ok(response);
        }
        let mut refusal = ErrorResponse::new(Some("this WebSocket speaks the subprotocol sip".to_owned()));
        *refusal.status_mut() = StatusCode::BAD_REQUEST;
        Err(refusal)
    };
    let accepted = tokio_tungstenite::accept_hdr_async_with_config(stream, check, Some(limits())).await;
    accepted.map_err(|error| format!("no WebSocket for SIP: {error}"))
}

/// The client's part: `host` goes into the Host header.
pub(super) async fn connect<S>(stream: S, host: &str, secure: bool) -> Result<WebSocketStream<S>, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let scheme = if secure { "wss" } else { "ws" };
    let uri: Uri =
        format!("{scheme}://{host}/").parse().map_err(|_| format!("{host} is no WebSocket host"))?;
    let request = ClientRequestBuilder::new(uri).with_sub_protocol(SUBPROTOCOL);
    match tokio_tungstenite::client_async_with_config(request, stream, Some(limits())).await {
        Ok((stream, _)) => Ok(stream),
        Err(error) => Err(format!("it does not speak SIP over WebSocket: {error}")),
    }
}

/// Carries messages both ways until either side has enough.
pub(super) async fn carry<S>(
    stream: WebSocketStream<S>,
    connection: ConnectionId,
    outgoing: Receiver<Vec<u8>, Fifo>,
    inbound: Sender<Inbound, Wait>,
    closed: StopToken,
    write_limit: Duration,
) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut stream) = stream.split();
    loop {
        tokio::select! {
            bytes = outgoing.recv() => {
                let Some(bytes) = bytes else { break };
                let written = tokio::time::timeout(write_limit, sink.send(frame(bytes))).await;
                if !matches!(written, Ok(Ok(()))) {
                    break;
                }
            }
            message = stream.next() => {
                let Some(Ok(message)) = message else { break };
                let Some(bytes) = message_of(message) else { continue };
                if !inbound.send(Inbound::Data { connection, bytes }).await {
                    break;
                }
            }
            () = closed.stopped() => break,
        }
    }
    let _ = tokio::time::timeout(Duration::from_millis(500), sink.close()).await;
    inbound.send(Inbound::Closed { connection }).await;
    Outcome::Done
}

/// Text where it is text: browsers' stacks look for nothing else.
fn frame(bytes: Vec<u8>) -> Message {
    if bytes == PING {
        return Message::Ping(Bytes::new());
    }
    match String::from_utf8(bytes) {
        Ok(text) => Message::Text(text.into()),
        Err(error) => Message::Binary(error.into_bytes().into()),
    }
}

fn message_of(message: Message) -> Option<Vec<u8>> {
    match message {
        Message::Text(text) => Some(Bytes::from(text).into()),
        Message::Binary(bytes) => Some(bytes.into()),
        Message::Pong(_) => Some(PONG.to_vec()),
        // Pings are answered by the library; a close ends the stream of messages.
        Message::Ping(_) | Message::Close(_) | Message::Frame(_) => None,
    }
}
