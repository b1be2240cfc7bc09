DROP TABLE search_words;
DROP TABLE search_lines;
DROP INDEX conversations_unsearched;
ALTER TABLE conversations DROP COLUMN searched_last;
ALTER TABLE conversations DROP COLUMN searched_first;
