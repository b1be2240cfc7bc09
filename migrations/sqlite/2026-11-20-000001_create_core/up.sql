-- The twin of the PostgreSQL migration of the same name. application_id marks the file as ours (D8): 'clbr'.
PRAGMA application_id = 1668047474;

-- Everyone who can speak or receive (D3).
CREATE TABLE parties (
    id BLOB NOT NULL PRIMARY KEY,
    kind INTEGER NOT NULL,
    reference TEXT NOT NULL,
    display_name TEXT NOT NULL,
    created_at BIGINT NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX parties_by_reference ON parties (kind, reference);

CREATE TABLE users (
    id BLOB NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    display_name TEXT NOT NULL,
    role INTEGER NOT NULL,
    password_hash TEXT,
    party_id BLOB NOT NULL REFERENCES parties (id),
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT,
    idem_key TEXT,
    idem_hash BLOB
) WITHOUT ROWID;
CREATE UNIQUE INDEX users_by_name ON users (name) WHERE deleted_at IS NULL;

CREATE TABLE tokens (
    id BLOB NOT NULL PRIMARY KEY,
    user_id BLOB NOT NULL REFERENCES users (id),
    name TEXT NOT NULL,
    prefix TEXT NOT NULL,
    digest BLOB NOT NULL,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT,
    expires_at BIGINT,
    revoked_at BIGINT,
    idem_key TEXT,
    idem_hash BLOB
) WITHOUT ROWID;
CREATE UNIQUE INDEX tokens_by_digest ON tokens (digest);
CREATE INDEX tokens_by_user ON tokens (user_id);

-- One-time sign-in links and browser sessions of the console.
CREATE TABLE sign_ins (
    id BLOB NOT NULL PRIMARY KEY,
    user_id BLOB NOT NULL REFERENCES users (id),
    kind INTEGER NOT NULL,
    digest BLOB NOT NULL,
    csrf_digest BLOB,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at BIGINT,
    revoked_at BIGINT
) WITHOUT ROWID;
CREATE UNIQUE INDEX sign_ins_by_digest ON sign_ins (digest);

-- Secrets (token, password, device seed, device token) are sealed: see store/vault.rs.
CREATE TABLE gateways (
    id TEXT NOT NULL PRIMARY KEY,
    party_id BLOB NOT NULL REFERENCES parties (id),
    name TEXT NOT NULL,
    url TEXT NOT NULL,
    track INTEGER NOT NULL,
    admin BOOLEAN NOT NULL,
    enabled BOOLEAN NOT NULL,
    token BLOB,
    password BLOB,
    device_seed BLOB,
    device_token BLOB,
    device_scopes TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT,
    idem_key TEXT,
    idem_hash BLOB
) WITHOUT ROWID;

CREATE TABLE agents (
    id BLOB NOT NULL PRIMARY KEY,
    party_id BLOB NOT NULL REFERENCES parties (id),
    slug TEXT NOT NULL,
    name TEXT NOT NULL,
    kind INTEGER NOT NULL,
    state INTEGER NOT NULL,
    role_description TEXT NOT NULL,
    creator_id BLOB,
    labels TEXT NOT NULL,
    lease_seconds INTEGER,
    attempts_max INTEGER,
    model TEXT,
    last_seen_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT,
    idem_key TEXT,
    idem_hash BLOB
) WITHOUT ROWID;
CREATE UNIQUE INDEX agents_by_slug ON agents (slug) WHERE deleted_at IS NULL;

CREATE TABLE agent_keys (
    id BLOB NOT NULL PRIMARY KEY,
    agent_id BLOB NOT NULL REFERENCES agents (id),
    label TEXT NOT NULL,
    prefix TEXT NOT NULL,
    digest BLOB NOT NULL,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT,
    expires_at BIGINT,
    revoked_at BIGINT,
    idem_key TEXT,
    idem_hash BLOB
) WITHOUT ROWID;
CREATE UNIQUE INDEX agent_keys_by_digest ON agent_keys (digest);
CREATE INDEX agent_keys_by_agent ON agent_keys (agent_id);

-- People who are reached on channels.
CREATE TABLE members (
    id BLOB NOT NULL PRIMARY KEY,
    party_id BLOB NOT NULL REFERENCES parties (id),
    name TEXT NOT NULL,
    user_id BLOB,
    addresses TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT,
    idem_key TEXT,
    idem_hash BLOB
) WITHOUT ROWID;

CREATE TABLE channels (
    id BLOB NOT NULL PRIMARY KEY,
    party_id BLOB NOT NULL REFERENCES parties (id),
    kind INTEGER NOT NULL,
    name TEXT NOT NULL,
    agent_id BLOB,
    config TEXT NOT NULL,
    secret BLOB,
    base_url TEXT,
    enabled BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT,
    idem_key TEXT,
    idem_hash BLOB
) WITHOUT ROWID;

-- Append-only logs. gateway_id is '' where there is no gateway, so that the unique index holds for every kind.
CREATE TABLE conversations (
    id BLOB NOT NULL PRIMARY KEY,
    kind INTEGER NOT NULL,
    gateway_id TEXT NOT NULL,
    key TEXT NOT NULL,
    canonical_key TEXT,
    title TEXT,
    agent_id TEXT,
    model TEXT,
    owner_id BLOB,
    archived BOOLEAN NOT NULL,
    first_seq BIGINT NOT NULL,
    last_seq BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT,
    contacted BOOLEAN NOT NULL,
    upstream_session_id TEXT,
    mapped_seq BIGINT NOT NULL,
    import_below BIGINT,
    not_before_ms BIGINT NOT NULL,
    idem_key TEXT,
    idem_hash BLOB
) WITHOUT ROWID;
CREATE UNIQUE INDEX conversations_by_key ON conversations (kind, gateway_id, key) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX conversations_by_canonical_key ON conversations (gateway_id, canonical_key) WHERE deleted_at IS NULL AND canonical_key IS NOT NULL;
CREATE INDEX conversations_by_activity ON conversations (gateway_id, updated_at, id) WHERE deleted_at IS NULL;
CREATE INDEX conversations_by_time ON conversations (updated_at, id) WHERE deleted_at IS NULL;
CREATE INDEX conversations_by_owner ON conversations (owner_id, updated_at);
CREATE INDEX conversations_deleted_by_key ON conversations (gateway_id, key) WHERE deleted_at IS NOT NULL;
CREATE INDEX conversations_deleted_by_canonical_key ON conversations (gateway_id, canonical_key) WHERE deleted_at IS NOT NULL;

-- Lines. blocks is NULL where the line is one text block that says what text says.
CREATE TABLE messages (
    id BLOB NOT NULL PRIMARY KEY,
    conversation_id BLOB NOT NULL REFERENCES conversations (id),
    seq BIGINT NOT NULL,
    role INTEGER NOT NULL,
    kind INTEGER,
    text TEXT NOT NULL,
    blocks TEXT,
    sender_id BLOB NOT NULL REFERENCES parties (id),
    said_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    late BOOLEAN NOT NULL,
    supersedes BLOB,
    in_reply_to BLOB,
    hops INTEGER NOT NULL,
    error TEXT,
    end_state INTEGER,
    end_reason TEXT,
    ended_at BIGINT,
    idem_key TEXT,
    idem_hash BLOB
) WITHOUT ROWID;
CREATE UNIQUE INDEX messages_by_seq ON messages (conversation_id, seq);
CREATE UNIQUE INDEX messages_by_idem_key ON messages (sender_id, idem_key) WHERE idem_key IS NOT NULL;

-- Where a line or a step came from upstream (D1).
CREATE TABLE message_origins (
    gateway_id TEXT NOT NULL,
    upstream_session TEXT NOT NULL,
    row_id TEXT NOT NULL,
    message_id BLOB,
    step_id BLOB,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (gateway_id, upstream_session, row_id)
) WITHOUT ROWID;
CREATE INDEX message_origins_by_message ON message_origins (message_id) WHERE message_id IS NOT NULL;

CREATE TABLE participants (
    conversation_id BLOB NOT NULL REFERENCES conversations (id),
    party_id BLOB NOT NULL REFERENCES parties (id),
    read_seq BIGINT NOT NULL,
    joined_at BIGINT NOT NULL,
    PRIMARY KEY (conversation_id, party_id)
) WITHOUT ROWID;

-- Obligations: one recipient handles one message. n is given by the writer and orders mailboxes.
CREATE TABLE deliveries (
    id BLOB NOT NULL PRIMARY KEY,
    n BIGINT NOT NULL,
    message_id BLOB NOT NULL REFERENCES messages (id),
    conversation_id BLOB NOT NULL REFERENCES conversations (id),
    recipient_id BLOB NOT NULL REFERENCES parties (id),
    seq BIGINT NOT NULL,
    state INTEGER NOT NULL,
    outcome INTEGER,
    reason TEXT,
    attempt INTEGER NOT NULL,
    attempts_max INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    available_at BIGINT NOT NULL,
    lease_until BIGINT,
    expires_at BIGINT,
    due_at BIGINT,
    started BOOLEAN NOT NULL,
    result_hash BLOB,
    events TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    ended_at BIGINT
) WITHOUT ROWID;
CREATE UNIQUE INDEX deliveries_by_message ON deliveries (message_id, recipient_id);
CREATE UNIQUE INDEX deliveries_by_n ON deliveries (n);
CREATE INDEX deliveries_open_by_recipient ON deliveries (recipient_id, n) WHERE state < 2;
CREATE INDEX deliveries_open_by_conversation ON deliveries (conversation_id, seq) WHERE state < 2;
CREATE INDEX deliveries_due ON deliveries (due_at, id) WHERE state < 2 AND due_at IS NOT NULL;
CREATE INDEX deliveries_dead ON deliveries (n) WHERE state = 3;

-- The live side of answers.
CREATE TABLE turns (
    id BLOB NOT NULL PRIMARY KEY,
    conversation_id BLOB NOT NULL REFERENCES conversations (id),
    delivery_id BLOB,
    message_id BLOB,
    answer_id BLOB,
    upstream_run_id TEXT NOT NULL,
    state INTEGER NOT NULL,
    text TEXT NOT NULL,
    usage TEXT,
    error TEXT,
    started_at BIGINT NOT NULL,
    checkpoint_at BIGINT,
    ended_at BIGINT
) WITHOUT ROWID;
CREATE INDEX turns_by_run ON turns (conversation_id, upstream_run_id);
CREATE INDEX turns_by_delivery ON turns (delivery_id);
CREATE INDEX turns_open ON turns (conversation_id) WHERE state < 5;
CREATE INDEX turns_by_answer ON turns (answer_id) WHERE answer_id IS NOT NULL;

CREATE TABLE steps (
    id BLOB NOT NULL PRIMARY KEY,
    turn_id BLOB NOT NULL REFERENCES turns (id),
    n INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    text TEXT NOT NULL,
    blocks TEXT,
    said_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX steps_by_turn ON steps (turn_id, n);

CREATE TABLE audit (
    id BLOB NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    actor_id BLOB,
    actor_name TEXT NOT NULL,
    action TEXT NOT NULL,
    target_kind TEXT NOT NULL,
    target TEXT NOT NULL,
    before TEXT,
    after TEXT,
    address TEXT,
    request_id TEXT
) WITHOUT ROWID;
CREATE INDEX audit_by_time ON audit (at, id);

CREATE TABLE settings (
    key TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL,
    updated_at BIGINT NOT NULL
) WITHOUT ROWID;

-- One row: which node is active (D5).
CREATE TABLE node_lease (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    node_id BLOB NOT NULL,
    epoch BIGINT NOT NULL,
    until BIGINT NOT NULL,
    address TEXT NOT NULL
);
