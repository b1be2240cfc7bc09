//! `serve`, `demo` and `doctor`: what a newcomer sees, and what is refused.
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Running, bare, command, finish, run};
use crate::harness::{Broker, Browser, Database, Kind, run_on};

on_both_databases!(
    the_first_start_tells_the_token_and_no_other_does,
    a_stop_sends_browsers_away_and_ends_in_good_order,
    a_healthy_server_has_a_clean_bill,
);

/// How long a newcomer waits for the first chat at most.
const MINUTE: Duration = Duration::from_secs(60);

async fn the_first_start_tells_the_token_and_no_other_does(database: Database) {
    let mut broker = Broker::start(&database, &[], &[]).await;
    until(&broker, "Ctrl-C").await;
    let first = broker.log();
    assert!(first.contains(&broker.token) && first.contains(&format!("http://{}/", broker.address)), "{first}");
    assert_eq!(broker.stop().await, Some(0));
    assert!(!database.data_dir().join("server.json").exists(), "an orderly end leaves no address behind");
    broker.start_again().await;
    until(&broker, "in /").await;
    assert_eq!(broker.log().matches(&broker.token).count(), 1, "told once");
}

async fn a_stop_sends_browsers_away_and_ends_in_good_order(database: Database) {
    let mut broker = Broker::start(&database, &[], &[]).await;
    let (status, made) =
        broker.post("/api/gateways", json!({ "id": "gw", "name": "Away", "url": "ws://127.0.0.1:9" })).await;
    assert_eq!(status, 200, "{made}");
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.until_type("connected").await;
    let (stopped, ()) = tokio::join!(broker.stop(), async { while browser.next().await.is_some() {} });
    assert_eq!((stopped, browser.closed), (Some(0), Some(1012)), "{}", broker.log());
}

