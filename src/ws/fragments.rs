//! Joins the fragments of a WebSocket message.
//!
//! Role: `actix_http` hands continuation frames over one by one; the transport joins them here and then treats the
//! result like a message that came whole. Owner: one joiner per WebSocket transport. Pure: no I/O.
//!
//! Invariants
//! - FRG-1: no more than `message_bytes_max` bytes of payload are held, whatever the number of fragments.
//! - FRG-2: a text that leaves here is UTF-8 as a whole; a character may be cut by a frame boundary.
//! - FRG-3: after a refusal nothing is held.
//!
//! Absent on purpose: a limit on the number of fragments. Empty ones cost no memory, and frames are counted where the
//! rate limit is.

use std::fmt;

use actix_http::ws::{CloseCode, Item};
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;

use super::frame_guard::CLOSE_PROTOCOL_ERROR;

/// Joins the continuation frames of one connection.
#[derive(Debug)]
pub struct FragmentJoiner {
    message_bytes_max: usize,
    /// The message that has begun and not ended.
    open: Option<OpenMessage>,
}

#[derive(Debug)]
struct OpenMessage {
    kind: Kind,
    payload: BytesMut,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Binary,
}

/// What one fragment led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Joined {
    /// More fragments are to come.
    Incomplete,
    Text(ByteString),
    Binary(Bytes),
}

/// Why a fragment was refused. The connection is to be closed with `close_code`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FragmentError {
    /// The fragments so far are larger than a message may be.
    TooLarge { message_bytes_max: usize },
    /// A message began inside another.
    AlreadyStarted,
    /// A continuation came without a beginning.
    NotStarted,
    /// The joined text is not UTF-8.
    InvalidUtf8,
}

impl FragmentJoiner {
    /// Creates a joiner for messages of at most `message_bytes_max` bytes.
    pub fn new(message_bytes_max: usize) -> Self {
        Self { message_bytes_max, open: None }
    }

    /// Returns the bytes of the message that has begun and not ended.
    pub fn waiting(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.payload.len())
    }

    /// Takes the next continuation frame and returns the message when it is complete.
    pub fn push(&mut self, item: Item) -> Result<Joined, FragmentError> {
        match item {
            Item::FirstText(payload) => self.start(Kind::Text, &payload),
            Item::FirstBinary(payload) => self.start(Kind::Binary, &payload),
            Item::Continue(payload) => {
                let message = self.extend(&payload)?;
                self.open = Some(message);
                Ok(Joined::Incomplete)
            }
            Item::Last(payload) => self.extend(&payload)?.finish(),
        }
    }

    fn start(&mut self, kind: Kind, payload: &[u8]) -> Result<Joined, FragmentError> {
        if self.open.take().is_some() {
            return Err(FragmentError::AlreadyStarted);
        }
        self.open = Some(OpenMessage { kind, payload: BytesMut::new() });
        let message = self.extend(payload)?;
        self.open = Some(message);
        Ok(Joined::Incomplete)
    }

    /// Takes the open message out and appends to it. The caller puts it back, so that an error leaves nothing (FRG-3).
    fn extend(&mut self, payload: &[u8]) -> Result<OpenMessage, FragmentError> {
        let mut message = self.open.take().ok_or(FragmentError::NotStarted)?;
        if payload.len() > self.message_bytes_max.saturating_sub(message.payload.len()) {
            return Err(FragmentError::TooLarge { message_bytes_max: self.message_bytes_max });
        }
        message.payload.extend_from_slice(payload);
        Ok(message)
    }
}

impl OpenMessage {
    fn finish(self) -> Result<Joined, FragmentError> {
        let payload = self.payload.freeze();
        match self.kind {
            Kind::Text => ByteString::try_from(payload).map(Joined::Text).map_err(|_| FragmentError::InvalidUtf8),
            Kind::Binary => Ok(Joined::Binary(payload)),
        }
    }
}

impl FragmentError {
    /// Returns the code to close the connection with.
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::TooLarge { .. } => CloseCode::Size,
            Self::AlreadyStarted | Self::NotStarted | Self::InvalidUtf8 => CLOSE_PROTOCOL_ERROR,
        }
    }
}

