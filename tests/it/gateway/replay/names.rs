//! The recorded client's keys and ours: what is played says ours wherever the recording says the other's.
use serde_json::Value;

/// Pairs of a recorded key and ours.
#[derive(Debug, Default)]
pub(super) struct Names(Vec<(String, String)>);

impl Names {
    pub(super) fn learn(&mut self, recorded: &str, ours: &str) {
        self.0.push((recorded.to_owned(), ours.to_owned()));
    }

    /// Puts ours in place of the recorded keys, alone or before a colon as in `<key>:user`, at any depth.
    pub(super) fn rewrite(&self, value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| self.rewrite(item)),
            Value::Object(fields) => fields.values_mut().for_each(|field| self.rewrite(field)),
            Value::String(text) => {
                if let Some(ours) = self.of(text) {
                    *text = ours;
                }
            }
            _ => {}
        }
    }

    fn of(&self, text: &str) -> Option<String> {
        self.0.iter().find_map(|(recorded, ours)| {
            let rest = text.strip_prefix(recorded.as_str())?;
            (rest.is_empty() || rest.starts_with(':')).then(|| format!("{ours}{rest}"))
        })
    }
}
