-- A delivery leads to its conversation by its message. With a reference of its own each removal of a conversation would look
-- through all deliveries.
CREATE TABLE deliveries_new (
    id BLOB NOT NULL PRIMARY KEY,
    n BIGINT NOT NULL,
    message_id BLOB NOT NULL REFERENCES messages (id),
    conversation_id BLOB NOT NULL,
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
INSERT INTO deliveries_new SELECT * FROM deliveries;
DROP TABLE deliveries;
ALTER TABLE deliveries_new RENAME TO deliveries;
CREATE UNIQUE INDEX deliveries_by_message ON deliveries (message_id, recipient_id);
CREATE UNIQUE INDEX deliveries_by_n ON deliveries (n);
CREATE INDEX deliveries_open_by_recipient ON deliveries (recipient_id, n) WHERE state < 2;
CREATE INDEX deliveries_open_by_conversation ON deliveries (conversation_id, seq) WHERE state < 2;
CREATE INDEX deliveries_due ON deliveries (due_at, id) WHERE state < 2 AND due_at IS NOT NULL;
CREATE INDEX deliveries_ended ON deliveries (state, n, recipient_id, created_at) WHERE state >= 2;
