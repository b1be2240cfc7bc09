//! A copy of the database, made while it runs.
use std::path::{Path, PathBuf};

use actix_web::{HttpResponse, post, web};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::error::Error;
use crate::domain::time::iso;
use crate::http::auth::Admin;
use crate::http::call::Call;
use crate::http::error::ErrorBody;
use crate::http::request::RequestInfo;
use crate::http::state::AppState;
use crate::store::audit::Note;

/// Folder in the data directory that holds the copies.
const FOLDER: &str = "backups";

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
/// stored secrets is not in it: keep `secret.key` beside it. PostgreSQL: refused (409) with the command to run instead.
#[utoipa::path(
    tag = "admin",
    operation_id = "adminCreateBackup",
    responses((status = 201, body = Backup), (status = 409, body = ErrorBody), (status = "default", body = ErrorBody))
)]
#[post("/api/admin/backup")]
pub(super) async fn create(
    call: Call<Admin>,
    state: web::Data<AppState>,
    info: RequestInfo,
) -> Result<HttpResponse, Error> {
    let now_ms = state.clock.now_ms();
    // `2026-11-20T17:31:00.123Z` without the signs that a file name on some system may not have.
    let time: String = iso(now_ms).chars().filter(|c| !matches!(c, '-' | ':' | '.')).collect();
    let name = format!("{FOLDER}/clawbroker-{time}.db");
    let target = state.config.app.data_dir.join(&name);
    let folder = state.config.app.data_dir.join(FOLDER);
    blocking(move || private_folder(&folder)).await?;
    state.store.backup(target.clone()).await?;
    let bytes = blocking(move || finish(&target)).await?;
    let note = Note {
        actor: info.actor(&call.caller),
        action: "backup.create",
        target: ("backup", name.clone()),
        shown: serde_json::json!({ "bytes": bytes }),
    };
    state.store.write(note).await?;
    Ok(HttpResponse::Created().json(Backup { name, bytes, created_at: iso(now_ms) }))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T, Error> {
    actix_rt::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::internal("work on a backup panicked"))?
        .map_err(Error::internal)
}

/// Makes the folder so that nobody else can look into it, also not while the copy is being written.
fn private_folder(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    #[cfg(unix)]
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Ok(())
}

/// Makes the copy private and sees to it that it is on the disk.
fn finish(target: &PathBuf) -> std::io::Result<u64> {
    #[cfg(unix)]
    std::fs::set_permissions(target, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let file = std::fs::File::open(target)?;
    file.sync_all()?;
    Ok(file.metadata()?.len())
}
