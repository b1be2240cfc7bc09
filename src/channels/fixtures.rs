//! What the tests of all channels stand on.
use proptest::prelude::*;
use serde_json::Value;

use super::{Answer, HttpAnswer, HttpRequest, Outgoing, Request};
use crate::domain::channel::Address;
use crate::domain::ids::{ConversationId, DeliveryId};

/// A secret that must show nowhere.
pub(super) const HIDDEN: &str = "hidden-value";

pub(super) fn outgoing<'a>(to: &'a [Address], text: &'a str) -> Outgoing<'a> {
    Outgoing {
        id: DeliveryId::from_bytes([7; 16]),
        to,
        text,
        from: "Ada",
        subject: "A message of Ada",
        conversation_id: ConversationId::from_bytes([9; 16]),
        created_at: 1_795_189_101_062,
        now_ms: 1_795_189_200_999,
        reply_to: None,
    }
}

pub(super) fn http(request: Request) -> HttpRequest {
    match request {
        Request::Http(request) => request,
        Request::Mail(letter) => panic!("an HTTP request, not {letter:?}"),
    }
}

pub(super) fn body(request: &HttpRequest) -> Value {
    serde_json::from_slice(&request.body).expect("the body is JSON")
}

pub(super) fn header<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    request.headers.iter().find(|(found, _)| *found == name).map(|(_, value)| value.reveal())
}

pub(super) fn answer(status: u16, body: impl ToString) -> Answer {
    answer_with(status, &[], body)
}

pub(super) fn answer_with(status: u16, headers: &[(&str, &str)], body: impl ToString) -> Answer {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Answer::Http(HttpAnswer { status, headers, body: body.to_string().into() })
}

pub(super) fn silence(may_have_arrived: bool) -> Answer {
    Answer::None { may_have_arrived, why: "no answer within 10 s".to_owned() }
}

/// JSON of any shape, with the names that the providers use in the places where they may be or not.
pub(super) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(Value::from("text")),
        Just(Value::from("im.message.receive_v1")),
    ];
    let name = prop::sample::select(NAMES.to_vec()).prop_map(str::to_owned);
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

const NAMES: [&str; 36] = [
    "ok",
    "result",
    "error",
    "error_code",
    "description",
    "parameters",
    "retry_after",
    "code",
    "msg",
    "data",
    "message",
    "message_id",
    "chat_id",
    "chat",
    "id",
    "from",
    "text",
    "content",
    "sender",
    "sender_id",
    "open_id",
    "header",
    "event",
    "event_type",
    "message_type",
    "mentions",
    "entry",
    "changes",
    "value",
    "messages",
    "contacts",
    "metadata",
    "context",
    "update_id",
    "reply_to_message",
    "expire",
];
