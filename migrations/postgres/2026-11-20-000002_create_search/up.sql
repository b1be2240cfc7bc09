-- The twin of the SQLite migration of the same name; there the words are in a virtual table.
ALTER TABLE conversations ADD COLUMN searched_first BIGINT NOT NULL DEFAULT 1;
ALTER TABLE conversations ADD COLUMN searched_last BIGINT NOT NULL DEFAULT 0;
CREATE INDEX conversations_unsearched ON conversations (id) WHERE deleted_at IS NULL AND last_seq - first_seq <> searched_last - searched_first;

CREATE TABLE search_lines (
    n BIGINT NOT NULL PRIMARY KEY,
    conversation_id BYTEA NOT NULL,
    seq BIGINT NOT NULL
);
CREATE INDEX search_lines_by_conversation ON search_lines (conversation_id, n);

-- The words of each line, as src/domain/search.rs cuts them.
CREATE TABLE search_words (
    n BIGINT NOT NULL PRIMARY KEY,
    conversation_id BYTEA NOT NULL,
    words TSVECTOR NOT NULL
);
-- Without a list of pending entries: emptying a long one would hold up the writer.
CREATE INDEX search_words_by_word ON search_words USING gin (words) WITH (fastupdate = off);
