//! HTTP by hand, over one connection that is kept: clients share the machine with the broker, so they must cost little.
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection of one caller.
pub(crate) struct Http {
    stream: TcpStream,
    /// The lines that every request of this caller has.
    head: String,
    out: Vec<u8>,
    buffer: Vec<u8>,
    /// What lies before it was handed out.
    at: usize,
}

impl Http {
    /// Connects as an agent.
    pub(crate) async fn agent(address: &str, key: &str) -> Self {
        Self::open(address, &format!("X-Api-Key: {key}")).await
    }

    /// Connects with one more line in the head of each request.
    pub(crate) async fn open(address: &str, line: &str) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        stream.set_nodelay(true).expect("a socket");
        let head = format!("Host: {address}\r\n{line}\r\n");
        Self { stream, head, out: Vec::new(), buffer: Vec::new(), at: 0 }
    }

    /// Calls, expects this status, and returns the body.
    pub(crate) async fn call(&mut self, method: &str, path: &str, body: &str, expected: u16) -> &str {
        self.ask(method, path, body).await;
        let (status, answer) = self.answer().await;
        assert_eq!(status, expected, "{method} {path}: {answer}");
        answer
    }

    /// Sends a request.
    pub(crate) async fn ask(&mut self, method: &str, path: &str, body: &str) {
        use std::io::Write;
        self.out.clear();
        let length = body.len();
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        write!(self.out, "{method} {path} HTTP/1.1\r\n{}{kind}Content-Length: {length}\r\n\r\n{body}", self.head)
            .expect("memory takes it");
        self.stream.write_all(&self.out).await.expect("the server reads");
    }

    /// Reads the next answer: its status and its body.
    pub(crate) async fn answer(&mut self) -> (u16, &str) {
        self.buffer.drain(..self.at);
        self.at = 0;
        let (status, from, until) = loop {
            if let Some(whole) = whole(&self.buffer) {
                break whole;
            }
            let count = self.stream.read_buf(&mut self.buffer).await.expect("the server writes");
            assert!(count > 0, "the server closed: {}", String::from_utf8_lossy(&self.buffer));
        };
        self.at = until;
        (status, std::str::from_utf8(&self.buffer[from..until]).expect("UTF-8"))
    }
}

/// Finds a whole answer at the beginning of these bytes: its status, and where its body is.
fn whole(bytes: &[u8]) -> Option<(u16, usize, usize)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).expect("an ASCII head");
    let status = head.get(9..12).and_then(|code| code.parse().ok()).expect("a status");
    let length = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, length)| length.parse::<usize>().ok())
        .expect("a length");
    let until = end + 4 + length;
    (bytes.len() >= until).then_some((status, end + 4, until))
}
