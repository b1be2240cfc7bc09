//! Refuses bad WebSocket frames by their header, before their payload is buffered.
//!
//! Role: `actix_http`'s parser looks at the length of a frame only once the whole frame is in memory, so a browser that
//! declares 64 GiB makes us buffer all it sends. [`FrameGuard`] stands between the request's payload and that parser:
//! `WsResponseBuilder::new(actor, &req, FrameGuard::new(payload, max))`.
//! Owner: the WebSocket handshake of one connection; the transport keeps the [`TripHandle`].
//!
//! The parser behind us turns every `PayloadError` into text, and delivers an error before the frames it has not parsed
//! yet. So the transport that sees an error asks the handle what it was, closes with `close_code` and stops.
//!
//! That parser also reads all there is before it looks at the next frame, and only some frames are handled before the
//! socket is read again: who sends many small ones would fill its buffer without end. So a guard that was asked to
//! [`FrameGuard::pace`] hands out the next chunk only when all frames that it has passed on were taken.
//!
//! Invariants
//! - FGD-1: bytes are passed on unchanged and in the chunks they came in, up to the first bad frame of the stream.
//! - FGD-2: nothing is buffered here; of a bad frame at most a part of its header is passed on.
//! - FGD-3: after a trip comes one error, then the end; the inner stream is not polled again.
//! - FGD-4: a paced guard has passed on at most one frame that is not whole yet, and one chunk, beyond the last frame that
//!   was taken.

use std::{
    cell::Cell,
    fmt, io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use actix_http::ws::CloseCode;
use actix_web::error::PayloadError;
use bytes::Bytes;
use futures_util::Stream;

/// Our close code for a peer that breaks the protocol.
pub const CLOSE_PROTOCOL_ERROR: CloseCode = CloseCode::Other(4_400);

const FIN_BIT: u8 = 0x80;
const RESERVED_BITS: u8 = 0x70;
const OPCODE_BITS: u8 = 0x0f;
/// Opcodes from here on are control frames.
const CONTROL_OPCODES: u8 = 8;
const MASK_BIT: u8 = 0x80;
const LENGTH_BITS: u8 = 0x7f;
const LENGTH_IN_U16: u8 = 126;
const LENGTH_IN_U64: u8 = 127;
const MASK_BYTES: u64 = 4;
/// The most that RFC 6455 (5.5) lets a control frame carry.
const CONTROL_BYTES_MAX: u8 = 125;

/// Passes a client's bytes on until a frame header is refused.
#[derive(Debug)]
pub struct FrameGuard<S> {
    inner: S,
    scan: HeaderScan,
    progress: Progress,
    trip: TripHandle,
    pace: Option<Pace>,
}

/// Frames that were passed on and not taken yet. Whoever handles them says so.
#[derive(Debug, Clone, Default)]
pub struct Pace(Rc<Cell<usize>>);

/// Tells why the guard of a connection tripped, if it did.
#[derive(Debug, Clone, Default)]
pub struct TripHandle(Rc<Cell<Option<GuardTrip>>>);

/// Why a frame was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardTrip {
    /// The frame declares more payload than is allowed.
    FrameTooLarge { declared_bytes: u64 },
    /// A control frame declares more than 125 bytes.
    ControlTooLong,
    /// A control frame is fragmented.
    ControlFragmented,
    /// A reserved bit is set, although no extension was agreed.
    ReservedBits,
    /// The opcode has no meaning.
    ReservedOpcode { opcode: u8 },
    /// A client's frame is not masked.
    Unmasked,
}

#[derive(Debug, Clone, Copy)]
enum Progress {
    Passing,
    /// The good bytes before the bad frame are out; the error is next.
    Tripped(GuardTrip),
    Over,
}

impl<S> FrameGuard<S> {
    /// Wraps `inner` and refuses frames that declare more than `frame_bytes_max` bytes of payload.
    pub fn new(inner: S, frame_bytes_max: usize) -> Self {
        Self {
            inner,
            scan: HeaderScan { frame_bytes_max, part: HeaderPart::Flags },
            progress: Progress::Passing,
            trip: TripHandle::default(),
            pace: None,
        }
    }

