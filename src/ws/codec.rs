//! A WebSocket codec for our side of a gateway connection that refuses large frames before they arrive.
//!
//! Role: `actix_http`'s parser checks a frame's length only once the whole frame is in memory, so a gateway that
//! declares 64 GiB makes us buffer all it sends. This wrapper reads the declared length first.
//! Owner: the gateway link, which puts it around the codec of its connection:
//! `framed.into_map_codec(|codec| GuardedCodec::new(codec, frame_bytes_max))`.
//!
//! Invariants
//! - GWC-1: of a frame above the limit nothing is read after the read that completed its header.
//! - GWC-2: the limit of the wrapped codec is the same, so a frame that passes here is not refused there.

use actix_codec::{Decoder, Encoder};
use actix_http::ws::{Codec, Frame, Message, ProtocolError};
use bytes::BytesMut;

/// The seven bits of a length; the eighth bit of that byte is the mask flag.
const LENGTH_BITS: u8 = 0x7f;
/// Says that the length stands in the next two bytes.
const LENGTH_IN_U16: u8 = 126;
/// Says that the length stands in the next eight bytes.
const LENGTH_IN_U64: u8 = 127;

/// Wraps a WebSocket codec and checks the declared length of every frame.
#[derive(Debug)]
pub struct GuardedCodec {
    inner: Codec,
    frame_bytes_max: usize,
}

impl GuardedCodec {
    /// Wraps `inner` and makes `frame_bytes_max` the limit of both.
    pub fn new(inner: Codec, frame_bytes_max: usize) -> Self {
        Self { inner: inner.max_size(frame_bytes_max), frame_bytes_max }
    }
}

impl Decoder for GuardedCodec {
    type Item = Frame;
    type Error = ProtocolError;

    /// Decodes the next frame.
    ///
    /// `ProtocolError::Overflow` consumes nothing and comes again at every call: the connection is to be dropped.
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, ProtocolError> {
        if let Some(declared) = declared_length(src)
            && declared > self.frame_bytes_max as u64
        {
            return Err(ProtocolError::Overflow);
        }
        self.inner.decode(src)
    }
}

impl Encoder<Message> for GuardedCodec {
    type Error = ProtocolError;

    fn encode(&mut self, message: Message, dst: &mut BytesMut) -> Result<(), ProtocolError> {
        self.inner.encode(message, dst)
    }
}

/// Reads the payload length out of a frame header, `None` while the header is not complete.
fn declared_length(src: &[u8]) -> Option<u64> {
    let (_, behind_flags) = src.split_first()?;
    let (short, extended) = behind_flags.split_first()?;
    match short & LENGTH_BITS {
        LENGTH_IN_U16 => extended.first_chunk().map(|bytes| u64::from(u16::from_be_bytes(*bytes))),
        LENGTH_IN_U64 => extended.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)),
        length => Some(u64::from(length)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_http::ws::Item;
    use bytes::Bytes;
    use proptest::prelude::*;

    const FRAME_BYTES_MAX: usize = 100_000;

    fn guarded() -> GuardedCodec {
        GuardedCodec::new(Codec::new().client_mode(), FRAME_BYTES_MAX)
    }

    /// Writes frames as a gateway does.
    fn sent(messages: impl IntoIterator<Item = Message>) -> BytesMut {
        let mut bytes = BytesMut::new();
        let mut gateway = Codec::new();
        messages.into_iter().for_each(|message| gateway.encode(message, &mut bytes).unwrap());
        bytes
    }

    fn decode_all(codec: &mut GuardedCodec, src: &mut BytesMut) -> Vec<Frame> {
        std::iter::from_fn(|| codec.decode(src).unwrap()).collect()
    }

    #[test]
    fn frame_of_the_limit_passes_and_one_byte_more_does_not() {
        for (length, passes) in [(0, true), (125, true), (126, true), (65_536, true), (100_000, true), (100_001, false)]
        {
            let payload = Bytes::from(vec![7_u8; length]);
            let mut src = sent([Message::Binary(payload.clone())]);
            match guarded().decode(&mut src) {
                Ok(frame) => assert!(passes && frame == Some(Frame::Binary(payload)), "{length}"),
                Err(error) => assert!(!passes && matches!(error, ProtocolError::Overflow), "{length}: {error}"),
            }
        }
    }

    #[test]
    fn declared_64_gib_trip_at_the_end_of_the_header_and_ever_after() {
        let mut codec = guarded();
        let mut src = BytesMut::from(&[0x82, 127][..]);
        src.extend_from_slice(&(1_u64 << 36).to_be_bytes()[..7]);
        assert!(codec.decode(&mut src).unwrap().is_none());
        src.extend_from_slice(&[0]);
        let capacity = src.capacity();
        assert!(matches!(codec.decode(&mut src), Err(ProtocolError::Overflow)));
        src.extend_from_slice(b"payload");
        assert!(matches!(codec.decode(&mut src), Err(ProtocolError::Overflow)));
        assert!(src.capacity() <= capacity.max(64), "GWC-1");
    }

    #[test]
    fn length_above_63_bits_trips() {
        let mut src = BytesMut::from(&[0x82, 127, 255, 255, 255, 255, 255, 255, 255, 255][..]);
        assert!(matches!(guarded().decode(&mut src), Err(ProtocolError::Overflow)));
    }

    #[test]
    fn encoding_is_the_wrapped_codec_s() {
        let mut wire = BytesMut::new();
        guarded().encode(Message::Text("hello".into()), &mut wire).unwrap();
        let frame = Codec::new().decode(&mut wire).unwrap();
        assert_eq!(frame, Some(Frame::Text(Bytes::from_static(b"hello"))));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

        #[test]
        fn split_of_the_stream_never_changes_the_frames(
            lengths in prop::collection::vec(prop_oneof![0_usize..200, 65_500_usize..65_600], 1..6),
            sizes in prop::collection::vec(prop_oneof![1_usize..20, 1_000_usize..50_000], 1..10),
        ) {
            let payloads: Vec<Bytes> = lengths.iter().map(|&length| vec![1_u8; length].into()).collect();
            let first = payloads.first().cloned().unwrap_or_default();
            let pings = payloads.iter().map(|payload| Message::Ping(payload.slice(..payload.len().min(125))));
            let mut wire = sent([Message::Continuation(Item::FirstText(first))].into_iter().chain(pings));
            let expected = decode_all(&mut guarded(), &mut wire.clone());
            prop_assert_eq!(expected.len(), payloads.len() + 1);

            let (mut codec, mut src, mut frames) = (guarded(), BytesMut::new(), Vec::new());
            for size in sizes.iter().cycle() {
                if wire.is_empty() {
                    break;
                }
                src.extend_from_slice(&wire.split_to(wire.len().min(*size)));
                frames.extend(decode_all(&mut codec, &mut src));
            }
            prop_assert_eq!(frames, expected);
        }
    }
}
