use serde_json::json;

use super::*;
use crate::domain::ids::{ChannelId, PartyId};

fn map(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

fn checked(kind: ChannelKind, config: Value, secrets: &[&str], base_url: Option<&str>) -> Result<(), String> {
    let secrets: Vec<String> = secrets.iter().map(|name| (*name).to_owned()).collect();
    check(kind, &map(config), &secrets, base_url).map_err(|error| error.message().to_owned())
}

#[test]
fn each_kind_gets_what_it_asks_for_and_nothing_else() {
    use ChannelKind::{Email, Feishu, Telegram, Webhook, WhatsApp};
    let mail = json!({ "host": "mail.example.org", "from": "bot@example.org" });
    for (kind, config, secrets) in [
        (Feishu, json!({ "app_id": "cli_1" }), vec!["app_secret"]),
        (Telegram, json!({ "receive": "poll" }), vec!["bot_token"]),
        (Telegram, json!({}), vec!["bot_token", "secret_token"]),
        (Telegram, json!({ "receive": "webhook" }), vec!["bot_token", "secret_token"]),
        (WhatsApp, json!({ "phone_number_id": "1" }), vec!["access_token", "app_secret", "verify_token"]),
        (Email, mail.clone(), vec![]),
        (Webhook, json!({}), vec!["secret"]),
    ] {
        assert_eq!(checked(kind, config.clone(), &secrets, None), Ok(()), "{kind:?}");
        let given: BTreeMap<String, Secret> =
            secrets.iter().map(|name| ((*name).to_owned(), Secret::new("x"))).collect();
        let made = build(kind, &map(config), &given, None, Reach::default()).expect("a provider");
        assert_eq!(made.channel().kind(), kind);
    }
    for (kind, config, secrets, base_url) in [
        (Feishu, json!({}), vec!["app_secret"], None),
        (Feishu, json!({ "app_id": "" }), vec!["app_secret"], None),
        (Feishu, json!({ "app_id": 7 }), vec!["app_secret"], None),
        (Feishu, json!({ "app_id": "x", "app_secret": "y" }), vec!["app_secret"], None),
        (Feishu, json!({ "app_id": "x" }), vec![], None),
        (Feishu, json!({ "app_id": "x" }), vec!["app_secret", "bot_token"], None),
        (Feishu, json!({ "app_id": "x" }), vec!["app_secret"], Some("ftp://x")),
        (Feishu, json!({ "app_id": "x" }), vec!["app_secret"], Some("https://u:p@x")),
        (Telegram, json!({ "receive": "maybe" }), vec!["bot_token"], None),
        (Telegram, json!({ "receive": "webhook" }), vec!["bot_token"], None),
        (Email, json!({ "host": "x", "from": "nobody" }), vec![], None),
        (Email, json!({ "host": "x", "from": "Bot <bot@example.org>" }), vec![], None),
        (Email, json!({ "host": "x", "from": "bot@exämple.org" }), vec![], None),
        (Email, json!({ "host": "x", "from": "a@b", "port": 0 }), vec![], None),
        (Email, json!({ "host": "x", "from": "a@b", "username": "u" }), vec![], None),
        (Email, json!({ "host": "x", "from": "a@b", "username": "u", "security": "plain" }), vec!["password"], None),
        (Email, json!({ "host": "x", "from": "a@b", "security": "ssl" }), vec![], None),
        (Email, mail, vec![], Some("https://x")),
        (Webhook, json!({}), vec![], None),
    ] {
        assert!(checked(kind, config.clone(), &secrets, base_url).is_err(), "{kind:?} {config} {secrets:?}");
    }
}

#[test]
fn a_channel_hears_what_it_can_believe() {
    use ChannelKind::{Email, Feishu, Telegram, Webhook, WhatsApp};
    for (kind, config, secrets, expected) in [
        (Feishu, json!({}), vec!["app_secret"], false),
        (Feishu, json!({}), vec!["verification_token"], true),
        (Feishu, json!({}), vec!["encrypt_key"], true),
        (Telegram, json!({}), vec!["bot_token"], false),
        (Telegram, json!({}), vec!["secret_token"], true),
        (Telegram, json!({ "receive": "off" }), vec!["secret_token"], false),
        (Telegram, json!({ "receive": "poll" }), vec!["bot_token"], true),
        (WhatsApp, json!({}), vec!["access_token", "verify_token"], false),
        (WhatsApp, json!({}), vec!["app_secret"], true),
        (Email, json!({}), vec!["password"], false),
        (Webhook, json!({}), vec!["secret"], true),
    ] {
        let names: Vec<String> = secrets.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(receives(kind, &map(config.clone()), &names), expected, "{kind:?} {config} {secrets:?}");
    }
}

#[test]
fn a_secret_that_an_operator_makes_up_is_not_short() {
    for (name, text, expected) in [
        ("secret", "123456789012345", false),
        ("secret", "123456789012345!", true),
        ("secret_token", "abc-DEF_abc-DEF_", true),
        ("secret_token", "abc-DEF_abc-DEF", false),
        ("secret_token", "abc-DEF_abc DEF_", false),
        ("secret_token", "x".repeat(257).as_str(), false),
        ("verification_token", "vt", true),
    ] {
        assert_eq!(check_secret(name, &Secret::new(text)).is_ok(), expected, "{name} {text}");
    }
}

#[test]
fn a_secret_that_is_kept_goes_to_no_other_server() {
    let mail = json!({ "host": "mail.example.org", "from": "a@b.org", "username": "u" });
    let before = |kind: ChannelKind, secrets: &[&str], base_url: Option<&str>| channel::Channel {
        id: ChannelId::new(),
        party_id: PartyId::new(),
        kind,
        name: "x".to_owned(),
        agent_id: None,
        config: map(mail.clone()),
        secrets: secrets.iter().map(|name| (*name).to_owned()).collect(),
        base_url: base_url.map(str::to_owned),
        enabled: true,
        created_at: 0,
        updated_at: 0,
    };
    let feishu = before(ChannelKind::Feishu, &["app_secret", "encrypt_key"], Some("https://a"));
    let email = before(ChannelKind::Email, &["password"], None);
    let open = before(ChannelKind::Email, &[], None);
    let with = |key: &str, value: Value| {
        let mut config = mail.clone();
        config[key] = value;
        config
    };
    for (before, config, base_url, given, expected) in [
        (&feishu, mail.clone(), Some("https://a"), None, true),
        (&feishu, mail.clone(), Some("https://b"), None, false),
        (&feishu, mail.clone(), Some("https://b"), Some("encrypt_key"), false),
        (&feishu, mail.clone(), Some("https://b"), Some("app_secret"), true),
        (&feishu, mail.clone(), None, None, false),
        (&email, with("from", json!("c@d.org")), None, None, true),
        (&email, with("host", json!("other.example.org")), None, None, false),
        (&email, with("port", json!(25)), None, None, false),
        (&email, with("port", json!(25)), None, Some("password"), true),
        (&open, with("host", json!("other.example.org")), None, None, true),
    ] {
        let secret = given.map(|name: &str| (name.to_owned(), Some(Secret::new("x"))));
        let secrets: BTreeMap<String, Option<Secret>> = secret.into_iter().collect();
        let checked = check_move(before, &map(config.clone()), base_url, &secrets);
        assert_eq!(checked.is_ok(), expected, "{config} {base_url:?} {given:?}");
    }
}

#[test]
fn secrets_have_their_bounds_and_are_not_repeated() {
    assert!(check_secret("bot_token", &Secret::new("x")).is_ok());
    for wrong in ["", "hidden\nhidden", &"hidden".repeat(1_000)] {
        let error = check_secret("bot_token", &Secret::new(wrong)).expect_err("refused");
        assert!(!error.message().contains("hidden"));
    }
}
