//! Credentials: found by their digest at each call, and by their id when they end.
use std::collections::HashMap;
use std::hash::Hash;

/// What each credential stands for.
pub(super) struct Digests<K, V> {
    by_digest: HashMap<[u8; 32], V>,
    digests: HashMap<K, [u8; 32]>,
}

impl<K, V> Default for Digests<K, V> {
    fn default() -> Self {
        Self { by_digest: HashMap::new(), digests: HashMap::new() }
    }
}

impl<K: Eq + Hash, V> Digests<K, V> {
    pub(super) fn add(&mut self, id: K, digest: [u8; 32], value: V) {
        self.digests.insert(id, digest);
        self.by_digest.insert(digest, value);
    }

    pub(super) fn get(&self, digest: &[u8; 32]) -> Option<&V> {
        self.by_digest.get(digest)
    }

    pub(super) fn of(&self, id: &K) -> Option<&V> {
        self.by_digest.get(self.digests.get(id)?)
    }

    pub(super) fn of_mut(&mut self, id: &K) -> Option<&mut V> {
        self.by_digest.get_mut(self.digests.get(id)?)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.by_digest.values()
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.by_digest.values_mut()
    }

    /// Ends a credential; returns what it stood for.
    pub(super) fn end(&mut self, id: &K) -> Option<V> {
        let digest = self.digests.remove(id)?;
        self.by_digest.remove(&digest)
    }

    /// Ends all that `keep` does not let stay.
    pub(super) fn retain(&mut self, keep: impl Fn(&V) -> bool) {
        self.by_digest.retain(|_, value| keep(value));
        self.digests.retain(|_, digest| self.by_digest.contains_key(digest));
    }
}

impl<K: Eq + Hash, V> FromIterator<(K, [u8; 32], V)> for Digests<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, [u8; 32], V)>>(credentials: I) -> Self {
        let mut digests = Self::default();
        for (id, digest, value) in credentials {
            digests.add(id, digest, value);
        }
        digests
    }
}