/// Waits for a text that is printed a moment after the server is ready.
async fn until(broker: &Broker, text: &str) {
    let began = tokio::time::Instant::now();
    while !broker.log().contains(text) {
        assert!(began.elapsed() < MINUTE, "no `{text}` in {}", broker.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn a_healthy_server_has_a_clean_bill(database: Database) {
    // The test made the file, readable for all; in a directory like this nobody gets to it.
    std::fs::set_permissions(database.data_dir(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let broker = Broker::start(&database, &[], &[]).await;
    let checked = run(&database, &["doctor", "--json", "--listen", &broker.address]).json();
    assert_eq!(checked["ok"], true, "{:#}", checked["findings"]);
    let listen =
        checked["settings"].as_array().unwrap().iter().find(|setting| setting["key"] == "server.listen").unwrap();
    assert_eq!((&listen["value"], &listen["origin"]), (&json!(broker.address), &json!("flag --listen")));
    let told = run(&database, &["doctor", "--all", "--listen", &broker.address]).fine();
    assert!(told.out.contains("limits.body_bytes_max") && !told.out.contains(&broker.token), "{told:?}");
}

#[test]
fn a_second_server_and_a_port_in_use_are_refused() {
    run_on(Kind::Sqlite, async |database: Database| {
        let broker = Broker::start(&database, &[], &[]).await;
        let sentence = run(&database, &["serve", "--listen", "127.0.0.1:0"]).refused(1);
        assert!(sentence.starts_with("another clawbroker runs on `"), "{sentence}");
        let other = Database::empty(Kind::Sqlite);
        let sentence = run(&other, &["serve", "--listen", &broker.address]).refused(1);
        assert!(sentence.starts_with(&format!("`{}` is in use", broker.address)), "{sentence}");
        assert_eq!(broker.get("/ready").await.0, 200, "the first one goes on");
    });
}

#[test]
fn an_ancestors_database_is_refused_and_left_as_it_was() {
    let database = Database::empty(Kind::Sqlite);
    let folder = database.data_dir().join("data");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("chat.db");
    let theirs = [b"SQLite format 3\0", &[1; 84][..]].concat();
    std::fs::write(&file, &theirs).unwrap();
    for args in [&["serve", "--listen", "127.0.0.1:0"][..], &["migrate"], &["gateway", "list"], &["token", "create"]] {
        let mut command = bare(database.data_dir(), args);
        command.env("DATABASE_URL", "sqlite:///./data/chat.db");
        let sentence = finish(command).refused(1);
        assert!(sentence.contains("is not a clawbroker database"), "{sentence}");
    }
    let mut command = bare(database.data_dir(), &["doctor"]);
    command.env("DATABASE_URL", "sqlite:///./data/chat.db");
    assert_eq!(finish(command).status, Some(1));
    assert_eq!(std::fs::read(&file).unwrap(), theirs);
    assert!(!folder.join("chat.db-wal").exists());
}

#[test]
fn wrong_command_lines_are_status_2() {
    let database = Database::empty(Kind::Sqlite);
    for args in [
        &["serve", "--nonsense"][..],
        &["--listen", "127.0.0.1:0", "token", "list"],
        &["serve", "--listen", "nowhere"],
        &["serve", "--trust-local", "--listen", "0.0.0.0:0"],
        &["demo", "--listen", "0.0.0.0:0"],
        &["token", "revoke", "nonsense"],
        &["gateway", "add", "no spaces", "ws://127.0.0.1:9"],
    ] {
        let ran = run(&database, args);
        assert_eq!((ran.status, ran.out.as_str()), (Some(2), ""), "{args:?}: {ran:?}");
    }
}

#[test]
fn a_password_in_the_database_url_is_never_told() {
    let database = Database::empty(Kind::Sqlite);
    for args in [
        &["serve", "--listen", "127.0.0.1:0"][..],
        &["doctor"],
        &["doctor", "--json"],
        &["migrate"],
        &["gateway", "list"],
    ] {
        let mut command = bare(database.data_dir(), args);
        // Nobody listens on port 1.
        command.env("DATABASE_URL", "postgresql://user:c4n4ry@127.0.0.1:1/x").env("LOG_LEVEL", "trace");
        let ran = finish(command);
        assert_eq!(ran.status, Some(1), "{ran:?}");
        assert!(!format!("{ran:?}").contains("c4n4ry"), "{ran:?}");
    }
}

#[test]
fn the_demo_shows_a_chat_within_a_minute_and_its_lines_work() {
    run_on(Kind::Sqlite, async |database: Database| {
        let folder = database.data_dir();
        // Settings of the real thing must not reach the demo.
        std::fs::write(folder.join(".env"), "DATABASE_URL=sqlite:///./data/chat.db\nHOST=0.0.0.0\n").unwrap();
        let mut command = bare(folder, &["demo", "--listen", "127.0.0.1:0"]);
        let mut demo =
            Running(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the binary starts"));
        let said = lines(demo.0.stdout.take().expect("piped"));
        let until = |text: &str| -> String {
            let began = tokio::time::Instant::now();
            loop {
                let line = said.recv_timeout(MINUTE.saturating_sub(began.elapsed()));
                let line = line.unwrap_or_else(|error| panic!("the demo does not say `{text}`: {error}"));
                if line.contains(text) {
                    return line;
                }
            }
        };
        let (send, read, stream) = (until("curl"), until("curl"), until("echo"));
        assert!(folder.join("data/demo/clawbroker.db").exists() && !folder.join("data/chat.db").exists());
        for line in [&send, &read] {
            assert!(paste(line).is_some(), "{line}");
        }
        // What the line for websocat does.
        let (frame, url) = stream.trim().split_once(" | websocat -n ws://").expect("a pipe");
        let frame: Value =
            serde_json::from_str(frame.strip_prefix("echo '").unwrap().strip_suffix('\'').unwrap()).unwrap();
        let (address, path) = url.split_at(url.find('/').unwrap());
        let mut browser = Browser::open(address, path, None).await;
        browser.send(frame).await;
        assert_eq!(browser.until_terminal().await["text"], "You said: hello");
        // Two questions were asked, by curl and by socket, and both are answered.
        let answers = || texts(&paste(&read).expect("lines")).iter().filter(|text| *text == "You said: hello").count();
        let began = tokio::time::Instant::now();
        while answers() < 2 {
            assert!(began.elapsed() < MINUTE, "not both are answered: {:?}", paste(&read));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

/// Reads lines on a thread of its own, so that who waits for one can give up.
fn lines(from: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (said, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            // The test may have ended before.
            let _ = said.send(line.expect("UTF-8"));
        }
    });
    lines
}

/// Runs a line as a shell would, and returns the JSON that it prints.
fn paste(line: &str) -> Option<Value> {
    let output = Command::new("sh").args(["-c", line]).output().expect("a shell");
    serde_json::from_slice(&output.stdout).ok()
}

fn texts(messages: &Value) -> Vec<String> {
    let text = |message: &Value| message["content"][0]["text"].as_str().unwrap_or_default().to_owned();
    messages.as_array().expect("a list").iter().map(text).collect()
}

#[test]
fn commands_before_the_first_start_make_no_database_by_looking() {
    let database = Database::empty(Kind::Sqlite);
    for args in [&["gateway", "list"][..], &["token", "list"], &["backup", "copy.db"]] {
        let sentence = finish(command(&database, args)).refused(1);
        assert!(sentence.starts_with("there is no database at `"), "{sentence}");
    }
    run(&database, &["doctor", "--listen", "127.0.0.1:0"]).fine();
    assert_eq!(std::fs::read_dir(database.data_dir()).unwrap().count(), 0);
}
