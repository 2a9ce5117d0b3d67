//! `sweep`: many seeds, merged. It never stops at a failure.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use sim_runtime::engine::record::RunRequest;
use sim_runtime::isolate::{Pool, Runner, Surroundings, fresh};
use xxhash_rust::xxh3::xxh3_64;

use crate::arguments::SweepArguments;
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::summary::replay_command;
use crate::tally::Tally;
use crate::{Exit, Subject, UsageError, artifact, summary};
use sim_runtime::engine::difference::Difference;

use super::attempt::Attempt;

pub(super) fn execute(subject: &Subject, arguments: &SweepArguments) -> Result<Exit, UsageError> {
    let what = &arguments.what;
    let (spec, request) = super::resolve(subject, what, arguments.start)?;
    let count = seeds(arguments)?;
    artifact::prepare(&what.artifacts)?;

    let started = Instant::now();
    let mut tally = Tally::new(spec, arguments.start);
    let mut progress = Progress::new(arguments.time.is_none().then_some(count));
    let mut unwritten = None;
    let interrupt = Interrupt::watch()?;
    let in_time = |_: &u64| !interrupt.is_asked() && arguments.time.is_none_or(|time| started.elapsed() < time);
    let requests =
        (0..count).take_while(in_time).map(|offset| RunRequest { seed: arguments.start + offset, ..request.clone() });
    Pool::new(super::jobs(arguments.jobs), subject.limits).each(
        requests,
        |runner, request| run_and_verify(subject, runner, request, arguments.verify),
        |(mut attempt, verified)| {
            tally.verified += u64::from(verified);
            if let Err(error) = attempt.save_if_failed(&what.artifacts) {
                unwritten = Some(error);
                return ControlFlow::Break(());
            }
            let failure = attempt.failure();
            let told = !tally.is_calibration() && tally.failures.len() < TOLD_MAX;
            if let Some(failure) = failure.as_ref().filter(|_| told) {
                progress.say(&format!("seed {} violates {}: {}", failure.seed, failure.property, failure.message));
                progress.say(&format!("  {}", replay_command(&attempt.request, failure)));
            }
            tally.add(&attempt.record, Duration::from_micros(attempt.cpu_us), failure);
            progress.step(|| state(&tally));
            let done = arguments.until_covered && tally.coverage.is_complete();
            if done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        },
    );
    progress.finish();
    tally.interrupted = interrupt.is_asked() && tally.seeds_run < count;
    let wall_time = started.elapsed();
    if what.json {
        super::print_json(&tally.report(wall_time))?;
    } else {
        summary::print(&summary::sweep::render(&tally, wall_time, &request, arguments.until_covered))?;
    }
    match unwritten {
        Some(error) => Err(error),
        None => Ok(tally.exit(arguments.until_covered)),
    }
}

/// Failures told while the sweep runs; all of them are in the result.
const TOLD_MAX: usize = 20;

/// How many seeds at most.
fn seeds(arguments: &SweepArguments) -> Result<u64, UsageError> {
    let left = u64::MAX - arguments.start;
    let asked = match (arguments.seeds, arguments.until_covered) {
        (Some(count), _) => count,
        (None, true) => arguments.max_seeds,
        (None, false) => return Ok(left),
    };
    if asked.saturating_sub(1) > left {
        return Err(UsageError::new(format!(
            "{asked} seeds from {} pass the largest seed; start lower",
            arguments.start
        )));
    }
    Ok(asked)
}

/// Runs `request`; if it belongs to the sample, runs it once more in a fresh process. Says whether it did and both
/// runs were equal.
fn run_and_verify(subject: &Subject, runner: &mut Runner, request: RunRequest, share: f64) -> (Attempt, bool) {
    let outcome = runner.run(&request);
    let mut attempt = Attempt::new(request, outcome);
    if !is_sampled(attempt.request.seed, share) {
        return (attempt, false);
    }
    let again = fresh(&attempt.request, subject.limits, Surroundings::Strange).into_record(&attempt.request);
    let difference = Difference::between(&attempt.record, &again);
    if let Some(difference) = &difference {
        attempt.blame_determinism(&difference.message);
    }
    (attempt, difference.is_none())
}

/// By a hash of the seed, so that the sample is the same in every sweep that contains it.
fn is_sampled(seed: u64, share: f64) -> bool {
    // The upper 32 bits are exact as a float.
    let position = f64::from(u32::try_from(xxh3_64(&seed.to_le_bytes()) >> 32).unwrap_or(u32::MAX));
    position < share * 2f64.powi(32)
}

fn state(tally: &Tally) -> String {
    let coverage = tally.coverage.report();
    let (failed, inconclusive) = (tally.failed, tally.inconclusive);
    format!("{failed} failed, {inconclusive} inconclusive, {}/{} sites", coverage.reached, coverage.total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_has_the_size_that_was_asked_for() {
        let size = |share| (0..1000).filter(|&seed| is_sampled(seed, share)).count();
        assert_eq!((size(0.0), size(1.0)), (0, 1000));
        assert!((60..140).contains(&size(0.1)), "{}", size(0.1));
        let half: Vec<u64> = (0..100).filter(|&seed| is_sampled(seed, 0.5)).collect();
        assert!((0..100).filter(|&seed| is_sampled(seed, 0.1)).all(|seed| half.contains(&seed)));
    }
}
