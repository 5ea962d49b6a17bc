//! Which controls a profile selects: its imports resolved, profile by profile, down to the catalog where that is needed.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use wayfare_protocol::{ids::Digest, trust::ControlId};

use super::{Metadata, OscalError, check_version, read};

/// Profiles that import one another.
pub(super) const DEPTH_MAX: usize = 8;

/// What a profile selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Its title.
    pub title: String,
    /// The version of the document itself.
    pub version: String,
    /// BLAKE3 of its bytes.
    pub source: Digest,
    /// The controls.
    pub controls: BTreeSet<ControlId>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Document {
    Profile(Profile),
    Catalog(Catalog),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Profile {
    metadata: Metadata,
    imports: Vec<Import>,
    #[serde(default)]
    back_matter: BackMatter,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Import {
    href: String,
    include_all: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    include_controls: Vec<Choice>,
    #[serde(default)]
    exclude_controls: Vec<Choice>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Choice {
    #[serde(default)]
    with_child_controls: YesNo,
    #[serde(default)]
    with_ids: Vec<String>,
    #[serde(default)]
    matching: Vec<Matching>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum YesNo {
    Yes,
    #[default]
    No,
}

#[derive(Debug, Deserialize)]
struct Matching {
    pattern: String,
}

#[derive(Debug, Default, Deserialize)]
struct BackMatter {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Debug, Deserialize)]
struct Resource {
    uuid: String,
    #[serde(default)]
    rlinks: Vec<Link>,
}

#[derive(Debug, Deserialize)]
struct Link {
    href: String,
}

#[derive(Debug, Deserialize)]
struct Catalog {
    metadata: Metadata,
    #[serde(default)]
    groups: Vec<Group>,
    #[serde(default)]
    controls: Vec<Control>,
}

#[derive(Debug, Deserialize)]
struct Group {
    #[serde(default)]
    groups: Vec<Self>,
    #[serde(default)]
    controls: Vec<Control>,
}

#[derive(Debug, Deserialize)]
struct Control {
    id: String,
    #[serde(default)]
    controls: Vec<Self>,
}

/// Controls that can be chosen from, each with the one that it belongs to.
#[derive(Debug, Default)]
struct Choices(Vec<(ControlId, Option<ControlId>)>);

impl Choices {
    fn has(&self, id: &ControlId) -> bool {
        self.0.iter().any(|(here, _)| here == id)
    }

    /// `id` and all that belong to it.
    fn with_children(&self, id: &ControlId, into: &mut BTreeSet<ControlId>) {
        if into.insert(id.clone()) {
            let children = self.0.iter().filter(|(_, parent)| parent.as_ref() == Some(id));
            children.for_each(|(child, _)| self.with_children(child, into));
        }
    }
}

/// What the profile in this file selects.
///
/// An import that names every control needs no other document, as the baselines of NIST SP 800-53B do; one that selects by
/// pattern, with children or everything needs what it imports, at the place that it names, relative to itself.
///
/// # Errors
/// Every [`OscalError`].
pub fn select(path: &Path) -> Result<Selection, OscalError> {
    let (source, document) = read(path, "profile")?;
    let Document::Profile(profile) = document else {
        return Err(OscalError::Empty {
            path: path.to_owned(),
            what: "is a catalog, which demands nothing: give a profile that selects from it",
        });
    };
    let controls = resolve(path, &profile, &mut vec![path.to_owned()])?;
    if controls.is_empty() {
        return Err(OscalError::Empty { path: path.to_owned(), what: "selects no control" });
    }
    let Metadata { title, version, .. } = profile.metadata;
    Ok(Selection { title, version, source, controls })
}

fn resolve(path: &Path, profile: &Profile, above: &mut Vec<PathBuf>) -> Result<BTreeSet<ControlId>, OscalError> {
    check_version(path, &profile.metadata)?;
    let mut selected = BTreeSet::new();
    for import in &profile.imports {
        let choices = open(path, profile, import, above)?;
        let mut chosen = if import.include_all.is_some() {
            choices.iter().flat_map(|choices| choices.0.iter().map(|(id, _)| id.clone())).collect()
        } else {
            choose(path, &import.include_controls, choices.as_ref())?
        };
        for excluded in choose(path, &import.exclude_controls, choices.as_ref())? {
            chosen.remove(&excluded);
        }
        selected.append(&mut chosen);
    }
    Ok(selected)
}

/// The document that an import selects from; `None` if it is not there, and not needed either.
fn open(
    path: &Path,
    profile: &Profile,
    import: &Import,
    above: &mut Vec<PathBuf>,
) -> Result<Option<Choices>, OscalError> {
    let places = places(path, profile, &import.href)?;
    let Some(found) = places.iter().find(|place| place.is_file()) else {
        let choices = import.include_controls.iter().chain(&import.exclude_controls);
        let named = choices.into_iter().all(|choice| {
            choice.matching.is_empty() && (choice.with_child_controls == YesNo::No || choice.with_ids.is_empty())
        });
        if named && import.include_all.is_none() {
            return Ok(None);
        }
        let tried: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        let tried = if tried.is_empty() { "no file".to_owned() } else { tried.join(", ") };
        return Err(OscalError::NotThere { path: path.to_owned(), href: import.href.clone(), tried });
    };
    let (_, document) = read(found, "profile or catalog")?;
    let mut choices = Choices::default();
    match document {
        Document::Profile(imported) => {
            if above.contains(found) || above.len() >= DEPTH_MAX {
                return Err(OscalError::TooDeep { path: found.clone() });
            }
            above.push(found.clone());
            choices.0 = resolve(found, &imported, above)?.into_iter().map(|id| (id, None)).collect();
            above.pop();
        }
        Document::Catalog(catalog) => {
            check_version(found, &catalog.metadata)?;
            let group = Group { groups: catalog.groups, controls: catalog.controls };
            list(found, &group, &mut choices)?;
        }
    }
    Ok(Some(choices))
}

/// Where an import's document may be, in order.
fn places(path: &Path, profile: &Profile, href: &str) -> Result<Vec<PathBuf>, OscalError> {
    let beside = path.parent().unwrap_or(Path::new("."));
    let Some(uuid) = href.strip_prefix('#') else { return Ok(local(beside, href)) };
    let resource = profile.back_matter.resources.iter().find(|resource| resource.uuid == uuid);
    let resource = resource.ok_or_else(|| OscalError::NoResource { path: path.to_owned(), href: href.to_owned() })?;
    Ok(resource.rlinks.iter().flat_map(|link| local(beside, &link.href)).collect())
}

/// A file in JSON, if this refers to one. Nothing is ever fetched.
fn local(beside: &Path, href: &str) -> Vec<PathBuf> {
    let href = href.strip_prefix("file://").unwrap_or(href);
    if href.contains("://") || !href.ends_with(".json") {
        return Vec::new();
    }
    vec![beside.join(href)]
}

fn list(path: &Path, group: &Group, choices: &mut Choices) -> Result<(), OscalError> {
    for control in &group.controls {
        list_control(path, control, None, choices)?;
    }
    group.groups.iter().try_for_each(|group| list(path, group, choices))
}

fn list_control(
    path: &Path,
    control: &Control,
    parent: Option<&ControlId>,
    choices: &mut Choices,
) -> Result<(), OscalError> {
    let id = control_id(path, &control.id)?;
    choices.0.push((id.clone(), parent.cloned()));
    control.controls.iter().try_for_each(|child| list_control(path, child, Some(&id), choices))
}

fn choose(path: &Path, chosen: &[Choice], from: Option<&Choices>) -> Result<BTreeSet<ControlId>, OscalError> {
    let mut selected = BTreeSet::new();
    for choice in chosen {
        let mut ids = Vec::new();
        for text in &choice.with_ids {
            let id = control_id(path, text)?;
            if from.is_some_and(|from| !from.has(&id)) {
                let why = "what it is selected from does not have it";
                return Err(OscalError::BadControl { path: path.to_owned(), control: text.clone(), why });
            }
            ids.push(id);
        }
        for Matching { pattern } in &choice.matching {
            let known = from.iter().flat_map(|from| from.0.iter().map(|(id, _)| id));
            ids.extend(known.filter(|id| matches(pattern.as_bytes(), id.as_str().as_bytes())).cloned());
        }
        for id in ids {
            match from.filter(|_| choice.with_child_controls == YesNo::Yes) {
                Some(from) => from.with_children(&id, &mut selected),
                None => drop(selected.insert(id)),
            }
        }
    }
    Ok(selected)
}

/// Whether `text` is what the pattern says: `*` stands for any bytes, `?` for one. Its time is bounded by the product of both
/// lengths: a star is tried again only from where the last one stood.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut from, mut star) = (0, 0, None);
    while from < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[from] => {
                at += 1;
                from += 1;
            }
            _ => {
                let Some((last, taken)) = star else { return false };
                star = Some((last, taken + 1));
                at = last + 1;
                from = taken + 1;
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

fn control_id(path: &Path, text: &str) -> Result<ControlId, OscalError> {
    ControlId::parse(text).ok_or_else(|| OscalError::BadControl {
        path: path.to_owned(),
        control: text.chars().take(80).collect(),
        why: "an OSCAL token has letters, digits, `.`, `-` and `_`, and begins with a letter",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, is) in [
            ("ac-*", "ac-2.1", true),
            ("ac-?", "ac-2", true),
            ("ac-?", "ac-21", false),
            ("*", "", true),
            ("*-1", "pm-1", true),
            ("*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), is, "{pattern} {text}");
        }
    }
}
