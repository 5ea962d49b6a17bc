//! A list that several people edit while it moves.

use std::time::Duration;

use serde_json::Value;

use crate::town::{ALPHA, BETA, Town, http};

/// People who add items at the same time, and how many each adds.
const PEOPLE: usize = 4;
const ITEMS: usize = 30;

async fn state(town: &Town) -> (String, Value) {
    let answer = town.ask("todo", "GET /items", "", "").await.unwrap();
    (answer.header("etag").unwrap().to_owned(), answer.json())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_moves_keeps_every_edit_once_and_its_versions() {
    let mut town = Town::start(&["todo"]).await.unwrap();
    town.deploy("todo", "todo", 16).await.unwrap();
    let page = town.ask("todo", "GET /", "", "").await.unwrap();
    assert!(page.status == 200 && page.body.starts_with("<!doctype html>"), "{page:?}");
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    for (file, kind) in [("/page.css", "text/css"), ("/page.js", "text/javascript")] {
        let answer = town.ask("todo", &format!("GET {file}"), "", "").await.unwrap();
        assert!(answer.status == 200 && answer.header("content-type").unwrap().starts_with(kind), "{answer:?}");
    }
    let (_, first) = state(&town).await;

    let address = town.address("todo");
    let person = |person: usize| async move {
        for item in 0..ITEMS {
            let (line, text) = (format!("PUT /items/p{person}-{item}"), format!("{item} of {person} \"é\""));
            let headers = format!("idempotency-key: {person}-{item}\r\n");
            // Twice: as a browser does that had no answer to the first.
            for status in [201; 2] {
                let answer = http(address, &line, &headers, text.as_bytes()).await.unwrap();
                assert_eq!(answer.status, status, "{answer:?}");
            }
        }
    };
    let people: Vec<_> = (0..PEOPLE).map(|number| tokio::spawn(person(number))).collect();
    for to in [ALPHA, BETA, ALPHA] {
        town.go("todo", to).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for person in people {
        person.await.unwrap();
    }
    let (tag, now) = state(&town).await;
    assert_eq!(now["list"], first["list"]);
    assert_eq!(now["version"], PEOPLE * ITEMS, "each change counted once");
    let texts: Vec<_> = now["items"].as_array().unwrap().iter().map(|item| item["text"].as_str().unwrap()).collect();
    for person in 0..PEOPLE {
        let end = format!("of {person} \"é\"");
        let own: Vec<_> = texts.iter().filter(|text| text.ends_with(&end)).collect();
        let expected: Vec<_> = (0..ITEMS).map(|item| format!("{item} {end}")).collect();
        assert_eq!(own, expected.iter().collect::<Vec<_>>(), "in the order in which they were added");
    }

    // Who knows this state is told so, also by the next host, and by one that was killed.
    let known = format!("if-none-match: \"other\", W/{tag}\r\n");
    town.go("todo", BETA).await.unwrap();
    assert_eq!(town.ask("todo", "GET /items", &known, "").await.unwrap().status, 304);
    town.crash(BETA).await.unwrap();
    let unchanged = town.ask("todo", "GET /items", &known, "").await.unwrap();
    assert_eq!((unchanged.status, unchanged.body.as_str()), (304, ""));
    assert_eq!(town.ask("todo", "PUT /items/p0-0/done", "", "true").await.unwrap().status, 200);
    assert_eq!(town.ask("todo", "GET /items", &known, "").await.unwrap().status, 200);
    assert_eq!(town.ask("todo", "DELETE /done", "", "").await.unwrap().status, 200);
    assert_eq!(state(&town).await.1["items"].as_array().unwrap().len(), PEOPLE * ITEMS - 1);

    for (line, body, status) in [
        ("PUT /items/x", "", 400),
        ("PUT /items/x", "two\nlines", 400),
        ("PUT /items/x.y", "text", 400),
        ("PUT /items/x/done", "true", 404),
        ("PUT /items/p0-1/done", "yes", 400),
        ("POST /items/x", "text", 405),
        ("GET /nothing", "", 404),
    ] {
        let answer = town.ask("todo", line, "", body).await.unwrap();
        assert_eq!(answer.status, status, "{line}: {answer:?}");
        assert!(answer.json()["error"].is_string());
    }
    let long = "x".repeat(801);
    assert_eq!(town.ask("todo", "PUT /items/x", "", &long).await.unwrap().status, 400);
}
