//! `wayfare_save` and `wayfare_load`: what one version of a guest hands to the next is all that its clients can see, and what is no such
//! state is refused.

use std::{
    collections::BTreeMap,
    sync::{LazyLock, Mutex},
};

use serde_json::json;
use wasmtime::{Engine, Instance, Linker, Memory, Module, Store, TypedFunc};

/// Compiling SQLite takes seconds, so each guest is compiled once.
static MODULES: LazyLock<Mutex<BTreeMap<String, Module>>> = LazyLock::new(Mutex::default);

fn module(name: &str) -> Module {
    let mut modules = MODULES.lock().unwrap();
    let compile = || {
        let path = format!("{}/guests/{name}/{name}.wasm", env!("CARGO_MANIFEST_DIR"));
        Module::from_file(&Engine::default(), path).unwrap()
    };
    modules.entry(name.to_owned()).or_insert_with(compile).clone()
}

/// An instance without a host: whatever it imports answers 0.
struct Guest {
    store: Store<()>,
    memory: Memory,
    buffer: TypedFunc<u32, u32>,
    instance: Instance,
}

impl Guest {
    fn start(name: &str) -> Self {
        let module = module(name);
        let mut store = Store::new(module.engine(), ());
        let mut linker = Linker::new(module.engine());
        linker.define_unknown_imports_as_default_values(&mut store, &module).unwrap();
        let instance = linker.instantiate(&mut store, &module).unwrap();
        instance.get_typed_func::<(), ()>(&mut store, "_initialize").unwrap().call(&mut store, ()).unwrap();
        let memory = instance.get_memory(&mut store, "memory").unwrap();
        let buffer = instance.get_typed_func(&mut store, "wayfare_buffer").unwrap();
        Self { store, memory, buffer, instance }
    }

    fn put(&mut self, bytes: &[u8]) -> u32 {
        let len = u32::try_from(bytes.len()).unwrap();
        let at = self.buffer.call(&mut self.store, len).unwrap();
        assert_ne!(at, 0, "no room for {len} bytes");
        self.memory.write(&mut self.store, at as usize, bytes).unwrap();
        len
    }

    fn read(&self, packed: u64) -> Vec<u8> {
        let (at, len) = ((packed >> 32) as usize, (packed & u64::from(u32::MAX)) as usize);
        self.memory.data(&self.store)[at..at + len].to_vec()
    }

    /// The whole answer.
    fn ask(&mut self, line: &str, body: &str) -> String {
        let request = format!("{line} HTTP/1.1\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let len = self.put(request.as_bytes());
        let handle = self.instance.get_typed_func::<u32, u64>(&mut self.store, "wayfare_handle").unwrap();
        let packed = handle.call(&mut self.store, len).unwrap();
        String::from_utf8(self.read(packed)).unwrap()
    }

    fn save(&mut self) -> Option<Vec<u8>> {
        let save = self.instance.get_typed_func::<(), u64>(&mut self.store, "wayfare_save").unwrap();
        let packed = save.call(&mut self.store, ()).unwrap();
        (packed != 0).then(|| self.read(packed))
    }

    /// Whether it was taken.
    fn load(&mut self, state: &[u8]) -> bool {
        let len = self.put(state);
        let load = self.instance.get_typed_func::<u32, i32>(&mut self.store, "wayfare_load").unwrap();
        load.call(&mut self.store, len).unwrap() == 0
    }
}

/// A new instance that has taken over this one's state, and saves as much itself.
fn handed_over(name: &str, old: &mut Guest) -> Guest {
    let state = old.save().unwrap();
    let mut new = Guest::start(name);
    assert!(new.load(&state));
    assert_eq!(new.save().unwrap().len(), state.len());
    new
}

/// What is no state of this guest: nothing, another's, and its own cut short.
fn refused(name: &str, state: &[u8]) {
    let cut = [0, 1, state.len() / 2, state.len() - 1].map(|len| &state[..len]);
    for wrong in cut.into_iter().chain([&b"no state at all, but long enough to be one"[..]]) {
        assert!(!Guest::start(name).load(wrong), "{name} takes {} bytes that are no state", wrong.len());
    }
}

#[test]
fn a_database_hands_over_what_is_committed() {
    let mut old = Guest::start("sql");
    handed_over("sql", &mut old);
    // Longer than any request.
    let fill = "CREATE TABLE t(a INTEGER PRIMARY KEY, b UNIQUE); CREATE VIEW v AS SELECT count(*) AS n, sum(length(b)) AS s FROM t;
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
            INSERT INTO t SELECT i, printf('%d %600d', i, i) FROM n";
    assert!(old.ask("POST /sql", fill).starts_with("HTTP/1.1 200"));
    let mut new = handed_over("sql", &mut old);
    let look = "SELECT n, s, (SELECT b FROM t WHERE a = 2999) FROM v";
    // But for the last rowid, which is the connection's.
    let rows =
        |answer: &str| answer.split_once("\"rows\":").unwrap().1.split_once("\"changes\":").unwrap().0.to_owned();
    assert_eq!(rows(&new.ask("POST /sql", look)), rows(&old.ask("POST /sql", look)));
    assert!(new.ask("POST /sql", "PRAGMA integrity_check").contains(r#"[["ok"]]"#));
    assert!(
        new.ask("POST /sql", "DELETE FROM t WHERE a > 10; VACUUM; INSERT INTO t(b) VALUES ('new')")
            .contains("\"changes\":2991")
    );

    // A transaction that is open cannot be handed over, and goes on.
    let state = old.save().unwrap();
    assert!(state.len() > 2 << 20 && state.starts_with(b"SQLite format 3\0"));
    old.ask("POST /sql", "BEGIN; DELETE FROM t");
    assert_eq!(old.save(), None);
    assert!(old.ask("POST /sql", "ROLLBACK; SELECT count(*) FROM t").contains("[[3000]]"));
    assert_eq!(old.save().unwrap().len(), state.len());
    refused("sql", &state);
}

#[test]
fn a_list_hands_over_items_and_versions() {
    let mut old = Guest::start("todo");
    handed_over("todo", &mut old);
    for number in 0..500 {
        old.ask(&format!("PUT /items/item-{number}"), &format!("{number} é {}", "x".repeat(number)));
    }
    old.ask("PUT /items/item-7/done", "true");
    old.ask("DELETE /items/item-8", "");
    let mut new = handed_over("todo", &mut old);
    let items = old.ask("GET /items", "");
    assert_eq!(new.ask("GET /items", ""), items, "the ETag, too");
    assert_eq!(new.save(), old.save());
    let state: serde_json::Value = serde_json::from_str(items.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(state["items"].as_array().unwrap().len(), 499);
    assert_eq!((&state["version"], &state["items"][7]["done"]), (&json!(502), &json!(true)));
    assert!(new.ask("PUT /items/more", "one more").starts_with("HTTP/1.1 201"));
    refused("todo", &old.save().unwrap());
}
