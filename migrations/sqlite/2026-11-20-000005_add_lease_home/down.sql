ALTER TABLE node_lease DROP COLUMN home;
