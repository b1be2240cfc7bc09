//! A fresh database for a test. SQLite: a file in a folder of its own. PostgreSQL: a copy of a template that the first
//! test to come makes and all others of the run share; `./test` starts the server.
use std::path::{Path, PathBuf};

use clawbroker::domain::secret::Secret;
use clawbroker::store::{Db, Location, Opener, Pooling, Settings};
use diesel::prelude::*;
use tempfile::TempDir;

use super::sql;

/// Key of the advisory lock under which the template is made: tests run in processes of their own.
const TEMPLATE_LOCK: i64 = 0x7465_6d70_6c61_7465;

/// Which database a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
}

/// A database that goes away with this value, and a data directory beside it.
pub(crate) struct Database {
    data_dir: TempDir,
    server: Option<OnServer>,
    /// The PgBouncer that clients reach the server through.
    pooler: Option<String>,
}

impl Database {
    /// Makes a database of the newest schema.
    pub(crate) fn migrated(kind: Kind) -> Self {
        let database = Self::make(kind, template);
        if kind == Kind::Sqlite {
            database.opener().prepare().expect("a fresh file is migrated");
        }
        database
    }

    /// Makes a database on PostgreSQL without anything in it, which is reached through PgBouncer in transaction mode.
    pub(crate) fn behind_pgbouncer() -> Self {
        let mut database = Self::empty(Kind::Postgres);
        let pooler = std::env::var("CLAWBROKER_TEST_PGBOUNCER")
            .expect("tests behind PgBouncer need one: run ./test, which starts it");
        database.pooler = Some(pooler);
        database
    }

    /// Makes a database without anything in it on a server of the test's own, which the broker reaches by this URL.
    pub(crate) fn on(maintenance: &str, url: &str) -> Self {
        let server = Some(OnServer::create(maintenance.to_owned(), "template0"));
        Self { data_dir: data_dir(), server, pooler: Some(url.to_owned()) }
    }

    /// Makes a database without anything in it.
    pub(crate) fn empty(kind: Kind) -> Self {
        Self::make(kind, |_| "template0".to_owned())
    }

    fn make(kind: Kind, template: impl FnOnce(&str) -> String) -> Self {
        let server = match kind {
            Kind::Sqlite => None,
            Kind::Postgres => {
                let maintenance = maintenance_url();
                let template = template(&maintenance);
                Some(OnServer::create(maintenance, &template))
            }
        };
        Self { data_dir: data_dir(), server, pooler: None }
    }

    /// Returns what the server calls it.
    pub(crate) fn name(&self) -> &str {
        &self.server.as_ref().expect("a database on a server").name
    }

    pub(crate) fn kind(&self) -> Kind {
        if self.server.is_some() { Kind::Postgres } else { Kind::Sqlite }
    }

    /// Returns the folder that a server on this database would keep its files in.
    pub(crate) fn data_dir(&self) -> &Path {
        self.data_dir.path()
    }

    /// Returns the SQLite file; it need not exist.
    pub(crate) fn file(&self) -> PathBuf {
        self.data_dir().join("clawbroker.db")
    }

    pub(crate) fn location(&self) -> Location {
        match &self.server {
            None => Location::Sqlite(self.file()),
            Some(server) => {
                let url = self.pooler.as_ref().map_or_else(|| server.url(), |pooler| url_of(pooler, &server.name));
                Location::Postgres(Secret::new(url))
            }
        }
    }

    pub(crate) fn opener(&self) -> Opener {
        opener(self.location())
    }

    /// Opens a connection of the test's own, beside the store and past any pooler.
    pub(crate) fn connect(&self) -> Db {
        let location = match &self.server {
            Some(server) => Location::Postgres(Secret::new(server.url())),
            None => self.location(),
        };
        opener(location).writable().expect("a connection of the test's own")
    }

    /// Ends all connections to it.
    pub(crate) fn end_connections(&self) {
        let name = self.name();
        self.on_server(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"));
    }

    /// Runs a statement beside all databases of the server.
    pub(crate) fn on_server(&self, statement: &str) {
        sql::run(&mut server(&self.server.as_ref().expect("a database on a server").maintenance), statement);
    }
}

fn data_dir() -> TempDir {
    tempfile::Builder::new().prefix("clawbroker-it-").tempdir().expect("a temporary folder")
}

pub(crate) fn opener(location: Location) -> Opener {
    Opener { location, settings: Settings { full_durability: true, busy_timeout_ms: 5_000, pooling: Pooling::Session } }
}

/// A database on the test server; dropped with this value.
struct OnServer {
    name: String,
    maintenance: String,
}

impl OnServer {
    fn create(maintenance: String, template: &str) -> Self {
        let name = format!("it_{}", uuid::Uuid::now_v7().simple());
        sql::run(&mut server(&maintenance), &format!("CREATE DATABASE {name} TEMPLATE {template}"));
        Self { name, maintenance }
    }

    fn url(&self) -> String {
        url_of(&self.maintenance, &self.name)
    }
}

impl Drop for OnServer {
    fn drop(&mut self) {
        // Best effort: the whole server goes away at the end of the run.
        if let Ok(connection) = PgConnection::establish(&self.maintenance) {
            sql::try_run(&mut Db::Postgres(connection), &format!("DROP DATABASE {} WITH (FORCE)", self.name));
        }
    }
}

fn maintenance_url() -> String {
    std::env::var("CLAWBROKER_TEST_POSTGRES")
        .expect("tests on PostgreSQL need a server: run ./test, which starts one and sets CLAWBROKER_TEST_POSTGRES")
}

fn url_of(maintenance: &str, name: &str) -> String {
    let mut url = url::Url::parse(maintenance).expect("CLAWBROKER_TEST_POSTGRES is a URL");
    url.set_path(name);
    url.into()
}

fn server(maintenance: &str) -> Db {
    Db::Postgres(PgConnection::establish(maintenance).expect("the test server answers"))
}

/// Returns the name of the migrated template, made if this run has none. It gets its name when it is complete, so a test
/// that was killed while making it leaves nothing half-made behind.
fn template(maintenance: &str) -> String {
    let name = format!("it_template_{}", migrations_digest());
    let mut db = server(maintenance);
    // Held by this session: the lock ends with the connection, whatever happens.
    sql::run(&mut db, &format!("SELECT pg_advisory_lock({TEMPLATE_LOCK})"));
    if sql::number(&mut db, &format!("SELECT count(*) AS value FROM pg_database WHERE datname = '{name}'")) == 0 {
        let draft = format!("{name}_draft");
        sql::run(&mut db, &format!("DROP DATABASE IF EXISTS {draft} WITH (FORCE)"));
        sql::run(&mut db, &format!("CREATE DATABASE {draft} TEMPLATE template0"));
        opener(Location::Postgres(Secret::new(url_of(maintenance, &draft)))).prepare().expect("the template migrates");
        sql::run(&mut db, &format!("ALTER DATABASE {draft} RENAME TO {name}"));
    }
    name
}

/// Names the schema by what makes it, so that a server which outlives a change of it does not hand out the old one.
fn migrations_digest() -> String {
    use sha2::Digest;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/postgres");
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(root).expect("migrations").map(|entry| entry.expect("a folder").path()).collect();
    folders.sort();
    let mut digest = sha2::Sha256::new();
    for folder in folders {
        digest.update(std::fs::read(folder.join("up.sql")).expect("up.sql"));
    }
    digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
