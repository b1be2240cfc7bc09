//! Database, clock, server, ports and gateways.
use serde_json::Value;

use super::Finding;
use crate::cli::client::Client;
use crate::cli::offline::open_to_read;
use crate::cli::output::text;
use crate::cli::restore::{unopened, vault};
use crate::config::Config;
use crate::domain::clock::{Clock, SystemClock};
use crate::domain::error::ErrorCode;
use crate::domain::time::iso;
use crate::node;
use crate::store::audit::{self, Filter};
use crate::store::vault::KEY_FILE;
use crate::store::{LOCK_FILE, Location, Store, gateways, lock_for_server, users};

/// How far the database's clock may be from ours.
const SKEW_MS: i64 = 5_000;
/// When this was written: an earlier time is a clock that was never set.
const WRITTEN_MS: i64 = 1_795_000_000_000;

/// What a node that stands by gives as the reason why it is not ready.
const STANDBY: &str = "standby";

/// Looks at the database, and at what only it can tell.
pub(super) async fn database(config: &Config) -> Vec<Finding> {
    const NAME: &str = "database";
    let opener = node::opener(&config.store);
    if let Err(error) = opener.check_ours() {
        return vec![Finding::wrong(NAME, error.message())];
    }
    if let Location::Sqlite(path) = &opener.location
        && !path.exists()
    {
        let text = format!("there is none at `{}` yet; the first start makes it", path.display());
        return vec![Finding::note(NAME, text), clock_alone()];
    }
    let store = match open_to_read(config, opener) {
        Ok(store) => store,
        Err(failure) => return vec![Finding::wrong(NAME, failure.to_string()), clock_alone()],
    };
    let mut findings = Vec::new();
    let restore = "stop the server and restore a backup: clawbroker restore FILE";
    match store.integrity_check().await {
        Ok(complaints) if complaints.is_empty() => {
            findings.push(Finding::ok(NAME, format!("{} answers and finds itself sound", config.store.url)));
        }
        Ok(complaints) => findings.push(
            Finding::wrong(NAME, format!("{} is damaged: {}", config.store.url, complaints.join("; "))).remedy(restore),
        ),
        Err(error) if error.code() == ErrorCode::Internal => {
            return vec![Finding::wrong(NAME, error.cause()).remedy(restore), clock_alone()];
        }
        Err(error) => {
            let unreachable = Finding::wrong(NAME, error.message()).remedy("is it running, and is DATABASE_URL right?");
            return vec![unreachable, clock_alone()];
        }
    }
    if store.read(users::list).await.is_err() {
        findings.push(
            Finding::wrong(NAME, "its schema is not of this version")
                .remedy("start the server, or run `clawbroker migrate`"),
        );
        return findings;
    }
    findings.push(clock(&store).await);
    findings.push(secrets(config, &store).await);
    findings
}

/// Compares our clock with the database's, and with the newest change.
async fn clock(store: &Store) -> Finding {
    const NAME: &str = "clock";
    let before = SystemClock.now_ms();
    let theirs = store.database_now_ms().await;
    let after = SystemClock.now_ms();
    let newest = store.read(|db| audit::list(db, &Filter::default(), 1)).await;
    let newest = newest.ok().and_then(|rows| rows.first().map(|row| row.at)).unwrap_or(0);
    let remedy = "set this machine's clock, best by NTP";
    match theirs {
        Ok(theirs) if theirs < before - SKEW_MS || theirs > after + SKEW_MS => {
            Finding::wrong(NAME, format!("it says {}, the database's {}", iso(after), iso(theirs))).remedy(remedy)
        }
        Ok(_) if newest > after + SKEW_MS => {
            let text = format!("it says {}, but the newest change was made at {}", iso(after), iso(newest));
            Finding::wrong(NAME, text).remedy(remedy)
        }
        _ => clock_alone(),
    }
}

fn clock_alone() -> Finding {
    let now_ms = SystemClock.now_ms();
    if now_ms < WRITTEN_MS {
        return Finding::wrong("clock", format!("it says {}, which is long ago", iso(now_ms)))
            .remedy("set this machine's clock, best by NTP");
    }
    Finding::ok("clock", iso(now_ms))
}

