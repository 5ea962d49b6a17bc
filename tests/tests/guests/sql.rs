//! A database moves with its transactions: what is not committed is neither lost nor visible as if it were.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

use crate::town::{ALPHA, Answer, BETA, HOME, Town, http};

/// Clients that write at the same time.
const CLIENTS: u64 = 6;
const MOVES: usize = 10;
/// Writes that must be acknowledged between two moves.
const WRITES_BETWEEN: u64 = 60;

async fn run(town: &Town, service: &str, sql: &str) -> Answer {
    town.ask(service, "POST /sql", "", sql).await.unwrap()
}

/// The rows of SQL that must succeed.
async fn rows(town: &Town, service: &str, sql: &str) -> Value {
    let answer = run(town, service, sql).await;
    assert_eq!(answer.status, 200, "{sql}: {answer:?}");
    answer.json()["rows"].clone()
}

const OPEN: &str = "CREATE TEMP TABLE scratch(x); INSERT INTO scratch VALUES ('kept');
    CREATE TABLE account(id INTEGER PRIMARY KEY, name TEXT UNIQUE, balance INTEGER CHECK (balance >= 0));
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
        INSERT INTO account SELECT i, printf('account %d', i), 100 FROM n;
    BEGIN;
    UPDATE account SET balance = balance + 1 WHERE id % 2;
    DELETE FROM account WHERE id > 19000;
    SAVEPOINT half;
    INSERT INTO account VALUES (30000, 'not yet', 7)";
const TOTALS: &str = "SELECT count(*), sum(balance), max(id) FROM account";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_moves_and_crashes_inside_a_transaction() {
    let mut town = Town::start(&["ledger", "twin"]).await.unwrap();
    let (committed, pending) = (json!([[20000, 2_000_000, 20000]]), json!([[19001, 1_909_507, 30000]]));
    for service in ["ledger", "twin"] {
        town.deploy("sql", service, 64).await.unwrap();
        assert_eq!(run(&town, service, OPEN).await.json()["in_transaction"], true);
        assert_eq!(rows(&town, service, TOTALS).await, pending, "its own transaction sees it");
        assert_ne!(pending, committed);
    }
    for service in ["ledger", "twin"] {
        town.go(service, ALPHA).await.unwrap();
        assert_eq!(run(&town, service, TOTALS).await.json()["in_transaction"], true, "still open over there");
    }
    // The twin has had the same requests. That ROLLBACK takes the rows away shows that they were not committed anywhere.
    rows(&town, "twin", "ROLLBACK").await;
    assert_eq!(rows(&town, "twin", TOTALS).await, committed);
    assert_eq!(rows(&town, "twin", "PRAGMA integrity_check").await, json!([["ok"]]));

    // Its host dies, too, and builds the open transaction up again from its image and its log.
    town.crash(ALPHA).await.unwrap();
    assert_eq!(rows(&town, "ledger", TOTALS).await, pending);
    town.go("ledger", BETA).await.unwrap();
    // The savepoint inside is as alive as the transaction.
    rows(&town, "ledger", "ROLLBACK TO half").await;
    rows(&town, "ledger", "INSERT INTO account VALUES (30000, 'after all', 7); COMMIT").await;
    assert_eq!(rows(&town, "ledger", TOTALS).await, pending);
    let names = "SELECT name FROM account WHERE id = 30000 UNION ALL SELECT x FROM scratch";
    assert_eq!(rows(&town, "ledger", names).await, json!([["after all"], ["kept"]]));
    let refused = run(&town, "ledger", "ROLLBACK").await;
    assert_eq!((refused.status, &refused.json()["in_transaction"]), (400, &json!(false)), "there is none any more");
    assert_eq!(rows(&town, "ledger", "PRAGMA integrity_check; VACUUM; PRAGMA integrity_check").await, json!([["ok"]]));
    // And committed is committed.
    town.crash(BETA).await.unwrap();
    assert_eq!(rows(&town, "ledger", TOTALS).await, pending);
}

