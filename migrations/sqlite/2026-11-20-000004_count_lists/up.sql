-- Lists of ended deliveries and the counts of all lists: the index holds all that they filter by. A delivery comes in once,
-- at its end.
DROP INDEX deliveries_dead;
CREATE INDEX deliveries_ended ON deliveries (state, n, recipient_id, created_at) WHERE state >= 2;
-- The history of one thing, and counts of every list.
CREATE INDEX audit_by_target ON audit (target, action, actor_name);
