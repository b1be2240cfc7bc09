-- By which channel a delivery goes to a person; the others have none.
ALTER TABLE deliveries ADD COLUMN channel_id BYTEA;
CREATE INDEX deliveries_open_by_channel ON deliveries (channel_id, n) WHERE state < 2 AND channel_id IS NOT NULL;

-- Which secrets are sealed in `secret`, by name.
ALTER TABLE channels ADD COLUMN secret_names TEXT NOT NULL DEFAULT '';
CREATE INDEX channels_by_idem_key ON channels (idem_key) WHERE idem_key IS NOT NULL;

-- Which message is which at a provider. What comes again is known by it.
CREATE TABLE channel_refs (
    channel_id BYTEA NOT NULL REFERENCES channels (id),
    chat TEXT NOT NULL,
    external_id TEXT NOT NULL,
    message_id BYTEA NOT NULL REFERENCES messages (id),
    direction INTEGER NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (channel_id, chat, external_id)
);
CREATE INDEX channel_refs_by_time ON channel_refs (channel_id, chat, created_at);
CREATE INDEX channel_refs_of_message ON channel_refs (message_id);

-- Who has written on a channel, and whom an operator has let in.
CREATE TABLE channel_senders (
    channel_id BYTEA NOT NULL REFERENCES channels (id),
    sender_ref TEXT NOT NULL,
    name TEXT,
    member_id BYTEA REFERENCES members (id),
    first_seen_at BIGINT NOT NULL,
    last_seen_at BIGINT NOT NULL,
    allowed_at BIGINT,
    PRIMARY KEY (channel_id, sender_ref)
);
CREATE INDEX channel_senders_of_member ON channel_senders (member_id) WHERE member_id IS NOT NULL;