/// Writes rows (client, 0), (client, 1), …, each in a request of its own, until it is told to stop; how many were acknowledged.
async fn write(address: SocketAddr, client: u64, acknowledged: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> u64 {
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        let sql = format!("INSERT INTO entry VALUES ({client}, {written}, hex(randomblob(100)))");
        let answer = http(address, "POST /sql", "", sql.as_bytes()).await.unwrap();
        assert_eq!(answer.status, 200, "client {client}, row {written}: {answer:?}");
        assert_eq!(answer.json()["changes"], 1);
        written += 1;
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
    written
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_moves_under_load_lose_no_row_and_double_none() {
    let town = Town::start(&["log"]).await.unwrap();
    town.deploy("sql", "log", 64).await.unwrap();
    rows(&town, "log", "CREATE TABLE entry(client, number, text); CREATE INDEX by_text ON entry(text)").await;
    let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let spawn = |client| tokio::spawn(write(town.address("log"), client, Arc::clone(&acknowledged), Arc::clone(&stop)));
    let clients: Vec<_> = (0..CLIENTS).map(spawn).collect();
    let mut due = WRITES_BETWEEN;
    for (_, to) in (0..MOVES).zip([ALPHA, BETA].into_iter().cycle()) {
        while acknowledged.load(Ordering::Relaxed) < due && !clients.iter().any(tokio::task::JoinHandle::is_finished) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        town.go("log", to).await.unwrap();
        due = acknowledged.load(Ordering::Relaxed) + WRITES_BETWEEN;
    }
    stop.store(true, Ordering::Relaxed);
    let mut written = Vec::new();
    for client in clients {
        written.push(client.await.unwrap());
    }
    let twice = "SELECT client, number, count(*) FROM entry GROUP BY client, number HAVING count(*) <> 1";
    assert_eq!(rows(&town, "log", twice).await, json!([]), "executed twice");
    let found = "SELECT count(*), min(number), max(number) FROM entry GROUP BY client ORDER BY client";
    let expected: Vec<_> = written.iter().map(|n| json!([n, 0, n - 1])).collect();
    assert_eq!(rows(&town, "log", found).await, json!(expected), "each acknowledged row, and no other");
    assert_eq!(rows(&town, "log", "PRAGMA integrity_check").await, json!([["ok"]]));
    let moved = [HOME, ALPHA, BETA].map(|host| town.processes.migrations(host));
    let [home, alpha, beta] = moved;
    let done = home.await.unwrap().len() + alpha.await.unwrap().len() + beta.await.unwrap().len();
    assert!(done >= 2 * MOVES, "each move is in two histories, so there must be {MOVES} of them: {done}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_errors_and_the_end_of_memory_are_told_as_they_are() {
    let town = Town::start(&["db"]).await.unwrap();
    town.deploy("sql", "db", 16).await.unwrap();
    let made =
        run(&town, "db", "CREATE TABLE t(a INTEGER PRIMARY KEY, b); -- nothing\n;; INSERT INTO t(b) VALUES (1),(2)")
            .await;
    let expected = r#"{"columns":[],"rows":[],"changes":2,"last_insert_rowid":2,"in_transaction":false}"#;
    assert_eq!((made.status, made.body.trim()), (200, expected));
    assert_eq!(made.header("content-type"), Some("application/json"));
    let values = r#"SELECT NULL "n", 9223372036854775807 "i ""1""", -1, 0.1, 1e300, 3.0, 9e999, x'00ff10', 'é"\' || char(10, 1, 127, 128512) UNION ALL SELECT NULL,0,0,-1e-7,0,0,-9e999,x'','' "#;
    let expected = r#"{"columns":["n","i \"1\"","-1","0.1","1e300","3.0","9e999","x'00ff10'","'é\"\\' || char(10, 1, 127, 128512)"],"rows":[[null,9223372036854775807,-1,0.1,1.0e+300,3.0,9e999,{"base64":"AP8Q"},"é\"\\\n\u0001\u007f😀"],[null,0,0,-1.0e-07,0,0,-9e999,{"base64":""},""]],"changes":0,"last_insert_rowid":2,"in_transaction":false}"#;
    assert_eq!(run(&town, "db", values).await.body.trim(), expected);

    for (sql, error, statement) in [
        ("SELEC", "near \"SELEC\": syntax error", 1),
        ("SELECT 1; SELECT * FROM nowhere; DELETE FROM t", "no such table: nowhere", 2),
        ("INSERT INTO t VALUES (1, 1)", "UNIQUE constraint failed: t.a", 1),
        ("ATTACH 'file' AS f", "not authorized", 1),
        (
            "SELECT zeroblob(3000000)",
            "the result is longer than 2 MiB: add LIMIT (what the statement changed is changed)",
            1,
        ),
    ] {
        let answer = run(&town, "db", sql).await;
        let expected = json!({ "error": error, "statement": statement, "in_transaction": false });
        assert_eq!((answer.status, answer.json()), (400, expected), "{sql}");
    }
    let bad = http(town.address("db"), "POST /sql", "", b"SELECT '\xff'").await.unwrap();
    assert_eq!(bad.status, 400);
    assert_eq!(town.ask("db", "GET /sql", "", "").await.unwrap().header("allow"), Some("POST"));
    assert_eq!(town.ask("db", "POST /", "", "").await.unwrap().status, 404);

    // Sixteen MiB are soon full. What was there before is there still, and there is room again once something is deleted.
    let mut blobs = 0;
    let full = loop {
        let answer = run(&town, "db", "INSERT INTO t(b) VALUES (randomblob(1000000))").await;
        if answer.status != 200 {
            break answer;
        }
        blobs += 1;
        assert!(blobs < 16, "more than the memory that the service has");
    };
    assert_eq!((full.status, &full.json()["error"]), (507, &json!("out of memory")));
    let counted = "SELECT count(*) FROM t";
    assert_eq!(rows(&town, "db", counted).await, json!([[blobs + 2]]));
    town.go("db", ALPHA).await.unwrap();
    assert_eq!(rows(&town, "db", "PRAGMA integrity_check").await, json!([["ok"]]));
    assert_eq!(
        run(&town, "db", "DELETE FROM t WHERE a > 4; INSERT INTO t(b) VALUES (randomblob(1000000))").await.status,
        200
    );
    assert_eq!(rows(&town, "db", counted).await, json!([[5]]));
}
