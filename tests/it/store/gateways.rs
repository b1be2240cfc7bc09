use clawbroker::actors::bootstrap;
use clawbroker::config::Config;
use clawbroker::domain::error::ErrorCode;
use clawbroker::domain::gateway::Track;
use clawbroker::domain::ids::GatewayId;
use clawbroker::domain::message::Block;
use clawbroker::domain::secret::Secret;
use clawbroker::domain::turn::StepKind;
use clawbroker::domain::user::Role;
use clawbroker::store::audit::Actor;
use clawbroker::store::conversations;
use clawbroker::store::gateways::{self, AddGateway, ChangeGateway, Changes, Credentials, KeepDevice, RemoveGateway};
use clawbroker::store::messages::Idem;
use clawbroker::store::purge::{self, PurgeStep};
use clawbroker::store::search::IndexLines;
use clawbroker::store::turns::NewStep;
use clawbroker::store::upstream::{ImportRows, MapRows, MappedRow, Meaning, Source};
use clawbroker::store::vault::Vault;

use crate::harness::test_store::answer;
use crate::harness::{Kind, TestStore, session_name, sql};

const CANARIES: [&str; 4] = ["canary-token-4f1c", "canary-password-9b2e", "canary-seed-77aa", "canary-device-0d3b"];

fn secret(text: &str) -> Option<Secret> {
    Some(Secret::new(text))
}

async fn with_all_secrets(store: &TestStore) -> GatewayId {
    let id = store
        .write(AddGateway { token: secret(CANARIES[0]), password: secret(CANARIES[1]), ..store.new_gateway("gw") })
        .await
        .unwrap()
        .id;
    store
        .write(KeepDevice {
            id: id.clone(),
            seed: secret(CANARIES[2]),
            token: secret(CANARIES[3]),
            scopes: vec!["operator.read".into(), "operator.write".into()],
            vault: store.vault.clone(),
        })
        .await
        .unwrap();
    id
}

async fn credentials(store: &TestStore, id: &GatewayId) -> Credentials {
    let (vault, id) = (store.vault.clone(), id.clone());
    store.read(move |db| gateways::credentials(db, &vault, &id)).await.unwrap()
}

async fn change(store: &TestStore, id: &GatewayId, changes: Changes) -> clawbroker::domain::gateway::Gateway {
    let vault = store.vault.clone();
    store.write(ChangeGateway { id: id.clone(), changes, actor: Actor::system(), vault }).await.unwrap()
}

async fn credentials_come_back_as_they_were_given(store: TestStore) {
    let id = with_all_secrets(&store).await;
    let back = credentials(&store, &id).await;
    let all = [back.token, back.password, back.device_seed, back.device_token].map(Option::unwrap);
    assert_eq!(all.each_ref().map(Secret::reveal), CANARIES);
    assert_eq!(back.device_scopes, ["operator.read", "operator.write"]);
}

