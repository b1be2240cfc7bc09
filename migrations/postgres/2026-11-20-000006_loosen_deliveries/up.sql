-- A delivery leads to its conversation by its message. With a reference of its own each removal of a conversation would look
-- through all deliveries.
ALTER TABLE deliveries DROP CONSTRAINT deliveries_conversation_id_fkey;