    /// Has the guard wait for the frames that it passed on: each must be told to the handle as taken. It wakes nobody;
    /// the parser behind it is asked for the next frame anyway, until it has none.
    pub fn pace(&mut self) -> Pace {
        self.pace.get_or_insert_default().clone()
    }

    /// Returns the handle through which the trip can be read after the stream has been given away.
    pub fn trip_handle(&self) -> TripHandle {
        self.trip.clone()
    }

    fn fail(&mut self, trip: GuardTrip) -> PayloadError {
        self.progress = Progress::Over;
        self.trip.0.set(Some(trip));
        match trip {
            GuardTrip::FrameTooLarge { .. } => PayloadError::Overflow,
            _ => PayloadError::Io(io::Error::new(io::ErrorKind::InvalidData, trip)),
        }
    }
}

impl<S> Stream for FrameGuard<S>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        match this.progress {
            Progress::Passing => {}
            Progress::Tripped(trip) => return Poll::Ready(Some(Err(this.fail(trip)))),
            Progress::Over => return Poll::Ready(None),
        }
        if this.pace.as_ref().is_some_and(|pace| pace.0.get() > 0) {
            return Poll::Pending;
        }
        let mut chunk = match Pin::new(&mut this.inner).poll_next(cx) {
            Poll::Ready(Some(Ok(chunk))) => chunk,
            other => return other,
        };
        let mut complete = 0;
        let read = this.scan.read(&chunk, &mut complete);
        if let Some(pace) = &this.pace {
            pace.0.set(complete);
        }
        match read {
            Ok(()) => Poll::Ready(Some(Ok(chunk))),
            Err(Refusal { trip, good_bytes: 0 }) => Poll::Ready(Some(Err(this.fail(trip)))),
            Err(Refusal { trip, good_bytes }) => {
                this.progress = Progress::Tripped(trip);
                chunk.truncate(good_bytes);
                Poll::Ready(Some(Ok(chunk)))
            }
        }
    }
}

impl Pace {
    /// Notes that a frame was taken.
    pub fn take_one(&self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl TripHandle {
    /// Returns why the guard tripped, `None` while it has not.
    pub fn get(&self) -> Option<GuardTrip> {
        self.0.get()
    }
}

impl GuardTrip {
    /// Returns the code to close the connection with.
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::FrameTooLarge { .. } => CloseCode::Size,
            _ => CLOSE_PROTOCOL_ERROR,
        }
    }
}

impl fmt::Display for GuardTrip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FrameTooLarge { declared_bytes } => write!(f, "frame of {declared_bytes} bytes is too large"),
            Self::ControlTooLong => write!(f, "control frame is longer than {CONTROL_BYTES_MAX} bytes"),
            Self::ControlFragmented => f.write_str("control frame is fragmented"),
            Self::ReservedBits => f.write_str("reserved bit is set"),
            Self::ReservedOpcode { opcode } => write!(f, "opcode {opcode} is reserved"),
            Self::Unmasked => f.write_str("client's frame is not masked"),
        }
    }
}

impl std::error::Error for GuardTrip {}

/// Walks over the stream from header to header.
#[derive(Debug)]
struct HeaderScan {
    frame_bytes_max: usize,
    part: HeaderPart,
}

/// What the next byte of the stream is.
#[derive(Debug, Clone, Copy)]
enum HeaderPart {
    /// The first byte of a frame: flags and opcode.
    Flags,
    /// The second byte: mask flag and short length.
    Length { control: bool },
    /// A byte of the long length.
    LongLength { bytes_left: u8, so_far: u64 },
    /// Mask and payload, which are not looked at.
    Rest { bytes_left: u64 },
}

/// A refused frame, and how much of the chunk lies before it.
#[derive(Debug)]
struct Refusal {
    trip: GuardTrip,
    good_bytes: usize,
}