/// SEC-1: neither the files nor the rows hold a secret in any of the forms a dump would show it in.
async fn secrets_are_sealed_at_rest(store: TestStore) {
    with_all_secrets(&store).await;
    let mut at_rest = Vec::new();
    match store.database.kind() {
        Kind::Sqlite => {
            for entry in std::fs::read_dir(store.database.data_dir()).unwrap() {
                at_rest.extend(std::fs::read(entry.unwrap().path()).unwrap());
            }
        }
        Kind::Postgres => {
            let mut db = store.database.connect();
            let tables = sql::texts(
                &mut db,
                "SELECT table_name::text AS value FROM information_schema.tables WHERE table_schema = 'clawbroker'",
            );
            for table in tables {
                let rows = sql::texts(&mut db, &format!("SELECT t::text AS value FROM {table} t"));
                at_rest.extend(rows.join("\n").into_bytes());
            }
        }
    }
    assert!(holds(&at_rest, b"Gateway gw") || holds(&at_rest, b"\"Gateway gw\""), "the rows are in what was read");
    for canary in CANARIES {
        let hex: String = canary.bytes().map(|byte| format!("{byte:02x}")).collect();
        for form in [canary, hex.as_str()] {
            assert!(!holds(&at_rest, form.as_bytes()), "{form}");
        }
    }
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

async fn an_id_is_taken_once_unless_the_key_repeats_it(store: TestStore) {
    let idem = |hash| Some(Idem { key: "k".into(), hash: [hash; 32] });
    let first = store.write(AddGateway { idem: idem(1), ..store.new_gateway("gw") }).await.unwrap();
    let again = store.write(AddGateway { idem: idem(1), ..store.new_gateway("gw") }).await.unwrap();
    assert_eq!(again, first);
    let other = store.write(AddGateway { idem: idem(2), ..store.new_gateway("gw") }).await.unwrap_err();
    assert_eq!(other.code(), ErrorCode::IdempotencyConflict);
    let taken = store.write(store.new_gateway("gw")).await.unwrap_err();
    assert_eq!(taken.code(), ErrorCode::AlreadyExists);
}

async fn changes_touch_only_what_they_name(store: TestStore) {
    let id = with_all_secrets(&store).await;
    store.told();
    let changes = Changes { name: Some("New".into()), track: Some(Track::All), ..Changes::default() };
    let changed = change(&store, &id, changes).await;
    assert_eq!((changed.name.as_str(), changed.track, changed.url.as_str()), ("New", Track::All, "ws://127.0.0.1:1"));
    assert!(changed.has_token && changed.has_password);
    assert_eq!(store.told(), ["gateway gw changed"]);
    let changed =
        change(&store, &id, Changes { token: Some(None), password: Some(secret("new")), ..Changes::default() }).await;
    assert!(!changed.has_token && changed.has_password);
    let back = credentials(&store, &id).await;
    assert_eq!((back.token, back.password), (None, secret("new")));
    assert!(back.device_token.is_some());
}

async fn what_is_as_it_was_is_no_change(store: TestStore) {
    let id = with_all_secrets(&store).await;
    let same = Changes {
        name: Some("Gateway gw".into()),
        url: Some("ws://127.0.0.1:1".into()),
        track: Some(Track::Used),
        admin: Some(false),
        enabled: Some(true),
        ..Changes::default()
    };
    let rows = "SELECT count(*) AS value FROM audit WHERE action = 'gateway.change'";
    let before = change(&store, &id, Changes::default()).await;
    store.told();
    store.clock.advance_ms(1_000);
    assert_eq!(change(&store, &id, same).await, before);
    assert_eq!((store.told().len(), store.number(rows).await), (0, 0));
    // A name is for people; the link goes on.
    let renamed = change(&store, &id, Changes { name: Some("New".into()), ..Changes::default() }).await;
    assert_eq!((renamed.name.as_str(), renamed.updated_at), ("New", before.updated_at + 1_000));
    assert_eq!((store.told().len(), store.number(rows).await), (0, 1));
    // A secret that is given may be another one, and what is not there cannot be removed.
    let given = || Changes { token: Some(secret(CANARIES[0])), ..Changes::default() };
    let removed = || Changes { token: Some(None), ..Changes::default() };
    for (changes, count, told) in
        [(given(), 2, &["gateway gw changed"][..]), (removed(), 3, &["gateway gw changed"]), (removed(), 3, &[])]
    {
        change(&store, &id, changes).await;
        assert_eq!(store.told(), told);
        assert_eq!(store.number(rows).await, count);
    }
}

async fn a_removed_gateway_loses_its_secrets_and_keeps_its_conversations(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    store.ask(&caller, conversation.id, "hello").await;
    let id = conversation.gateway_id.clone().unwrap();
    change(&store, &id, Changes { token: Some(secret("t")), ..Changes::default() }).await;
    store.told();
    store.write(RemoveGateway { id: id.clone(), purge: false, actor: Actor::system() }).await.unwrap();
    assert_eq!(store.told(), ["delivery pending -> cancelled", "gateway gw removed"]);
    let gone = id.clone();
    assert_eq!(store.read(move |db| gateways::get(db, &gone)).await.unwrap(), None);
    assert_eq!(store.number("SELECT count(*) AS value FROM gateways WHERE token IS NOT NULL").await, 0);
    assert_eq!(store.log(conversation.id).await.len(), 1, "still readable");
    // Added again it finds what it had said.
    store.gateway("gw").await;
    assert_eq!(credentials(&store, &id).await.token, None);
    let name = session_name(&id, "webchat-1");
    let found = store.read(move |db| conversations::find(db, &name)).await.unwrap().unwrap();
    assert_eq!(found.id, conversation.id);
}

async fn a_purge_takes_everything_of_the_gateway_and_nothing_else(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    store.begun(&caller, conversation.id, "hello").await;
    let other = store.gateway("other").await;
    let kept = store.session(&caller, &other, "webchat-1").await;
    store.ask(&caller, kept.id, "stays").await;
    store.told();
    let id = conversation.gateway_id.clone().unwrap();
    store.write(RemoveGateway { id, purge: true, actor: Actor::system() }).await.unwrap();
    assert_eq!(store.told(), ["delivery leased -> cancelled", "turn aborted", "deleted 1..1", "gateway gw removed"]);
    for table in ["conversations", "messages", "deliveries", "participants"] {
        assert_eq!(store.number(&format!("SELECT count(*) AS value FROM {table}")).await, 1, "{table}");
    }
    assert_eq!(store.number("SELECT count(*) AS value FROM turns").await, 0);
    assert_eq!(store.log(kept.id).await.len(), 1);
    // Its number of lines is not remembered by whoever comes next under the name.
    let gateway = store.gateway("gw").await;
    let fresh = store.session(&caller, &gateway, "webchat-1").await;
    assert_eq!(store.ask(&caller, fresh.id, "first").await.line.seq, 1);
}

/// A large one goes in steps; until the last row is gone its id is not given again.
async fn a_purge_goes_in_bounded_steps(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let (_, turn) = store.begun(&caller, conversation.id, "first").await;
    store.write(answer(turn, "zebra")).await.unwrap();
    let id = conversation.gateway_id.clone().unwrap();
    // Rows of the gateway that became a line, a step, or neither.
    let source = Source { conversation_id: conversation.id, gateway_id: id.clone(), upstream_session: "s".into() };
    let step = NewStep { kind: StepKind::ToolCall, text: "used".into(), blocks: vec![Block::text("used")], said_at: 1 };
    let rows = vec![
        MappedRow { row_id: "answer".into(), meaning: Meaning::Answer(turn) },
        MappedRow { row_id: "step".into(), meaning: Meaning::Step(turn, step) },
    ];
    store.write(MapRows { source: source.clone(), rows, mapped_seq: 2 }).await.unwrap();
    let resets = vec!["reset".to_owned()];
    store.write_bulk(ImportRows { source, rows: Vec::new(), resets, import_below: None }).await.unwrap();
    assert_eq!(store.number("SELECT count(*) AS value FROM message_origins").await, 3);
    assert_eq!(store.number("SELECT count(*) AS value FROM steps").await, 1);
    for n in 0..1_200 {
        store.ask(&caller, conversation.id, &format!("question {n}")).await;
    }
    while store.write_bulk(IndexLines).await.unwrap() {}
    store.write(RemoveGateway { id: id.clone(), purge: true, actor: Actor::system() }).await.unwrap();
    let gone = conversation.id;
    assert_eq!(store.read(move |db| conversations::get(db, gone)).await.unwrap(), None, "hidden at once");
    assert!(store.number("SELECT count(*) AS value FROM messages").await > 500, "and removed in steps");
    assert_eq!(store.read(purge::waiting).await.unwrap(), 1);
    let refused = store.write(store.new_gateway("gw")).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::AlreadyExists);
    let mut steps = 0;
    while store.write_bulk(PurgeStep::default()).await.unwrap() {
        steps += 1;
    }
    assert!((2..10).contains(&steps), "{steps}");
    for table in [
        "conversations",
        "messages",
        "message_origins",
        "deliveries",
        "participants",
        "turns",
        "steps",
        "search_lines",
        "search_words",
    ] {
        assert_eq!(store.number(&format!("SELECT count(*) AS value FROM {table}")).await, 0, "{table}");
    }
    assert_eq!(store.read(purge::waiting).await.unwrap(), 0);
    let gateway = store.gateway("gw").await;
    let fresh = store.session(&caller, &gateway, "webchat-1").await;
    assert_eq!(store.ask(&caller, fresh.id, "first").await.line.seq, 1);
}

