//! `backup`: a consistent copy of the database, also while a server runs on it.
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::client::{Reach, reach};
use super::failure::Failure;
use super::offline;
use super::output::{complain, json as print_json, say, text};
use super::{Common, Format};
use crate::store::vault::KEY_FILE;

#[derive(Debug, Args)]
pub(super) struct Backup {
    /// Where the copy goes; a file that exists is refused
    file: PathBuf,
    #[command(flatten)]
    format: Format,
}

/// Runs the command.
pub(super) async fn run(common: &Common, backup: &Backup) -> Result<(), Failure> {
    let config = common.load_quietly()?;
    offline::must_exist(&config)?;
    let target = std::path::absolute(&backup.file).map_err(|error| unwritable(&backup.file, &error))?;
    if target.exists() {
        return Err(Failure::new(format!("`{}` exists already: choose another name", target.display())));
    }
    let folder = target.parent().unwrap_or(&target);
    if !folder.is_dir() {
        return Err(Failure::new(format!("there is no folder `{}`: make it, or choose another", folder.display())));
    }
    match reach(&config).await? {
        Reach::Server(server) => {
            // The server writes into its own directory only; the copy is moved to where it was asked for.
            let made = server.post("/api/admin/backup", None).await?;
            let copy = config.app.data_dir.join(text(&made, "name"));
            move_to(&copy, &target).map_err(|error| {
                Failure::new(format!(
                    "the copy stays at `{}`, it could not be moved to `{}` ({error}): move it to a safe place by hand",
                    copy.display(),
                    target.display()
                ))
            })?;
        }
        Reach::Alone(alone) => {
            let copied = alone.store.backup(target.clone()).await;
            alone.close().await;
            copied?;
            File::open(&target).and_then(|file| file.sync_all()).map_err(|error| unwritable(&target, &error))?;
        }
    }
    let bytes = fs::metadata(&target).map_or(0, |file| file.len());
    if backup.format.json {
        return print_json(&json!({ "file": target, "bytes": bytes }));
    }
    say(format_args!("The database is copied to `{}` ({bytes} bytes).", target.display()));
    if config.store.encryption_key.is_none() {
        complain(format_args!(
            "The key that opens its secrets is not in it: keep `{}` in another safe place.",
            config.app.data_dir.join(KEY_FILE).display()
        ));
    }
    Ok(())
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("`{}` cannot be written: {error}", path.display()))
}

/// Moves a file without ever overwriting another; by copying, where the two are on different disks.
fn move_to(from: &Path, to: &Path) -> io::Result<()> {
    if fs::hard_link(from, to).is_err() {
        let mut source = File::open(from)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut target = options.open(to)?;
        let copied = io::copy(&mut source, &mut target).and_then(|_| target.sync_all());
        if let Err(error) = copied {
            // Half a copy must not pass for a backup.
            fs::remove_file(to)?;
            return Err(error);
        }
    }
    fs::remove_file(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_moved_but_never_over_another() {
        let dir = std::env::temp_dir().join(format!("clawbroker-backup-{}", uuid::Uuid::now_v7()));
        fs::create_dir(&dir).expect("a directory");
        let (from, to) = (dir.join("from"), dir.join("to"));
        fs::write(&from, "new").expect("a file");
        move_to(&from, &to).expect("moved");
        assert!(!from.exists());
        fs::write(&from, "newer").expect("a file");
        move_to(&from, &to).expect_err("the target exists");
        assert_eq!(fs::read_to_string(&to).expect("there"), "new");
        fs::remove_dir_all(&dir).expect("tidied");
    }
}
