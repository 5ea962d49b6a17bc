//! Real documents of NIST, and what can be wrong with one.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use wayfare_protocol::trust::ControlId;

use super::*;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, document: &Value) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, document.to_string()).unwrap();
        path
    }
}

fn metadata() -> Value {
    json!({ "title": "t", "version": "1", "oscal-version": "1.1.2" })
}

fn profile(imports: &Value) -> Value {
    json!({ "profile": { "metadata": metadata(), "imports": imports } })
}

fn catalog() -> Value {
    json!({ "catalog": { "metadata": metadata(), "groups": [
        { "id": "ac", "controls": [
            { "id": "ac-1" }, { "id": "ac-2", "controls": [{ "id": "ac-2.1" }, { "id": "ac-2.2" }] },
        ], "groups": [{ "controls": [{ "id": "au-1" }] }] },
    ] } })
}

fn ids(selection: &Selection) -> Vec<&str> {
    selection.controls.iter().map(ControlId::as_str).collect()
}

fn error(path: &Path) -> String {
    select(path).unwrap_err().to_string()
}

#[test]
fn nists_baselines_resolve_and_each_includes_the_one_below() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/oscal");
    let of = |level: &str| select(&data.join(format!("nist_800-53_rev5_{level}_profile.json"))).unwrap();
    let [low, moderate, high] = ["low", "moderate", "high"].map(of);
    assert_eq!([&low, &moderate, &high].map(|level| level.controls.len()), [149, 287, 370]);
    assert!(low.controls.is_subset(&moderate.controls) && moderate.controls.is_subset(&high.controls));
    assert!(moderate.title.contains("MODERATE IMPACT BASELINE") && moderate.version == "5.1.1+u4");
    assert_ne!(low.source, high.source);
}

#[test]
fn imports_select_by_name_by_pattern_with_children_all_and_all_but_some() {
    let folder = Folder::new();
    folder.write("catalog.json", &catalog());
    let selected = |import: Value| {
        let mut import = import;
        import["href"] = json!("catalog.json");
        let path = folder.write("profile.json", &profile(&json!([import])));
        select(&path).unwrap()
    };
    let named = json!({ "include-controls": [{ "with-ids": ["ac-2", "au-1"] }] });
    assert_eq!(ids(&selected(named)), ["ac-2", "au-1"]);
    let pattern = json!({ "include-controls": [{ "matching": [{ "pattern": "ac-?" }] }] });
    assert_eq!(ids(&selected(pattern)), ["ac-1", "ac-2"]);
    let children = json!({ "include-controls": [{ "with-ids": ["ac-2"], "with-child-controls": "yes" }] });
    assert_eq!(ids(&selected(children)), ["ac-2", "ac-2.1", "ac-2.2"]);
    let all = json!({ "include-all": {} });
    assert_eq!(selected(all).controls.len(), 5);
    let but = json!({ "include-all": {}, "exclude-controls": [{ "matching": [{ "pattern": "ac-2*" }] }] });
    assert_eq!(ids(&selected(but)), ["ac-1", "au-1"]);
}

#[test]
fn profiles_of_profiles_resolve_by_path_and_by_back_matter() {
    let folder = Folder::new();
    folder.write("catalog.json", &catalog());
    let base = json!([{ "href": "catalog.json", "include-controls": [{ "with-ids": ["ac-1", "ac-2"] }] }]);
    folder.write("base.json", &profile(&base));
    let all_of_base = json!([{ "href": "#the-base", "include-all": {} }]);
    let mut tailored = profile(&all_of_base);
    tailored["profile"]["back-matter"] = json!({ "resources": [
        { "uuid": "other", "rlinks": [] },
        { "uuid": "the-base", "rlinks": [{ "href": "https://example.org/base.json" }, { "href": "base.json" }] },
    ] });
    let path = folder.write("tailored.json", &tailored);
    assert_eq!(ids(&select(&path).unwrap()), ["ac-1", "ac-2"]);
}

#[test]
fn what_a_profile_needs_and_does_not_find_is_named() {
    let folder = Folder::new();
    let path = folder.write("p.json", &profile(&json!([{ "href": "gone.json", "include-all": {} }])));
    let text = error(&path);
    assert!(text.contains("selects from gone.json, which is not there") && text.contains("with-ids"), "{text}");
    let path = folder.write("p.json", &profile(&json!([{ "href": "#nothing", "include-all": {} }])));
    assert!(error(&path).contains("#nothing, which its back matter does not have"));
    // By name alone, nothing else is needed.
    let named = json!([{ "href": "gone.json", "include-controls": [{ "with-ids": ["ac-1"] }] }]);
    let path = folder.write("p.json", &profile(&named));
    assert_eq!(ids(&select(&path).unwrap()), ["ac-1"]);
    folder.write("gone.json", &profile(&json!([{ "href": "x.json", "include-controls": [{ "with-ids": ["ac-2"] }] }])));
    assert!(error(&path).contains("\"ac-1\" is no control: what it is selected from does not have it"));
}

