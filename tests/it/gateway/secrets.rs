//! SEC-1: what was put in as a secret comes out nowhere.
use serde_json::json;

use crate::harness::{Broker, Database};
use crate::ws::sample_gateway;

on_both_databases!(no_secret_comes_out_anywhere);

const TOKEN: &str = "canary-token-4711";
const PASSWORD: &str = "canary-password-4712";
const OPERATOR: &str = "canary-operator-4713-canary-operator";

async fn no_secret_comes_out_anywhere(database: Database) {
    let gateway = sample_gateway(|options| options.token = Some(TOKEN.into()));
    let broker = Broker::start(&database, &["--log-level", "trace"], &[("AUTH_TOKEN", OPERATOR)]).await;
    let body = json!({ "id": "gw", "name": "G", "url": gateway.url, "token": TOKEN, "password": PASSWORD });
    let mut seen = vec![broker.post("/api/gateways", body).await.1.to_string()];
    broker.gateway_is("gw", "connected").await;
    // A gateway that refuses, and one whose URL holds credentials.
    let wrong = json!({ "id": "gw2", "name": "G2", "url": gateway.url, "token": format!("{TOKEN}-wrong") });
    seen.push(broker.post("/api/gateways", wrong).await.1.to_string());
    broker.gateway_is("gw2", "refused").await;
    let in_url = json!({ "id": "gw3", "name": "G3", "url": format!("ws://user:{PASSWORD}@127.0.0.1:1") });
    let (status, refused) = broker.post("/api/gateways", in_url).await;
    assert!((400..500).contains(&status), "{refused}");
    seen.push(refused.to_string());
    let (_, token) = broker.post("/api/admin/tokens", json!({ "name": "extra" })).await;
    let secret = token["token"].as_str().expect("shown once").to_owned();
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.ask("a", "say: hello").await;
    browser.until_terminal().await;
    seen.push(browser.transcript());
    let paths = [
        "/",
        "/health",
        "/ready",
        "/metrics",
        "/openapi.json",
        "/api/gateways",
        "/api/gateways/gw/status",
        "/api/gateways/gw2/status",
        "/api/gateways/gw/sessions",
        "/api/admin/gateways",
        "/api/admin/gateways/gw",
        "/api/admin/tokens",
        "/api/admin/users",
        "/api/admin/audit",
        "/api/admin/actors",
        "/api/admin/stats",
        "/api/admin/conversations",
        "/api/admin/deliveries",
        "/api/nowhere",
        "/api/gateways/%00",
    ];
    for path in paths {
        seen.push(format!("{path}: {}", broker.get(path).await.1));
    }
    seen.push(broker.post("/api/admin/backup", json!({})).await.1.to_string());
    seen.push(broker.log());
    for secret in [TOKEN, PASSWORD, OPERATOR, &secret] {
        for text in &seen {
            let at = text.find(secret);
            assert!(at.is_none(), "{secret} in {}", &text[at.unwrap_or(0).saturating_sub(200)..][..300]);
        }
    }
    // The admin's own token is printed once, at the first start, and stands in its file; in the log it is nowhere else.
    assert!(broker.log().matches(&broker.token).count() <= 1, "{}", broker.log());
    // At rest: the data directory but the token's own file.
    for entry in std::fs::read_dir(database.data_dir()).expect("the data directory") {
        let path = entry.expect("an entry").path();
        if !path.is_file() || path.ends_with("admin.token") || path.ends_with("broker.log") {
            continue;
        }
        let bytes = std::fs::read(&path).expect("a file");
        for secret in [TOKEN, PASSWORD, OPERATOR, &secret, &broker.token] {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} in {}", path.display());
        }
    }
}
