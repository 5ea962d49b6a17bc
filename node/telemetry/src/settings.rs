//! The tables that `node.toml` and `registry.toml` have in common.

use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{logs::LogFormat, otlp::traces_address};

/// `[metrics]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSettings {
    /// Where `GET /metrics` is answered; `None`, an empty string in the file: nowhere.
    #[serde(deserialize_with = "address")]
    pub listen: Option<SocketAddr>,
}

/// `[log]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// What a line looks like.
    pub format: LogFormat,
}

/// `[telemetry]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetrySettings {
    /// The OpenTelemetry collector that traces are sent to; `None`, an empty string in the file: nowhere.
    #[serde(deserialize_with = "collector")]
    pub otlp: Option<String>,
}

impl TelemetrySettings {
    /// As in the file.
    pub fn otlp_text(&self) -> &str {
        self.otlp.as_deref().unwrap_or_default()
    }
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

fn collector<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    traces_address(&text).map(|_| Some(text)).map_err(D::Error::custom)
}
