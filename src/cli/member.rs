//! `member`: keeps people who are reached on channels, and by what. Whom an agent knows of them is in `relation.rs`.
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::client::{Client, Reach, escaped, reach};
use super::failure::Failure;
use super::named::chosen;
use super::offline::{self, Offline};
use super::output::{columns, json as print_json, say, text};
use super::{Common, Format};
use crate::config::Config;
use crate::domain::member::Member;
use crate::domain::time::iso;
use crate::http;
use crate::store::members::{self, AddMember, ChangeMember, RemoveMember};

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Keep a person
    Add(Box<Add>),
    /// List the people who are reached on channels
    List(Format),
    /// Change a person, or by what it is reached; what is not named stays as it is
    Change(Box<Change>),
    /// Remove a person: no agent knows it any more, its lines stay
    Remove(One),
}

/// By what a person is reached.
#[derive(Debug, Args)]
pub(super) struct Reached {
    /// The address of its e-mail
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// For people who read it; nothing calls it
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    phone: Option<String>,
    /// `user_id` at Feishu
    #[arg(long, value_name = "ID")]
    feishu_user: Option<String>,
    /// `open_id` at Feishu
    #[arg(long, value_name = "ID")]
    feishu_open: Option<String>,
    /// The chat at Telegram
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    telegram: Option<String>,
    /// The number at WhatsApp, with its country code, or the id that a person has there
    #[arg(long, value_name = "NUMBER")]
    whatsapp: Option<String>,
    /// Where its messages are posted
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// Its name; several people may have the same
    name: String,
    #[command(flatten)]
    reached: Reached,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
pub(super) struct Change {
    /// The person: its id, or its name
    member: String,
    /// What it is called from now on
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    reached: Reached,
    /// By what it is not reached any more; may be given several times
    #[arg(long, value_enum, value_name = "WAY")]
    unset: Vec<Way>,
    #[command(flatten)]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Way {
    Email,
    Phone,
    /// Both ids
    Feishu,
    FeishuUser,
    FeishuOpen,
    Telegram,
    Whatsapp,
    Webhook,
}

#[derive(Debug, Args)]
pub(super) struct One {
    /// The person: its id, or its name
    member: String,
    #[command(flatten)]
    format: Format,
}

/// Runs the command.
pub(super) async fn run(common: &Common, action: Action) -> Result<(), Failure> {
    let config = common.load_quietly()?;
    match action {
        Action::Add(add) => self::add(&config, &add).await,
        Action::List(format) => list(&config, &format).await,
        Action::Change(change) => self::change(&config, &change).await,
        Action::Remove(one) => remove(&config, &one).await,
    }
}

impl Reached {
    /// Returns what is named, as the fields of the API.
    fn fields(&self) -> Map<String, Value> {
        let mut fields = of([
            ("email", &self.email),
            ("phone", &self.phone),
            ("telegram_chat_id", &self.telegram),
            ("whatsapp", &self.whatsapp),
            ("webhook_url", &self.webhook),
        ]);
        let feishu = of([("user_id", &self.feishu_user), ("open_id", &self.feishu_open)]);
        if !feishu.is_empty() {
            fields.insert("feishu".to_owned(), Value::Object(feishu));
        }
        fields
    }
}

/// Returns the fields that have a value.
fn of<const N: usize>(given: [(&str, &Option<String>); N]) -> Map<String, Value> {
    let named = given.into_iter().filter_map(|(field, value)| Some((field.to_owned(), json!(value.as_ref()?))));
    named.collect()
}

impl Change {
    /// Refuses a way that is to be set and to go.
    fn check(&self) -> Result<(), Failure> {
        let Reached { email, phone, feishu_user, feishu_open, telegram, whatsapp, webhook } = &self.reached;
        let is_set = |way: &Way| match way {
            Way::Email => email.is_some(),
            Way::Phone => phone.is_some(),
            Way::Feishu => feishu_user.is_some() || feishu_open.is_some(),
            Way::FeishuUser => feishu_user.is_some(),
            Way::FeishuOpen => feishu_open.is_some(),
            Way::Telegram => telegram.is_some(),
            Way::Whatsapp => whatsapp.is_some(),
            Way::Webhook => webhook.is_some(),
        };
        let twice = self.unset.iter().find(|&way| is_set(way)).and_then(Way::to_possible_value);
        match twice {
            Some(way) => {
                Err(Failure::usage(format!("`{}` is both set and unset: leave one of the two out", way.get_name())))
            }
            None => Ok(()),
        }
    }

