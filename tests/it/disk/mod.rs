//! The disk under fire: power cuts, an fsync that fails, no space, and what is left of a damaged file.
//!
//! The broker is the real one, with `shim.c` between it and its files. `CLAWBROKER_TEST_SEED` repeats a run; what says how
//! often something is done is in each file, and `./test --crash` does it often.

mod full;
mod platter;
mod tmpfs;
mod torn;
mod unsynced;

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use self::platter::Platter;
use crate::harness::{Broker, Database, Kind};

/// A broker with the shim between it and its disk.
struct Machine {
    database: Database,
    broker: Broker,
    platter: Platter,
    folder: TempDir,
}

/// How the disk fails, until it does not any more.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Every fsync fails.
    Sync,
    /// No file can grow.
    Space,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Space => "space",
        }
    }
}

impl Machine {
    /// Starts a broker on an empty disk, with more settings.
    async fn start(env: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let shim = folder.path().join("shim.so");
        let source = format!("{}/tests/it/disk/shim.c", env!("CARGO_MANIFEST_DIR"));
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .args([shim.as_os_str(), source.as_ref()])
            .args(["-ldl", "-lpthread"])
            .status();
        assert!(compiled.is_ok_and(|status| status.success()), "the shim needs a C compiler");
        let database = Database::empty(Kind::Sqlite);
        let root = database.data_dir().canonicalize().unwrap();
        let journal = folder.path().join("journal");
        let mut settings = env.to_vec();
        let texts = [&shim, &root, &journal, &folder.path().to_owned()].map(|path| path.to_string_lossy().into_owned());
        settings.extend(
            ["LD_PRELOAD", "SHIM_ROOT", "SHIM_JOURNAL", "SHIM_FAULTS"]
                .into_iter()
                .zip(texts.iter().map(String::as_str)),
        );
        let broker = Broker::start(&database, &[], &settings).await;
        Self { database, broker, platter: Platter::new(&root, &journal), folder }
    }

    fn fault(&self, fault: Fault) -> PathBuf {
        self.folder.path().join(fault.name())
    }

    fn breaks(&self, fault: Fault) {
        std::fs::write(self.fault(fault), "").unwrap();
    }

    fn heals(&self, fault: Fault) {
        std::fs::remove_file(self.fault(fault)).unwrap();
    }
}
