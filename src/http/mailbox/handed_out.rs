//! The body of an answer that hands something out: it tells whether all of it went out.
//!
//! The encoder asks for the end of a body at once where the body is small, before any byte has left the process. This one
//! lets it write first: between the bytes and the end it makes it come back once. What the encoder, the system or the
//! network still held when a connection broke after that counts as handed out; only an acknowledgement would tell.
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;

/// Bytes that stand for something. If the body is dropped before its end, so is what says that it was taken.
pub(super) struct HandedOut {
    len: u64,
    bytes: Option<Bytes>,
    /// The end was asked for once.
    asked: bool,
    taken: Option<Box<dyn FnOnce()>>,
}

impl HandedOut {
    /// Makes a body; `taken` is called when all of it was given to the connection.
    pub(super) fn new(bytes: Vec<u8>, taken: impl FnOnce() + 'static) -> Self {
        Self { len: bytes.len() as u64, bytes: Some(bytes.into()), asked: false, taken: Some(Box::new(taken)) }
    }
}

impl MessageBody for HandedOut {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.len)
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        let this = self.get_mut();
        if let Some(bytes) = this.bytes.take() {
            return Poll::Ready(Some(Ok(bytes)));
        }
        if !std::mem::replace(&mut this.asked, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(taken) = this.taken.take() {
            taken();
        }
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use futures_util::task::noop_waker_ref;

    use super::*;

    /// What the holder of a hand-out says when it is let go of.
    struct Holder(Rc<RefCell<&'static str>>);

    impl Drop for Holder {
        fn drop(&mut self) {
            let mut said = self.0.borrow_mut();
            if said.is_empty() {
                *said = "dropped";
            }
        }
    }

    fn body() -> (HandedOut, Rc<RefCell<&'static str>>) {
        let said = Rc::<RefCell<&'static str>>::default();
        let holder = Holder(said.clone());
        let body = HandedOut::new(b"mail".to_vec(), move || *holder.0.borrow_mut() = "taken");
        (body, said)
    }

    fn next(body: &mut HandedOut) -> Poll<Option<Bytes>> {
        let polled = Pin::new(body).poll_next(&mut Context::from_waker(noop_waker_ref()));
        polled.map(|next| next.map(|Ok(bytes)| bytes))
    }

    #[test]
    fn it_is_taken_when_its_end_was_asked_for_twice() {
        let (mut body, said) = body();
        assert_eq!(body.size(), BodySize::Sized(4));
        assert_eq!(next(&mut body), Poll::Ready(Some(Bytes::from_static(b"mail"))));
        assert_eq!((next(&mut body), *said.borrow()), (Poll::Pending, ""), "the encoder writes first");
        assert_eq!((next(&mut body), *said.borrow()), (Poll::Ready(None), "taken"));
        assert_eq!(next(&mut body), Poll::Ready(None));
        drop(body);
        assert_eq!(*said.borrow(), "taken");
    }

    #[test]
    fn it_is_not_taken_when_it_is_dropped_before() {
        for polls in 0..3 {
            let (mut body, said) = body();
            for _ in 0..polls {
                let _ = next(&mut body);
            }
            assert_eq!(*said.borrow(), "", "{polls}");
            drop(body);
            assert_eq!(*said.borrow(), "dropped", "{polls}");
        }
    }
}
