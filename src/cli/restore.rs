//! `restore`: puts a backup in the place of the database, while no server runs. The old database is moved aside.
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::failure::Failure;
use super::offline::{lock_alone, open_to_read};
use super::output::{complain, json as print_json, say};
use super::{Common, Format};
use crate::config::Config;
use crate::domain::clock::{Clock, SystemClock};
use crate::domain::time::iso;
use crate::node;
use crate::store::open::is_marked;
use crate::store::vault::{KEY_FILE, Vault};
use crate::store::{Location, Opener, Store, gateways};

/// What SQLite keeps beside a database that is open or was not closed.
const COMPANIONS: [&str; 2] = ["-wal", "-shm"];

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// A file that `clawbroker backup` made
    file: PathBuf,
    #[command(flatten)]
    format: Format,
}

/// Runs the command.
pub(super) async fn run(common: &Common, restore: &Restore) -> Result<(), Failure> {
    let config = common.load_quietly()?;
    let opener = node::opener(&config.store);
    let Location::Sqlite(database) = opener.location.clone() else {
        return Err(Failure::new(
            "this database is PostgreSQL: stop all nodes and run `pg_restore --clean --if-exists --dbname=\"$DATABASE_URL\" \
             clawbroker.dump`",
        ));
    };
    check_source(&restore.file)?;
    let _locks = lock_alone(&config, &opener.location)?;
    // Checked as a copy: whatever comes of it, the backup stays as it was, and so does the database.
    let fresh = beside(&database, ".restoring");
    let checked = match copy(&restore.file, &fresh) {
        Ok(()) => check(&config, &Opener { location: Location::Sqlite(fresh.clone()), ..opener.clone() }).await,
        Err(failure) => Err(failure),
    };
    if let Err(failure) = checked {
        remove(&fresh);
        return Err(Failure::new(format!("`{}` was not restored: {failure}", restore.file.display())));
    }
    settle(&opener);
    let aside = keep_aside(&database)?;
    rename(&fresh, &database)?;
    sync_folder(&database);
    if restore.format.json {
        return print_json(&json!({ "file": database, "moved_aside": aside }));
    }
    say(format_args!("`{}` is restored to `{}`.", restore.file.display(), database.display()));
    if let Some(aside) = aside {
        say(format_args!("What was there before is kept as `{}`.", aside.display()));
    }
    Ok(())
}

/// Refuses a file that cannot be a backup of ours.
fn check_source(file: &Path) -> Result<(), Failure> {
    File::open(file).map_err(|error| Failure::new(format!("`{}` cannot be read: {error}", file.display())))?;
    if !is_marked(file) {
        return Err(Failure::new(format!("`{}` is not a backup of a clawbroker database", file.display())));
    }
    let log = beside(file, "-wal");
    if fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
        return Err(Failure::new(format!(
            "`{}` is no backup but a database in use: part of it is in `{}`. Make a backup of it with `clawbroker backup`",
            file.display(),
            log.display()
        )));
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    remove(to);
    let copied = fs::copy(from, to).and_then(|_| {
        #[cfg(unix)]
        fs::set_permissions(to, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        File::open(to)?.sync_all()
    });
    copied.map_err(|error| Failure::new(format!("`{}` cannot be written: {error}", to.display())))
}

/// Brings the copy to the newest schema and has it check itself.
async fn check(config: &Config, opener: &Opener) -> Result<(), Failure> {
    opener.prepare()?;
    let store = open_to_read(config, opener.clone())?;
    let complaints = store.integrity_check().await?;
    if let Some(complaint) = complaints.first() {
        return Err(Failure::new(format!("it is damaged: {complaint}")));
    }
    warn_of_key(config, &store).await?;
    drop(store);
    settle(opener);
    Ok(())
}

/// Has SQLite put its write-ahead log into the database, which it does when the last connection is closed.
fn settle(opener: &Opener) {
    if let Location::Sqlite(path) = &opener.location
        && path.exists()
        && let Err(error) = opener.check_ours().and_then(|()| opener.writable())
    {
        // A damaged database is why people restore; its log is then kept beside it.
        log::warn!("`{}` could not be closed in good order: {error}", path.display());
    }
}

/// Says so when the key that is here does not open the secrets in the backup.
async fn warn_of_key(config: &Config, store: &Store) -> Result<(), Failure> {
    let key_file = config.app.data_dir.join(KEY_FILE);
    let unopened = match vault(config, &key_file) {
        Some(vault) => unopened(store, vault).await?,
        None => store.read(gateways::list).await?.iter().filter(|known| known.has_token || known.has_password).count(),
    };
    if unopened > 0 {
        complain(format_args!(
            "The secrets of {unopened} gateways in it cannot be opened with the key here: put the `{KEY_FILE}` that \
             belongs to the backup in the place of `{}`, or give the gateways their tokens again.",
            key_file.display()
        ));
    }
    Ok(())
}

/// Opens the vault only with a key that is there: none must be made now.
pub(super) fn vault(config: &Config, key_file: &Path) -> Option<Vault> {
    (config.store.encryption_key.is_some() || key_file.exists()).then(|| node::vault(config).ok()).flatten()
}

/// Counts the gateways whose secrets the vault does not open.
pub(super) async fn unopened(store: &Store, vault: Vault) -> Result<usize, Failure> {
    let count = store.read(move |db| {
        let known = gateways::list(db)?;
        let closed = known.iter().filter(|gateway| gateways::credentials(db, &vault, &gateway.id).is_err());
        Ok::<_, crate::domain::error::Error>(closed.count())
    });
    Ok(count.await?)
}

/// Gives the database a second name and moves what belongs to it there; returns that name. The first name stays until
/// the new database takes it in one step, so that there is no moment without a database.
fn keep_aside(database: &Path) -> Result<Option<PathBuf>, Failure> {
    if !database.exists() {
        return Ok(None);
    }
    let now: String = iso(SystemClock.now_ms()).chars().filter(|c| !matches!(c, '-' | ':' | '.')).collect();
    let aside = beside(database, &format!(".before-restore-{now}"));
    for companion in COMPANIONS {
        let its = beside(database, companion);
        if its.exists() {
            rename(&its, &beside(&aside, companion))?;
        }
    }
    if fs::hard_link(database, &aside).is_err() {
        // Some file systems know no second names.
        rename(database, &aside)?;
    }
    Ok(Some(aside))
}

fn rename(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::rename(from, to)
        .map_err(|error| Failure::new(format!("`{}` cannot be renamed to `{}`: {error}", from.display(), to.display())))
}

/// Removes a database that nobody needs, with what belongs to it.
fn remove(database: &Path) {
    // Most of them are not there.
    let _ = fs::remove_file(database);
    for companion in COMPANIONS {
        let _ = fs::remove_file(beside(database, companion));
    }
}

/// Has the new names on the disk.
fn sync_folder(database: &Path) {
    let folder = database.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Err(error) = File::open(folder).and_then(|folder| folder.sync_all()) {
        log::warn!("`{}` could not be synchronised: {error}", folder.display());
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}
