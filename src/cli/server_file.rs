//! `server.json` in the data directory: where the running server is, for the other commands.
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use crate::domain::time;
use crate::store::vault::write_private;

const FILE: &str = "server.json";

/// Where the server of a data directory is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ServerFile {
    /// `http://host:port`
    pub(super) address: String,
    pub(super) pid: u32,
    pub(super) started_at: String,
}

impl ServerFile {
    pub(super) fn path(data_dir: &Path) -> PathBuf {
        data_dir.join(FILE)
    }

    /// Writes where this process can be reached; read only by the same user.
    pub(super) fn write(data_dir: &Path, addresses: &[SocketAddr], started_at: i64) -> Result<Self, Failure> {
        let file = Self { address: local_url(addresses), pid: std::process::id(), started_at: time::iso(started_at) };
        let path = Self::path(data_dir);
        let text = serde_json::to_string_pretty(&file).map_err(|error| Failure::new(error.to_string()))?;
        write_private(&path, &text)
            .map_err(|error| Failure::new(format!("`{}` cannot be written: {error}", path.display())))?;
        Ok(file)
    }

    /// Reads the file; `None` if there is none that can be understood.
    pub(super) fn read(data_dir: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(Self::path(data_dir)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Tells whether the process that wrote the file lives and is this user's.
    pub(super) fn is_alive(&self) -> bool {
        #[cfg(unix)]
        let alive = i32::try_from(self.pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok());
        #[cfg(not(unix))]
        let alive = true;
        alive
    }

    /// Removes the file at the end of this process, unless another server has written it since.
    pub(super) fn remove(data_dir: &Path) {
        if Self::read(data_dir).is_some_and(|file| file.pid == std::process::id())
            && let Err(error) = std::fs::remove_file(Self::path(data_dir))
        {
            log::warn!("`{}` could not be removed: {error}", Self::path(data_dir).display());
        }
    }
}

/// Returns the URL under which this machine reaches the server: by loopback, if it listens there.
pub(super) fn local_url(addresses: &[SocketAddr]) -> String {
    let reached = |address: &SocketAddr| {
        let mut address = *address;
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() {
                [127, 0, 0, 1].into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            });
        }
        address
    };
    let mut all: Vec<SocketAddr> = addresses.iter().map(reached).collect();
    all.sort_by_key(|address| !address.ip().is_loopback());
    all.first().map(|address| format!("http://{address}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_url_prefers_loopback() {
        let url = |texts: &[&str]| {
            let all: Vec<SocketAddr> = texts.iter().map(|text| text.parse().expect("an address")).collect();
            local_url(&all)
        };
        assert_eq!(url(&["192.168.1.5:8000", "127.0.0.1:8001"]), "http://127.0.0.1:8001");
        assert_eq!(url(&["0.0.0.0:8000"]), "http://127.0.0.1:8000");
        assert_eq!(url(&["[::]:8000"]), "http://[::1]:8000");
        assert_eq!(url(&["192.168.1.5:8000"]), "http://192.168.1.5:8000");
    }
}
