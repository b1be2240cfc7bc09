//! Stops a client that declares a larger frame than we take, before its bytes are gathered in memory.
//!
//! The WebSocket parser of actix-http checks a frame's size only once the whole frame is there.
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::error::PayloadError;
use actix_web::web::Bytes;
use futures_util::Stream;

/// Passes on the bytes of a stream of frames up to the first header that declares too much.
pub(super) struct FrameGuard<S> {
    stream: S,
    watch: HeaderWatch,
}

impl<S> FrameGuard<S> {
    pub(super) fn new(stream: S, bytes_max: u64) -> Self {
        Self { stream, watch: HeaderWatch { bytes_max, header: Vec::new(), payload_left: 0 } }
    }
}

impl<S: Stream<Item = Result<Bytes, PayloadError>> + Unpin> Stream for FrameGuard<S> {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = Pin::new(&mut self.stream).poll_next(cx);
        match polled {
            Poll::Ready(Some(Ok(bytes))) if !self.watch.accepts(&bytes) => {
                Poll::Ready(Some(Err(PayloadError::Overflow)))
            }
            other => other,
        }
    }
}

/// Follows the headers in a stream of frames that may be cut anywhere.
struct HeaderWatch {
    bytes_max: u64,
    /// The bytes of a header that is not complete yet: at most 14.
    header: Vec<u8>,
    payload_left: u64,
}

impl HeaderWatch {
    fn accepts(&mut self, mut bytes: &[u8]) -> bool {
        loop {
            let skipped = usize::try_from(self.payload_left).unwrap_or(usize::MAX).min(bytes.len());
            self.payload_left -= skipped as u64;
            let Some((byte, rest)) = bytes.get(skipped..).unwrap_or_default().split_first() else { return true };
            bytes = rest;
            self.header.push(*byte);
            if let Some(length) = payload_length(&self.header) {
                self.header.clear();
                self.payload_left = length;
                if length > self.bytes_max {
                    return false;
                }
            }
        }
    }
}

/// Returns the length that a complete header declares.
fn payload_length(header: &[u8]) -> Option<u64> {
    let (_, [second, rest @ ..]) = header.split_first()? else { return None };
    let mask_bytes = if second & 0x80 == 0 { 0 } else { 4 };
    let (length, length_bytes) = match second & 0x7f {
        126 => (0, 2),
        127 => (0, 8),
        length => (u64::from(length), 0),
    };
    let extended = rest.iter().take(length_bytes).fold(length, |length, byte| (length << 8) | u64::from(*byte));
    (rest.len() >= length_bytes + mask_bytes).then_some(extended)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: usize) -> Vec<u8> {
        let mut frame = vec![0x81];
        match length {
            0..126 => frame.push(0x80 | u8::try_from(length).expect("short")),
            _ => {
                frame.push(0x80 | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend([1, 2, 3, 4]);
        frame.extend(vec![0xff; length]);
        frame
    }

    #[test]
    fn headers_are_found_wherever_the_stream_is_cut() {
        let bytes: Vec<u8> = [5, 0, 125, 300, 1].into_iter().flat_map(frame).collect();
        for size in [1, 2, 3, 7, 1_000] {
            let mut watch = HeaderWatch { bytes_max: 300, header: Vec::new(), payload_left: 0 };
            assert!(bytes.chunks(size).all(|chunk| watch.accepts(chunk)), "chunks of {size}");
            assert_eq!((watch.payload_left, watch.header.len()), (0, 0));
        }
        let mut watch = HeaderWatch { bytes_max: 299, header: Vec::new(), payload_left: 0 };
        assert!(!watch.accepts(&bytes));
    }
}
