//! Whom an agent knows, ready to be sent with its polls: written down once, and dropped when it changes.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use crate::domain::error::Error;

/// Longest wait for somebody else who is reading it.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Bytes of the digest that stand in a version.
const VERSION_BYTES: usize = 8;

/// Whom an agent knows, as its polls tell it.
#[derive(Debug)]
pub struct Related {
    /// The same for the same list, over all starts.
    pub version: String,
    json: Box<RawValue>,
}

impl Related {
    /// Writes a list down.
    pub fn of<T: Serialize>(list: &[T]) -> Result<Self, Error> {
        let json = to_raw_value(list).map_err(Error::internal)?;
        let digest = Sha256::digest(json.get().as_bytes());
        let version = digest.iter().take(VERSION_BYTES).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { version, json })
    }
}

impl Serialize for Related {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.json.serialize(serializer)
    }
}

/// Keeps what was read until it changes.
#[derive(Debug, Default)]
pub(super) struct Kept {
    state: Mutex<State>,
    /// One reads, the others wait for it.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    changes: u64,
    ready: Option<Arc<Related>>,
}

impl Kept {
    /// Returns what is kept; what is not yet is read by `read`, which otherwise never runs.
    pub(super) async fn get(&self, read: impl Future<Output = Result<Related, Error>>) -> Result<Arc<Related>, Error> {
        if let Some(ready) = self.state().ready.clone() {
            return Ok(ready);
        }
        let _turn = timeout(WAIT_MAX, self.reading.lock()).await.map_err(|_| Error::store_busy())?;
        let changes = {
            let state = self.state();
            if let Some(ready) = &state.ready {
                return Ok(ready.clone());
            }
            state.changes
        };
        let related = Arc::new(read.await?);
        let mut state = self.state();
        // What changed while it was read may not be in it.
        if state.changes == changes {
            state.ready = Some(related.clone());
        }
        Ok(related)
    }

    /// Drops it: it is another one now.
    pub(super) fn forget(&self) {
        let mut state = self.state();
        state.changes += 1;
        state.ready = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Plain data, whole at any time.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::FutureExt;
    use futures_util::future::pending;
    use serde_json::json;

    use super::*;

    fn list(name: &str) -> Related {
        Related::of(&[json!({ "name": name })]).expect("JSON")
    }

    #[test]
    fn a_version_tells_lists_apart() {
        let empty = Related::of::<()>(&[]).expect("JSON");
        assert_eq!(
            (empty.version.as_str(), serde_json::to_string(&empty).expect("JSON")),
            ("4f53cda18c2baa0c", "[]".to_owned())
        );
        assert_eq!(list("ann").version, list("ann").version);
        assert_ne!(list("ann").version, list("ben").version);
        assert_eq!(serde_json::to_string(&list("ann")).expect("JSON"), r#"[{"name":"ann"}]"#);
    }

    #[actix_rt::test]
    async fn it_is_read_once_until_it_changes() {
        let (kept, reads) = (Kept::default(), Cell::new(0));
        let get = async |name: &str| {
            let read = async {
                reads.set(reads.get() + 1);
                Ok(list(name))
            };
            kept.get(read).await.expect("it can be read").version.clone()
        };
        assert_eq!((get("ann").await, get("ben").await, reads.get()), (list("ann").version, list("ann").version, 1));
        kept.forget();
        assert_eq!((get("ben").await, reads.get()), (list("ben").version, 2));
    }

    #[actix_rt::test]
    async fn what_changes_while_it_is_read_is_read_again() {
        let kept = Kept::default();
        let read = async {
            kept.forget();
            Ok(list("old"))
        };
        assert_eq!(kept.get(read).await.expect("it can be read").version, list("old").version);
        let again = kept.get(async { Ok(list("new")) }).await.expect("it can be read");
        assert_eq!(again.version, list("new").version);
    }

    #[actix_rt::test]
    async fn a_read_that_fails_is_no_list() {
        let kept = Kept::default();
        kept.get(async { Err(Error::store_busy()) }).await.expect_err("it failed");
        // Nor one that nobody waits for any more.
        assert!(kept.get(pending()).now_or_never().is_none());
        kept.get(async { Ok(list("ann")) }).await.expect("it can be read");
    }
}
