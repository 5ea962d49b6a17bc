use serde_json::json;

use super::*;

/// What scripts rely on.
#[test]
fn a_migration_keeps_its_shape() {
    let migration = Migration {
        id: Some("m".into()),
        service: "kv".into(),
        service_id: "s".into(),
        from: "home".into(),
        to: "delta".into(),
        from_host: "h".into(),
        to_host: "d".into(),
        side: Side::Source,
        reason: "asked for".into(),
        outcome: Outcome::Moved,
        failure: None,
        bytes: 7,
        downtime_ms: Some(1.5),
        steps: vec![Step { step: 1, name: "advertisement".into(), at_us: 9 }],
    };
    let expected = json!({
        "id": "m", "service": "kv", "service_id": "s", "from": "home", "to": "delta", "from_host": "h", "to_host": "d",
        "side": "source", "reason": "asked for", "outcome": "moved", "failure": null, "bytes": 7, "downtime_ms": 1.5,
        "steps": [{"step": 1, "name": "advertisement", "at_us": 9}],
    });
    assert_eq!(serde_json::to_value(&migration).unwrap(), expected);
    assert_eq!(serde_json::from_value::<Migration>(expected).unwrap(), migration);
}

#[test]
fn a_move_may_leave_everything_out_but_not_invent() {
    let request: MoveRequest = serde_json::from_value(json!({})).unwrap();
    assert_eq!(request, MoveRequest { to: None, dry_run: false, wait: true, timeout_s: 60 });
    assert!(serde_json::from_value::<MoveRequest>(json!({"force": true})).is_err());
}

#[test]
fn clouds_and_services_keep_their_shapes() {
    let cloud = json!({
        "name": "fjord", "host": "h", "region": "", "cordoned": false, "addresses": [], "expires_in_s": 1.5,
        "resources": {"cpu_millicores": 1, "memory_bytes": 2, "storage_bytes": 3, "bandwidth_bps": 4},
    });
    let read: Cloud = serde_json::from_value(cloud.clone()).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), cloud);
    let service = json!({
        "name": "kv", "id": "s", "epoch": "1.0", "state": "serving", "host": "h", "cloud": "fjord", "lease_s": 1.5,
        "clients": 1, "queued": 0, "durability": "memory", "listen": null,
    });
    let read: Service = serde_json::from_value(service.clone()).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), service);
}
