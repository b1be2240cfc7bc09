//! The answer of what has nothing else to say.
use serde::Serialize;
use utoipa::ToSchema;

/// `{"ok": true}`.
#[derive(Serialize, ToSchema)]
pub(super) struct Done {
    ok: bool,
}

impl Done {
    pub(super) const OK: Self = Self { ok: true };
}
