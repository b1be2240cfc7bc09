//! The frame guard, and the fragment joiner behind it: what passes can be parsed within the limit, however it is cut.
use actix_codec::Decoder;
use actix_http::ws::{Codec, Frame, ProtocolError};
use actix_web::error::PayloadError;
use bytes::{Bytes, BytesMut};
use clawbroker::ws::fragments::FragmentJoiner;
use clawbroker::ws::frame_guard::{FrameGuard, GuardTrip};
use futures_util::{FutureExt, StreamExt, stream};

/// The limit of the checks: small, so that inputs can be over it.
const FRAME_BYTES_MAX: usize = 1_000;
/// The longest header of a frame, its mask aside.
const HEADER_BYTES_MAX: usize = 10;

/// What came through a guard.
#[derive(Debug)]
struct Passed {
    bytes: Vec<u8>,
    trip: Option<GuardTrip>,
}

fn guarded(chunks: Vec<Bytes>) -> Passed {
    let inner = stream::iter(chunks.into_iter().map(Ok::<_, PayloadError>));
    let guard = FrameGuard::new(inner, FRAME_BYTES_MAX);
    let handle = guard.trip_handle();
    let items = guard.collect::<Vec<_>>().now_or_never().expect("nothing to wait for");
    let (mut bytes, mut failed) = (Vec::new(), false);
    for item in items {
        assert!(!failed, "FGD-3: nothing comes after the error");
        match item {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(_) => failed = true,
        }
    }
    assert_eq!(failed, handle.get().is_some(), "an error is a trip");
    Passed { bytes, trip: handle.get() }
}

/// Cuts a stream into chunks of this many bytes.
fn cut(stream: &[u8], length: usize) -> Vec<Bytes> {
    stream.chunks(length.max(1)).map(Bytes::copy_from_slice).collect()
}

/// The first byte says how the stream is cut, the rest is the stream.
pub(crate) fn check(data: &[u8]) {
    let Some((&length, stream)) = data.split_first() else { return };
    let whole = guarded(cut(stream, stream.len()));
    let parts = guarded(cut(stream, usize::from(length)));
    assert_eq!(whole.trip, parts.trip, "the verdict does not depend on the cut");
    assert!(stream.starts_with(&parts.bytes) && parts.bytes.starts_with(&whole.bytes), "FGD-1");
    assert!(parts.bytes.len() - whole.bytes.len() <= HEADER_BYTES_MAX, "FGD-2");
    if whole.trip.is_none() {
        assert_eq!(whole.bytes, stream, "FGD-1");
    }
    parse(&whole.bytes);
}

/// What has passed is parsed by what stands behind the guard.
fn parse(bytes: &[u8]) {
    let mut codec = Codec::new().max_size(FRAME_BYTES_MAX);
    let mut joiner = FragmentJoiner::new(FRAME_BYTES_MAX);
    let mut unread = BytesMut::from(bytes);
    loop {
        match codec.decode(&mut unread) {
            Ok(None) => return,
            Ok(Some(Frame::Continuation(part))) => {
                let is_refused = joiner.push(part).is_err();
                assert!(joiner.waiting() <= FRAME_BYTES_MAX, "FRG-1");
                assert!(!is_refused || joiner.waiting() == 0, "FRG-3");
            }
            Ok(Some(_)) => {}
            Err(
                error @ (ProtocolError::Overflow
                | ProtocolError::UnmaskedFrame
                | ProtocolError::InvalidOpcode(_)
                | ProtocolError::InvalidLength(2..)
                | ProtocolError::Io(_)),
            ) => panic!("the guard lets through what the parser refuses by its header: {error}"),
            // The order of frames is not the guard's, nor what a close frame says.
            Err(_) => return,
        }
    }
}
