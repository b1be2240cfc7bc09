DROP TABLE relationships;
DROP INDEX members_by_idem_key;
DROP INDEX members_by_party;
DROP INDEX members_by_folded_name;
ALTER TABLE members DROP COLUMN name_folded;
