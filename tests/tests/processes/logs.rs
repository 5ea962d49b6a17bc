//! Logs for programs.

use super::*;

#[test]
fn each_line_of_a_json_log_is_an_object_that_says_who_speaks() {
    let root = tempfile::tempdir().unwrap();
    let (dir, log) = (root.path().join("registry"), root.path().join("log"));
    text(REGISTRY, &dir, &["init", "--name", "testbed", "--listen", "127.0.0.1:0"]);
    let mut command = Command::new(REGISTRY);
    command.args(["run", "--json", "--log-format", "json", "--dir"]).arg(&dir);
    let registry = Running::of(command.stderr(std::fs::File::create(&log).unwrap()), &dir);
    text(REGISTRY, &dir, &["join-token", "--cloud", "fjord"]);
    registry.stop();
    let lines: Vec<Value> =
        std::fs::read_to_string(&log).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let made = lines.iter().find(|line| line["fields"]["message"] == "join token created").unwrap();
    assert_eq!((&made["level"], &made["fields"]["cloud"]), (&"INFO".into(), &"fjord".into()), "{made}");
    assert_eq!((&made["span"]["node"], &made["span"]["role"]), (&"testbed".into(), &"registry".into()), "{made}");
    assert!(made["timestamp"].is_string());

    let refused = execute(REGISTRY, &dir, &["run", "--log-format", "xml"]);
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(2) && message.contains("text or json"), "{message}");
}
