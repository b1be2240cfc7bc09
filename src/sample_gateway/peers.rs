//! The connections of the gateway, as seen by what is sent to them.
//!
//! Invariants
//! - SGW-6: frames reach a connection in the order in which they were numbered.
//! - SGW-7: nobody waits for a slow connection: whose queue is full is cut.
use std::collections::BTreeMap;
use std::net::Shutdown;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::mpsc;

use super::frames::event;
use super::methods::may;

pub(super) const CONNECTIONS_MAX: usize = 64;
/// Frames that wait for one connection. Several of the longest answers fit.
pub(super) const FRAMES_WAITING_MAX: usize = 4_096;

/// The socket under a connection; shutting it down ends the connection even if its actor is stuck.
#[derive(Clone)]
pub(super) struct Wire(pub(super) Arc<socket2::Socket>);

/// What a connection's actor is to write.
pub(super) enum Out {
    Text(String),
    Close { code: u16, reason: String },
}

struct Peer {
    out: mpsc::Sender<Out>,
    wire: Option<Wire>,
    /// The number of the last event; the answer to `connect` and those to requests have none.
    seq: u64,
    /// `None` before the handshake.
    scopes: Option<Vec<String>>,
}

#[derive(Default)]
pub(super) struct Peers {
    peers: BTreeMap<u64, Peer>,
    seen: u64,
}

impl Peers {
    /// Takes in a connection; `None` if there are too many.
    pub(super) fn admit(&mut self, out: mpsc::Sender<Out>, wire: Option<Wire>) -> Option<u64> {
        if self.peers.len() >= CONNECTIONS_MAX {
            return None;
        }
        self.seen += 1;
        self.peers.insert(self.seen, Peer { out, wire, seq: 0, scopes: None });
        Some(self.seen)
    }

    /// Notes that the handshake has succeeded.
    pub(super) fn open(&mut self, peer: u64, scopes: Vec<String>) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.scopes = Some(scopes);
        }
    }

    pub(super) fn scopes(&self, peer: u64) -> Option<&[String]> {
        self.peers.get(&peer)?.scopes.as_deref()
    }

    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }

    /// Counts the connections that have finished the handshake.
    pub(super) fn open_count(&self) -> usize {
        self.peers.values().filter(|peer| peer.scopes.is_some()).count()
    }

    pub(super) fn tell(&mut self, peer: u64, out: Out) {
        if self.peers.get(&peer).is_some_and(|peer| peer.out.try_send(out).is_err()) {
            self.cut(peer);
        }
    }

    /// Sends a numbered event to one connection.
    pub(super) fn tell_event(&mut self, peer: u64, name: &str, payload: &Value) {
        let Some(told) = self.peers.get_mut(&peer).filter(|peer| peer.scopes.is_some()) else { return };
        told.seq += 1;
        let frame = event(name, payload, Some(told.seq));
        self.tell(peer, Out::Text(frame));
    }

    /// Sends an event to all connections, or to those with a scope.
    pub(super) fn broadcast(&mut self, name: &str, payload: &Value, scope: Option<&str>) {
        let wanted = |peer: &Peer| match (&peer.scopes, scope) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(scopes), Some(scope)) => may(scopes, scope),
        };
        let ids: Vec<u64> = self.peers.iter().filter(|(_, peer)| wanted(peer)).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|peer| self.tell_event(peer, name, payload));
    }

    /// Asks all connections to close.
    pub(super) fn close_all(&mut self, code: u16, reason: &str) {
        let ids: Vec<u64> = self.peers.keys().copied().collect();
        ids.into_iter().for_each(|peer| self.tell(peer, Out::Close { code, reason: reason.to_owned() }));
    }

    /// Cuts a connection: no close frame, and what was not written yet is lost.
    pub(super) fn cut(&mut self, peer: u64) {
        if let Some(Wire(socket)) = self.peers.remove(&peer).and_then(|peer| peer.wire)
            && let Err(error) = socket.shutdown(Shutdown::Both)
        {
            // The other side was faster.
            log::debug!(error:%; "sample gateway could not cut a connection: {error}");
        }
    }

    pub(super) fn cut_all(&mut self) {
        let ids: Vec<u64> = self.peers.keys().copied().collect();
        ids.into_iter().for_each(|peer| self.cut(peer));
    }

    /// Forgets a connection that has ended by itself.
    pub(super) fn forget(&mut self, peer: u64) {
        self.peers.remove(&peer);
    }
}
