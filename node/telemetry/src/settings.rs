//! The tables that `node.toml` and `registry.toml` have in common.

use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, de::Error as _};

/// `[metrics]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSettings {
    /// Where `GET /metrics` is answered; `None`, an empty string in the file: nowhere.
    #[serde(deserialize_with = "address")]
    pub listen: Option<SocketAddr>,
}

impl MetricsSettings {
    /// As in the file.
    pub fn listen_text(&self) -> String {
        self.listen.map_or_else(String::new, |address| address.to_string())
    }
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| D::Error::custom(format!("`{text}` is no address like \"127.0.0.1:9464\"")))
}
