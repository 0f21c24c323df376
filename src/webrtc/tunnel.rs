//! Driver: a TCP or TLS connection to a TURN server.
//!
//! Bytes in, bytes out; what they mean is [`super::relay`]'s. Polled by its owner.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What waits to be written; more is lost, as on any path that is too slow.
const WAITING_MAX: usize = 256 * 1024;
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

type Opening = Pin<Box<dyn Future<Output = io::Result<(SocketAddr, Box<dyn Wire>)>> + Send>>;

enum State {
    Opening(Opening),
    Open(Box<dyn Wire>),
    Over,
}

/// What came of polling.
#[derive(Debug)]
pub enum Piece {
    /// Connected, from this address of ours.
    Open(SocketAddr),
    /// So many bytes were read.
    Bytes(usize),
    Over(String),
}

/// One connection.
pub struct Tunnel {
    state: State,
    waiting: VecDeque<u8>,
    lost: u64,
}

impl Tunnel {
    /// Begins to connect; with `tls`, to a server of this name.
    pub fn open(server: SocketAddr, tls: Option<(Arc<ClientConfig>, String)>) -> Self {
        let opening = async move {
            let opened = tokio::time::timeout(CONNECT_WITHIN, connect(server, tls)).await;
            opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        };
        Tunnel { state: State::Opening(Box::pin(opening)), waiting: VecDeque::new(), lost: 0 }
    }

    /// Queues bytes, all or none. `false`: too much waits.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        let fits = self.waiting.len() + bytes.len() <= WAITING_MAX && !matches!(self.state, State::Over);
        if fits {
            self.waiting.extend(bytes);
        } else {
            self.lost += 1;
        }
        fits
    }

    /// Datagrams lost because too much waited.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Connects, writes and reads into `buffer`.
    pub fn poll(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Piece> {
        match &mut self.state {
            State::Over => Poll::Pending,
            State::Opening(opening) => match opening.as_mut().poll(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok((local, wire))) => {
                    self.state = State::Open(wire);
                    Poll::Ready(Piece::Open(local))
                }
                Poll::Ready(Err(error)) => self.end(&error),
            },
            State::Open(wire) => {
                if let Err(error) = write(wire, &mut self.waiting, context) {
                    return self.end(&error);
                }
                let mut read = ReadBuf::new(buffer);
                match Pin::new(wire).poll_read(context, &mut read) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(Ok(())) if read.filled().is_empty() => {
                        self.end(&io::ErrorKind::UnexpectedEof.into())
                    }
                    Poll::Ready(Ok(())) => Poll::Ready(Piece::Bytes(read.filled().len())),
                    Poll::Ready(Err(error)) => self.end(&error),
                }
            }
        }
    }

    fn end(&mut self, error: &io::Error) -> Poll<Piece> {
        self.state = State::Over;
        self.waiting.clear();
        Poll::Ready(Piece::Over(error.to_string()))
    }
}

fn write(wire: &mut Box<dyn Wire>, waiting: &mut VecDeque<u8>, context: &mut Context<'_>) -> io::Result<()> {
    while !waiting.is_empty() {
        match Pin::new(&mut *wire).poll_write(context, waiting.as_slices().0) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(written)) => drop(waiting.drain(..written)),
            Poll::Ready(Err(error)) => return Err(error),
        }
    }
    match Pin::new(wire).poll_flush(context) {
        Poll::Ready(flushed) => flushed,
        Poll::Pending => Ok(()),
    }
}

async fn connect(
    server: SocketAddr,
    tls: Option<(Arc<ClientConfig>, String)>,
) -> io::Result<(SocketAddr, Box<dyn Wire>)> {
    let socket = TcpStream::connect(server).await?;
    socket.set_nodelay(true)?;
    let local = socket.local_addr()?;
    let Some((config, name)) = tls else { return Ok((local, Box::new(socket))) };
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    let stream = TlsConnector::from(config).connect(name, socket).await?;
    Ok((local, Box::new(stream)))
}
