DROP INDEX audit_by_target;
DROP INDEX deliveries_ended;
CREATE INDEX deliveries_dead ON deliveries (n) WHERE state = 3;
