//! Who reads waits for a bounded time in a bounded line, and never behind work that nobody waits for.
use std::sync::mpsc;
use std::time::Duration;

use clawbroker::domain::error::{Error, ErrorCode};
use clawbroker::store::Db;
use futures_util::future::{LocalBoxFuture, join_all, poll_immediate};
use tokio::time::Instant;

use crate::harness::TestStore;
use crate::harness::test_store::CONNECTIONS;

on_both_databases!(what_is_read_in_the_background_holds_nobody_up, a_line_of_readers_that_is_too_long_is_refused);

/// Reads that may run or wait in either lane.
const LINE: u32 = 64 * CONNECTIONS;
/// Nearly as long as a read waits for its turn.
const NEARLY_WAITED: Duration = Duration::from_secs(4);

type Read = LocalBoxFuture<'static, Result<(), Error>>;

/// A query that lasts until the other end of its channel is dropped.
fn held() -> (mpsc::Sender<()>, impl FnOnce(&mut Db) -> Result<(), Error> + Send + 'static) {
    let (gate, opened) = mpsc::channel();
    let query = move |_: &mut Db| {
        // Nothing is ever sent: the error is what ends the wait.
        opened.recv().unwrap_err();
        Ok(())
    };
    (gate, query)
}

async fn what_is_read_in_the_background_holds_nobody_up(store: TestStore) {
    let (mut gates, mut reads) = (Vec::new(), Vec::new());
    for _ in 0..LINE {
        let (gate, query) = held();
        let store = (*store).clone();
        let mut read: Read = Box::pin(async move { store.readers().read_in_background(query).await });
        assert!(poll_immediate(&mut read).await.is_none(), "it waits");
        gates.push(gate);
        reads.push(read);
    }
    let refused = store.readers().read_in_background(|_: &mut Db| Ok::<_, Error>(())).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::StoreBusy, "its own line is bounded");
    assert_eq!(store.number("SELECT count(*) AS value FROM users").await, 0);
    drop(gates);
    for read in join_all(reads).await {
        read.expect("it waited as long as it took");
    }
}

async fn a_line_of_readers_that_is_too_long_is_refused(store: TestStore) {
    let began = Instant::now();
    let (mut gates, mut reads) = (Vec::new(), Vec::new());
    for _ in 0..LINE {
        let (gate, query) = held();
        let store = (*store).clone();
        let mut read: Read = Box::pin(async move {
            match store.read(query).await {
                // A slow machine may take longer over all of them than one of them waits.
                Err(error) if error.code() == ErrorCode::StoreBusy && began.elapsed() > NEARLY_WAITED => Ok(()),
                read => read,
            }
        });
        assert!(poll_immediate(&mut read).await.is_none(), "it waits");
        gates.push(gate);
        reads.push(read);
    }
    let refused = store.read(|_: &mut Db| Ok::<_, Error>(())).await.unwrap_err();
    assert_eq!((refused.code(), refused.retry_after_s()), (ErrorCode::StoreBusy, Some(1)));
    drop(gates);
    for read in join_all(reads).await {
        read.expect("there was room for it");
    }
}
