//! Runs many seeds and prints the first that breaks a promise: `cargo xtask sim`.

#![expect(clippy::print_stdout, reason = "a command line tool answers on standard output")]

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use skald_sim::run::run;

/// Runs the simulation of the cluster with one seed after the other.
#[derive(Parser)]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Events that are printed of a run that breaks a promise.
    #[arg(long, default_value_t = 120)]
    tail: usize,
    /// Print all events while they happen.
    #[arg(long)]
    events: bool,
    /// Go on after a seed that breaks a promise.
    #[arg(long)]
    keep_going: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let begun = Instant::now();
    let (mut events, mut acknowledged, mut answered, mut failed, mut broken) = (0, 0, 0, 0, 0);
    let mut runs = 0u64;
    for seed in args.from..args.from.saturating_add(args.seeds) {
        let outcome = run(seed, args.events);
        runs += 1;
        events += outcome.sum.1;
        acknowledged += outcome.acknowledged;
        answered += outcome.queries.0;
        failed += outcome.queries.1;
        if !outcome.broken.is_empty() {
            broken += 1;
            for event in outcome.tail.iter().rev().take(args.tail).rev() {
                println!("{event}");
            }
            println!("\nseed {seed} breaks:");
            outcome.broken.iter().for_each(|b| println!("  {b}"));
            println!("run it again: cargo xtask sim --from {seed} --seeds 1 --events");
            if !args.keep_going {
                break;
            }
        } else if runs.is_multiple_of(100) {
            println!("{runs} seeds, {:.1} per second", runs as f64 / begun.elapsed().as_secs_f64());
        }
    }
    println!(
        "{runs} seeds in {:.1} s ({:.1} per second): {events} events, {acknowledged} entries acknowledged, \
         {answered} queries answered and {failed} refused, {broken} seeds break a promise",
        begun.elapsed().as_secs_f64(),
        runs as f64 / begun.elapsed().as_secs_f64(),
    );
    ExitCode::from(u8::from(broken > 0))
}
