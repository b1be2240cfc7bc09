//! Which data directory this is. A node that comes back on its own data after a crash need not wait for the end of the
//! lease that it held (D5): nobody else can hold it, because the lock on the directory is ours now.
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::domain::error::Error;
use crate::domain::ids::HomeId;
use crate::store::LOCK_FILE;

/// Where the id is kept, with the mark of the place that it was made for.
const FILE: &str = "node.id";

/// Reads the id of a data directory whose lock is held, or makes it. A copy of the directory, here or on another machine,
/// is another home and gets an id of its own.
pub(super) fn of(data_dir: &Path) -> Result<HomeId, Error> {
    let failed = |error: std::io::Error| Error::internal(format!("`{}`: {error}", data_dir.join(FILE).display()));
    let lock = std::fs::metadata(data_dir.join(LOCK_FILE)).map_err(failed)?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mark = format!("{host} {}:{}", lock.dev(), lock.ino());
    let kept = std::fs::read_to_string(data_dir.join(FILE)).unwrap_or_default();
    if let Some((id, at)) = kept.trim_end().split_once(' ')
        && at == mark
        && let Ok(id) = id.parse()
    {
        return Ok(id);
    }
    let id = HomeId::new();
    std::fs::write(data_dir.join(FILE), format!("{id} {mark}\n")).map_err(failed)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_id_and_a_copy_gets_another() {
        let (one, two) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        for folder in [&one, &two] {
            std::fs::write(folder.path().join(LOCK_FILE), "").expect("a lock file");
        }
        let id = of(one.path()).expect("an id");
        assert_eq!(of(one.path()).expect("the same"), id);
        std::fs::copy(one.path().join(FILE), two.path().join(FILE)).expect("a copy");
        assert_ne!(of(two.path()).expect("another"), id);
        std::fs::write(one.path().join(FILE), "nonsense").expect("written");
        assert_ne!(of(one.path()).expect("a new one"), id);
    }
}
