//! What the edge itself keeps: counters of requests, a place for hashing passwords, and counts that are costly to take.
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use super::passwords::Passwords;
use crate::domain::delivery::DeliveryState;
use crate::domain::error::Error;
use crate::store::{Store, deliveries};

/// Which part of the API a request was for. A fixed set: a label that clients could choose would grow without bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the names are the label values")]
pub(super) enum ApiFamily {
    chat,
    mailbox,
    hooks,
    admin,
    ops,
    socket,
    pages,
    other,
}

impl ApiFamily {
    pub(super) fn of(path: &str) -> Self {
        let below =
            |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        match path {
            "/health" | "/api/health" | "/ready" | "/metrics" => Self::ops,
            "/" | "/redoc" | "/openapi.json" => Self::pages,
            _ if below("/docs") || below("/redoc") => Self::pages,
            _ if below("/api/gateways") => Self::chat,
            _ if below("/api/gateway") => Self::mailbox,
            _ if below("/hooks") => Self::hooks,
            _ if below("/api/admin") => Self::admin,
            _ if below("/ws") || path == "/api/ws-ticket" => Self::socket,
            _ => Self::other,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    pub(super) family: ApiFamily,
    /// `2xx`, `4xx` …
    pub(super) status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct FamilyLabel {
    pub(super) family: ApiFamily,
}

/// Upper ends of the classes of duration, in seconds.
const SECONDS: [f64; 9] = [0.001, 0.005, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0];

/// Counts that a look at the database gave, with the time of the look.
type Counted = (tokio::time::Instant, Vec<(DeliveryState, i64)>);

/// How long counts of the database are good for: scrapes and open pages cost one look together.
const FRESH: Duration = Duration::from_secs(5);

/// The edge's own state; one for the whole process.
pub struct Edge {
    pub(super) requests: Family<RequestLabels, Counter>,
    pub(super) durations: Family<FamilyLabel, Histogram>,
    pub(super) passwords: Passwords,
    /// Held while a copy of the database is made: one at a time.
    pub(super) backups: tokio::sync::Mutex<()>,
    /// Held while one caller looks; the others wait and use what it found.
    deliveries: tokio::sync::Mutex<Option<Counted>>,
}

impl Default for Edge {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            passwords: Passwords::default(),
            backups: tokio::sync::Mutex::default(),
            deliveries: tokio::sync::Mutex::default(),
        }
    }
}

impl Edge {
    /// Returns how many deliveries are open or dead, as of some seconds ago at most.
    pub(super) async fn deliveries(&self, store: &Store) -> Result<Vec<(DeliveryState, i64)>, Error> {
        let mut known = self.deliveries.lock().await;
        if let Some((_, counts)) = known.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(counts.clone());
        }
        let counts = store.read(deliveries::counts).await?;
        *known = Some((tokio::time::Instant::now(), counts.clone()));
        Ok(counts)
    }

    /// Counts an answered request, with how long the answer took if that was ours to say.
    pub(super) fn count(&self, family: ApiFamily, status: u16, took: Option<Duration>) {
        let status = match status {
            100..200 => "1xx",
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        self.requests.get_or_create(&RequestLabels { family, status }).inc();
        if let Some(took) = took {
            self.durations.get_or_create(&FamilyLabel { family }).observe(took.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_one_of_few_families() {
        for (path, family) in [
            ("/", ApiFamily::pages),
            ("/docs/swagger-ui.css", ApiFamily::pages),
            ("/docsx", ApiFamily::other),
            ("/api/gateways/a/sessions/b/messages", ApiFamily::chat),
            ("/api/gatewaysx", ApiFamily::other),
            ("/api/gateway/heartbeat", ApiFamily::mailbox),
            ("/api/gateway", ApiFamily::mailbox),
            ("/api/admin/users", ApiFamily::admin),
            ("/hooks/a", ApiFamily::hooks),
            ("/api/health", ApiFamily::ops),
            ("/ws/chat/a", ApiFamily::socket),
            ("/wp-login.php", ApiFamily::other),
        ] {
            assert_eq!(ApiFamily::of(path), family, "{path}");
        }
    }
}
