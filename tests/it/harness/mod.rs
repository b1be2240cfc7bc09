//! What tests stand on: fresh databases, a store with a clock and an ear, and short ways to common things.
pub(crate) mod broker;
pub(crate) mod browser;
pub(crate) mod database;
pub(crate) mod peer;
pub(crate) mod providers;
pub(crate) mod proxy;
pub(crate) mod recorder;
pub(crate) mod seeded;
pub(crate) mod sql;
pub(crate) mod test_store;

pub(crate) use broker::Broker;
pub(crate) use browser::{Browser, is_terminal};
pub(crate) use database::{Database, Kind};
pub(crate) use peer::Peer;
pub(crate) use recorder::Recorder;
pub(crate) use seeded::Seeded;
pub(crate) use test_store::{TestStore, question, session_name};

/// Runs a test on a fresh, migrated database inside an actix system.
pub(crate) fn run_on<T: From<Database>, F: Future<Output = ()>>(kind: Kind, test: impl FnOnce(T) -> F) {
    actix::System::new().block_on(async move { test(T::from(Database::migrated(kind))).await });
}

/// Makes two tests of each of the module's async functions: `sqlite::name` and `postgres::name`. A function takes a
/// [`Database`] or anything that is made `From` one, for example a [`TestStore`].
macro_rules! on_both_databases {
    ($(#[$attribute:meta])? $($test:ident),* $(,)?) => {
        on_both_databases!(@ [$(#[$attribute])?] $($test)*);
    };
    (@ $attribute:tt $($test:ident)*) => {
        mod sqlite {
            $(on_both_databases!(@test $attribute $test Sqlite);)*
        }
        mod postgres {
            $(on_both_databases!(@test $attribute $test Postgres);)*
        }
    };
    (@test [$(#[$attribute:meta])?] $test:ident $kind:ident) => {
        #[test]
        $(#[$attribute])?
        fn $test() {
            crate::harness::run_on(crate::harness::Kind::$kind, super::$test);
        }
    };
}

/// Makes a test on SQLite of each of the module's async functions: of what only SQLite has, or no database matters to.
macro_rules! on_sqlite {
    ($($test:ident),* $(,)?) => {
        mod only_sqlite {
            $(
                #[test]
                fn $test() {
                    crate::harness::run_on(crate::harness::Kind::Sqlite, super::$test);
                }
            )*
        }
    };
}
