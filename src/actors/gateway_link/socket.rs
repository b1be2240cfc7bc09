//! The upstream socket: dialled with awc, read frame by frame, written by a task with a bounded queue.
//!
//! Nothing of a caller's request is forwarded: no `Origin`, no `X-Forwarded-*` (the gateway would take them for a
//! browser's or a proxy's and empty our scopes).
use std::rc::Rc;
use std::time::Duration;

use actix_http::ws::{CloseCode, CloseReason, Frame, Message};
use bytestring::ByteString;
use futures_util::{SinkExt, Stream, StreamExt};
use tokio::sync::{mpsc, watch};

use crate::gateway::handshake::{Refusal, judge_http_status};
use crate::ws::codec::GuardedCodec;
use crate::ws::fragments::{FragmentJoiner, Joined};

/// Frames that may wait to be written; requests in flight are bounded far below.
const QUEUE_MAX: usize = 1_024;
/// How long a connection that was given up has to take our last words; one that is not read would hold them for ever.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// What comes from the socket.
pub(super) enum Incoming {
    Text(ByteString),
    Ping(bytes::Bytes),
    Pong,
    /// The other side closed, or the connection broke: code and reason, if there was one.
    Closed(Option<u16>, String),
}

/// Why a dial failed.
pub(super) enum DialError {
    /// The gateway answered the upgrade with an HTTP status.
    Refused(Box<Refusal>),
    /// It could not be reached: a sentence without secrets.
    Unreachable(String),
}

/// The writing half: what is sent here goes out in order. Dropping it ends the reading half as well, whether the other
/// side takes notice or not.
pub(super) struct Outgoing {
    queue: mpsc::Sender<Message>,
    /// Its end is the sign for both halves.
    _held: watch::Sender<()>,
}

impl Outgoing {
    /// Queues a text frame; `false` when the socket does not take frames any more.
    pub(super) fn text(&self, text: String) -> bool {
        self.queue.try_send(Message::Text(text.into())).is_ok()
    }

    pub(super) fn ping(&self) -> bool {
        self.queue.try_send(Message::Ping(bytes::Bytes::from_static(b"clawbroker"))).is_ok()
    }

    pub(super) fn pong(&self, payload: bytes::Bytes) {
        // A lost pong is made up for by the next ping.
        let _ = self.queue.try_send(Message::Pong(payload));
    }

    pub(super) fn close(&self, code: u16, reason: &str) {
        // If the queue is full the connection is dropped anyway.
        let _ = self.queue.try_send(Message::Close(Some(CloseReason {
            code: CloseCode::from(code),
            description: Some(reason.to_owned()),
        })));
    }
}

/// Dials a gateway. The returned stream ends after [`Incoming::Closed`].
pub(super) async fn dial(
    client: &awc::Client,
    url: &str,
    timeout: Duration,
    frame_bytes_max: usize,
) -> Result<(Outgoing, impl Stream<Item = Incoming> + use<>), DialError> {
    let request = client.ws(url).max_frame_size(frame_bytes_max);
    let connected = tokio::time::timeout(timeout, request.connect())
        .await
        .map_err(|_| DialError::Unreachable(format!("no connection within {} s", timeout.as_secs())))?;
    let (_, framed) = connected.map_err(dial_error)?;
    let framed = framed.into_map_codec(|codec| GuardedCodec::new(codec, frame_bytes_max));
    let (mut sink, stream) = framed.split();
    let (queue, mut outgoing) = mpsc::channel::<Message>(QUEUE_MAX);
    let (held, given_up) = watch::channel(());
    let reading_ends = ended(given_up.clone());
    let write = async move {
        while let Some(message) = outgoing.recv().await {
            let closing = matches!(message, Message::Close(_));
            if sink.send(message).await.is_err() || closing {
                break;
            }
        }
        // The reading half reports the end; closing an ended socket may fail.
        let _ = sink.close().await;
    };
    actix::spawn(async move {
        let too_late = async {
            ended(given_up).await;
            tokio::time::sleep(CLOSE_GRACE).await;
        };
        tokio::select! {
            () = write => {}
            () = too_late => {}
        }
    });
    let joiner = Rc::new(std::cell::RefCell::new(FragmentJoiner::new(frame_bytes_max)));
    let incoming = stream
        .map(Some)
        .chain(futures_util::stream::once(async { None }))
        .filter_map(move |item| std::future::ready(read(item, &joiner)));
    Ok((Outgoing { queue, _held: held }, ended_after_close(incoming).take_until(reading_ends)))
}

/// Waits until the connection is given up.
async fn ended(mut given_up: watch::Receiver<()>) {
    while given_up.changed().await.is_ok() {}
}

/// Ends the stream after the first `Closed`, so that a broken frame is not reported again and again.
fn ended_after_close(stream: impl Stream<Item = Incoming>) -> impl Stream<Item = Incoming> {
    let mut over = false;
    stream.take_while(move |item| {
        let go_on = !over;
        over = over || matches!(item, Incoming::Closed(..));
        std::future::ready(go_on)
    })
}

fn read(
    item: Option<Result<Frame, actix_http::ws::ProtocolError>>,
    joiner: &Rc<std::cell::RefCell<FragmentJoiner>>,
) -> Option<Incoming> {
    let text = |bytes: bytes::Bytes| match ByteString::try_from(bytes) {
        Ok(text) => Incoming::Text(text),
        Err(_) => Incoming::Closed(None, "a frame was not valid UTF-8".into()),
    };
    Some(match item {
        // The gateway's documentation allows JSON in binary frames as well.
        Some(Ok(Frame::Text(bytes) | Frame::Binary(bytes))) => text(bytes),
        Some(Ok(Frame::Continuation(part))) => match joiner.borrow_mut().push(part) {
            Ok(Joined::Incomplete) => return None,
            Ok(Joined::Text(whole)) => Incoming::Text(whole),
            Ok(Joined::Binary(whole)) => text(whole),
            Err(error) => Incoming::Closed(None, error.to_string()),
        },
        Some(Ok(Frame::Ping(payload))) => Incoming::Ping(payload),
        Some(Ok(Frame::Pong(_))) => Incoming::Pong,
        Some(Ok(Frame::Close(reason))) => match reason {
            Some(reason) => Incoming::Closed(Some(reason.code.into()), reason.description.unwrap_or_default()),
            None => Incoming::Closed(Some(1005), String::new()),
        },
        Some(Err(error)) => Incoming::Closed(None, format!("the connection broke: {error}")),
        None => Incoming::Closed(None, "the connection ended without a word".into()),
    })
}

fn dial_error(error: awc::error::WsClientError) -> DialError {
    match error {
        awc::error::WsClientError::InvalidResponseStatus(status) => {
            DialError::Refused(Box::new(judge_http_status(status.as_u16())))
        }
        other => DialError::Unreachable(other.to_string()),
    }
}
