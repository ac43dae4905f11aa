//! Runs of many seeds, and that a seed says all.

use skald_sim::run::run;

/// Seeds of each of the tests that run at the same time.
const SEEDS: u64 = 50;

fn no_promise_is_broken(seeds: std::ops::Range<u64>) {
    let (mut acknowledged, mut answered) = (0, 0);
    for seed in seeds {
        let outcome = run(seed, false);
        let tail = || outcome.tail[outcome.tail.len().saturating_sub(60)..].join("\n");
        assert!(outcome.broken.is_empty(), "{}\nseed {seed} breaks {:#?}", tail(), outcome.broken);
        acknowledged += outcome.acknowledged;
        answered += outcome.queries.0;
    }
    assert!(acknowledged > 0 && answered > 0, "a run in which nothing happens proves nothing");
}

#[test]
fn no_promise_is_broken_in_the_first_quarter() {
    no_promise_is_broken(0..SEEDS);
}

#[test]
fn no_promise_is_broken_in_the_second_quarter() {
    no_promise_is_broken(SEEDS..2 * SEEDS);
}

#[test]
fn no_promise_is_broken_in_the_third_quarter() {
    no_promise_is_broken(2 * SEEDS..3 * SEEDS);
}

#[test]
fn no_promise_is_broken_in_the_last_quarter() {
    no_promise_is_broken(3 * SEEDS..4 * SEEDS);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [1, 5, 23, 77, 1234] {
        let (first, second) = (run(seed, false), run(seed, false));
        if first.sum != second.sum {
            let differs = |(a, b): &(&String, &String)| a != b;
            let at = first.tail.iter().zip(&second.tail).find(differs);
            panic!("seed {seed} gave {:?} and then {:?}; first difference {at:#?}", first.sum, second.sum);
        }
    }
    assert_ne!(run(1, false).sum, run(2, false).sum);
}
