//! The data directory: is it ours alone, can it be written to, is there room.
use std::path::Path;

use super::Finding;
use crate::actors::bootstrap::ADMIN_TOKEN_FILE;
use crate::cli::server_file::ServerFile;
use crate::config::Config;
use crate::node;
use crate::store::Location;
use crate::store::vault::KEY_FILE;

/// Below this a start is unwise, and soon nothing can be stored any more (507).
const ROOM_MIN: u64 = 100 << 20;
/// Below this somebody should think of more.
const ROOM_ADVISED: u64 = 1 << 30;
/// A browser takes two open files, and other things take some.
const FILES_SPARE: u64 = 200;

/// Looks at all of it.
pub(super) fn all(config: &Config) -> Vec<Finding> {
    let data_dir = &config.app.data_dir;
    let mut findings = vec![directory(data_dir)];
    findings.extend(room(data_dir));
    let mut secret = vec![data_dir.join(KEY_FILE), data_dir.join(ADMIN_TOKEN_FILE), ServerFile::path(data_dir)];
    // Another program's file is not ours to judge.
    let opener = node::opener(&config.store);
    if let (Location::Sqlite(path), Ok(())) = (&opener.location, opener.check_ours()) {
        secret.push(path.clone());
    }
    findings.extend(secret.iter().filter_map(|path| private(path)));
    findings.extend(open_files(config.limits.sockets_max as u64));
    findings
}

fn directory(data_dir: &Path) -> Finding {
    const NAME: &str = "data";
    if !data_dir.exists() {
        return Finding::note(NAME, format!("`{}` is not there yet; the first start makes it", data_dir.display()));
    }
    #[cfg(unix)]
    if let Err(error) = rustix::fs::access(data_dir, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK) {
        return Finding::wrong(NAME, format!("`{}` cannot be written to: {error}", data_dir.display()))
            .remedy("run clawbroker as the user whose directory it is, or give this user the right to write there");
    }
    Finding::ok(NAME, format!("`{}`", data_dir.display()))
}

/// Tells how much room is left on the disk of a directory, or of the nearest one above it that is there.
fn room(data_dir: &Path) -> Option<Finding> {
    const NAME: &str = "disk";
    let there = data_dir.ancestors().find(|path| path.exists())?;
    let disk = rustix::fs::statvfs(there).ok()?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let text = format!("{:.1} GiB free at `{}`", free as f64 / f64::from(1 << 30), there.display());
    Some(match free {
        0..ROOM_MIN => {
            Finding::wrong(NAME, text).remedy("make room: without it nothing can be stored (507 `storage_full`)")
        }
        ROOM_MIN..ROOM_ADVISED => Finding::note(NAME, text),
        _ => Finding::ok(NAME, text),
    })
}

/// Complains of a file that others can read.
fn private(path: &Path) -> Option<Finding> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
        // In a directory that only we can enter nobody reaches it, whatever its own mode is.
        let folder = path.parent().and_then(|folder| std::fs::metadata(folder).ok());
        let closed = folder.is_some_and(|folder| folder.permissions().mode() & 0o011 == 0);
        if mode & 0o077 != 0 && !closed {
            let text = format!("other users of this machine can read `{}` (mode {mode:o})", path.display());
            return Some(Finding::wrong("files", text).remedy(format!("chmod 600 {}", path.display())));
        }
    }
    None
}

/// Compares the limit on open files with the sockets that are allowed.
fn open_files(sockets_max: u64) -> Option<Finding> {
    #[cfg(unix)]
    {
        let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum?;
        let wanted = sockets_max.saturating_mul(2).saturating_add(FILES_SPARE);
        if hard < wanted {
            let text =
                format!("{hard} may be open, which is enough for {} browsers", hard.saturating_sub(FILES_SPARE) / 2);
            let remedy = format!(
                "for `limits.sockets_max` of {sockets_max} raise the limit to {wanted} (ulimit -Hn, LimitNOFILE=)"
            );
            return Some(Finding::note("files", text).remedy(remedy));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_that_others_can_read_is_found() {
        let dir = std::env::temp_dir().join(format!("clawbroker-doctor-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&dir).expect("a directory");
        let mode = |path: &Path, mode: u32| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("ours");
        };
        let file = dir.join(KEY_FILE);
        std::fs::write(&file, "key").expect("a file");
        mode(&dir, 0o755);
        mode(&file, 0o644);
        assert!(private(&file).is_some_and(|finding| finding.remedy.is_some()));
        mode(&file, 0o600);
        assert_eq!(private(&file), None);
        mode(&file, 0o644);
        mode(&dir, 0o700);
        assert_eq!(private(&file), None, "nobody else gets there");
        std::fs::remove_dir_all(&dir).expect("tidied");
    }
}