#[test]
fn profiles_that_import_each_other_end() {
    let folder = Folder::new();
    folder.write("a.json", &profile(&json!([{ "href": "b.json", "include-all": {} }])));
    let b = folder.write("b.json", &profile(&json!([{ "href": "a.json", "include-all": {} }])));
    assert!(error(&b).contains("in a circle"));
    for level in 0..20 {
        let next = format!("{}.json", level + 1);
        folder.write(&format!("{level}.json"), &profile(&json!([{ "href": next, "include-all": {} }])));
    }
    assert!(error(&folder.0.path().join("0.json")).contains("8 deep"));
}

#[test]
fn what_is_no_such_document_says_so() {
    let folder = Folder::new();
    let missing = folder.0.path().join("none.json");
    assert!(error(&missing).contains("cannot read") && error(&missing).contains("none.json"));
    let path = folder.write("p.json", &json!({ "profile": { "metadata": metadata() } }));
    assert!(error(&path).contains("missing field `imports`"), "{}", error(&path));
    fs::write(&path, "<profile/>").unwrap();
    assert!(error(&path).contains("no OSCAL profile in JSON") && error(&path).contains("oscal-cli"));
    let mut other = profile(&json!([]));
    other["profile"]["metadata"]["oscal-version"] = json!("2.0.0");
    assert!(error(&folder.write("p.json", &other)).contains("version 2.0.0: this program reads 1.x"));
    assert!(error(&folder.write("p.json", &profile(&json!([])))).contains("selects no control"));
    assert!(error(&folder.write("p.json", &catalog())).contains("is a catalog"));
    let bad = json!([{ "href": "x.json", "include-controls": [{ "with-ids": ["ac 1"] }] }]);
    assert!(error(&folder.write("p.json", &profile(&bad))).contains("\"ac 1\" is no control"));
    let deep = format!("{{\"catalog\":{}", "{\"groups\":[".repeat(100_000));
    fs::write(&path, deep).unwrap();
    assert!(error(&path).contains("recursion limit"), "{}", error(&path));
    let huge = File::create(&path).unwrap();
    huge.set_len(DOCUMENT_BYTES_MAX + 1).unwrap();
    assert!(error(&path).contains("larger than 64 MiB"));
}

#[test]
fn nists_example_of_results_is_read() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/oscal");
    let (_, findings) = read_results(&data.join("example_assessment-results.json")).unwrap();
    let [finding] = &findings[..] else { panic!("{findings:?}") };
    assert_eq!((finding.control.as_str(), &finding.part, finding.satisfied), ("ac-6.1", &None, false));
    // 2023-06-02T08:31:20-04:00 and 2023-07-01T00:00:00-04:00.
    assert_eq!(finding.found.0, 1_685_709_080_000_000);
    assert_eq!(finding.expires.map(|at| at.0), Some(1_688_184_000_000_000));
}

fn results(findings: &Value) -> Value {
    let run = json!({ "start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z", "findings": findings });
    json!({ "assessment-results": { "metadata": metadata(), "results": [run] } })
}

fn found(target: &str, state: &str) -> Value {
    json!({ "target": { "type": "objective-id", "target-id": target, "status": { "state": state } } })
}

#[test]
fn findings_are_of_controls_or_of_parts_and_dated_by_their_run() {
    let folder = Folder::new();
    let findings =
        json!([found("ac-1", "satisfied"), found("ac-2_obj.a-1", "not-satisfied"), found("ac-3_smt", "satisfied")]);
    let (_, findings) = read_results(&folder.write("r.json", &results(&findings))).unwrap();
    let read: Vec<_> = findings.iter().map(|f| (f.control.as_str(), f.part.as_deref(), f.satisfied)).collect();
    assert_eq!(read, [("ac-1", None, true), ("ac-2", Some("ac-2_obj.a-1"), false), ("ac-3", None, true)]);
    assert!(findings.iter().all(|finding| finding.found.0 == 1_767_312_000_000_000 && finding.expires.is_none()));
}

#[test]
fn what_is_wrong_with_results_is_named() {
    let folder = Folder::new();
    let error = |document: &Value| read_results(&folder.write("r.json", document)).unwrap_err().to_string();
    assert!(error(&results(&json!([]))).contains("has no findings"));
    assert!(error(&results(&json!([found("", "satisfied")]))).contains("is no control"));
    assert!(error(&results(&json!([found("ac-1", "perhaps")]))).contains("unknown variant `perhaps`"));
    let mut dated = results(&json!([found("ac-1", "satisfied")]));
    dated["assessment-results"]["results"][0]["end"] = json!("yesterday");
    assert!(error(&dated).contains("\"yesterday\" is no time"));
    assert!(error(&catalog()).contains("no OSCAL assessment-results"));
}
