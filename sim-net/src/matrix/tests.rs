use super::*;

fn refusal(text: &str) -> String {
    LatencyMatrix::parse("m.csv", text).map(|m| format!("accepted: {m:?}")).unwrap_or_else(|e| e.to_string())
}

fn names(text: &str) -> Vec<String> {
    LatencyMatrix::parse("m.csv", text).unwrap().names
}

#[test]
fn bundled_matrix_is_complete_and_symmetric() {
    let m = LatencyMatrix::bundled().unwrap();
    assert_eq!((m.rows(), m.file(), m.name(5)), (16, "planetlab16_rtt_ms.csv", "row 5"));
    m.require_all(&(0..16).collect::<Vec<_>>()).unwrap();
    for (i, j) in (0..16).flat_map(|i| (0..16).map(move |j| (i, j))).filter(|(i, j)| i != j) {
        let rtt_us = m.require(i, j).unwrap();
        assert_eq!(m.rtt_us(j, i), Some(rtt_us));
        assert!((20_000..=350_000).contains(&rtt_us), "{i} to {j}: {rtt_us}");
    }
}

#[test]
fn microseconds_asymmetry_and_the_local_round_trip() {
    let m = LatencyMatrix::parse("m.csv", "0,10.5\n0.0625,0\n").unwrap();
    assert_eq!((m.rtt_us(0, 1), m.rtt_us(1, 0)), (Some(10_500), Some(63)));
    assert_eq!((m.rtt_us(1, 1), m.rtt_us(2, 0), m.rtt_us(0, 2)), (Some(LOCAL_RTT_US), None, None));
    assert_eq!(m.with_local_rtt_us(250).rtt_us(0, 0), Some(250));
}

#[test]
fn header_and_labels_are_found_by_their_words() {
    let plain = LatencyMatrix::parse("m.csv", "0,1,2\n3,0,4\n5,6,0\n").unwrap();
    for text in [
        "a,b,c\n0,1,2\n3,0,4\n5,6,0\n",
        "a,0,1,2\nb,3,0,4\nc,5,6,0\n",
        "from/to,a,b,c\na,0,1,2\nb,3,0,4\nc,5,6,0\n",
        ",a,b,c\na,0,1,2\nb,3,0,4\nc,5,6,0\n",
        "a,b,c\na,0,1,2\nb,3,0,4\nc,5,6,0\n",
        "\u{feff}a, b ,c\r\n 0,1,2\r\n\r\n3,0,4\r\n5,6,0",
    ] {
        let m = LatencyMatrix::parse("m.csv", text).unwrap();
        assert_eq!(m.rtt_us, plain.rtt_us, "{text:?}");
        assert_eq!(m.names, ["a", "b", "c"], "{text:?}");
    }
    assert_eq!(names("x,y,z\nnode,2,1,2\n3,3,0,4\n4,5,6,0\n"), ["node", "3", "4"]);
    assert_eq!(plain.names, ["row 0", "row 1", "row 2"]);
    // One numeric header among names, one unnamed label.
    assert_eq!(names("a,7,c\n0,1,2\n3,0,4\n5,6,0\n"), ["a", "7", "c"]);
    assert_eq!(names("a,0,1\n,3,0\n"), ["a", "row 1"]);
}

#[test]
fn numbered_header_and_labels_are_found_by_their_corner() {
    for text in [",0,1\n0,0,1\n1,3,0\n", ",1,2\n1,0,1\n2,3,0\n", "id,10,20\n10,0,1\n20,3,0\n"] {
        let m = LatencyMatrix::parse("m.csv", text).unwrap();
        assert_eq!((m.rtt_us(0, 1), m.rtt_us(1, 0)), (Some(1_000), Some(3_000)), "{text:?}");
    }
}

#[test]
fn whatever_the_diagonal_holds_is_ignored() {
    for mark in ["-", "", "nan", "-1", "x", "0"] {
        let text = format!("{mark},5,7\n5,{mark},8\n7,8,{mark}\n");
        let m = LatencyMatrix::parse("m.csv", &text).unwrap();
        assert_eq!((m.rows(), m.rtt_us(0, 2), m.rtt_us(1, 1)), (3, Some(7_000), Some(LOCAL_RTT_US)), "{mark}");
    }
}