async fn the_configured_gateway_comes_back_while_its_removal_is_under_way(store: TestStore) {
    let (caller, id) = (store.user("ann", Role::Member).await, store.gateway("default").await);
    let conversation = store.session(&caller, &id, "webchat-1").await;
    for n in 0..600 {
        store.ask(&caller, conversation.id, &format!("question {n}")).await;
    }
    store.write(RemoveGateway { id: id.clone(), purge: true, actor: Actor::system() }).await.unwrap();
    assert_eq!(store.read(purge::waiting).await.unwrap(), 1);
    let mut config = Config::default();
    config.app.data_dir = store.database.data_dir().to_owned();
    config.gateway.url = Some("ws://127.0.0.1:2".to_owned());
    bootstrap::run(&store, &config, &store.vault).await.unwrap();
    assert_eq!(store.read(purge::waiting).await.unwrap(), 0);
    let gateway = store.read(move |db| gateways::get(db, &id)).await.unwrap();
    assert_eq!(gateway.unwrap().url, "ws://127.0.0.1:2");
}

async fn secrets_whose_key_is_lost_hold_nothing_up_and_can_be_given_anew(store: TestStore) {
    let id = with_all_secrets(&store).await;
    store.write(AddGateway { token: secret("old"), ..store.new_gateway("default") }).await.unwrap();
    let vault = Vault::open(store.database.data_dir(), Some(&Secret::new("08".repeat(32)))).unwrap();
    let mut config = Config::default();
    config.app.data_dir = store.database.data_dir().to_owned();
    config.gateway.url = Some("ws://127.0.0.1:2".to_owned());
    config.gateway.token = secret("new");
    bootstrap::run(&store, &config, &vault).await.unwrap();
    let default: GatewayId = "default".parse().unwrap();
    assert_eq!(credentials(&store, &default).await.token, secret("old"), "another key may still open it");
    let changes = Changes { token: Some(None), ..Changes::default() };
    let change = ChangeGateway { id: id.clone(), changes, actor: Actor::system(), vault: vault.clone() };
    store.write(change).await.unwrap();
    assert!(credentials(&store, &id).await.device_seed.is_some(), "nor does a removal give anything up");
    // The identity that nobody can open goes with what is given anew.
    let changes = Changes { token: Some(secret("new")), password: Some(None), ..Changes::default() };
    let change = ChangeGateway { id: id.clone(), changes, actor: Actor::system(), vault: vault.clone() };
    store.write(change).await.unwrap();
    let back = store.read(move |db| gateways::credentials(db, &vault, &id)).await.unwrap();
    assert_eq!((back.token, back.password, back.device_seed, back.device_token), (secret("new"), None, None, None));
    assert_eq!(back.device_scopes, Vec::<String>::new());
}

async fn what_does_not_exist_is_not_found(store: TestStore) {
    let id: GatewayId = "nowhere".parse().unwrap();
    let (vault, asked) = (store.vault.clone(), id.clone());
    let error = store.read(move |db| gateways::credentials(db, &vault, &asked)).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::GatewayNotFound);
    let error = store.write(RemoveGateway { id, purge: true, actor: Actor::system() }).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::GatewayNotFound);
}

on_both_databases!(
    credentials_come_back_as_they_were_given,
    secrets_are_sealed_at_rest,
    an_id_is_taken_once_unless_the_key_repeats_it,
    changes_touch_only_what_they_name,
    what_is_as_it_was_is_no_change,
    secrets_whose_key_is_lost_hold_nothing_up_and_can_be_given_anew,
    a_removed_gateway_loses_its_secrets_and_keeps_its_conversations,
    a_purge_takes_everything_of_the_gateway_and_nothing_else,
    a_purge_goes_in_bounded_steps,
    the_configured_gateway_comes_back_while_its_removal_is_under_way,
    what_does_not_exist_is_not_found,
);
