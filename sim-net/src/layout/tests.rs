use std::time::Duration;

use super::*;
use crate::journey::{Itinerary, score};

fn bundled() -> LatencyMatrix {
    LatencyMatrix::bundled().unwrap()
}

/// Points on a line, 10 ms apart.
fn line(rows: usize) -> LatencyMatrix {
    let row = |i: usize| (0..rows).map(|j| (10 * i.abs_diff(j)).to_string()).collect::<Vec<_>>().join(",");
    let text: Vec<String> = (0..rows).map(row).collect();
    LatencyMatrix::parse("line.csv", &text.join("\n")).unwrap()
}

/// What every layout keeps, whatever the matrix.
fn check(matrix: &LatencyMatrix, clouds: usize, layout: &Layout) {
    assert_eq!(layout.cloud_rows.len(), clouds);
    assert!(layout.cloud_rows.is_sorted_by(|a, b| a < b), "{layout:?}");
    assert!(!layout.cloud_rows.contains(&layout.home), "{layout:?}");
    assert_eq!(layout.registry == layout.home, matrix.rows() == clouds + 1, "{layout:?}");
    assert!(!layout.cloud_rows.contains(&layout.registry), "{layout:?}");
    assert!(layout.rows().iter().all(|&row| row < matrix.rows()));
}

/// The mean round trip in milliseconds if, at each stop, the service follows `lag` of the stay late.
fn mean_with_lag(matrix: &LatencyMatrix, layout: &Layout, lag: f64) -> f64 {
    let mut host = layout.home;
    let mut sum = 0.0;
    for &row in &layout.path {
        let (nearest, rtt_us) = layout.nearest_cloud(matrix, row).unwrap();
        sum += lag * f64::from(matrix.rtt_us(row, host).unwrap()) + (1.0 - lag) * f64::from(rtt_us);
        host = nearest;
    }
    sum / layout.path.len() as f64 / 1_000.0
}

#[test]
fn every_bundled_demo_is_worth_watching() {
    let matrix = bundled();
    let mut distinct = std::collections::BTreeSet::new();
    for seed in 0..200 {
        for clouds in 4..=15 {
            let layout = layout(&matrix, clouds, &Journey::Stops(4), seed).unwrap();
            check(&matrix, clouds, &layout);
            let score = score(&matrix, &layout, &Itinerary::even(&layout, Duration::from_secs(15))).unwrap();
            assert!(score.mean_if_stayed_ms >= 150.0, "{seed} {clouds} {layout:?} {score:?}");
            assert_eq!(score.mean_if_always_nearest_ms, 1.0, "a cloud on every visited row");
            let late = mean_with_lag(&matrix, &layout, 0.4);
            assert!(late < 0.45 * score.mean_if_stayed_ms, "{seed} {clouds} {layout:?} {late} {score:?}");
            for hop in layout.path.windows(2) {
                assert!(matrix.rtt_us(hop[1], hop[0]).unwrap() >= 40_000, "{seed} {clouds} {layout:?}");
            }
            distinct.insert(layout.path.clone());
        }
    }
    assert!(distinct.len() > 100, "seeds make a difference: {}", distinct.len());
}

#[test]
fn layouts_do_not_change_between_versions() {
    let default = layout(&bundled(), 8, &Journey::Stops(4), 1).unwrap();
    let twelve = layout(&bundled(), 12, &Journey::Stops(4), 7).unwrap();
    let given = layout(&bundled(), 8, &Journey::Path(vec![0, 5, 9, 13]), 1).unwrap();
    let show =
        |l: &Layout| format!("home {} registry {} clouds {:?} path {:?}", l.home, l.registry, l.cloud_rows, l.path);
    assert_eq!(
        [show(&default), show(&twelve), show(&given)],
        [
            "home 2 registry 0 clouds [4, 5, 7, 8, 9, 13, 14, 15] path [13, 4, 5, 9]",
            "home 2 registry 0 clouds [1, 3, 4, 6, 7, 8, 9, 10, 12, 13, 14, 15] path [13, 4, 15, 3]",
            "home 2 registry 6 clouds [0, 5, 9, 10, 11, 12, 13, 15] path [0, 5, 9, 13]",
        ],
    );
}

