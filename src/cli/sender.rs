//! `channel senders`, `allow` and `forget`: who has written on a channel, and who of them is heard.
use clap::Args;
use serde_json::{Value, json};

use super::client::{Reach, escaped, reach};
use super::failure::Failure;
use super::offline::{self, Offline};
use super::output::{columns, date, json as print_json, say, text};
use super::{Format, channel, member};
use crate::config::Config;
use crate::domain::error::Error;
use crate::domain::time::iso;
use crate::store::channels::{self, AllowSender, ForgetSender, Sender};

#[derive(Debug, Args)]
pub(super) struct Of {
    /// The channel: its id, or its name
    channel: String,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
pub(super) struct Allow {
    /// The channel: its id, or its name
    channel: String,
    /// Who has written, in the provider's words, as `channel senders` shows it
    #[arg(value_name = "REF", allow_hyphen_values = true)]
    sender: String,
    /// The person it is: its id, or its name
    member: String,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
pub(super) struct Forget {
    /// The channel: its id, or its name
    channel: String,
    /// Who has written, in the provider's words, as `channel senders` shows it
    #[arg(value_name = "REF", allow_hyphen_values = true)]
    sender: String,
    #[command(flatten)]
    format: Format,
}

/// Lists who has written.
pub(super) async fn list(config: &Config, of: &Of) -> Result<(), Failure> {
    offline::must_exist(config)?;
    let views = match reach(config).await? {
        Reach::Server(server) => {
            let channel = channel::find(&server, &of.channel).await?;
            server.list(&format!("/api/admin/channels/{}/senders", escaped(text(&channel, "id")))).await?
        }
        Reach::Alone(alone) => {
            let listed = list_alone(&alone, &of.channel).await;
            alone.close().await;
            listed?
        }
    };
    if of.format.json {
        return print_json(&views);
    }
    if views.is_empty() {
        say("Nobody has written on this channel yet.");
        return Ok(());
    }
    let mut rows = vec![["REF", "NAME", "MEMBER", "SEEN"].map(str::to_owned).to_vec()];
    for view in &views {
        // A stranger chose its name.
        let shown = ["ref", "name", "member_id"].map(|field| plain(text(view, field)));
        let mut row: Vec<String> =
            shown.into_iter().map(|text| if text.is_empty() { "-".to_owned() } else { text }).collect();
        row.push(date(text(view, "last_seen_at")));
        rows.push(row);
    }
    columns("", &rows);
    Ok(())
}

/// Takes out of a stranger's text what a terminal would obey.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

async fn list_alone(alone: &Offline, named: &str) -> Result<Vec<Value>, Failure> {
    let id = channel::find_alone(alone, named).await?.id;
    let known = alone.store.read(move |db| channels::senders(db, id, None, i64::MAX)).await?;
    Ok(known.iter().map(view).collect())
}

/// Lets somebody in.
pub(super) async fn allow(config: &Config, allow: &Allow) -> Result<(), Failure> {
    let view = match reach(config).await? {
        Reach::Server(server) => {
            let channel = channel::find(&server, &allow.channel).await?;
            let member = member::find(&server, &allow.member).await?;
            let (channel, sender) = (escaped(text(&channel, "id")), escaped(&allow.sender));
            let path = format!("/api/admin/channels/{channel}/senders/{sender}/allow");
            server.post(&path, Some(&json!({ "member_id": text(&member, "id") }))).await?
        }
        Reach::Alone(alone) => {
            let allowed = allow_alone(&alone, allow).await;
            alone.close().await;
            allowed?
        }
    };
    if allow.format.json {
        return print_json(&view);
    }
    say(format_args!("What `{}` writes is taken from now on.", plain(text(&view, "ref"))));
    Ok(())
}

async fn allow_alone(alone: &Offline, allow: &Allow) -> Result<Value, Failure> {
    let command = AllowSender {
        channel_id: channel::find_alone(alone, &allow.channel).await?.id,
        sender_ref: allow.sender.clone(),
        member_id: member::find_alone(alone, &allow.member).await?.id,
        actor: offline::actor(),
    };
    Ok(view(&alone.store.write(command).await?))
}

/// Takes back that somebody was let in.
pub(super) async fn forget(config: &Config, forget: &Forget) -> Result<(), Failure> {
    match reach(config).await? {
        Reach::Server(server) => {
            let channel = channel::find(&server, &forget.channel).await?;
            let (channel, sender) = (escaped(text(&channel, "id")), escaped(&forget.sender));
            server.delete(&format!("/api/admin/channels/{channel}/senders/{sender}")).await?;
        }
        Reach::Alone(alone) => {
            let forgotten = forget_alone(&alone, forget).await;
            alone.close().await;
            forgotten?;
        }
    }
    if forget.format.json {
        return print_json(&json!({ "ok": true }));
    }
    say(format_args!("What `{}` writes is refused from now on.", plain(&forget.sender)));
    Ok(())
}

async fn forget_alone(alone: &Offline, forget: &Forget) -> Result<(), Failure> {
    let command = ForgetSender {
        channel_id: channel::find_alone(alone, &forget.channel).await?.id,
        sender_ref: forget.sender.clone(),
        actor: offline::actor(),
    };
    if alone.store.write(command).await? { Ok(()) } else { Err(Error::not_found("sender", &forget.sender).into()) }
}

/// A sender as the admin API shows it.
fn view(sender: &Sender) -> Value {
    json!({
        "ref": sender.sender_ref, "name": sender.name, "member_id": sender.member_id,
        "first_seen_at": iso(sender.first_seen_at), "last_seen_at": iso(sender.last_seen_at),
        "allowed_at": sender.allowed_at.map(iso),
    })
}
