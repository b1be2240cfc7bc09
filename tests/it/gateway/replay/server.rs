//! The sockets of the replay gateway: one port, and what [`Script`] says on each connection.
use std::cell::RefCell;
use std::rc::Rc;

use actix_http::ws::{CloseCode, CloseReason, Codec, Frame, Message, hash_key};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::recording::Away;
use super::script::{Dial, Play, Script};

/// Opens a port and returns its address; it is served as long as the test's system lives.
pub(super) async fn serve(script: Rc<RefCell<Script>>, wake: Rc<Notify>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    actix::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            actix::spawn(connection(stream, script.clone(), wake.clone()));
        }
    });
    address
}

async fn connection(mut stream: TcpStream, script: Rc<RefCell<Script>>, wake: Rc<Notify>) {
    let Some(head) = head(&mut stream).await else { return };
    script.borrow_mut().seen.upgrades.push(head.clone());
    let dial = script.borrow_mut().dial();
    let answer = match dial {
        Dial::Fails(Away::Unreachable) => return,
        Dial::Fails(Away::Status(status)) => format!("HTTP/1.1 {status} Refused\r\nContent-Length: 0\r\n\r\n"),
        Dial::Opens => {
            let key = header(&head, "sec-websocket-key").expect("an upgrade has a key");
            let accept = hash_key(key.as_bytes());
            let accept = std::str::from_utf8(&accept).expect("it is Base64");
            format!(
                "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            )
        }
    };
    if stream.write_all(answer.as_bytes()).await.is_ok() && matches!(dial, Dial::Opens) {
        play(stream, &script, &wake).await;
    }
}

/// Plays until the connection ends: by the script, or by the client.
async fn play(stream: TcpStream, script: &RefCell<Script>, wake: &Notify) {
    // Frames are small: without this each may wait for the acknowledgement of the one before.
    stream.set_nodelay(true).expect("a TCP socket");
    let mut socket = actix_codec::Framed::new(stream, Codec::new());
    let mut played_at = Instant::now();
    loop {
        let pause = script.borrow().pause();
        // Counted from the last frame: a client that asks much does not hold the script up.
        let due = played_at + pause.unwrap_or_default();
        tokio::select! {
            () = wake.notified() => {}
            frame = socket.next() => match frame {
                Some(Ok(Frame::Text(text))) => {
                    let text = std::str::from_utf8(&text).expect("text is UTF-8");
                    let answer = script.borrow_mut().hear(text);
                    if let Some(answer) = answer && socket.send(Message::Text(answer.into())).await.is_err() {
                        return script.borrow_mut().left();
                    }
                }
                Some(Ok(Frame::Ping(payload))) => {
                    // A client that has gone is noticed by the next read.
                    let _ = socket.send(Message::Pong(payload)).await;
                }
                Some(Ok(Frame::Pong(_) | Frame::Binary(_) | Frame::Continuation(_))) => {}
                Some(Ok(Frame::Close(_)) | Err(_)) | None => return script.borrow_mut().left(),
            },
            () = tokio::time::sleep_until(due), if pause.is_some() => {
                played_at = Instant::now();
                let played = script.borrow_mut().play();
                let said = match played {
                    Play::Nothing => Ok(()),
                    Play::Say(text) => socket.send(Message::Text(text.into())).await,
                    Play::Cut => return,
                    Play::Close(code, reason) => {
                        let reason = CloseReason { code: CloseCode::from(code), description: Some(reason) };
                        // The client may have closed first.
                        let _ = socket.send(Message::Close(Some(reason))).await;
                        return;
                    }
                };
                if said.is_err() {
                    return script.borrow_mut().left();
                }
            }
        }
    }
}

/// Reads a request's head.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// Returns the value of a header, whose name is given in small letters.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
