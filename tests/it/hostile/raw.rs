//! A browser on plain TCP, which can say what no library would, and which minds what it is told: every frame of the broker
//! must be one that a browser takes.
use std::time::Duration;

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::Broker;

/// How long it waits for a word.
const PATIENCE: Duration = Duration::from_secs(45);

/// What the broker said.
#[derive(Debug, PartialEq)]
pub(super) enum Said {
    Frame(Value),
    Ping,
    Pong(Vec<u8>),
    Close(u16),
    /// The connection is over.
    Gone,
}

pub(crate) struct Raw {
    pub(super) stream: TcpStream,
    unread: Vec<u8>,
}

/// Builds a frame as a browser sends it; `first` is its first byte.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
    let mut bytes = header(first, payload.len() as u64);
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// Builds a whole text frame.
pub(crate) fn text(text: &str) -> Vec<u8> {
    frame(0x81, text.as_bytes())
}

/// Builds the header of a masked frame that declares a length.
pub(super) fn header(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match length {
        0..126 => bytes.push(0x80 | length as u8),
        126..=0xFFFF => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&length.to_be_bytes());
        }
    }
    bytes
}

/// Builds the request that opens a socket.
pub(crate) fn upgrade(broker: &Broker, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        broker.address, broker.token
    )
}

impl Raw {
    pub(crate) async fn connect(broker: &Broker) -> Self {
        let stream = TcpStream::connect(&broker.address).await.expect("the broker listens");
        Self { stream, unread: Vec::new() }
    }

