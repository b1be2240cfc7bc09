//! The tables, made of types that both databases have. A test compares them with what the migrations make.

diesel::table! {
    parties (id) {
        id -> Binary,
        kind -> Integer,
        reference -> Text,
        display_name -> Text,
        created_at -> BigInt,
    }
}

diesel::table! {
    users (id) {
        id -> Binary,
        name -> Text,
        display_name -> Text,
        role -> Integer,
        password_hash -> Nullable<Text>,
        party_id -> Binary,
        created_at -> BigInt,
        updated_at -> BigInt,
        deleted_at -> Nullable<BigInt>,
        idem_key -> Nullable<Text>,
        idem_hash -> Nullable<Binary>,
    }
}

diesel::table! {
    tokens (id) {
        id -> Binary,
        user_id -> Binary,
        name -> Text,
        prefix -> Text,
        digest -> Binary,
        created_at -> BigInt,
        last_used_at -> Nullable<BigInt>,
        expires_at -> Nullable<BigInt>,
        revoked_at -> Nullable<BigInt>,
        idem_key -> Nullable<Text>,
        idem_hash -> Nullable<Binary>,
    }
}

diesel::table! {
    sign_ins (id) {
        id -> Binary,
        user_id -> Binary,
        kind -> Integer,
        digest -> Binary,
        csrf_digest -> Nullable<Binary>,
        created_at -> BigInt,
        expires_at -> BigInt,
        used_at -> Nullable<BigInt>,
        revoked_at -> Nullable<BigInt>,
    }
}

diesel::table! {
    gateways (id) {
        id -> Text,
        party_id -> Binary,
        name -> Text,
        url -> Text,
        track -> Integer,
        admin -> Bool,
        enabled -> Bool,
        token -> Nullable<Binary>,
        password -> Nullable<Binary>,
        device_seed -> Nullable<Binary>,
        device_token -> Nullable<Binary>,
        device_scopes -> Nullable<Text>,
        created_at -> BigInt,
        updated_at -> BigInt,
        deleted_at -> Nullable<BigInt>,
        idem_key -> Nullable<Text>,
        idem_hash -> Nullable<Binary>,
    }
}

diesel::table! {
    agents (id) {
        id -> Binary,
        party_id -> Binary,
        slug -> Text,
        name -> Text,
        kind -> Integer,
        state -> Integer,
        role_description -> Text,
        creator_id -> Nullable<Binary>,
        labels -> Text,
        lease_seconds -> Nullable<Integer>,
        attempts_max -> Nullable<Integer>,
        model -> Nullable<Text>,
        last_seen_at -> Nullable<BigInt>,
        created_at -> BigInt,
        updated_at -> BigInt,
        deleted_at -> Nullable<BigInt>,
        idem_key -> Nullable<Text>,
        idem_hash -> Nullable<Binary>,
        name_folded -> Text,
        ending -> Bool,
    }
}

diesel::table! {
    agent_keys (id) {
        id -> Binary,
        agent_id -> Binary,
        label -> Text,
        prefix -> Text,
        digest -> Binary,
        created_at -> BigInt,
        last_used_at -> Nullable<BigInt>,
        expires_at -> Nullable<BigInt>,
        revoked_at -> Nullable<BigInt>,
        idem_key -> Nullable<Text>,
        idem_hash -> Nullable<Binary>,
    }
}

diesel::table! {
    members (id) {
        id -> Binary,
        party_id -> Binary,
        name -> Text,
        user_id -> Nullable<Binary>,
        addresses -> Text,
        created_at -> BigInt,
        updated_at -> BigInt,
        deleted_at -> Nullable<BigInt>,
        idem_key -> Nullable<Text>,
        idem_hash -> Nullable<Binary>,
        name_folded -> Text,
    }
}

diesel::table! {
    relationships (id) {
        id -> Binary,
        agent_id -> Binary,
        member_id -> Nullable<Binary>,
        target_id -> Nullable<Binary>,
        relation -> Text,
        description -> Nullable<Text>,
        created_at -> BigInt,
        idem_key -> Nullable<Text>,
        idem_hash -> Nullable<Binary>,
    }
}

diesel::table! {
    channels (id) {
        id -> Binary,
        party_id -> Binary,
        kind -> Integer,
        name -> Text,
        agent_id -> Nullable<Binary>,
        config -> Text,
        secret -> Nullable<Binary>,
        base_url -> Nullable<Text>,
        enabled -> Bool,
        created_at -> BigInt,
        updated_at -> BigInt,
        deleted_at -> Nullable<BigInt>,
        idem_key -> Nullable<Text>,
        idem_hash -> Nullable<Binary>,
        secret_names -> Text,
    }
}

diesel::table! {
    channel_refs (channel_id, chat, external_id) {
        channel_id -> Binary,
        chat -> Text,
        external_id -> Text,
        message_id -> Binary,
        direction -> Integer,
        created_at -> BigInt,
    }
}

diesel::table! {
    channel_senders (channel_id, sender_ref) {
        channel_id -> Binary,
        sender_ref -> Text,
        name -> Nullable<Text>,
        member_id -> Nullable<Binary>,
        first_seen_at -> BigInt,
        last_seen_at -> BigInt,
        allowed_at -> Nullable<BigInt>,
    }
}

