//! The rows of new conversations, and how those without a gateway are found by their keys.
use diesel::prelude::*;

use crate::domain::conversation::{Conversation, ConversationKind, Upstream};
use crate::domain::error::Error;
use crate::domain::ids::{ConversationId, GatewayId, UserId};
use crate::store::dialect::Db;
use crate::store::schema::conversations;
use crate::store::tx::Tx;

/// Makes a conversation that has no gateway, under a key that no other live one of its kind has.
pub(in crate::store) fn insert_named(
    tx: &mut Tx<'_>,
    kind: ConversationKind,
    key: &str,
    title: String,
    owner_id: Option<UserId>,
) -> Result<ConversationId, Error> {
    let now_ms = tx.now_ms();
    let conversation = Conversation {
        id: ConversationId::new(),
        kind,
        gateway_id: None,
        key: key.to_owned(),
        canonical_key: None,
        title: Some(title),
        agent_id: None,
        model: None,
        owner_id,
        archived: false,
        first_seq: 1,
        last_seq: 0,
        created_at: now_ms,
        updated_at: now_ms,
        deleted_at: None,
        upstream: Upstream::default(),
    };
    insert_row(tx, &conversation, None)?;
    tx.note_named(kind, key, conversation.id);
    Ok(conversation.id)
}

/// Finds the live conversation of this kind and key that has no gateway.
pub(in crate::store) fn named(db: &mut Db, kind: ConversationKind, key: &str) -> Result<Option<ConversationId>, Error> {
    let found: Option<Vec<u8>> = conversations::table
        .filter(
            conversations::kind
                .eq(kind as i32)
                .and(conversations::gateway_id.eq(""))
                .and(conversations::key.eq(key))
                .and(conversations::deleted_at.is_null()),
        )
        .select(conversations::id)
        .first(db)
        .optional()?;
    found.map(|id| ConversationId::try_from(id.as_slice())).transpose()
}

/// Makes a conversation's row.
pub(super) fn insert_row(
    tx: &mut Tx<'_>,
    conversation: &Conversation,
    canonical_key: Option<&str>,
) -> Result<(), Error> {
    diesel::insert_into(conversations::table)
        .values((
            conversations::id.eq(conversation.id.as_bytes().as_slice()),
            conversations::kind.eq(conversation.kind as i32),
            conversations::gateway_id.eq(conversation.gateway_id.as_ref().map_or("", GatewayId::as_str)),
            conversations::key.eq(&conversation.key),
            conversations::canonical_key.eq(canonical_key),
            conversations::title.eq(&conversation.title),
            conversations::agent_id.eq(&conversation.agent_id),
            conversations::model.eq(&conversation.model),
            conversations::owner_id.eq(conversation.owner_id.as_ref().map(|id| id.as_bytes().as_slice())),
            conversations::archived.eq(conversation.archived),
            conversations::first_seq.eq(conversation.first_seq),
            conversations::last_seq.eq(conversation.last_seq),
            conversations::created_at.eq(conversation.created_at),
            conversations::updated_at.eq(conversation.updated_at),
            conversations::contacted.eq(conversation.upstream.contacted),
            conversations::mapped_seq.eq(conversation.upstream.mapped_seq),
            conversations::not_before_ms.eq(conversation.upstream.not_before_ms),
        ))
        .execute(tx.write()?)?;
    Ok(())
}
