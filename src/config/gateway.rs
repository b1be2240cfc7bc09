//! `[gateway]`: how we talk to OpenClaw gateways, and one gateway that the configuration itself registers.
use serde::Deserialize;

use super::auth::is_token;
use super::error::ConfigError;
use super::section::{KIB, MIB, Ranged, Section, Shown, listed, ranged};
use crate::domain::gateway::GatewayUrl;
use crate::domain::secret::Secret;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayConfig {
    /// Registers a gateway with the id `default` at start. `OPENCLAW_GATEWAY_URL`.
    pub url: Option<String>,
    /// The token of that gateway. Not set: the ancestors' `AUTH_TOKEN`, which is both.
    pub token: Option<Secret>,
    /// From the first packet to an open WebSocket; the reference client gives up after as long.
    pub connect_timeout_ms: u64,
    /// From the open socket to `connect.challenge`; the gateway itself closes after 15 s.
    pub challenge_timeout_ms: u64,
    /// One request to the gateway; the reference client's value.
    pub request_timeout_ms: u64,
    /// Requests under way at one gateway; more only wait inside it, where we cannot see them.
    pub requests_in_flight_max: usize,
    /// Requests that wait here for their turn; beyond it they fail like on a busy gateway, and sessions ask again later.
    pub requests_waiting_max: usize,
    /// One frame from a gateway, which sends up to 25 MiB (`policy.maxPayload`); some room above it.
    pub frame_bytes_max: usize,
    /// How long a question whose run vanished with a restarting gateway waits for the gateway to take it up again (D4).
    pub resume_wait_s: u64,
    /// Silence of a running answer after which we ask the gateway whether it still runs; models think for minutes.
    pub run_silence_s: u64,
    /// How often the health of a gateway is asked for; silence of twice as long ends the connection.
    /// `HEALTH_CHECK_INTERVAL` has milliseconds.
    pub health_check_interval_s: u64,
    /// How often the text so far of a running answer is stored: what a crash may cost of a half answer.
    pub checkpoint_ms: u64,
    /// Rows asked for per page of `chat.history`, which allows 1,000; fewer keep a page well under a frame.
    pub history_page_rows: usize,
    /// Stores what models think, and shows it. Off: it is not meant for readers and often longer than the answer.
    pub store_thinking: bool,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            url: None,
            token: None,
            connect_timeout_ms: 10_000,
            challenge_timeout_ms: 15_000,
            request_timeout_ms: 30_000,
            requests_in_flight_max: 32,
            requests_waiting_max: 10_000,
            frame_bytes_max: 33_554_432,
            resume_wait_s: 90,
            run_silence_s: 180,
            health_check_interval_s: 30,
            checkpoint_ms: 2_000,
            history_page_rows: 200,
            store_thinking: false,
        }
    }
}

impl Section for GatewayConfig {
    const NAME: &'static str = "gateway";

    fn shown(&self) -> Vec<Shown> {
        listed!(self {
            url,
            token,
            connect_timeout_ms,
            challenge_timeout_ms,
            request_timeout_ms,
            requests_in_flight_max,
            requests_waiting_max,
            frame_bytes_max,
            resume_wait_s,
            run_silence_s,
            health_check_interval_s,
            checkpoint_ms,
            history_page_rows,
            store_thinking,
        })
    }

    fn ranges(&self) -> Vec<Ranged> {
        ranged!(self {
            connect_timeout_ms: 100..=300_000,
            challenge_timeout_ms: 100..=300_000,
            request_timeout_ms: 100..=600_000,
            requests_in_flight_max: 1..=1_024,
            requests_waiting_max: 1..=1_000_000,
            frame_bytes_max: 64 * KIB..=256 * MIB,
            resume_wait_s: 0..=3_600,
            run_silence_s: 1..=86_400,
            health_check_interval_s: 1..=86_400,
            checkpoint_ms: 100..=60_000,
            history_page_rows: 1..=1_000,
        })
    }

    fn check(&self) -> Result<(), ConfigError> {
        if !self.url.as_deref().is_none_or(is_gateway_url) {
            // The value may hold a password, so it is not repeated.
            return Err(Self::invalid("url", "must be a `ws://` or `wss://` address without credentials and fragment"));
        }
        if !self.token.as_ref().is_none_or(is_token) {
            return Err(Self::invalid("token", "must be 1 to 512 visible ASCII characters without spaces"));
        }
        Ok(())
    }
}

fn is_gateway_url(text: &str) -> bool {
    text.parse::<GatewayUrl>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_url_is_a_websocket_address_without_credentials() {
        for good in ["ws://127.0.0.1:18789", "wss://gw.example.com/path"] {
            let gateway = GatewayConfig { url: Some(good.to_owned()), ..GatewayConfig::default() };
            gateway.validate().expect(good);
        }
        for wrong in ["", "127.0.0.1:18789", "http://x", "ws://u:c4n4ry@x", "ws://x#c4n4ry"] {
            let gateway = GatewayConfig { url: Some(wrong.to_owned()), ..GatewayConfig::default() };
            let error = gateway.validate().expect_err(wrong).to_string();
            assert!(error.starts_with("`gateway.url` must be") && !error.contains("c4n4ry"), "{error}");
        }
    }
}