#[test]
fn cells_that_are_no_latency() {
    let advice = "write a round trip in milliseconds, or leave the cell empty if it is unknown";
    let cases = [
        ("0,1\nnan,0\n", format!("m.csv, line 2, column 1: 'nan' is not a finite number: {advice}")),
        ("0,inf\n1,0\n", format!("m.csv, line 1, column 2: 'inf' is not a finite number: {advice}")),
        ("0,1e999\n1,0\n", format!("m.csv, line 1, column 2: '1e999' is not a finite number: {advice}")),
        ("0,1\n\n\r\n-3,0\n", format!("m.csv, line 4, column 1: '-3' is negative: {advice}")),
        ("a,b\n0,1\n12 ms,0\n", "m.csv, line 3, column 1: '12 ms' is not a number: ".to_owned() + advice),
        ("h,a,b\na,0,1\nb,x,0\n", format!("m.csv, line 3, column 2: 'x' is not a number: {advice}")),
        ("0,1O,2\n1,0,2\n1,2,0\n", format!("m.csv, line 1, column 2: '1O' is not a number: {advice}")),
        ("0,1,2\n1,0,2\nl,2,0\n", format!("m.csv, line 3, column 1: 'l' is not a number: {advice}")),
        (
            "0,60000.1\n1,0\n",
            "m.csv, line 1, column 2: '60000.1' is over 60000 milliseconds: check the unit, or leave the cell empty if \
             the link is unusable"
                .to_owned(),
        ),
    ];
    for (text, message) in cases {
        assert_eq!(refusal(text), message, "{text:?}");
    }
    let long = refusal(&format!("0,{}\n1,0\n1,2\n", "y".repeat(100)));
    assert!(long.len() < 300, "{long}");
}

#[test]
fn shapes_that_are_no_matrix() {
    let square = "are not square: give as many rows as columns, one per node";
    let ragged = "give every row one cell per node, empty where a latency is unknown";
    let cases = [
        ("0,1,2\n1,0,2\n", format!("m.csv, line 2, column 3: 2 rows of 3 latencies {square}")),
        ("0,1\n1,0\n5,6\n", format!("m.csv, line 3, column 1: 3 rows of 2 latencies {square}")),
        ("a,b,c\n0,1,2\n1,0,2\n", format!("m.csv, line 3, column 3: 2 rows of 3 latencies {square}")),
        ("0,1,2\n1,0\n1,2,0\n", format!("m.csv, line 2, column 3: this row has 2 cells where 3 are due: {ragged}")),
        ("0,1\n1,0,9\n", format!("m.csv, line 2, column 3: this row has 3 cells where 2 are due: {ragged}")),
        ("a,b,c,d\n0,1\n1,0\n", format!("m.csv, line 1, column 3: this row has 4 cells where 2 are due: {ragged}")),
        (
            "",
            "m.csv, line 1, column 1: there are no latencies here: write one row per node, with the milliseconds to \
             every node"
                .to_owned(),
        ),
    ];
    for (text, message) in cases {
        assert_eq!(refusal(text), message, "{text:?}");
    }
    assert_eq!(refusal("\n\n , \n"), refusal(""));
    assert!(refusal("a,b,c\n").starts_with("m.csv, line 1, column "), "{}", refusal("a,b,c\n"));
    let many = "1,2\n".repeat(MATRIX_ROWS_MAX + 2);
    assert_eq!(refusal(&many), "m.csv, line 2050, column 1: a matrix may have 2048 rows at most: leave some nodes out");
}

#[test]
fn an_unknown_link_is_refused_only_where_it_is_needed() {
    let m = LatencyMatrix::parse("m.csv", "at,oslo,rome,bern\noslo,0,,3\nrome,4,0,\nbern,7,8,0\n").unwrap();
    assert_eq!(m.require(0, 2).unwrap(), 3_000);
    m.require_all(&[2, 0]).unwrap();
    assert_eq!(
        m.require_all(&[2, 1]).unwrap_err().to_string(),
        "m.csv, line 3, column 4: the round trip from row 1 (rome) to row 2 (bern) is empty and this run needs it: fill \
         it in, or choose other rows"
    );
    assert_eq!(
        m.require(1, 3).unwrap_err().to_string(),
        "m.csv, line 4, column 1: there is no row 3, the matrix has 3 rows, 0 to 2: name one of those"
    );
    m.require_rows(3).unwrap();
    assert_eq!(
        m.require_rows(9).unwrap_err().to_string(),
        "m.csv, line 4, column 1: the matrix ends after 3 rows and this run needs 9: ask for fewer clouds or give a \
         larger matrix"
    );
}

#[test]
fn files_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.csv");
    let missing = LatencyMatrix::read(&path).unwrap_err();
    assert_eq!(
        missing.to_string(),
        format!("cannot read the latency matrix {}: check that the file exists and may be read", path.display())
    );
    std::fs::write(&path, b"0,1\n2,\xff\n").unwrap();
    assert_eq!(
        LatencyMatrix::read(&path).unwrap_err().to_string(),
        format!("{}, line 2, column 2: this is not text: save the matrix as CSV in UTF-8", path.display())
    );
    std::fs::write(&path, "0,1\n2,0\n").unwrap();
    assert_eq!(LatencyMatrix::read(&path).unwrap().rows(), 2);
}