/// Tries the key on every sealed secret.
async fn secrets(config: &Config, store: &Store) -> Finding {
    const NAME: &str = "secrets";
    let key_file = config.app.data_dir.join(KEY_FILE);
    let restore = format!("put the key that belongs to this database back as `{}`", key_file.display());
    let sealed = match store.read(gateways::list).await {
        Ok(known) => known.iter().filter(|gateway| gateway.has_token || gateway.has_password).count(),
        Err(error) => return Finding::wrong(NAME, error.message()),
    };
    match vault(config, &key_file) {
        None if sealed == 0 => Finding::ok(NAME, "none are stored"),
        None => Finding::wrong(NAME, format!("{sealed} gateways have some, and the key is not there")).remedy(restore),
        Some(vault) => match unopened(store, vault).await {
            Ok(0) => Finding::ok(NAME, "the key opens all that are stored"),
            Ok(closed) => {
                Finding::wrong(NAME, format!("the key does not open those of {closed} gateways")).remedy(restore)
            }
            Err(failure) => Finding::wrong(NAME, failure.to_string()),
        },
    }
}

/// Tells whether a server runs on this data, and whether it works.
pub(super) async fn server(config: &Config, server: Option<&Client>) -> Finding {
    const NAME: &str = "server";
    let Some(server) = server else {
        let location = node::opener(&config.store).location;
        // Looking must not make the file.
        let locked =
            config.app.data_dir.join(LOCK_FILE).exists() && lock_for_server(&config.app.data_dir, &location).is_err();
        return match locked {
            true => Finding::wrong(NAME, "one holds the data, but does not answer")
                .remedy("look at its log; if it hangs, end its process and start it again"),
            false => Finding::note(NAME, "none runs on this data"),
        };
    };
    match server.get("/ready").await {
        Ok(_) => Finding::ok(NAME, format!("runs at {} and is ready", server.address)),
        Err(failure) if failure.to_string().contains(STANDBY) => {
            let text = format!("runs at {} and stands by: another node is active on this database", server.address);
            Finding::note(NAME, text)
        }
        Err(failure) => Finding::wrong(NAME, format!("runs at {} and is not ready: {failure}", server.address)),
    }
}

/// Tells for each listener whether our server has it or could have it.
pub(super) fn ports(config: &Config, server: Option<&Client>) -> Vec<Finding> {
    let look = |address: &crate::config::ListenAddress| match (node::check_port(address), server) {
        (Ok(()), None) => Finding::ok("port", format!("`{address}` is free")),
        (Ok(()), Some(_)) => {
            let text = format!("`{address}` is free, though a server runs: it was started with other settings");
            Finding::note("port", text)
        }
        (Err(_), Some(server)) if server.address.ends_with(&format!(":{}", address.port())) => {
            Finding::ok("port", format!("`{address}` is our server's"))
        }
        (Err(error), _) => Finding::wrong("port", error.message()),
    };
    config.server.listen.iter().map(look).collect()
}

/// Tells how the gateways are.
pub(super) async fn gateways(server: &Client) -> Vec<Finding> {
    const NAME: &str = "gateway";
    let views = match server.list("/api/admin/gateways").await {
        Ok(views) => views,
        Err(failure) => return vec![Finding::wrong(NAME, failure.to_string())],
    };
    if views.is_empty() {
        let text = "none is registered yet; `clawbroker gateway add ID URL` registers one";
        return vec![Finding::note(NAME, text)];
    }
    views.iter().map(gateway).collect()
}

fn gateway(view: &Value) -> Finding {
    let (id, state) = (text(view, "id"), text(view, "state"));
    if matches!(state, "connected" | "disabled") {
        return Finding::ok("gateway", format!("`{id}` is {state}"));
    }
    let problem = view.get("problem").unwrap_or(&Value::Null);
    let finding = match text(problem, "message") {
        "" => Finding::wrong("gateway", format!("`{id}` is {state}")),
        message => Finding::wrong("gateway", format!("`{id}` is {state}: {message}")),
    };
    match text(problem, "remedy") {
        "" => finding,
        remedy => finding.remedy(remedy),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::State;
    use super::*;

    #[test]
    fn a_gateway_that_does_not_work_is_wrong_and_says_what_to_do() {
        let pairing = json!({
            "id": "lab", "state": "pairing_required",
            "problem": { "code": "PAIRING_REQUIRED", "message": "somebody must approve us", "remedy": "approve it" },
        });
        let finding = gateway(&pairing);
        assert_eq!((finding.state, finding.remedy.as_deref()), (State::Wrong, Some("approve it")));
        assert_eq!(finding.text, "`lab` is pairing_required: somebody must approve us");
        assert_eq!(gateway(&json!({ "id": "lab", "state": "disabled" })).state, State::Ok);
    }
}
