DROP INDEX messages_reply;
DROP INDEX deliveries_open_coalesced;
ALTER TABLE deliveries DROP COLUMN leased_at;
ALTER TABLE deliveries DROP COLUMN coalesce_key;
DROP INDEX agents_by_idem_key;
DROP INDEX agents_by_party;
DROP INDEX agents_by_folded_name;
ALTER TABLE agents DROP COLUMN name_folded;