    /// Connects with a receive buffer so small that the broker soon notices when nothing is read.
    pub(crate) async fn connect_narrow(broker: &Broker) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(4_096).expect("a small buffer");
        let address: std::net::SocketAddr = broker.address.parse().expect("an address");
        socket.connect(&address.into()).expect("the broker listens");
        socket.set_nonblocking(true).expect("a socket");
        let stream = TcpStream::from_std(socket.into()).expect("a socket");
        Self { stream, unread: Vec::new() }
    }

    /// Opens a socket to the calm gateway and reads its first frame.
    pub(super) async fn open(broker: &Broker) -> Self {
        Self::open_at(broker, "/ws/chat/calm").await
    }

    pub(super) async fn open_at(broker: &Broker, path: &str) -> Self {
        Self::opened(Self::connect, broker, path).await.greeted().await
    }

    /// The same with a small receive buffer.
    pub(super) async fn open_narrow(broker: &Broker) -> Self {
        Self::opened(Self::connect_narrow, broker, "/ws/chat/calm").await.greeted().await
    }

    async fn greeted(mut self) -> Self {
        assert_eq!(self.frame().await["type"], "connected");
        self
    }

    /// Opens a socket on a connection of this kind; what is said first is not read.
    pub(crate) async fn opened(connect: impl AsyncFn(&Broker) -> Self, broker: &Broker, path: &str) -> Self {
        let (raw, head) = Self::asked(connect, broker, &upgrade(broker, path)).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        raw
    }

    /// Sends a request on a connection of this kind, and reads the head of its answer. A machine with much other work may
    /// have said it too slowly: then it is said again.
    pub(super) async fn asked(
        connect: impl AsyncFn(&Broker) -> Self,
        broker: &Broker,
        request: &str,
    ) -> (Self, String) {
        let began = tokio::time::Instant::now();
        loop {
            let mut raw = connect(broker).await;
            raw.write(request.as_bytes()).await;
            let head = raw.head().await;
            if !head.starts_with("HTTP/1.1 408") || began.elapsed() > PATIENCE {
                return (raw, head);
            }
        }
    }

    /// Has room for what comes from now on.
    pub(super) fn widen(&self) {
        socket2::SockRef::from(&self.stream).set_recv_buffer_size(4 << 20).expect("a large buffer");
    }

    /// Writes what must be taken.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        tokio::time::timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("it is read").expect("it is open");
    }

    /// Writes to a broker that may have ended the connection, or that reads no further; tells whether all was taken.
    pub(super) async fn try_write(&mut self, bytes: &[u8], patience: Duration) -> bool {
        matches!(tokio::time::timeout(patience, self.stream.write_all(bytes)).await, Ok(Ok(())))
    }

    /// Reads the head of an answer; what there is of it when the connection ends.
    pub(crate) async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match tokio::time::timeout(PATIENCE, self.stream.read_u8()).await.expect("an answer comes") {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
        String::from_utf8_lossy(&head).into_owned()
    }

    /// Reads an answer to its end, for a connection that the broker ends.
    pub(super) async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        // A broker that does not want the rest of what was sent may reset the connection.
        let _ = tokio::time::timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await.expect("the broker ends it");
        String::from_utf8_lossy(&rest).into_owned()
    }

    /// Reads the next frame that is not a ping.
    pub(super) async fn next(&mut self) -> Said {
        loop {
            match tokio::time::timeout(PATIENCE, self.said()).await.expect("a word comes") {
                Said::Ping => {
                    // A connection that ends meanwhile is noticed by the next read.
                    self.try_write(&frame(0x8A, b""), PATIENCE).await;
                }
                said => return said,
            }
        }
    }

    /// Reads the next JSON frame.
    pub(super) async fn frame(&mut self) -> Value {
        match self.next().await {
            Said::Frame(frame) => frame,
            other => panic!("{other:?} in the place of a frame"),
        }
    }

    /// Reads until a frame fits.
    pub(crate) async fn until(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        loop {
            let frame = self.frame().await;
            if fits(&frame) {
                return frame;
            }
        }
    }

    /// Reads to the close frame and the end behind it; returns its code and the frames before it.
    pub(crate) async fn closed(&mut self) -> (Option<u16>, Vec<Value>) {
        let mut frames = Vec::new();
        loop {
            match self.next().await {
                Said::Frame(frame) => frames.push(frame),
                Said::Close(code) => {
                    let behind = tokio::time::timeout(PATIENCE, self.said()).await.expect("the connection ends");
                    assert_eq!(behind, Said::Gone, "nothing is said behind a close frame");
                    return (Some(code), frames);
                }
                Said::Gone => return (None, frames),
                Said::Ping | Said::Pong(_) => {}
            }
        }
    }

    async fn said(&mut self) -> Said {
        let Some(head) = self.take(2).await else { return Said::Gone };
        let (first, second) = (head[0], head[1]);
        assert_eq!(first & 0x70, 0, "a reserved bit");
        assert_eq!(second & 0x80, 0, "a server does not mask");
        let length = match second {
            126 => {
                let Some(bytes) = self.take(2).await else { return Said::Gone };
                usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))
            }
            127 => {
                let Some(bytes) = self.take(8).await else { return Said::Gone };
                usize::try_from(u64::from_be_bytes(bytes.try_into().expect("eight bytes"))).expect("a length")
            }
            short => usize::from(short),
        };
        let Some(payload) = self.take(length).await else { return Said::Gone };
        let opcode = first & 0x0F;
        if opcode >= 8 {
            assert!(first & 0x80 != 0 && length < 126, "control frames are whole and short");
        }
        match opcode {
            1 => {
                assert!(first & 0x80 != 0, "the broker does not send fragments");
                Said::Frame(serde_json::from_slice(&payload).expect("frames are JSON"))
            }
            8 => Said::Close(payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code))),
            9 => Said::Ping,
            10 => Said::Pong(payload),
            other => panic!("the broker sent a frame with opcode {other}"),
        }
    }

    async fn take(&mut self, bytes: usize) -> Option<Vec<u8>> {
        while self.unread.len() < bytes {
            let mut block = [0; 16_384];
            match self.stream.read(&mut block).await {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.unread.extend_from_slice(&block[..count]),
            }
        }
        let rest = self.unread.split_off(bytes);
        Some(std::mem::replace(&mut self.unread, rest))
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("a TCP socket");
    }
}
