DROP TABLE channel_senders;
DROP TABLE channel_refs;
DROP INDEX channels_by_idem_key;
ALTER TABLE channels DROP COLUMN secret_names;
DROP INDEX deliveries_open_by_channel;
ALTER TABLE deliveries DROP COLUMN channel_id;
