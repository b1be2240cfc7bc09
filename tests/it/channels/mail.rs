use clawbroker::channels::email::{Email, Security, Server};
use clawbroker::channels::{Outcome, Step};
use clawbroker::domain::channel::Address;

use super::{IMPATIENCE, PATIENCE, outgoing, send, send_all};
use crate::harness::providers::smtp::{MailServer, Says};

fn channel(port: u16) -> Email {
    let server = Server { host: "127.0.0.1".into(), port, security: Security::Plain, credentials: None };
    Email { server, from: "bot@example.org".into() }
}

fn person() -> [Address; 1] {
    [Address::Email("ada@example.com".into())]
}

#[actix_web::test]
async fn a_letter_arrives_whole() {
    let server = MailServer::start().await;
    let to = person();
    let text = "Hello Ada\n.\nBcc: all@example.com\n..two dots";
    let out = outgoing(&to, text);
    let external_id = format!("<{}@example.org>", out.id);
    let sent = Outcome::Sent { external_id: external_id.clone(), chat: "ada@example.com".into() };
    assert_eq!(send_all(&channel(server.port), &out).await, sent);
    let letters = server.letters();
    assert_eq!(letters.len(), 1);
    let (head, body) = letters[0].split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.contains(&format!("Message-ID: {external_id}\r\n")), "{head}");
    assert!(head.contains("Auto-Submitted: auto-generated"), "{head}");
    assert!(!head.contains("Bcc"), "{head}");
    assert_eq!(body.trim_end(), text.replace('\n', "\r\n"));
    let commands = server.commands();
    for command in ["EHLO example.org", "MAIL FROM:<bot@example.org>", "RCPT TO:<ada@example.com>", "DATA"] {
        assert!(commands.iter().any(|said| said == command), "{command}: {commands:?}");
    }
}

#[actix_web::test]
async fn a_reply_says_whether_to_try_again() {
    let to = person();
    let later = Says::Line("451 4.7.1 come back later");
    let never = Says::Line("550 5.1.1 no such user");
    for at in ["CONNECT", "MAIL", "RCPT", "DATA", "."] {
        for (says, passes) in [(later.clone(), true), (never.clone(), false)] {
            let server = MailServer::start().await;
            server.say(at, says);
            let outcome = send_all(&channel(server.port), &outgoing(&to, "x")).await;
            assert_eq!(matches!(outcome, Outcome::Retry { .. }), passes, "{at}: {outcome:?}");
            assert_eq!(matches!(outcome, Outcome::Permanent { .. }), !passes, "{at}: {outcome:?}");
        }
    }
}

#[actix_web::test]
async fn only_when_the_letter_was_on_its_way_is_the_outcome_unknown() {
    let to = person();
    for (at, says, patience) in [
        ("CONNECT", Says::Nothing, PATIENCE),
        ("MAIL", Says::Nothing, PATIENCE),
        ("RCPT", Says::Nothing, PATIENCE),
        ("DATA", Says::Nothing, PATIENCE),
        (".", Says::Nothing, PATIENCE),
        ("MAIL", Says::Silence, IMPATIENCE),
        (".", Says::Silence, IMPATIENCE),
    ] {
        let server = MailServer::start().await;
        server.say(at, says);
        let (outcome, _) = send(&channel(server.port), &outgoing(&to, "x"), Step::default(), patience).await;
        assert_eq!(matches!(outcome, Outcome::Unknown { .. }), at == ".", "{at}: {outcome:?}");
        assert_eq!(matches!(outcome, Outcome::Retry { .. }), at != ".", "{at}: {outcome:?}");
    }
    // A farewell that does not come changes nothing.
    let server = MailServer::start().await;
    server.say("QUIT", Says::Nothing);
    assert!(matches!(send_all(&channel(server.port), &outgoing(&to, "x")).await, Outcome::Sent { .. }));
}

#[actix_web::test]
async fn nothing_is_said_to_a_server_that_cannot_encrypt() {
    let server = MailServer::start().await;
    let mut channel = channel(server.port);
    channel.server.security = Security::StartTls;
    let to = person();
    let outcome = send_all(&channel, &outgoing(&to, "secret")).await;
    assert!(matches!(&outcome, Outcome::Permanent { why } if why.contains("STARTTLS")), "{outcome:?}");
    assert!(server.commands().iter().all(|said| said.starts_with("EHLO")), "{:?}", server.commands());
}
