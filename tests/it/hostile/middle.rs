//! A gateway that breaks: it stands between the broker and a sample gateway, passes frames on, and does at a step of the
//! protocol what a bad network or a bad gateway would do. Plain TCP towards the broker, so that it can say anything.
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use actix_http::ws::{Codec, Frame, Message, hash_key};
use awc::ws::Frame as FarFrame;
use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::harness::broker::held_sockets;
use crate::harness::browser::client;

/// What is said behind the header of a frame that declares more than there is.
const DECLARED_SENT: usize = 64 << 20;

/// Where in the protocol something goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The connection was accepted.
    Accepted,
    /// Half of the answer to the upgrade was sent.
    HalfUpgraded,
    Upgraded,
    Challenged,
    /// A request has come and is not passed on.
    Asked(&'static str),
    /// A request was passed on, and its answer is kept back.
    Taken(&'static str),
    /// The answer to a request was passed on.
    Answered(&'static str),
    /// So many deltas were passed on.
    Streaming(usize),
    /// The end of a run is kept back.
    Ending,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// The connection ends in good order, without a close frame.
    Ends,
    Resets,
    /// It ends in the middle of a frame.
    Tears,
    Closes(u16),
    /// Nothing is read and said any more, and the connection stays.
    FallsSilent,
    /// A frame declares so many bytes; then they come, as many as the broker takes of 64 MiB.
    Declares(u64),
    /// The frame at hand is lost, and everything else goes on.
    Loses,
}

/// Changes what the gateway says: none, one or many frames in the place of one. A bare text is said as it is.
type Edit = Box<dyn FnMut(Value) -> Vec<Value>>;

/// The middle at work; it ends with the test.
#[derive(Clone)]
pub(crate) struct Middle {
    pub(crate) url: String,
    state: Rc<RefCell<State>>,
    cut: Rc<Notify>,
}

struct State {
    target: String,
    plan: VecDeque<(Step, How)>,
    played: usize,
    dialled: usize,
    deltas: usize,
    /// Most requests of one connection that waited for their answers at once.
    most_asked: usize,
    edit: Option<Edit>,
    /// Pause behind each byte.
    drip: Option<Duration>,
    /// Connections on which nothing is said any more.
    silent: Vec<TcpStream>,
}

impl Middle {
    pub(crate) async fn before(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = State {
            target: url.to_owned(),
            plan: VecDeque::new(),
            played: 0,
            dialled: 0,
            deltas: 0,
            most_asked: 0,
            edit: None,
            drip: None,
            silent: Vec::new(),
        };
        let middle =
            Self { url: format!("ws://{address}"), state: Rc::new(RefCell::new(state)), cut: Rc::new(Notify::new()) };
        let served = middle.clone();
        actix::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Small frames do not wait for the acknowledgement of the one before.
                stream.set_nodelay(true).expect("a TCP socket");
                actix::spawn(served.clone().serve(stream));
            }
        });
        middle
    }

    /// Has something go wrong the next time that this step is reached, behind what was planned before.
    pub(crate) fn breaks(&self, step: Step, how: How) {
        let mut state = self.state.borrow_mut();
        state.plan.push_back((step, how));
        state.deltas = 0;
    }

    /// Ends the connections that there are.
    pub(crate) fn cut(&self) {
        self.cut.notify_waiters();
    }

    /// Changes all frames of the gateway from now on.
    pub(super) fn edit(&self, edit: impl FnMut(Value) -> Vec<Value> + 'static) {
        self.state.borrow_mut().edit = Some(Box::new(edit));
    }

    /// Says everything byte by byte from now on, or no more.
    pub(super) fn drip(&self, pause: Option<Duration>) {
        self.state.borrow_mut().drip = pause;
    }

    /// Counts the faults that were met.
    pub(crate) fn played(&self) -> usize {
        self.state.borrow().played
    }

    /// Counts the connections that were made.
    pub(super) fn dialled(&self) -> usize {
        self.state.borrow().dialled
    }

    /// Counts the requests that waited for their answers at once, at most.
    pub(super) fn most_asked(&self) -> usize {
        self.state.borrow().most_asked
    }

    /// Counts the connections on which nothing is said and which the broker has not ended. This side never ends them.
    pub(super) fn silent(&self) -> usize {
        let state = self.state.borrow();
        let is_open = |stream: &&TcpStream| {
            let mut rest = [0; 4_096];
            loop {
                match stream.try_read(&mut rest) {
                    Ok(0) => return false,
                    Ok(_) => {}
                    Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
                }
            }
        };
        state.silent.iter().filter(is_open).count()
    }

    /// Counts the connections that the broker still holds.
    pub(super) fn held(&self) -> usize {
        let own: u16 = self.url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        held_sockets().filter(|(_, remote)| *remote == own).count()
    }

    /// Tells what is still to be met.
    pub(crate) fn plan(&self) -> String {
        format!("{:?}", self.state.borrow().plan)
    }

    fn due(&self, step: Step) -> Option<How> {
        let mut state = self.state.borrow_mut();
        let how = state.plan.pop_front_if(|(planned, _)| *planned == step)?.1;
        state.played += 1;
        Some(how)
    }

    fn due_delta(&self) -> Option<How> {
        self.state.borrow_mut().deltas += 1;
        let deltas = self.state.borrow().deltas;
        self.due(Step::Streaming(deltas))
    }

    fn note_asked(&self, count: usize) {
        let mut state = self.state.borrow_mut();
        state.most_asked = state.most_asked.max(count);
    }

    async fn serve(self, mut near: TcpStream) {
        self.state.borrow_mut().dialled += 1;
        if let Some(how) = self.due(Step::Accepted) {
            return self.play(near, how).await;
        }
        let Some(key) = upgrade_key(&mut near).await else { return };
        let accept = hash_key(key.as_bytes());
        let accept = std::str::from_utf8(&accept).expect("it is Base64");
        let answer = format!(
            "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        if let Some(how) = self.due(Step::HalfUpgraded) {
            self.write(&mut near, &answer.as_bytes()[..answer.len() / 2]).await;
            return self.play(near, how).await;
        }
        self.write(&mut near, answer.as_bytes()).await;
        if let Some(how) = self.due(Step::Upgraded) {
            return self.play(near, how).await;
        }
        let target = self.state.borrow().target.clone();
        let Ok((_, far)) = client().ws(target).max_frame_size(32 << 20).connect().await else { return };
        self.pass_on(near, far).await;
    }

    /// Carries frames to and fro until something goes wrong or one side ends.
    async fn pass_on(self, near: TcpStream, far: actix_codec::Framed<awc::BoxedSocket, awc::ws::Codec>) {
        let mut near = actix_codec::Framed::new(near, Codec::new().max_size(32 << 20));
        let mut far = far;
        let mut asked: HashMap<String, &'static str> = HashMap::new();
        let cut = self.cut.notified();
        tokio::pin!(cut);
        loop {
            tokio::select! {
                () = &mut cut => return,
                frame = near.next() => match frame {
                    Some(Ok(Frame::Text(text))) => {
                        let text = String::from_utf8(text.to_vec()).expect("the broker says UTF-8");
                        let request: Value = serde_json::from_str(&text).expect("the broker says JSON");
                        let method = METHODS.iter().find(|method| request["method"] == **method).copied();
                        let method = method.unwrap_or_else(|| panic!("an unknown method: {text}"));
                        match self.due(Step::Asked(method)) {
                            Some(How::Loses) => continue,
                            Some(how) => return self.play(near.into_parts().io, how).await,
                            None => {}
                        }
                        asked.insert(request["id"].as_str().expect("a request has an id").to_owned(), method);
                        self.note_asked(asked.len());
                        if far.send(Message::Text(text.into())).await.is_err() {
                            return;
                        }
                    }
                    Some(Ok(Frame::Ping(payload))) => self.say(&mut near, Message::Pong(payload)).await,
                    Some(Ok(Frame::Close(_)) | Err(_)) | None => return,
                    Some(Ok(_)) => {}
                },
                frame = far.next() => match frame {
                    Some(Ok(FarFrame::Text(text))) => {
                        let text = String::from_utf8(text.to_vec()).expect("the sample gateway says UTF-8");
                        let frame: Value = serde_json::from_str(&text).expect("the sample gateway says JSON");
                        let answered = frame["id"].as_str().and_then(|id| asked.remove(id));
                        let is_end = ["final", "aborted", "error"].iter().any(|end| frame["payload"]["state"] == *end);
                        let before = match answered {
                            Some(method) => self.due(Step::Taken(method)),
                            None if is_end => self.due(Step::Ending),
                            None => None,
                        };
                        match before {
                            Some(How::Loses) => continue,
                            Some(how) => return self.play(near.into_parts().io, how).await,
                            None => {}
                        }
                        let is_challenge = frame["event"] == "connect.challenge";
                        let is_delta = frame["payload"]["state"] == "delta";
                        for text in self.edited(frame, text) {
                            self.say(&mut near, Message::Text(text.into())).await;
                        }
                        let behind = match answered {
                            Some(method) => self.due(Step::Answered(method)),
                            None if is_challenge => self.due(Step::Challenged),
                            None if is_delta => self.due_delta(),
                            None => None,
                        };
                        if let Some(how) = behind {
                            return self.play(near.into_parts().io, how).await;
                        }
                    }
                    Some(Ok(FarFrame::Ping(payload))) => {
                        if far.send(Message::Pong(payload)).await.is_err() {
                            return;
                        }
                    }
                    Some(Ok(FarFrame::Close(reason))) => {
                        self.say(&mut near, Message::Close(reason)).await;
                        return;
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return,
                },
            }
        }
    }

    fn edited(&self, frame: Value, text: String) -> Vec<String> {
        match &mut self.state.borrow_mut().edit {
            Some(edit) => edit(frame)
                .into_iter()
                .map(|said| match said {
                    Value::String(bare) => bare,
                    frame => frame.to_string(),
                })
                .collect(),
            None => vec![text],
        }
    }

    async fn say(&self, near: &mut actix_codec::Framed<TcpStream, Codec>, message: Message) {
        let mut bytes = BytesMut::new();
        actix_codec::Encoder::encode(&mut Codec::new(), message, &mut bytes).expect("a frame");
        self.write(near.io_mut(), &bytes).await;
    }

    /// Writes to the broker; that it has gone is told by the next read.
    async fn write(&self, near: &mut TcpStream, bytes: &[u8]) {
        let drip = self.state.borrow().drip;
        let Some(pause) = drip else {
            let _ = near.write_all(bytes).await;
            return;
        };
        for byte in bytes {
            if near.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn play(&self, mut near: TcpStream, how: How) {
        match how {
            How::Ends | How::Loses => {}
            How::Resets => {
                let now = Some(Duration::ZERO);
                socket2::SockRef::from(&near).set_linger(now).expect("a TCP socket");
            }
            How::Tears => {
                let _ = near.write_all(&[0x81, 126, 0x10, 0, b'{', b'"']).await;
            }
            How::Closes(code) => {
                let [high, low] = code.to_be_bytes();
                let _ = near.write_all(&[0x88, 8, high, low, b'e', b'n', b'o', b'u', b'g', b'h']).await;
                // The broker has time to say goodbye.
                let _ = tokio::time::timeout(Duration::from_millis(200), near.read_u8()).await;
            }
            How::FallsSilent => self.state.borrow_mut().silent.push(near),
            How::Declares(bytes) => {
                let mut header = vec![0x82, 127];
                header.extend_from_slice(&bytes.to_be_bytes());
                let block = vec![0; 1 << 20];
                let mut said = near.write_all(&header).await;
                for _ in 0..DECLARED_SENT >> 20 {
                    if said.is_err() {
                        return;
                    }
                    said = near.write_all(&block).await;
                }
            }
        }
    }
}

/// What the broker asks of a gateway.
const METHODS: [&str; 7] =
    ["connect", "agents.list", "models.list", "sessions.list", "chat.history", "chat.send", "chat.abort"];

/// Reads the head of an upgrade request and returns its key.
async fn upgrade_key(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim().to_owned())
    })
}
