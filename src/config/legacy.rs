//! `[legacy]`: ancestors' settings that a later capability reads. Kept as they came.
use serde::Deserialize;

use super::error::ConfigError;
use super::section::{Section, Shown, listed};

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Legacy {
    /// `TOOL_LOOP_MODEL`: the model of every run that has tools.
    pub tool_loop_model: Option<String>,
    /// `TOOL_LOOP_MODEL_OVERRIDES`: a JSON object, or `source=target,source2=target2`.
    pub tool_loop_model_overrides: Option<String>,
}

/// Longest text kept for a capability that will parse it; a list of all models of a provider is shorter.
const BYTES_MAX: usize = 16_384;

impl Section for Legacy {
    const NAME: &'static str = "legacy";

    fn shown(&self) -> Vec<Shown> {
        listed!(self { tool_loop_model, tool_loop_model_overrides })
    }

    fn check(&self) -> Result<(), ConfigError> {
        let texts = [
            ("tool_loop_model", &self.tool_loop_model),
            ("tool_loop_model_overrides", &self.tool_loop_model_overrides),
        ];
        for (key, text) in texts {
            if text.as_ref().is_some_and(|text| text.len() > BYTES_MAX) {
                return Err(Self::invalid(key, format!("must not be longer than {BYTES_MAX} bytes")));
            }
        }
        Ok(())
    }
}
