//! The program from outside: every verdict, exit code, path of verification and artifact, on a subject that can go
//! wrong in every way.

mod artifacts;
mod benching;
mod keeping;
mod leaks;
mod listing;
mod program;
mod running;
mod subject;
mod sweeping;
mod verifying;

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

type Test = (&'static str, fn());

/// Two at a time: most of a test is waiting for the processes it starts.
const JOBS: usize = 2;

fn main() -> ExitCode {
    if std::env::var_os(program::SUBJECT).is_some() {
        return harness::main(subject::subject());
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |(name, _): &Test| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    let modules: [&[Test]; 7] = [
        running::TESTS,
        sweeping::TESTS,
        verifying::TESTS,
        artifacts::TESTS,
        listing::TESTS,
        keeping::TESTS,
        benching::TESTS,
    ];
    let tests: Vec<Test> = modules.concat().into_iter().filter(is_wanted).collect();
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..JOBS {
            scope.spawn(|| {
                while let Some((name, test)) = tests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let started = Instant::now();
                    let outcome = if std::panic::catch_unwind(test).is_ok() { "ok" } else { "FAILED" };
                    failed.fetch_add(usize::from(outcome != "ok"), Ordering::Relaxed);
                    println!("test {name} ... {outcome} ({} ms)", started.elapsed().as_millis());
                }
            });
        }
    });
    println!("{} tests, {} failed", tests.len(), failed.load(Ordering::Relaxed));
    if failed.load(Ordering::Relaxed) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
