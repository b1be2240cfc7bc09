//! WebSockets by hand: clients and gateway share the machine with the broker, so they must cost little.
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A socket, of either side.
pub(crate) struct Socket {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// What lies before it has been read.
    at: usize,
    is_client: bool,
}

const TEXT: u8 = 1;
const PING: u8 = 9;
const PONG: u8 = 10;

impl Socket {
    /// Opens a socket as a browser does.
    pub(crate) async fn open(address: &str, path: &str, token: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.expect("the server listens");
        stream.set_nodelay(true).expect("a socket");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
             Authorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("the server reads");
        let mut socket = Self { stream, buffer: Vec::new(), at: 0, is_client: true };
        let head = socket.head().await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        socket
    }

    /// Takes a socket as a gateway does.
    pub(crate) async fn accept(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket");
        let mut socket = Self { stream, buffer: Vec::new(), at: 0, is_client: false };
        let head = socket.head().await;
        let key = head
            .lines()
            .find_map(|line| line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key")))
            .map(|(_, key)| actix_http::ws::hash_key(key.as_bytes()))
            .expect("a key");
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {}\r\n\r\n",
            String::from_utf8_lossy(&key)
        );
        socket.stream.write_all(answer.as_bytes()).await.expect("the broker reads");
        socket
    }

    async fn head(&mut self) -> String {
        loop {
            let end = self.buffer.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                self.at = end + 4;
                return String::from_utf8_lossy(&self.buffer[..end]).into_owned();
            }
            assert!(self.fill().await, "the head is whole");
        }
    }

    /// Reads some more; tells whether there was any.
    async fn fill(&mut self) -> bool {
        self.buffer.drain(..self.at);
        self.at = 0;
        self.stream.read_buf(&mut self.buffer).await.is_ok_and(|count| count > 0)
    }

    pub(crate) async fn send(&mut self, text: &str) {
        let mut frame = Vec::with_capacity(text.len() + 14);
        push(&mut frame, TEXT, text.as_bytes(), self.is_client);
        self.stream.write_all(&frame).await.expect("the other side reads");
    }

    /// Returns the payload of the next frame of text; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<&[u8]> {
        loop {
            let Some((opcode, from, until)) = self.frame() else {
                if !self.fill().await {
                    return None;
                }
                continue;
            };
            self.at = until;
            match opcode {
                TEXT => return Some(&self.buffer[from..until]),
                PING => {
                    let mut pong = Vec::new();
                    push(&mut pong, PONG, &self.buffer[from..until], self.is_client);
                    self.stream.write_all(&pong).await.ok()?;
                }
                _ => {}
            }
        }
    }

    /// Finds the next whole frame: its kind, and where its payload is, unmasked.
    fn frame(&mut self) -> Option<(u8, usize, usize)> {
        let bytes = &self.buffer[self.at..];
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let (length, mut head) = match second & 0x7f {
            126 => (usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
            127 => (usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?, 10),
            short => (usize::from(short), 2),
        };
        let mask: Option<[u8; 4]> =
            if second & 0x80 == 0 { None } else { Some(bytes.get(head..head + 4)?.try_into().ok()?) };
        head += mask.map_or(0, |mask| mask.len());
        let (from, until) = (self.at + head, self.at + head + length);
        let payload = self.buffer.get_mut(from..until)?;
        if let Some(mask) = mask {
            payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        }
        Some((first & 0x0f, from, until))
    }
}

/// Appends a frame. A client's mask is zero: allowed, and nothing to compute.
fn push(out: &mut Vec<u8>, opcode: u8, payload: &[u8], is_client: bool) {
    let masked = if is_client { 0x80 } else { 0 };
    out.push(0x80 | opcode);
    match payload.len() {
        length @ 0..126 => out.push(masked | length as u8),
        length @ 126..0x1_0000 => {
            out.push(masked | 126);
            out.extend((length as u16).to_be_bytes());
        }
        length => {
            out.push(masked | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    if is_client {
        out.extend([0; 4]);
    }
    out.extend(payload);
}
