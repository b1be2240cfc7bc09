DROP INDEX agents_ending;
ALTER TABLE agents DROP COLUMN ending;
