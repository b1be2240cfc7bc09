//! A mail server: as much ESMTP as a client needs, with replies of the test's own where it has some.
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What the server does at one point.
#[derive(Clone)]
pub(crate) enum Says {
    /// A reply of one line, without its end.
    Line(&'static str),
    /// It closes the connection.
    Nothing,
    /// It keeps the connection and says nothing.
    Silence,
}

#[derive(Default)]
struct State {
    /// By command in capitals; `CONNECT` is the greeting, `.` the end of a letter.
    script: HashMap<&'static str, Says>,
    letters: Vec<String>,
    commands: Vec<String>,
}

/// A mail server; it is there as long as the test's system.
pub(crate) struct MailServer {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
}

impl MailServer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let state = Arc::<Mutex<State>>::default();
        let shared = state.clone();
        actix::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = shared.clone();
                actix::spawn(async move {
                    // A client that goes away is no fault.
                    let _ = talk(stream, &state).await;
                });
            }
        });
        Self { port, state }
    }

    /// From now on the server says this to a command.
    pub(crate) fn say(&self, to: &'static str, says: Says) {
        self.state.lock().expect("nobody panicked with it").script.insert(to, says);
    }

    /// The letters that came whole, also those that were refused then.
    pub(crate) fn letters(&self) -> Vec<String> {
        self.state.lock().expect("nobody panicked with it").letters.clone()
    }

    pub(crate) fn commands(&self) -> Vec<String> {
        self.state.lock().expect("nobody panicked with it").commands.clone()
    }
}

async fn talk(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    if !reply(&mut stream, state, "CONNECT", "220 mail.test ESMTP").await? {
        return Ok(());
    }
    loop {
        let mut line = String::new();
        if (&mut stream).take(4_096).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let line = line.trim_end().to_owned();
        let command = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        state.lock().expect("nobody panicked with it").commands.push(line);
        let usual = match command.as_str() {
            "EHLO" => "250-mail.test\r\n250-8BITMIME\r\n250 SIZE 1000000",
            "MAIL" | "RCPT" | "RSET" | "NOOP" => "250 ok",
            "DATA" => "354 go ahead",
            "QUIT" => "221 bye",
            _ => "502 not implemented",
        };
        if !reply(&mut stream, state, &command, usual).await? || command == "QUIT" {
            return Ok(());
        }
        let refused = matches!(said(state, "DATA"), Some(Says::Line(line)) if !line.starts_with("354"));
        if command == "DATA" && !refused {
            let letter = letter(&mut stream).await?;
            state.lock().expect("nobody panicked with it").letters.push(letter);
            if !reply(&mut stream, state, ".", "250 queued as 1").await? {
                return Ok(());
            }
        }
    }
}

fn said(state: &Mutex<State>, to: &str) -> Option<Says> {
    state.lock().expect("nobody panicked with it").script.get(to).cloned()
}

/// Says the usual, or what the script has; false when the connection is to be closed.
async fn reply(
    stream: &mut BufReader<TcpStream>,
    state: &Mutex<State>,
    to: &str,
    usual: &str,
) -> std::io::Result<bool> {
    let line = match said(state, to) {
        Some(Says::Line(line)) => line,
        Some(Says::Nothing) => return Ok(false),
        Some(Says::Silence) => std::future::pending().await,
        None => usual,
    };
    stream.write_all(format!("{line}\r\n").as_bytes()).await?;
    stream.flush().await?;
    Ok(true)
}

/// Reads up to the line with a single dot.
async fn letter(stream: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if line == ".\r\n" {
            return Ok(text);
        }
        text.push_str(line.strip_prefix('.').unwrap_or(&line));
    }
}
