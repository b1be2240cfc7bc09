//! `doctor`: explains the settings, each with where it comes from, and looks for what is wrong. It changes nothing.
mod checks;
mod files;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::client::Client;
use super::failure::Failure;
use super::output::{columns, json as print_json, say};
use super::{Common, Format, Listening};

/// Where a setting comes from that nobody set.
const DEFAULT: &str = "default";

#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Explain every setting, also those that have their default
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    listening: Listening,
    #[command(flatten)]
    format: Format,
}

/// What a look at one thing found.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    state: State,
    text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    /// Not wrong, but worth a look.
    Note,
    Wrong,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Wrong => "WRONG",
        }
    }
}

impl Finding {
    fn ok(check: &'static str, text: impl Into<String>) -> Self {
        // libpq, for one, says what went wrong on several lines.
        let lines: Vec<String> = text.into().lines().map(|line| line.trim().to_owned()).collect();
        Self { check, state: State::Ok, text: lines.join(" "), remedy: None }
    }

    fn note(check: &'static str, text: impl Into<String>) -> Self {
        Self { state: State::Note, ..Self::ok(check, text) }
    }

    fn wrong(check: &'static str, text: impl Into<String>) -> Self {
        Self { state: State::Wrong, ..Self::ok(check, text) }
    }

    fn remedy(mut self, text: impl Into<String>) -> Self {
        self.remedy = Some(text.into());
        self
    }
}

/// Runs the command.
pub(super) async fn run(common: &Common, doctor: &Doctor) -> Result<(), Failure> {
    let loaded = common.load_quietly_for(&doctor.listening)?;
    let config = &loaded.config;
    let server = Client::find(config).await;
    let mut findings: Vec<Finding> =
        loaded.warnings.iter().map(|warning| Finding::note("settings", warning.as_str())).collect();
    findings.extend(files::all(config));
    findings.extend(checks::database(config).await);
    let running = checks::server(config, server.as_ref()).await;
    let ready = running.state == State::Ok;
    findings.push(running);
    findings.extend(checks::ports(config, server.as_ref()));
    // Only an active node has links to gateways.
    if let Some(server) = server.as_ref().filter(|_| ready) {
        findings.extend(checks::gateways(server).await);
    }
    let wrong = findings.iter().filter(|finding| finding.state == State::Wrong).count();
    if doctor.format.json {
        print_json(&json!({ "ok": wrong == 0, "settings": loaded.origins, "findings": findings }))?;
    } else {
        explain(&loaded.origins, doctor.all);
        tell(&findings);
    }
    match wrong {
        0 => Ok(()),
        1 => Err(Failure::new("one thing is wrong")),
        _ => Err(Failure::new(format!("{wrong} things are wrong"))),
    }
}

fn explain(settings: &[crate::config::Setting], all: bool) {
    let shown: Vec<_> = settings.iter().filter(|setting| all || setting.origin != DEFAULT).collect();
    say("Settings");
    let rows: Vec<Vec<String>> = shown
        .iter()
        .map(|setting| vec![setting.key.clone(), setting.value.clone(), format!("({})", setting.origin)])
        .collect();
    columns("  ", &rows);
    if shown.len() < settings.len() {
        say(format_args!("  {} have their defaults; --all lists them", settings.len() - shown.len()));
    }
    say("");
}

fn tell(findings: &[Finding]) {
    say("Checks");
    let mut rows = Vec::new();
    for finding in findings {
        rows.push([finding.state.word(), finding.check, &finding.text].map(str::to_owned).to_vec());
        for line in finding.remedy.iter().flat_map(|remedy| remedy.lines()) {
            rows.push(["", "", line].map(str::to_owned).to_vec());
        }
    }
    columns("  ", &rows);
}
