//! Opens the database: refuses what is not ours, runs the migrations, makes connections.
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};

use diesel::prelude::*;

use super::dialect::{self, APPLICATION_ID, Db, Settings};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::secret::Secret;

/// Where the database is.
#[derive(Clone, Debug)]
pub enum Location {
    Sqlite(PathBuf),
    /// A `postgres://` URL; it may hold a password.
    Postgres(Secret),
}

impl Location {
    /// Returns the kind of database for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "SQLite",
            Self::Postgres(_) => "PostgreSQL",
        }
    }
}

/// The file in a data directory whose lock a server holds.
pub const LOCK_FILE: &str = "clawbroker.lock";

/// Makes connections to one database.
#[derive(Clone, Debug)]
pub struct Opener {
    pub location: Location,
    pub settings: Settings,
}

impl Opener {
    /// Opens a connection that may write.
    pub fn writable(&self) -> Result<Db, Error> {
        let mut db = self.establish()?;
        dialect::configure(&mut db, &self.settings, true)?;
        Ok(db)
    }

    /// Opens a connection that may only read.
    pub fn read_only(&self) -> Result<Db, Error> {
        let mut db = self.establish()?;
        dialect::configure(&mut db, &self.settings, false)?;
        Ok(db)
    }

    /// Checks that the database is ours or new, and brings it to the newest schema.
    pub fn prepare(&self) -> Result<(), Error> {
        if let Location::Sqlite(path) = &self.location {
            refuse_foreign_file(path)?;
            if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                std::fs::create_dir_all(folder).map_err(|error| {
                    Error::new(
                        ErrorCode::StorageFull,
                        format!("the folder `{}` cannot be made: {error}", folder.display()),
                    )
                })?;
            }
        }
        let mut db = self.establish()?;
        if matches!(db, Db::Sqlite(_)) {
            dialect::mark_as_ours(&mut db, &self.settings)?;
            dialect::configure(&mut db, &self.settings, true)?;
        }
        dialect::migrate(&mut db)
    }

    /// Refuses an SQLite file that some other program made, without opening it as a database; one that is not there is
    /// fine.
    pub fn check_ours(&self) -> Result<(), Error> {
        match &self.location {
            Location::Sqlite(path) => refuse_foreign_file(path),
            Location::Postgres(_) => Ok(()),
        }
    }

    fn establish(&self) -> Result<Db, Error> {
        let failed = |kind: &str, error: &dyn std::fmt::Display| {
            // The text of a connection error can hold the URL's user and host, but never its password.
            Error::new(ErrorCode::StoreBusy, format!("the {kind} database cannot be opened: {error}"))
        };
        match &self.location {
            Location::Sqlite(path) => SqliteConnection::establish(&path.to_string_lossy())
                .map(Db::Sqlite)
                .map_err(|error| failed("SQLite", &error)),
            Location::Postgres(url) => {
                let connection = PgConnection::establish(url.reveal()).map_err(|error| failed("PostgreSQL", &error))?;
                let mut db = Db::Postgres(connection);
                dialect::prepare_nothing(&mut db, &self.settings);
                Ok(db)
            }
        }
    }
}

/// Tells whether an SQLite file bears our mark; a new one does not bear it yet.
pub fn is_marked(path: &Path) -> bool {
    let mut header = [0_u8; 72];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
    read.is_ok() && header.ends_with(&APPLICATION_ID.to_be_bytes())
}

/// Refuses an SQLite file that some other program made, without writing to it (D8).
fn refuse_foreign_file(path: &Path) -> Result<(), Error> {
    let mut header = [0_u8; 100];
    let read = match File::open(path).and_then(|mut file| file.read(&mut header)) {
        Ok(read) => read,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(Error::new(
                ErrorCode::InvalidRequest,
                format!("the database file `{}` cannot be read: {error}", path.display()),
            ));
        }
    };
    if read == 0 {
        return Ok(());
    }
    let foreign = |why: &str| {
        Error::new(
            ErrorCode::InvalidRequest,
            format!(
                "`{}` is not a clawbroker database: {why}. It was left as it is. Point DATABASE_URL at another file, \
                 for example sqlite:///./data/clawbroker.db",
                path.display()
            ),
        )
    };
    if !header.starts_with(b"SQLite format 3\0") {
        return Err(foreign("it is not an SQLite file"));
    }
    // The application id stands at offset 68 of the header, big-endian (SQLite file format, 1.3).
    let id = header.get(68..72).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map_or(0, i32::from_be_bytes);
    // The page count of a file that was opened but never written to is 0 or 1 with no schema (offset 40: schema cookie).
    let cookie = header.get(40..44).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map_or(0, i32::from_be_bytes);
    if id == APPLICATION_ID {
        return Ok(());
    }
    // Ours is marked before it gets a write-ahead log: an unmarked file with one is somebody else's.
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let log_bytes = std::fs::metadata(Path::new(&log)).map_or(0, |log| log.len());
    if id == 0 && cookie == 0 && log_bytes == 0 {
        return Ok(());
    }
    Err(foreign("another program made it"))
}

/// The lock that keeps a second server off the same SQLite file. Held while the value lives.
#[derive(Debug)]
pub struct ServerLock {
    // Closing the file releases the lock, also when the process is killed.
    _file: File,
}

impl ServerLock {
    /// Takes the lock beside the data, never on the database file itself: SQLite's own locks would be lost with it.
    pub fn take(data_dir: &Path) -> Result<Self, Error> {
        let path = data_dir.join(LOCK_FILE);
        let refused = |why: String| Error::new(ErrorCode::AlreadyExists, why);
        std::fs::create_dir_all(data_dir)
            .map_err(|error| refused(format!("the folder `{}` cannot be made: {error}", data_dir.display())))?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| refused(format!("`{}` cannot be opened: {error}", path.display())))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(std::fs::TryLockError::WouldBlock) => Err(refused(format!(
                "another clawbroker runs on `{}`: stop it first, or give this one a data directory of its own \
                 (CLAWBROKER_DATA_DIR or --data-dir)",
                data_dir.display()
            ))),
            Err(std::fs::TryLockError::Error(error)) => {
                Err(refused(format!("`{}` cannot be locked: {error}", path.display())))
            }
        }
    }
}