impl fmt::Display for FragmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { message_bytes_max } => write!(f, "message is larger than {message_bytes_max} bytes"),
            Self::AlreadyStarted => f.write_str("message began inside another"),
            Self::NotStarted => f.write_str("continuation without a beginning"),
            Self::InvalidUtf8 => f.write_str("text is not UTF-8"),
        }
    }
}

impl std::error::Error for FragmentError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(text: &[u8]) -> Bytes {
        Bytes::copy_from_slice(text)
    }

    #[test]
    fn fragments_become_one_message_and_the_next_starts_afresh() {
        let mut joiner = FragmentJoiner::new(10);
        assert_eq!(joiner.push(Item::FirstText(bytes(b"a\xc3"))), Ok(Joined::Incomplete));
        assert_eq!(joiner.push(Item::Continue(bytes(b""))), Ok(Joined::Incomplete));
        assert_eq!(joiner.push(Item::Last(bytes(b"\xa9"))), Ok(Joined::Text("aé".into())));
        assert_eq!(joiner.push(Item::FirstBinary(bytes(b"\xff"))), Ok(Joined::Incomplete));
        assert_eq!(joiner.push(Item::Last(bytes(b""))), Ok(Joined::Binary(bytes(b"\xff"))));
    }

    #[test]
    fn misplaced_fragments_are_refused_and_leave_nothing() {
        let mut joiner = FragmentJoiner::new(10);
        assert_eq!(joiner.push(Item::Continue(bytes(b"a"))), Err(FragmentError::NotStarted));
        assert_eq!(joiner.push(Item::Last(bytes(b"a"))), Err(FragmentError::NotStarted));
        assert_eq!(joiner.push(Item::FirstText(bytes(b"a"))), Ok(Joined::Incomplete));
        assert_eq!(joiner.push(Item::FirstBinary(bytes(b"b"))), Err(FragmentError::AlreadyStarted));
        assert_eq!(joiner.push(Item::Last(bytes(b"c"))), Err(FragmentError::NotStarted), "FRG-3");
    }

    #[test]
    fn message_above_the_limit_is_refused_at_the_fragment_that_crosses_it() {
        let too_large = Err(FragmentError::TooLarge { message_bytes_max: 4 });
        let mut joiner = FragmentJoiner::new(4);
        assert_eq!(joiner.push(Item::FirstText(bytes(b"12345"))), too_large);
        assert_eq!(joiner.push(Item::FirstText(bytes(b"1234"))), Ok(Joined::Incomplete));
        assert_eq!(joiner.push(Item::Continue(bytes(b""))), Ok(Joined::Incomplete));
        assert_eq!(joiner.push(Item::Last(bytes(b"5"))), too_large);
        assert_eq!(joiner.push(Item::Last(bytes(b""))), Err(FragmentError::NotStarted), "FRG-3");
    }

    #[test]
    fn text_that_is_not_utf8_is_refused_and_binary_is_not_looked_at() {
        let mut joiner = FragmentJoiner::new(10);
        assert_eq!(joiner.push(Item::FirstText(bytes(b"\xc3"))), Ok(Joined::Incomplete));
        assert_eq!(joiner.push(Item::Last(bytes(b"a"))), Err(FragmentError::InvalidUtf8));
    }

    #[test]
    fn size_closes_with_1009_and_the_rest_with_4400() {
        assert_eq!(FragmentError::TooLarge { message_bytes_max: 1 }.close_code(), CloseCode::Size);
        for error in [FragmentError::AlreadyStarted, FragmentError::NotStarted, FragmentError::InvalidUtf8] {
            assert_eq!(u16::from(error.close_code()), 4_400);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn split_text_comes_back_whole(text in "\\PC{0,60}", cuts in prop::collection::vec(0_usize..200, 1..6)) {
            let mut rest = Bytes::from(text.clone());
            let mut joiner = FragmentJoiner::new(text.len());
            for (index, cut) in cuts.iter().enumerate() {
                let fragment = rest.split_to(rest.len().min(*cut));
                let item = if index == 0 { Item::FirstText(fragment) } else { Item::Continue(fragment) };
                prop_assert_eq!(joiner.push(item), Ok(Joined::Incomplete));
            }
            prop_assert_eq!(joiner.push(Item::Last(rest)), Ok(Joined::Text(text.into())));
        }
    }
}
