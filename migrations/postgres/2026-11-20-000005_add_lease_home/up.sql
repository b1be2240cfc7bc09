-- The data directory of the node that holds the lease: after a crash it takes it back at once.
ALTER TABLE node_lease ADD COLUMN home BYTEA;