impl HeaderScan {
    /// Reads on, and counts the frames that end in this chunk.
    fn read(&mut self, chunk: &[u8], complete: &mut usize) -> Result<(), Refusal> {
        // Where the current frame begins; one that began in an earlier chunk has nothing good before it in this one.
        let mut good_bytes = 0;
        let mut unread = chunk;
        while let Some((&byte, behind)) = unread.split_first() {
            if let HeaderPart::Rest { bytes_left } = self.part {
                let skipped = usize::try_from(bytes_left).unwrap_or(usize::MAX).min(unread.len());
                unread = unread.get(skipped..).unwrap_or_default();
                self.part = rest_of(bytes_left.saturating_sub(skipped as u64));
                *complete += usize::from(matches!(self.part, HeaderPart::Flags));
                continue;
            }
            if let HeaderPart::Flags = self.part {
                good_bytes = chunk.len() - unread.len();
            }
            self.part = self.read_header(byte).map_err(|trip| Refusal { trip, good_bytes })?;
            unread = behind;
        }
        Ok(())
    }

    fn read_header(&self, byte: u8) -> Result<HeaderPart, GuardTrip> {
        match self.part {
            HeaderPart::Flags => read_flags(byte),
            HeaderPart::Length { .. } if byte & MASK_BIT == 0 => Err(GuardTrip::Unmasked),
            HeaderPart::Length { control } => match byte & LENGTH_BITS {
                length if control && length > CONTROL_BYTES_MAX => Err(GuardTrip::ControlTooLong),
                LENGTH_IN_U16 => Ok(HeaderPart::LongLength { bytes_left: 2, so_far: 0 }),
                LENGTH_IN_U64 => Ok(HeaderPart::LongLength { bytes_left: 8, so_far: 0 }),
                length => self.accept(u64::from(length)),
            },
            HeaderPart::LongLength { bytes_left, so_far } => {
                let so_far = so_far << 8 | u64::from(byte);
                match bytes_left.saturating_sub(1) {
                    0 => self.accept(so_far),
                    bytes_left => Ok(HeaderPart::LongLength { bytes_left, so_far }),
                }
            }
            HeaderPart::Rest { bytes_left } => Ok(rest_of(bytes_left.saturating_sub(1))),
        }
    }

    fn accept(&self, declared_bytes: u64) -> Result<HeaderPart, GuardTrip> {
        if declared_bytes > self.frame_bytes_max as u64 {
            return Err(GuardTrip::FrameTooLarge { declared_bytes });
        }
        Ok(rest_of(declared_bytes.saturating_add(MASK_BYTES)))
    }
}

fn read_flags(byte: u8) -> Result<HeaderPart, GuardTrip> {
    let opcode = byte & OPCODE_BITS;
    let control = opcode >= CONTROL_OPCODES;
    if byte & RESERVED_BITS != 0 {
        Err(GuardTrip::ReservedBits)
    } else if !matches!(opcode, 0..=2 | 8..=10) {
        Err(GuardTrip::ReservedOpcode { opcode })
    } else if control && byte & FIN_BIT == 0 {
        Err(GuardTrip::ControlFragmented)
    } else {
        Ok(HeaderPart::Length { control })
    }
}

