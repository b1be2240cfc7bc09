//! A copy of the database, made while it runs.
use std::path::Path;

use actix_web::{HttpResponse, post, web};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::domain::error::Error;
use crate::domain::time::iso;
use crate::http::auth::Admin;
use crate::http::body::NoBody;
use crate::http::call::Call;
use crate::http::error::ErrorBody;
use crate::http::idempotency::IdempotencyKey;
use crate::http::request::RequestInfo;
use crate::http::state::AppState;
use crate::store::audit::{self, Actor, Filter, Note};
use crate::store::messages::Idem;

/// Folder in the data directory that holds the copies.
const FOLDER: &str = "backups";
/// A copy that is being made.
const PART: &str = "backups/part";
/// What the audit log calls it.
const ACTION: &str = "backup.create";

/// A copy of the database.
#[derive(Serialize, ToSchema)]
pub(super) struct Backup {
    /// Its path, from the data directory on.
    name: String,
    bytes: u64,
    created_at: String,
}

/// Make a consistent copy of the database.
///
/// SQLite: a file in `backups/` of the data directory, readable for the server's user only. The key that opens the
/// stored secrets is not in it: keep `secret.key` in another place than the copies. Copies are made one after the other;
/// a repeat with the same `Idempotency-Key` tells of the copy that it made, for as long as the file is there.
/// PostgreSQL: refused (409) with the command to run instead.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminCreateBackup",
    params(("Idempotency-Key" = Option<String>, Header)),
    responses(
        (status = 201, body = Backup),
        (status = 409, description = "The database is PostgreSQL; the message has the command to run", body = ErrorBody),
        (status = "default", body = ErrorBody)
    )
)]
#[post("/api/admin/backup")]
pub(super) async fn create(
    call: Call<Admin>,
    state: web::Data<AppState>,
    info: RequestInfo,
    key: IdempotencyKey,
    body: NoBody,
) -> Result<HttpResponse, Error> {
    let key = key.read()?;
    body.check().await?;
    let idem = key.of("admin/backup", &call.caller, [0; 32]);
    let actor = info.actor(&call.caller);
    // A task of its own: a copy that was begun is finished and noted, also when the caller has gone.
    let made = actix_rt::spawn(async move { make(&state, actor, idem).await }).await;
    let backup = made.map_err(|_| Error::internal("a backup panicked"))??;
    Ok(HttpResponse::Created().json(backup))
}

async fn make(state: &AppState, actor: Actor, idem: Option<Idem>) -> Result<Backup, Error> {
    let _alone = state.edge.backups.lock().await;
    let data_dir = &state.config.app.data_dir;
    let now_ms = state.clock.now_ms();
    let name = match idem {
        Some(idem) => {
            let name = keyed_name(&idem);
            if let Some(made) = earlier(state, &name).await? {
                return Ok(made);
            }
            name
        }
        None => free_name(data_dir, now_ms),
    };
    let (folder, part, target) = (data_dir.join(FOLDER), data_dir.join(PART), data_dir.join(&name));
    let fresh = part.clone();
    blocking(move || private_folder(&folder, &fresh)).await?;
    state.store.backup(part.clone()).await?;
    let bytes = blocking(move || finish(&part, &target)).await?;
    let note = Note {
        actor,
        action: ACTION,
        target: ("backup", name.clone()),
        shown: serde_json::json!({ "bytes": bytes, "created_at": iso(now_ms) }),
    };
    state.store.write(note).await?;
    Ok(Backup { name, bytes, created_at: iso(now_ms) })
}

/// The copy that a key made has the key's name: its row in the audit log is found by it (D10).
fn keyed_name(idem: &Idem) -> String {
    let digest = Sha256::digest(idem.key.as_bytes());
    let text: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{FOLDER}/clawbroker-key-{text}.db")
}

/// Makes a name of the time, which no copy has.
fn free_name(data_dir: &Path, now_ms: i64) -> String {
    // `2026-11-20T17:31:00.123Z` without the signs that a file name on some system may not have.
    let time: String = iso(now_ms).chars().filter(|c| !matches!(c, '-' | ':' | '.')).collect();
    let mut name = format!("{FOLDER}/clawbroker-{time}.db");
    let mut n = 1;
    while data_dir.join(&name).exists() {
        n += 1;
        name = format!("{FOLDER}/clawbroker-{time}-{n}.db");
    }
    name
}

/// Finds the copy of this name, if it was noted and is still there.
async fn earlier(state: &AppState, name: &str) -> Result<Option<Backup>, Error> {
    if !state.config.app.data_dir.join(name).exists() {
        return Ok(None);
    }
    let filter = Filter { action: Some(ACTION.to_owned()), target: Some(name.to_owned()), ..Filter::default() };
    let rows = state.store.read(move |db| audit::list(db, &filter, 1)).await?;
    let shown = rows.into_iter().next().and_then(|row| row.after);
    Ok(shown.and_then(|text| serde_json::from_str(&text).ok()).map(|Noted { bytes, created_at }| Backup {
        name: name.to_owned(),
        bytes,
        created_at,
    }))
}

/// What the audit log has of a copy.
#[derive(Deserialize)]
struct Noted {
    bytes: u64,
    created_at: String,
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T, Error> {
    actix_rt::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::internal("work on a backup panicked"))?
        .map_err(Error::internal)
}

/// Makes the folder so that nobody else can look into it, also not while the copy is being written, and removes what a
/// copy left behind that was broken off.
fn private_folder(folder: &Path, part: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    #[cfg(unix)]
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    match std::fs::remove_file(part) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes the copy private, sees to it that it is on the disk, and gives it its name.
fn finish(part: &Path, target: &Path) -> std::io::Result<u64> {
    #[cfg(unix)]
    std::fs::set_permissions(part, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let file = std::fs::File::open(part)?;
    file.sync_all()?;
    std::fs::rename(part, target)?;
    Ok(file.metadata()?.len())
}
