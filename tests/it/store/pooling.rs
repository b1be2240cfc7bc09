use std::sync::Arc;

use clawbroker::store::{Pooling, Settings};

use crate::harness::test_store::{answer, roomy};
use crate::harness::{Database, Kind, TestStore, run_on, sql};

/// D8: behind PgBouncer in transaction mode nothing may be left to the session, which the next client gets.
#[test]
fn a_store_behind_a_transaction_pooler_leaves_nothing_in_the_session() {
    run_on(Kind::Postgres, async |database: Database| {
        let mut opener = database.opener();
        opener.settings = Settings { pooling: Pooling::Transaction, ..opener.settings };
        opener.prepare().unwrap();
        let store = TestStore::by(opener, Arc::new(database), roomy());
        let (caller, conversation) = store.chat().await;
        let (_, turn_id) = store.begun(&caller, conversation.id, "hello").await;
        store.write(answer(turn_id, "hi")).await.unwrap();
        assert_eq!(store.log(conversation.id).await.len(), 2);
        // A prepared statement or a search path that stayed would break or mislead whoever has the session next.
        let path = |db: &mut clawbroker::store::Db| sql::texts(db, "SELECT current_setting('search_path') AS value");
        let inside = store.read(move |db| Ok::<_, clawbroker::domain::error::Error>(path(db))).await.unwrap();
        assert_eq!(inside, ["clawbroker"]);
        let prepared = "SELECT count(*) AS value FROM pg_prepared_statements";
        assert_eq!(store.number(prepared).await, 0);
    });
}
