-- Agents that were removed and for whom deliveries may still be open; these are ended in small steps.
ALTER TABLE agents ADD COLUMN ending BOOLEAN NOT NULL DEFAULT FALSE;
CREATE INDEX agents_ending ON agents (id) WHERE ending;
UPDATE agents SET ending = TRUE WHERE deleted_at IS NOT NULL
    AND EXISTS (SELECT 1 FROM deliveries WHERE deliveries.recipient_id = agents.party_id AND deliveries.state < 2);
