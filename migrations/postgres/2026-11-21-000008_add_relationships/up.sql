-- People are found like agents: in any case, the lower case made by the program.
ALTER TABLE members ADD COLUMN name_folded TEXT NOT NULL DEFAULT '';
CREATE INDEX members_by_folded_name ON members (name_folded, id) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX members_by_party ON members (party_id);
CREATE INDEX members_by_idem_key ON members (idem_key) WHERE idem_key IS NOT NULL;

-- Whom an agent knows: a person or another agent, each once.
CREATE TABLE relationships (
    id BYTEA NOT NULL PRIMARY KEY,
    agent_id BYTEA NOT NULL REFERENCES agents (id),
    member_id BYTEA REFERENCES members (id),
    target_id BYTEA REFERENCES agents (id),
    relation TEXT NOT NULL,
    description TEXT,
    created_at BIGINT NOT NULL,
    idem_key TEXT,
    idem_hash BYTEA
);
CREATE INDEX relationships_of_agent ON relationships (agent_id, id);
CREATE UNIQUE INDEX relationships_to_member ON relationships (agent_id, member_id) WHERE member_id IS NOT NULL;
CREATE UNIQUE INDEX relationships_to_agent ON relationships (agent_id, target_id) WHERE target_id IS NOT NULL;
-- Who knows whom, for changes and removals.
CREATE INDEX relationships_of_member ON relationships (member_id) WHERE member_id IS NOT NULL;
CREATE INDEX relationships_of_target ON relationships (target_id) WHERE target_id IS NOT NULL;
