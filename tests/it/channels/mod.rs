//! The channels against providers that check what they are asked: what is built is what they document, and what they
//! answer means what it should.
use std::time::Duration;

use awc::error::{ConnectError, SendRequestError};
use clawbroker::channels::{
    ANSWER_BYTES_MAX, Answer, Channel, HttpAnswer, HttpRequest, Method, Outcome, Outgoing, Request, Step, email,
};
use clawbroker::domain::channel::Address;
use clawbroker::domain::ids::{ConversationId, DeliveryId};

mod feishu;
mod mail;
mod mail_tls;
mod others;

/// Far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// For what never answers.
const IMPATIENCE: Duration = Duration::from_secs(3);

fn outgoing<'a>(to: &'a [Address], text: &'a str) -> Outgoing<'a> {
    Outgoing {
        id: DeliveryId::new(),
        to,
        text,
        from: "Ada",
        subject: "A message of Ada",
        conversation_id: ConversationId::new(),
        created_at: 1_795_189_101_062,
        now_ms: 1_795_189_101_062,
        reply_to: None,
    }
}

async fn carry(request: Request, patience: Duration) -> Answer {
    match request {
        Request::Http(request) => carry_http(request, patience).await,
        Request::Mail(letter) => Answer::Smtp(email::post(&letter, patience).await),
    }
}

async fn carry_http(request: HttpRequest, patience: Duration) -> Answer {
    let client = awc::Client::builder().timeout(patience).disable_redirects().finish();
    let url = request.url.reveal();
    let mut carried = match request.method {
        Method::Get => client.get(url),
        Method::Post => client.post(url),
    };
    for (name, value) in &request.headers {
        carried = carried.insert_header((*name, value.reveal()));
    }
    let mut response = match carried.send_body(request.body).await {
        Ok(response) => response,
        Err(error) => {
            // A connection that ends before the answer is told as one that could not be made.
            let may_have_arrived = match &error {
                SendRequestError::Connect(error) => matches!(error, ConnectError::Disconnected),
                _ => true,
            };
            return Answer::None { may_have_arrived, why: error.to_string() };
        }
    };
    let status = response.status().as_u16();
    let headers = response.headers().iter();
    let headers =
        headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned())).collect();
    match response.body().limit(ANSWER_BYTES_MAX).await {
        Ok(body) => Answer::Http(HttpAnswer { status, headers, body }),
        Err(error) => Answer::None { may_have_arrived: true, why: error.to_string() },
    }
}

/// Sends a message as an owner does, until nothing is left to do at once. Returns what the last step came to, and the
/// step.
async fn send(channel: &dyn Channel, out: &Outgoing<'_>, from: Step, patience: Duration) -> (Outcome, Step) {
    let mut step = from;
    let mut token = None;
    loop {
        if token.is_none()
            && let Some(request) = channel.token_request()
        {
            let answer = carry_http(request, PATIENCE).await;
            match channel.token(&answer) {
                Ok(given) => token = Some(given),
                Err(outcome) => return (outcome, step),
            }
        }
        let request = match channel.request(out, step, token.as_ref()) {
            Ok(request) => request,
            Err(why) => return (Outcome::Permanent { why }, step),
        };
        let answer = carry(request, patience).await;
        let outcome = channel.outcome(out, step, &answer);
        step = match outcome {
            Outcome::Sent { .. } if step.part + 1 < channel.parts(out.text) => step.next_part(),
            Outcome::RenewToken { .. } => {
                token = None;
                step.renewed()
            }
            Outcome::NextAddress { .. } => step.next_address(),
            outcome => return (outcome, step),
        };
    }
}

async fn send_all(channel: &dyn Channel, out: &Outgoing<'_>) -> Outcome {
    send(channel, out, Step::default(), PATIENCE).await.0
}

/// An address at which nobody listens.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("http://{}", listener.local_addr().expect("it is bound"))
}