    /// Returns what changes, as the fields of the API.
    fn fields(&self) -> Map<String, Value> {
        let mut fields = self.reached.fields();
        fields.extend(of([("name", &self.name)]));
        for way in &self.unset {
            let (field, id) = match way {
                Way::Email => ("email", None),
                Way::Phone => ("phone", None),
                Way::Feishu => ("feishu", None),
                Way::FeishuUser => ("feishu", Some("user_id")),
                Way::FeishuOpen => ("feishu", Some("open_id")),
                Way::Telegram => ("telegram_chat_id", None),
                Way::Whatsapp => ("whatsapp", None),
                Way::Webhook => ("webhook_url", None),
            };
            let Some(id) = id else {
                fields.insert(field.to_owned(), Value::Null);
                continue;
            };
            let ids = fields.entry(field).or_insert_with(|| Value::Object(Map::new()));
            if let Some(ids) = ids.as_object_mut() {
                ids.insert(id.to_owned(), Value::Null);
            }
        }
        fields
    }
}

async fn add(config: &Config, add: &Add) -> Result<(), Failure> {
    let mut body = add.reached.fields();
    body.insert("name".to_owned(), json!(add.name));
    let view = match reach(config).await? {
        Reach::Server(server) => server.post("/api/admin/members", Some(&Value::Object(body))).await?,
        Reach::Alone(alone) => {
            let added = add_alone(&alone, body).await;
            alone.close().await;
            added?
        }
    };
    if add.format.json {
        return print_json(&view);
    }
    say(format_args!("{} is kept as `{}`.", text(&view, "name"), text(&view, "id")));
    Ok(())
}

async fn add_alone(alone: &Offline, body: Map<String, Value>) -> Result<Value, Failure> {
    let (name, addresses) = http::new_member(body).map_err(Failure::of_field)?;
    let command = AddMember { name, user_id: None, addresses, actor: offline::actor(), idem: None };
    Ok(view(&alone.store.write(command).await?))
}

async fn list(config: &Config, format: &Format) -> Result<(), Failure> {
    offline::must_exist(config)?;
    let views = match reach(config).await? {
        Reach::Server(server) => server.list("/api/admin/members").await?,
        Reach::Alone(alone) => {
            let known = alone.store.read(|db| members::page(db, None, i64::MAX)).await;
            alone.close().await;
            known?.iter().map(view).collect()
        }
    };
    if format.json {
        return print_json(&views);
    }
    if views.is_empty() {
        say("There is nobody yet; keep a person: clawbroker member add NAME");
        return Ok(());
    }
    let mut rows = vec![["NAME", "REACHED BY", "ID"].map(str::to_owned).to_vec()];
    for view in &views {
        rows.push(vec![text(view, "name").to_owned(), reached_by(view), text(view, "id").to_owned()]);
    }
    columns("", &rows);
    Ok(())
}

/// Names the kinds of channels for which a person has an address.
fn reached_by(view: &Value) -> String {
    let ways = [
        ("feishu", "feishu"),
        ("telegram_chat_id", "telegram"),
        ("whatsapp", "whatsapp"),
        ("email", "email"),
        ("webhook_url", "webhook"),
    ];
    let has = |field: &str| view.get(field).is_some_and(|value| *value != Value::Null);
    let reached: Vec<&str> = ways.iter().filter(|(field, _)| has(field)).map(|(_, way)| *way).collect();
    if reached.is_empty() { "-".to_owned() } else { reached.join(", ") }
}

async fn change(config: &Config, change: &Change) -> Result<(), Failure> {
    change.check()?;
    let body = change.fields();
    let view = match reach(config).await? {
        Reach::Server(server) => {
            let member = find(&server, &change.member).await?;
            let path = format!("/api/admin/members/{}", escaped(text(&member, "id")));
            server.patch(&path, &Value::Object(body)).await?
        }
        Reach::Alone(alone) => {
            let changed = change_alone(&alone, &change.member, body).await;
            alone.close().await;
            changed?
        }
    };
    if change.format.json {
        return print_json(&view);
    }
    say(format_args!("{} is changed; reached by: {}.", text(&view, "name"), reached_by(&view)));
    Ok(())
}

async fn change_alone(alone: &Offline, named: &str, body: Map<String, Value>) -> Result<Value, Failure> {
    let id = find_alone(alone, named).await?.id;
    let changes = http::member_changes(body).map_err(Failure::of_field)?;
    Ok(view(&alone.store.write(ChangeMember { id, changes, actor: offline::actor() }).await?))
}

async fn remove(config: &Config, one: &One) -> Result<(), Failure> {
    let name = match reach(config).await? {
        Reach::Server(server) => {
            let member = find(&server, &one.member).await?;
            server.delete(&format!("/api/admin/members/{}", escaped(text(&member, "id")))).await?;
            text(&member, "name").to_owned()
        }
        Reach::Alone(alone) => {
            let removed = remove_alone(&alone, &one.member).await;
            alone.close().await;
            removed?
        }
    };
    if one.format.json {
        return print_json(&json!({ "ok": true }));
    }
    say(format_args!("{name} is removed; what was said stays."));
    Ok(())
}

async fn remove_alone(alone: &Offline, named: &str) -> Result<String, Failure> {
    let member = find_alone(alone, named).await?;
    alone.store.write(RemoveMember { id: member.id, actor: offline::actor() }).await?;
    Ok(member.name)
}

/// Finds a person of the server by id or name.
pub(super) async fn find(server: &Client, named: &str) -> Result<Value, Failure> {
    let all = server.list("/api/admin/members").await?;
    chosen("member", named, all, |view| (text(view, "id"), text(view, "name")))
}

/// Finds a person of the database by id or name.
pub(super) async fn find_alone(alone: &Offline, named: &str) -> Result<Member, Failure> {
    let all = alone.store.read(|db| members::page(db, None, i64::MAX)).await?;
    let all = all.into_iter().map(|member| (member.id.to_string(), member)).collect();
    chosen("member", named, all, |(id, member)| (id.as_str(), member.name.as_str())).map(|(_, member)| member)
}

/// A person as the admin API shows it.
fn view(member: &Member) -> Value {
    let addresses = &member.addresses;
    let (user_id, open_id) = (&addresses.feishu_user_id, &addresses.feishu_open_id);
    let has_feishu = user_id.is_some() || open_id.is_some();
    json!({
        "id": member.id, "name": member.name, "user_id": member.user_id, "email": addresses.email,
        "phone": addresses.phone, "feishu": has_feishu.then(|| json!({ "user_id": user_id, "open_id": open_id })),
        "telegram_chat_id": addresses.telegram_chat_id, "whatsapp": addresses.whatsapp,
        "webhook_url": addresses.webhook_url, "created_at": iso(member.created_at),
        "updated_at": iso(member.updated_at),
    })
}
