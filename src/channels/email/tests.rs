use proptest::prelude::*;

use super::super::fixtures::{HIDDEN, answer, outgoing, silence};
use super::*;

fn email() -> Email {
    let credentials = Some(("bot".to_owned(), Secret::new(HIDDEN)));
    let server = Server { host: "mail.test".into(), port: 587, security: Security::StartTls, credentials };
    Email { server, from: "bot@example.org".into() }
}

fn person() -> [Address; 1] {
    [Address::Email("ada@example.com".into())]
}

fn letter(out: &Outgoing<'_>) -> Letter {
    match email().request(out, Step::default(), None).expect("a letter") {
        Request::Mail(letter) => letter,
        Request::Http(request) => panic!("a letter, not {request:?}"),
    }
}

/// The headers, unfolded, by name.
fn headers(letter: &Letter) -> Vec<(String, String)> {
    let text = String::from_utf8(letter.content.clone()).expect("ASCII");
    assert!(text.is_ascii());
    let (head, _) = text.split_once("\r\n\r\n").expect("a body");
    let head = head.replace("\r\n ", " ").replace("\r\n\t", " ");
    let fields = head.split("\r\n").map(|line| line.split_once(':').expect("a header"));
    fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

#[test]
fn a_letter_has_our_id_and_says_that_a_machine_sent_it() {
    let to = person();
    let out = Outgoing { reply_to: Some("<1@example.com>"), ..outgoing(&to, "Hello\nAda") };
    let letter = letter(&out);
    assert_eq!((letter.from.to_string(), letter.to.to_string()), ("bot@example.org".into(), "ada@example.com".into()));
    let headers = headers(&letter);
    let header = |name: &str| headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
    assert_eq!(header("Message-ID"), Some("<07070707-0707-0707-0707-070707070707@example.org>"));
    assert_eq!(header("Auto-Submitted"), Some("auto-generated"));
    assert_eq!(header("In-Reply-To"), Some("<1@example.com>"));
    assert_eq!(header("References"), Some("<1@example.com>"));
    assert_eq!(header("Subject"), Some("A message of Ada"));
    assert_eq!(header("To"), Some("ada@example.com"));
    assert!(header("From").is_some_and(|from| from.contains("Ada") && from.contains("<bot@example.org>")));
    assert!(header("Date").is_some_and(|date| date.contains(" Nov 2026 ")));
    assert!(letter.content.windows(10).any(|bytes| bytes == b"Hello\r\nAda"));
    assert!(!format!("{letter:?} {:?}", email()).contains(HIDDEN));
}

/// Some servers take it for the end of a line: what follows would be a command of ours to them.
#[test]
fn no_cr_goes_out_alone() {
    let to = person();
    let letter = letter(&outgoing(&to, "one\rtwo\r\nthree\n.\r.\rMAIL FROM:<eve@example.com>"));
    let text = String::from_utf8(letter.content).expect("ASCII");
    assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "{text:?}");
    let (_, body) = text.split_once("\r\n\r\n").expect("a body");
    assert_eq!(body.trim_end(), "one\r\ntwo\r\nthree\r\n.\r\n.\r\nMAIL FROM:<eve@example.com>");
}

#[test]
fn what_cannot_be_sent_is_said_before() {
    for wrong in [
        "",
        "ada",
        "ada@",
        "ada@exa mple.com",
        "a@b.c\r\nBcc: x@y.z",
        "ädä@example.com",
        "ada@exämple.com",
        "ada@[127.0.0.1]",
        "\"a@b\"@example.com",
        "a@b.c, d@e.f",
    ] {
        let to = [Address::Email(wrong.into())];
        assert!(email().request(&outgoing(&to, "x"), Step::default(), None).is_err(), "{wrong:?}");
        assert!(!is_address(wrong), "{wrong:?}");
    }
    for fine in ["ada@example.com", "o'b+tag@example.co.uk", "a@b", "ada@xn--exmple-cua.com"] {
        let to = [Address::Email(fine.into())];
        assert!(email().request(&outgoing(&to, "x"), Step::default(), None).is_ok(), "{fine:?}");
        assert!(is_address(fine), "{fine:?}");
    }
    let mut plain = email();
    plain.server.security = Security::Plain;
    let to = person();
    let out = outgoing(&to, "x");
    assert!(plain.request(&out, Step::default(), None).expect_err("a password").contains("TLS"));
    plain.server.credentials = None;
    assert!(plain.request(&out, Step::default(), None).is_ok());
    let nobody = Email { from: "nobody".into(), ..email() };
    assert!(nobody.request(&out, Step::default(), None).is_err());
}

#[test]
fn the_end_of_the_conversation_says_what_became_of_it() {
    let to = person();
    let out = outgoing(&to, "x");
    let judge = |end| {
        let answer = Answer::Smtp(SmtpAnswer { end, words: "550 no\r\nsuch user".into() });
        email().outcome(&out, Step::default(), &answer)
    };
    let external_id = "<07070707-0707-0707-0707-070707070707@example.org>".to_owned();
    assert_eq!(judge(SmtpEnd::Accepted), Outcome::Sent { external_id, chat: "ada@example.com".into() });
    assert!(matches!(judge(SmtpEnd::Later), Outcome::Retry { after_ms: None, .. }));
    assert_eq!(judge(SmtpEnd::Never), Outcome::Permanent { why: "550 no such user".into() });
    assert!(matches!(judge(SmtpEnd::Broken { letter_sent: false }), Outcome::Retry { .. }));
    assert!(matches!(judge(SmtpEnd::Broken { letter_sent: true }), Outcome::Unknown { .. }));
    assert!(matches!(email().outcome(&out, Step::default(), &silence(true)), Outcome::Unknown { .. }));
    assert!(matches!(email().outcome(&out, Step::default(), &answer(200, "")), Outcome::Unknown { .. }));
    let call = InboundCall { method: super::super::Method::Post, headers: &[], query: &[], body: b"" };
    assert_eq!(email().hear(&call, 0), Err(Refused::Closed));
}

proptest! {
    #[test]
    fn nothing_that_is_written_becomes_a_header(
        subject in "([A-Za-z:äß😀]|\r\n|\n|\r| |\0){0,60}",
        from in "([A-Za-z:<>\"äß]|\r\nBcc: |\n){0,20}",
        reply_to in "<?([a-z@]|\r\nBcc: ){0,20}>?",
        text in "([a-zä]|\r\n|\r|\n\\.|\0){0,80}",
        created_at: i64,
    ) {
        let to = person();
        let out =
            Outgoing { subject: &subject, from: &from, reply_to: Some(&reply_to), created_at, ..outgoing(&to, &text) };
        let known = [
            "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "In-Reply-To", "References",
            "MIME-Version", "Content-Type", "Content-Transfer-Encoding",
        ];
        let letter = letter(&out);
        let lines = String::from_utf8_lossy(&letter.content).replace("\r\n", "");
        prop_assert!(!lines.contains(['\r', '\n']), "{:?}", lines);
        let names: Vec<String> = headers(&letter).into_iter().map(|(name, _)| name).collect();
        prop_assert!(names.iter().all(|name| known.contains(&name.as_str())), "{:?}", names);
        let mut once = names.clone();
        once.sort();
        once.dedup();
        prop_assert_eq!(once.len(), names.len());
    }
}
