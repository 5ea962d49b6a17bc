//! `trust.json`: the Registries that a node trusts.
//!
//! ```json
//! { "registries": [ { "id": "<base58>", "key": "<base58>", "addresses": ["/ip4/192.0.2.1/tcp/4730"] } ] }
//! ```

use serde::{Deserialize, Serialize};
use wayfare_protocol::{
    ids::{HostId, RegistryId},
    limits::ADDRESSES_MAX,
    trust::{Anchor, TrustBundle},
};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TrustFile {
    registries: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    key: String,
    addresses: Vec<String>,
}

pub(super) fn to_text(anchors: &[Anchor]) -> String {
    let entry = |anchor: &Anchor| Entry {
        id: anchor.id.to_string(),
        key: anchor.host().to_string(),
        addresses: anchor.addresses.clone(),
    };
    let file = TrustFile { registries: anchors.iter().map(entry).collect() };
    let text = serde_json::to_string_pretty(&file).expect("texts and lists of texts are JSON");
    text + "\n"
}

pub(super) fn from_text(text: &str) -> Result<TrustBundle, String> {
    let file: TrustFile = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let anchors = file.registries.into_iter().map(Entry::into_anchor).collect::<Result<Vec<_>, _>>()?;
    if anchors.is_empty() { Err("it names no registry".to_owned()) } else { Ok(TrustBundle::new(anchors)) }
}

impl Entry {
    fn into_anchor(self) -> Result<Anchor, String> {
        let id = RegistryId::parse(&self.id).ok_or_else(|| format!("`{}` is no registry's id", self.id))?;
        let key = HostId::parse(&self.key).ok_or_else(|| format!("`{}` is no registry's key", self.key))?;
        if self.addresses.is_empty() || self.addresses.len() > ADDRESSES_MAX {
            return Err(format!("a registry has 1 to {ADDRESSES_MAX} addresses"));
        }
        Ok(Anchor { id, key: key.0, addresses: self.addresses })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_read_back_and_nonsense_is_named() {
        let anchor = Anchor { id: RegistryId([1; 32]), key: [2; 32], addresses: vec!["/ip4/1.2.3.4/tcp/5".into()] };
        let text = to_text(std::slice::from_ref(&anchor));
        assert_eq!(from_text(&text).unwrap().anchors(), [anchor]);
        assert!(from_text("{\"registries\":[]}").unwrap_err().contains("no registry"));
        assert!(from_text(&text.replace("addresses", "address")).is_err());
        assert!(from_text(&text.replace(&RegistryId([1; 32]).to_string(), "xyz")).unwrap_err().contains("xyz"));
    }
}
