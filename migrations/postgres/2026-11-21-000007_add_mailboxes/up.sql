-- Names are found in any case. Lower case is made by the program: a PostgreSQL database without a locale folds ASCII only.
ALTER TABLE agents ADD COLUMN name_folded TEXT NOT NULL DEFAULT '';
CREATE INDEX agents_by_folded_name ON agents (name_folded, id) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX agents_by_party ON agents (party_id);
CREATE INDEX agents_by_idem_key ON agents (idem_key) WHERE idem_key IS NOT NULL;

-- A newer message of the same sender and key takes the place of one that waits.
ALTER TABLE deliveries ADD COLUMN coalesce_key TEXT;
-- When the newest lease began: extensions are counted from there.
ALTER TABLE deliveries ADD COLUMN leased_at BIGINT;
CREATE INDEX deliveries_open_coalesced ON deliveries (recipient_id, coalesce_key) WHERE state < 2 AND coalesce_key IS NOT NULL;

-- A request has one reply (DLV-3).
CREATE UNIQUE INDEX messages_reply ON messages (in_reply_to) WHERE kind = 2;