fn rest_of(bytes_left: u64) -> HeaderPart {
    if bytes_left == 0 { HeaderPart::Flags } else { HeaderPart::Rest { bytes_left } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_codec::{Decoder, Encoder};
    use actix_http::ws::{Codec, Frame, Item, Message};
    use bytes::BytesMut;
    use futures_util::{FutureExt, StreamExt, stream};
    use proptest::prelude::*;

    const FRAME_BYTES_MAX: usize = 70_000;

    /// Runs chunks through a guard; gives the bytes passed on, the error and the trip.
    fn guard(chunks: &[&[u8]]) -> (Vec<u8>, Option<PayloadError>, Option<GuardTrip>) {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let guard = FrameGuard::new(stream::iter(chunks), FRAME_BYTES_MAX);
        let trip = guard.trip_handle();
        let items = guard.collect::<Vec<_>>().now_or_never().unwrap();
        let (mut passed, mut error) = (Vec::new(), None);
        for item in items {
            assert!(error.is_none(), "FGD-3");
            match item {
                Ok(chunk) => passed.extend_from_slice(&chunk),
                Err(found) => error = Some(found),
            }
        }
        (passed, error, trip.get())
    }

    /// Writes frames as a browser does.
    fn sent(messages: Vec<Message>) -> BytesMut {
        let mut bytes = BytesMut::new();
        let mut browser = Codec::new().client_mode();
        messages.into_iter().for_each(|message| browser.encode(message, &mut bytes).unwrap());
        bytes
    }

    fn header_of_64_gib() -> Vec<u8> {
        [&[0x82, 0x80 | 127][..], &(1_u64 << 36).to_be_bytes()].concat()
    }

    #[test]
    fn bad_headers_trip_with_their_reason() {
        for (header, trip) in [
            (&[0x81, 0x05][..], GuardTrip::Unmasked),
            (&[0xc1], GuardTrip::ReservedBits),
            (&[0x91], GuardTrip::ReservedBits),
            (&[0x83], GuardTrip::ReservedOpcode { opcode: 3 }),
            (&[0x8b], GuardTrip::ReservedOpcode { opcode: 11 }),
            (&[0x09], GuardTrip::ControlFragmented),
            (&[0x89, 0x80 | 126], GuardTrip::ControlTooLong),
            (&[0x88, 0x80 | 127], GuardTrip::ControlTooLong),
        ] {
            let (passed, error, found) = guard(&[header, b"more"]);
            assert_eq!((passed, found), (Vec::new(), Some(trip)), "{header:?}");
            assert!(matches!(error, Some(PayloadError::Io(_))), "{header:?}");
            assert_eq!(u16::from(trip.close_code()), 4_400);
        }
    }

    #[test]
    fn frame_of_the_limit_passes_and_one_byte_more_does_not() {
        let good = sent(vec![Message::Binary(vec![0; FRAME_BYTES_MAX].into())]);
        assert_eq!(guard(&[&good]).0, good);
        let bad = sent(vec![Message::Binary(vec![0; FRAME_BYTES_MAX + 1].into())]);
        let (passed, error, trip) = guard(&[&bad]);
        assert!(passed.is_empty() && matches!(error, Some(PayloadError::Overflow)));
        assert_eq!(trip, Some(GuardTrip::FrameTooLarge { declared_bytes: 70_001 }));
        assert_eq!(trip.map(GuardTrip::close_code), Some(CloseCode::Size));
    }

    #[test]
    fn declared_64_gib_trip_at_once_and_the_rest_is_never_read() {
        let polls = Rc::new(Cell::new(0));
        let counter = polls.clone();
        let attack = stream::repeat_with(move || {
            counter.set(counter.get() + 1);
            Ok(Bytes::from(header_of_64_gib()))
        })
        .take(9);
        let guard = FrameGuard::new(attack, FRAME_BYTES_MAX);
        let trip = guard.trip_handle();
        let items = guard.collect::<Vec<_>>().now_or_never().unwrap();
        assert!(matches!(items.as_slice(), [Err(PayloadError::Overflow)]), "FGD-2");
        assert_eq!(trip.get(), Some(GuardTrip::FrameTooLarge { declared_bytes: 1 << 36 }));
        assert_eq!(polls.get(), 1, "FGD-3");
    }

    #[test]
    fn a_paced_guard_waits_until_its_frames_are_taken() {
        let frames = sent((0..3).map(|_| Message::Pong(b"x".as_slice().into())).collect());
        let (start, end) = frames.split_at(frames.len() - 1);
        let chunks = [start, end].map(|chunk| Ok(Bytes::copy_from_slice(chunk)));
        let mut guard = FrameGuard::new(stream::iter(chunks), FRAME_BYTES_MAX);
        let pace = guard.pace();
        let passed = |guard: &mut FrameGuard<_>| guard.next().now_or_never().map(|item| item.map(|item| item.is_ok()));
        assert_eq!(passed(&mut guard), Some(Some(true)));
        assert_eq!(passed(&mut guard), None, "FGD-4: two frames are complete");
        pace.take_one();
        assert_eq!(passed(&mut guard), None, "FGD-4");
        pace.take_one();
        assert_eq!(passed(&mut guard), Some(Some(true)), "the third one needs more");
        assert_eq!(passed(&mut guard), None, "FGD-4");
        pace.take_one();
        assert_eq!(passed(&mut guard), Some(None), "the end");
    }

    #[test]
    fn errors_of_the_inner_stream_pass_and_are_no_trip() {
        let inner = stream::iter(vec![Err(PayloadError::EncodingCorrupted)]);
        let guard = FrameGuard::new(inner, FRAME_BYTES_MAX);
        let trip = guard.trip_handle();
        let items = guard.collect::<Vec<_>>().now_or_never().unwrap();
        assert!(matches!(items.as_slice(), [Err(PayloadError::EncodingCorrupted)]));
        assert_eq!(trip.get(), None);
    }

    fn messages() -> impl Strategy<Value = Vec<Message>> {
        let payload = || {
            prop_oneof![4 => 0_usize..200, 1 => 65_530_usize..FRAME_BYTES_MAX]
                .prop_map(|length| Bytes::from(vec![5; length]))
        };
        let control = || (0_usize..=125).prop_map(|length| Bytes::from(vec![6; length]));
        let group = prop_oneof![
            payload().prop_map(|payload| vec![Message::Binary(payload)]),
            control().prop_map(|payload| vec![Message::Ping(payload)]),
            control().prop_map(|payload| vec![Message::Pong(payload)]),
            "[a-z]{0,9}".prop_map(|text| vec![Message::Text(text.into())]),
            (payload(), control(), payload()).prop_map(|(first, ping, last)| {
                let [first, last] = [Item::FirstBinary(first), Item::Last(last)].map(Message::Continuation);
                vec![first, Message::Ping(ping), last]
            }),
        ];
        prop::collection::vec(group, 0..6).prop_map(|groups| groups.into_iter().flatten().collect())
    }

    fn cut<'a>(mut bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
        let mut chunks = Vec::new();
        for size in sizes.iter().cycle() {
            if bytes.is_empty() {
                break;
            }
            let (chunk, rest) = bytes.split_at(bytes.len().min(*size));
            chunks.push(chunk);
            bytes = rest;
        }
        chunks
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn good_frames_pass_unchanged_however_they_are_split(
            messages in messages(),
            sizes in prop::collection::vec(prop_oneof![1_usize..20, 1_000_usize..99_999], 1..10),
        ) {
            let wire = sent(messages);
            let (passed, error, trip) = guard(&cut(&wire, &sizes));
            prop_assert!(error.is_none() && trip.is_none());
            prop_assert!(passed == wire, "FGD-1");
        }

        #[test]
        fn frames_before_a_bad_one_are_kept_and_nothing_behind_it(
            messages in messages(),
            sizes in prop::collection::vec(prop_oneof![1_usize..20, 1_000_usize..99_999], 1..10),
        ) {
            let good = sent(messages);
            let wire = [&good[..], &header_of_64_gib(), &[0; 50]].concat();
            let (passed, error, trip) = guard(&cut(&wire, &sizes));
            prop_assert!(matches!(error, Some(PayloadError::Overflow)));
            prop_assert_eq!(trip, Some(GuardTrip::FrameTooLarge { declared_bytes: 1 << 36 }));
            prop_assert!(passed.starts_with(&good) && passed.len() < good.len() + header_of_64_gib().len(), "FGD-2");

            let (mut codec, mut passed) = (Codec::new().max_size(FRAME_BYTES_MAX), BytesMut::from(&passed[..]));
            let mut good = good;
            let mut other = Codec::new().max_size(FRAME_BYTES_MAX);
            let frames = |codec: &mut Codec, bytes: &mut BytesMut| -> Vec<Frame> {
                std::iter::from_fn(|| codec.decode(bytes).unwrap()).collect()
            };
            prop_assert!(frames(&mut codec, &mut passed) == frames(&mut other, &mut good));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let (passed, _, _) = guard(&[&bytes]);
            prop_assert!(bytes.starts_with(&passed));
        }
    }
}
