DROP INDEX message_origins_by_step;
DROP INDEX conversations_to_purge;
ALTER TABLE conversations DROP COLUMN purge;
