//! What a browser sends: every text is a frame or is refused in a sentence.
use clawbroker::actors::browser_session::inbound::Inbound;
use clawbroker::domain::error::ErrorCode;

/// The limit of the checks: small, so that inputs can be over it.
const MESSAGE_BYTES_MAX: usize = 64;

pub(crate) fn check(data: &[u8]) {
    // What is not UTF-8 is refused before.
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Inbound::parse(text) {
        Ok(Inbound::Chat(chat)) => match chat.checked_text(MESSAGE_BYTES_MAX) {
            Ok(text) => {
                assert!(!text.trim().is_empty() && text.len() <= MESSAGE_BYTES_MAX && !text.contains('\0'));
                let key = chat.idempotency_key.as_deref();
                assert!(key.is_none_or(|key| !key.is_empty() && !key.chars().any(char::is_control)));
            }
            Err(error) => {
                let codes = [ErrorCode::BadFrame, ErrorCode::UpstreamRefused, ErrorCode::MessageTooLarge];
                assert!(codes.contains(&error.code()), "{error:?}");
            }
        },
        Ok(_) => {}
        Err(refused) => {
            assert_eq!(refused.error.code(), ErrorCode::BadFrame);
            let sentence = refused.error.message();
            assert!((1..1_000).contains(&sentence.len()), "{sentence}");
        }
    }
}