diesel::table! {
    conversations (id) {
        id -> Binary,
        kind -> Integer,
        gateway_id -> Text,
        key -> Text,
        canonical_key -> Nullable<Text>,
        title -> Nullable<Text>,
        agent_id -> Nullable<Text>,
        model -> Nullable<Text>,
        owner_id -> Nullable<Binary>,
        archived -> Bool,
        first_seq -> BigInt,
        last_seq -> BigInt,
        created_at -> BigInt,
        updated_at -> BigInt,
        deleted_at -> Nullable<BigInt>,
        contacted -> Bool,
        upstream_session_id -> Nullable<Text>,
        mapped_seq -> BigInt,
        import_below -> Nullable<BigInt>,
        not_before_ms -> BigInt,
        idem_key -> Nullable<Text>,
        idem_hash -> Nullable<Binary>,
        searched_first -> BigInt,
        searched_last -> BigInt,
        purge -> Bool,
    }
}

diesel::table! {
    messages (id) {
        id -> Binary,
        conversation_id -> Binary,
        seq -> BigInt,
        role -> Integer,
        kind -> Nullable<Integer>,
        text -> Text,
        blocks -> Nullable<Text>,
        sender_id -> Binary,
        said_at -> BigInt,
        created_at -> BigInt,
        late -> Bool,
        supersedes -> Nullable<Binary>,
        in_reply_to -> Nullable<Binary>,
        hops -> Integer,
        error -> Nullable<Text>,
        end_state -> Nullable<Integer>,
        end_reason -> Nullable<Text>,
        ended_at -> Nullable<BigInt>,
        idem_key -> Nullable<Text>,
        idem_hash -> Nullable<Binary>,
    }
}

diesel::table! {
    message_origins (gateway_id, upstream_session, row_id) {
        gateway_id -> Text,
        upstream_session -> Text,
        row_id -> Text,
        message_id -> Nullable<Binary>,
        step_id -> Nullable<Binary>,
        created_at -> BigInt,
    }
}

diesel::table! {
    participants (conversation_id, party_id) {
        conversation_id -> Binary,
        party_id -> Binary,
        read_seq -> BigInt,
        joined_at -> BigInt,
    }
}

diesel::table! {
    deliveries (id) {
        id -> Binary,
        n -> BigInt,
        message_id -> Binary,
        conversation_id -> Binary,
        recipient_id -> Binary,
        seq -> BigInt,
        state -> Integer,
        outcome -> Nullable<Integer>,
        reason -> Nullable<Text>,
        attempt -> Integer,
        attempts_max -> Integer,
        priority -> Integer,
        available_at -> BigInt,
        lease_until -> Nullable<BigInt>,
        expires_at -> Nullable<BigInt>,
        due_at -> Nullable<BigInt>,
        started -> Bool,
        result_hash -> Nullable<Binary>,
        events -> Text,
        created_at -> BigInt,
        ended_at -> Nullable<BigInt>,
        coalesce_key -> Nullable<Text>,
        leased_at -> Nullable<BigInt>,
        channel_id -> Nullable<Binary>,
    }
}

diesel::table! {
    turns (id) {
        id -> Binary,
        conversation_id -> Binary,
        delivery_id -> Nullable<Binary>,
        message_id -> Nullable<Binary>,
        answer_id -> Nullable<Binary>,
        upstream_run_id -> Text,
        state -> Integer,
        text -> Text,
        usage -> Nullable<Text>,
        error -> Nullable<Text>,
        started_at -> BigInt,
        checkpoint_at -> Nullable<BigInt>,
        ended_at -> Nullable<BigInt>,
    }
}

diesel::table! {
    steps (id) {
        id -> Binary,
        turn_id -> Binary,
        n -> Integer,
        kind -> Integer,
        text -> Text,
        blocks -> Nullable<Text>,
        said_at -> BigInt,
        created_at -> BigInt,
    }
}

diesel::table! {
    search_lines (n) {
        n -> BigInt,
        conversation_id -> Binary,
        seq -> BigInt,
    }
}

diesel::table! {
    audit (id) {
        id -> Binary,
        at -> BigInt,
        actor_id -> Nullable<Binary>,
        actor_name -> Text,
        action -> Text,
        target_kind -> Text,
        target -> Text,
        before -> Nullable<Text>,
        after -> Nullable<Text>,
        address -> Nullable<Text>,
        request_id -> Nullable<Text>,
    }
}

diesel::table! {
    settings (key) {
        key -> Text,
        value -> Text,
        updated_at -> BigInt,
    }
}

diesel::table! {
    node_lease (id) {
        id -> Integer,
        node_id -> Binary,
        epoch -> BigInt,
        until -> BigInt,
        address -> Text,
        home -> Nullable<Binary>,
    }
}

diesel::allow_tables_to_appear_in_same_query!(
    parties,
    users,
    tokens,
    sign_ins,
    gateways,
    agents,
    agent_keys,
    members,
    relationships,
    channels,
    channel_refs,
    channel_senders,
    conversations,
    messages,
    message_origins,
    participants,
    deliveries,
    turns,
    steps,
    search_lines,
    audit,
    settings,
    node_lease,
);
