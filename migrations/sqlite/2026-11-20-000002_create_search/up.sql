-- The lines that can be searched for: those from searched_first to searched_last of each conversation.
ALTER TABLE conversations ADD COLUMN searched_first BIGINT NOT NULL DEFAULT 1;
ALTER TABLE conversations ADD COLUMN searched_last BIGINT NOT NULL DEFAULT 0;
CREATE INDEX conversations_unsearched ON conversations (id) WHERE deleted_at IS NULL AND last_seq - first_seq <> searched_last - searched_first;

CREATE TABLE search_lines (
    n BIGINT NOT NULL PRIMARY KEY,
    conversation_id BLOB NOT NULL,
    seq BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX search_lines_by_conversation ON search_lines (conversation_id, n);

-- The words of each line, as src/domain/search.rs cuts them; rowid is n. Only the index is kept, not the text.
CREATE VIRTUAL TABLE search_words USING fts5 (words, content = '', contentless_delete = 1, tokenize = 'ascii');
