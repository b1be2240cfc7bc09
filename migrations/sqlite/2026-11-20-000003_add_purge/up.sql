-- Conversations that are removed for good, in small steps.
ALTER TABLE conversations ADD COLUMN purge BOOLEAN NOT NULL DEFAULT FALSE;
CREATE INDEX conversations_to_purge ON conversations (gateway_id, id) WHERE purge;
CREATE INDEX message_origins_by_step ON message_origins (step_id) WHERE step_id IS NOT NULL;
