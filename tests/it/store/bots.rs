//! A channel of Telegram stays with its bot: each bot counts the messages of a chat by itself.
use std::collections::BTreeMap;

use clawbroker::domain::channel::ChannelKind;
use clawbroker::domain::error::ErrorCode;
use clawbroker::domain::secret::Secret;
use clawbroker::store::audit::Actor;
use clawbroker::store::channels::{AddChannel, ChangeChannel, Changes};
use clawbroker::store::vault::Vault;

use super::channels::new_channel;
use crate::harness::TestStore;

on_both_databases!(another_bot_needs_another_channel);

async fn another_bot_needs_another_channel(store: TestStore) {
    let token = |text: &str| ("bot_token".to_owned(), Secret::new(text));
    let new = |kind| AddChannel { secrets: BTreeMap::from([token("42:abc")]), ..new_channel(&store, kind) };
    let id = store.write(new(ChannelKind::Telegram)).await.unwrap().id;
    let change = |id, text: &str, vault: &Vault| {
        let (name, secret) = token(text);
        let changes = Changes { secrets: BTreeMap::from([(name, Some(secret))]), ..Changes::default() };
        ChangeChannel { id, changes, actor: Actor::system(), vault: vault.clone() }
    };
    for other in ["43:abc", "4:2abc", "42"] {
        let refused = store.write(change(id, other, &store.vault)).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::ValidationError, "{other}");
        assert_eq!(refused.message(), "this is another bot: set up another channel for it");
    }
    // A token that was revoked goes for a new one of the same bot.
    store.write(change(id, "42:def", &store.vault)).await.unwrap();
    let lost = Vault::open(store.database.data_dir(), Some(&Secret::new("08".repeat(32)))).unwrap();
    store.write(change(id, "43:abc", &lost)).await.unwrap();
    let feishu = store.write(new(ChannelKind::Feishu)).await.unwrap().id;
    store.write(change(feishu, "43:abc", &store.vault)).await.unwrap();
}
