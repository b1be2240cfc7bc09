//! `member`: keeps people who are reached on channels, and by what. A running server does it.
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::channel::server;
use super::client::escaped;
use super::failure::Failure;
use super::output::{columns, json as print_json, say, text};
use super::{Common, Format};
use crate::config::Config;

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Keep a person
    Add(Box<Add>),
    /// List the people who are reached on channels
    List(Format),
    /// Remove a person: no agent knows it any more, its lines stay
    Remove(One),
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// Its name; several people may have the same
    name: String,
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// `user_id` at Feishu
    #[arg(long, value_name = "ID")]
    feishu_user: Option<String>,
    /// `open_id` at Feishu
    #[arg(long, value_name = "ID")]
    feishu_open: Option<String>,
    /// The chat at Telegram
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    telegram: Option<String>,
    /// The number at WhatsApp, with its country code
    #[arg(long, value_name = "NUMBER")]
    whatsapp: Option<String>,
    /// Where its messages are posted
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
pub(super) struct One {
    /// The person's id
    id: String,
    #[command(flatten)]
    format: Format,
}

/// Runs the command.
pub(super) async fn run(common: &Common, action: Action) -> Result<(), Failure> {
    let config = common.load_quietly()?;
    match action {
        Action::Add(add) => self::add(&config, *add).await,
        Action::List(format) => list(&config, &format).await,
        Action::Remove(one) => remove(&config, &one).await,
    }
}

async fn add(config: &Config, add: Add) -> Result<(), Failure> {
    let has_feishu = add.feishu_user.is_some() || add.feishu_open.is_some();
    let feishu = has_feishu.then(|| json!({ "user_id": add.feishu_user, "open_id": add.feishu_open }));
    let body = json!({
        "name": add.name, "email": add.email, "feishu": feishu, "telegram_chat_id": add.telegram,
        "whatsapp": add.whatsapp, "webhook_url": add.webhook,
    });
    let view = server(config).await?.post("/api/admin/members", Some(&body)).await?;
    if add.format.json {
        return print_json(&view);
    }
    say(format_args!("{} is kept as `{}`.", text(&view, "name"), text(&view, "id")));
    Ok(())
}

async fn list(config: &Config, format: &Format) -> Result<(), Failure> {
    let views = server(config).await?.list("/api/admin/members").await?;
    if format.json {
        return print_json(&views);
    }
    if views.is_empty() {
        say("There is nobody yet; keep a person: clawbroker member add NAME");
        return Ok(());
    }
    let mut rows = vec![["NAME", "REACHED BY", "ID"].map(str::to_owned).to_vec()];
    let ways = [
        ("feishu", "feishu"),
        ("telegram_chat_id", "telegram"),
        ("whatsapp", "whatsapp"),
        ("email", "email"),
        ("webhook_url", "webhook"),
    ];
    for view in &views {
        let has = |field: &str| view.get(field).is_some_and(|value| *value != Value::Null);
        let reached: Vec<&str> = ways.iter().filter(|(field, _)| has(field)).map(|(_, way)| *way).collect();
        let reached = if reached.is_empty() { "-".to_owned() } else { reached.join(", ") };
        rows.push(vec![text(view, "name").to_owned(), reached, text(view, "id").to_owned()]);
    }
    columns("", &rows);
    Ok(())
}

async fn remove(config: &Config, one: &One) -> Result<(), Failure> {
    server(config).await?.delete(&format!("/api/admin/members/{}", escaped(&one.id))).await?;
    if one.format.json {
        return print_json(&json!({ "ok": true }));
    }
    say(format_args!("Member `{}` is removed; its lines stay.", one.id));
    Ok(())
}