#[test]
fn a_given_path_is_kept_and_has_its_clouds() {
    let matrix = bundled();
    for (path, clouds) in [(vec![0, 5, 9, 13], 8), (vec![3, 3, 3], 1), (vec![0, 1, 0, 1], 2), ((0..16).collect(), 15)] {
        let layout = layout(&matrix, clouds, &Journey::Path(path.clone()), 3).unwrap();
        check(&matrix, clouds, &layout);
        assert_eq!(layout.path, path);
        let clouded = path.iter().filter(|row| layout.cloud_rows.contains(row)).count();
        assert!(clouded + usize::from(path.contains(&layout.home)) == path.len(), "{layout:?}");
    }
    // More places than clouds: the clouds are spread over them.
    let layout = layout(&line(9), 2, &Journey::Path(vec![1, 2, 3, 4, 5, 6]), 3).unwrap();
    assert_eq!((layout.home, layout.cloud_rows), (8, vec![1, 6]));
}

#[test]
fn works_from_clouds_plus_one_rows() {
    for clouds in 1..=6 {
        for rows in clouds + 1..clouds + 5 {
            for stops in [1, 4, 9] {
                let matrix = line(rows);
                let layout = layout(&matrix, clouds, &Journey::Stops(stops), 11).unwrap();
                check(&matrix, clouds, &layout);
                assert_eq!(layout.path.len(), stops);
                assert!(layout.path.iter().all(|row| layout.cloud_rows.contains(row)), "{layout:?}");
                assert!(clouds == 1 || layout.path.windows(2).all(|hop| hop[0] != hop[1]), "{layout:?}");
            }
        }
    }
    let refusal = layout(&line(8), 8, &Journey::Stops(4), 1).unwrap_err().to_string();
    assert_eq!(
        refusal,
        "line.csv, line 8, column 1: the matrix ends after 8 rows and this run needs 9: ask for fewer clouds or give a \
         larger matrix"
    );
}

#[test]
fn numbers_out_of_range() {
    let refusal = |clouds, journey| layout(&bundled(), clouds, &journey, 1).unwrap_err().to_string();
    assert_eq!(refusal(0, Journey::Stops(4)), "0 clouds are not possible: ask for 1 to 64");
    assert_eq!(refusal(65, Journey::Stops(4)), "65 clouds are not possible: ask for 1 to 64");
    assert_eq!(refusal(8, Journey::Stops(0)), "a journey of 0 stops is not possible: ask for 1 to 1024");
    assert_eq!(refusal(8, Journey::Path(Vec::new())), "a journey of 0 stops is not possible: ask for 1 to 1024");
    assert_eq!(
        refusal(8, Journey::Path(vec![0, 16])),
        "planetlab16_rtt_ms.csv, line 16, column 1: there is no row 16, the matrix has 16 rows, 0 to 15: name one of those"
    );
}

#[test]
fn rows_with_unknown_links_are_left_out_while_others_remain() {
    let text = "0,5,5,\n5,0,5,5\n5,5,0,5\n5,5,5,0\n";
    let matrix = LatencyMatrix::parse("m.csv", text).unwrap();
    for seed in 0..20 {
        let layout = layout(&matrix, 2, &Journey::Stops(2), seed).unwrap();
        assert!(!(layout.rows().contains(&0) && layout.rows().contains(&3)), "{layout:?}");
    }
    let message = "m.csv, line 1, column 4: the round trip from row 0 to row 3 is empty and this run needs it: fill it in, \
                   or choose other rows";
    assert_eq!(layout(&matrix, 3, &Journey::Stops(2), 1).unwrap_err().to_string(), message);
    assert_eq!(layout(&matrix, 2, &Journey::Path(vec![3, 0]), 1).unwrap_err().to_string(), message);
}
