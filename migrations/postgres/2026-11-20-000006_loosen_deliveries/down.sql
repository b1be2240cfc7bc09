ALTER TABLE deliveries ADD CONSTRAINT deliveries_conversation_id_fkey FOREIGN KEY (conversation_id) REFERENCES conversations (id);
