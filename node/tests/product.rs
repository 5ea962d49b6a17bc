//! What must not be in the binary that people run.

#[test]
fn the_product_has_no_failpoints() {
    let product = std::fs::read(env!("CARGO_BIN_EXE_wayfare")).unwrap();
    // The variable by which the test binaries are told theirs: `tests/src/failpoint.rs`.
    assert!(!String::from_utf8_lossy(&product).contains("WAYFARE_FAILPOINTS"));
}
