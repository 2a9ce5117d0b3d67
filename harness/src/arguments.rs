//! What can be asked on the command line.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use sim_runtime::engine::record::BUGGIFY;
use sim_runtime::engine::spec;

use crate::UsageError;

/// Simulate a cluster from a seed, and judge it.
///
/// Flags without a command are those of `run`: `harness --seed 42`.
#[derive(Debug, Parser)]
#[command(name = "harness", version, after_help = EXIT_CODES)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 pass, 1 property violated, 2 usage, 3 not deterministic, \
                          4 coverage or a planted bug not reached, 5 inconclusive.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one seed
    Run(RunArguments),
    /// Run many seeds; never stops at a failure
    Sweep(SweepArguments),
    /// Run one seed in two fresh processes and find the first event in which they differ
    Verify(VerifyArguments),
    /// Run what an artifact recorded
    Replay(ReplayArguments),
    /// Print what there is, one item a line
    List(ListArguments),
    /// Look for every planted bug
    Mutants(MutantsArguments),
    /// Measure the simulator: the hunts, and what each fault family and oracle contributes
    Scoreboard(ScoreboardArguments),
    /// Make a failing run small: a scenario and a test
    Shrink(ShrinkArguments),
    /// Keep scenarios that once failed
    Seeds(SeedsArguments),
    /// Time a fixed amount of work: pingpong, raft-memory, raft-real, default
    Bench(BenchArguments),
    /// Run the plan of a seed on real `aspen-node` processes (needs the feature `live`)
    Live(LiveArguments),
}

/// What to simulate and where to leave what failed.
#[derive(Debug, Args)]
pub struct What {
    /// Spec to generate runs from; `list specs` names them
    #[arg(long, value_name = "S", default_value = "default")]
    pub spec: String,
    /// Planted bug to switch on; `list bugs` names them
    #[arg(long, value_name = "B")]
    pub bug: Option<String>,
    /// Print one JSON object to stdout and everything else to stderr
    #[arg(long)]
    pub json: bool,
    /// Where failing runs leave their artifacts
    #[arg(long, value_name = "DIR", default_value = "target/harness/")]
    pub artifacts: PathBuf,
}

#[derive(Debug, Args)]
pub struct RunArguments {
    /// Seed to run, any u64
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub seed: u64,
    #[command(flatten)]
    pub what: What,
    /// Write the artifact here, also when the run passes
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("extent").required(true).args(["seeds", "until_covered", "time"]))]
pub struct SweepArguments {
    /// First seed
    #[arg(long, value_name = "A", default_value_t = 0, allow_negative_numbers = true)]
    pub start: u64,
    /// Run so many seeds
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub seeds: Option<u64>,
    /// Run until every sometimes and reachable site that the spec owes was reached
    #[arg(long)]
    pub until_covered: bool,
    /// Give up on coverage after so many seeds
    #[arg(long, value_name = "N", default_value_t = 1000, conflicts_with_all = ["seeds", "time"])]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub max_seeds: u64,
    /// Start no new seed after this long, for instance 90s or 10m
    #[arg(long, value_name = "T", value_parser = humantime::parse_duration)]
    pub time: Option<Duration>,
    /// Runs at a time [default: one per core]
    #[arg(long, value_name = "J")]
    pub jobs: Option<NonZeroUsize>,
    /// Share of the seeds to run again in a fresh process, from 0 to 1
    #[arg(long, value_name = "FRACTION", default_value_t = 0.0, value_parser = fraction, allow_negative_numbers = true)]
    pub verify: f64,
    #[command(flatten)]
    pub what: What,
}

#[derive(Debug, Args)]
pub struct VerifyArguments {
    /// Seed to run, any u64
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub seed: u64,
    #[command(flatten)]
    pub what: What,
}

#[derive(Debug, Args)]
pub struct ReplayArguments {
    /// An artifact that a failing run or `run --save` wrote
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Until the recorded violation recurs, vary what is drawn during the run so often: for another build, where the
    /// same plan meets other luck
    #[arg(long, value_name = "N", default_value_t = NonZeroUsize::MIN)]
    pub tries: NonZeroUsize,
    /// Stop at this virtual time, for instance 12.5s or 800ms, and print the state of every node there
    #[arg(long, value_name = "T", value_parser = virtual_ns, conflicts_with_all = ["until_event", "tries"])]
    pub until: Option<u64>,
    /// Stop after this event, as numbered in the trace, and print the state of every node there
    #[arg(long, value_name = "N", conflicts_with = "tries")]
    pub until_event: Option<u64>,
    /// Print what the nodes themselves log, with virtual time and node, to stderr: a level such as `debug`, or
    /// `target=level` with commas between
    #[arg(long, value_name = "LEVEL", value_parser = log_filter)]
    pub log: Option<String>,
    /// Print one JSON object to stdout and everything else to stderr
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ListArguments {
    #[arg(value_name = "WHAT")]
    pub what: Listing,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Listing {
    Specs,
    Assertions,
    Buggify,
    Bugs,
}

#[derive(Debug, Args)]
pub struct MutantsArguments {
    /// Look for this bug only
    #[arg(long, value_name = "B")]
    pub bug: Option<String>,
    /// Seeds to try per bug and start
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    pub max_seeds: u64,
    /// Look so often, each time from another seed: 0, then past the seeds of the look before; the median counts
    #[arg(long, value_name = "K", default_value_t = NonZeroUsize::MIN)]
    pub starts: NonZeroUsize,
    /// Without the oracle of this property, and ignoring the property whoever reports it; repeatable
    #[arg(long, value_name = "ORACLE")]
    pub without: Vec<String>,
    /// Without this fault family, or without the fault points inside the product (`buggify`); repeatable
    #[arg(long, value_name = "FAMILY", value_parser = family)]
    pub ablate: Vec<String>,
    /// Runs at a time [default: one per core]
    #[arg(long, value_name = "J")]
    pub jobs: Option<NonZeroUsize>,
    /// Print one JSON object to stdout and everything else to stderr
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ScoreboardArguments {
    /// Seeds to try per bug and start
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    pub max_seeds: u64,
    /// Look for each bug so often, each time from other seeds
    #[arg(long, value_name = "K", default_value = "3")]
    pub starts: NonZeroUsize,
    /// Look so many seeds further when a family or an oracle is taken away
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub ablation_seeds: u64,
    /// Shrink the first finding of each bug for so long; 0s does not
    #[arg(long, value_name = "T", default_value = "0s", value_parser = humantime::parse_duration)]
    pub shrink_budget: Duration,
    /// Write it here as Markdown, too
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Runs at a time [default: one per core]
    #[arg(long, value_name = "J")]
    pub jobs: Option<NonZeroUsize>,
    /// Print one JSON object to stdout and everything else to stderr
    #[arg(long)]
    pub json: bool,
}

/// Keys per candidate of a shrink, unless told otherwise.
pub const SHRINK_TRIES: u64 = 2;

#[derive(Debug, Args)]
pub struct ShrinkArguments {
    /// An artifact of a failing run
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Begin no new run after this long
    #[arg(long, value_name = "T", default_value = "2m", value_parser = humantime::parse_duration)]
    pub budget: Duration,
    /// Runs at a time [default: one per core]
    #[arg(long, value_name = "J")]
    pub jobs: Option<NonZeroUsize>,
    /// Keys that each candidate is given before it counts as passing
    #[arg(long, value_name = "N", default_value_t = SHRINK_TRIES)]
    pub tries: u64,
    /// Write the scenario here, and the test beside it [default: FILE with `.small.json` at its end]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Print one JSON object to stdout and everything else to stderr
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct BenchArguments {
    /// pingpong, raft-memory, raft-real or default
    #[arg(value_name = "NAME")]
    pub bench: String,
    /// Seed to run, any u64; of `default` the first
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    pub seed: u64,
    /// Runs, of which the median counts
    #[arg(long, value_name = "K", default_value = "3")]
    pub runs: NonZeroUsize,
    /// Seeds that one run of `default` consists of
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub seeds: u64,
    /// Print one JSON object to stdout and everything else to stderr
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct LiveArguments {
    /// The nodes' program; it is not built
    #[arg(long, value_name = "PATH")]
    pub node_bin: PathBuf,
    /// Nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=9))]
    pub nodes: u32,
    /// Clients work and faults happen for so long
    #[arg(long, value_name = "T", default_value = "60s", value_parser = humantime::parse_duration)]
    pub time: Duration,
    /// Seed of the plan, any u64. What the machine does with it is another matter
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    pub seed: u64,
    /// Planted bug that the nodes switch on; their program must have been built with the feature `planted`
    #[arg(long, value_name = "B")]
    pub bug: Option<String>,
    /// Print one JSON object to stdout and everything else to stderr
    #[arg(long)]
    pub json: bool,
    /// Where a failing run leaves the nodes' directories and logs, the plan and the history
    #[arg(long, value_name = "DIR", default_value = "target/harness/")]
    pub artifacts: PathBuf,
    /// This process is in a network namespace of its own
    #[arg(long, hide = true)]
    pub in_namespace: bool,
}

#[derive(Debug, Args)]
pub struct SeedsArguments {
    #[command(subcommand)]
    pub command: SeedsCommand,
}

#[derive(Debug, Subcommand)]
pub enum SeedsCommand {
    /// Add a scenario to the corpus
    Add(AddArguments),
    /// Print the corpus, one scenario a line
    List(CorpusArguments),
    /// Run the corpus: 0 when every scenario passes, 5 when one is stale
    Verify(VerifyCorpusArguments),
}

/// Where the corpus is.
#[derive(Debug, Args)]
pub struct CorpusArguments {
    /// The corpus
    #[arg(long, value_name = "DIR", default_value = "seeds/")]
    pub dir: PathBuf,
    /// Print one JSON object to stdout and everything else to stderr
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct AddArguments {
    /// A scenario that `shrink` wrote, or any artifact
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What it guards, in a sentence
    #[arg(long, value_name = "TEXT")]
    pub why: String,
    /// Its name in the corpus [default: the name of FILE]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    #[command(flatten)]
    pub corpus: CorpusArguments,
}

#[derive(Debug, Args)]
pub struct VerifyCorpusArguments {
    /// Planted bug to switch on; without it the corpus runs on the code as it is
    #[arg(long, value_name = "B")]
    pub bug: Option<String>,
    /// Keys that a scenario is given until it reaches what it must
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    pub tries: u64,
    /// Runs at a time [default: one per core]
    #[arg(long, value_name = "J")]
    pub jobs: Option<NonZeroUsize>,
    #[command(flatten)]
    pub corpus: CorpusArguments,
}

/// Why there is nothing to execute.
#[derive(Debug)]
pub enum Stop {
    /// Help or version was asked for.
    Print(String),
    Usage(UsageError),
}

/// # Errors
/// See [`Stop`].
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, Stop> {
    match Arguments::try_parse_from(with_command(arguments.into_iter().collect())) {
        Ok(arguments) => Ok(arguments.command),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Err(Stop::Print(error.to_string()))
        }
        Err(error) => Err(Stop::Usage(one_line(&error))),
    }
}

/// Flags alone mean `run`.
fn with_command(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let is_general = |flag: &str| ["-h", "--help", "-V", "--version"].contains(&flag);
    let first = arguments.get(1).and_then(|argument| argument.to_str());
    if first.is_some_and(|first| first.starts_with('-') && !is_general(first)) {
        arguments.insert(1, "run".into());
    }
    arguments
}

/// clap explains itself over several lines and ends with the usage; the explanation and where to find more suffice.
fn one_line(error: &clap::Error) -> UsageError {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return UsageError::new("no command given; try `harness --seed 42` or `harness --help`");
    }
    let text = error.to_string();
    let explanation: Vec<&str> = text
        .lines()
        .map(|line| line.trim().trim_start_matches("error: "))
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .collect();
    UsageError::new(format!("{} (see --help)", explanation.join(" ").trim()))
}

fn fraction(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err("must be from 0 to 1".to_owned()) }
}

fn family(text: &str) -> Result<String, String> {
    let known: Vec<&str> = spec::families().chain([BUGGIFY]).collect();
    // Families of a system's own are not known here.
    let is_one = known.contains(&text) || text.contains('/');
    if is_one { Ok(text.to_owned()) } else { Err(format!("there are: {}", known.join(", "))) }
}

/// Virtual time in ns, from a decimal number and a unit.
fn virtual_ns(text: &str) -> Result<u64, String> {
    let wrong = || "a number and a unit are needed, for instance 12.5s, 800ms or 2m".to_owned();
    let digits = text.find(|character: char| !character.is_ascii_digit() && character != '.').ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let unit_ns: u64 = match unit {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    if fraction.len() > FRACTION_DIGITS_MAX || fraction.contains('.') {
        return Err(wrong());
    }
    let part: u64 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| wrong())? };
    let scale = (0..fraction.len()).fold(1, |scale, _| scale * 10);
    let ns =
        whole.checked_mul(unit_ns).zip(part.checked_mul(unit_ns)).and_then(|(ns, part)| ns.checked_add(part / scale));
    ns.ok_or_else(wrong)
}

/// Decimal places of a virtual time; of a second the last is a nanosecond.
const FRACTION_DIGITS_MAX: usize = 9;

fn log_filter(text: &str) -> Result<String, String> {
    sim_runtime::engine::log::check(text).map(|()| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_times_are_exact() {
        for (text, ns) in [
            ("12.5s", 12_500_000_000),
            ("800ms", 800_000_000),
            ("2m", 120_000_000_000),
            ("0.000000001s", 1),
            ("7ns", 7),
        ] {
            assert_eq!(virtual_ns(text), Ok(ns), "{text}");
        }
        for text in ["12.5", "s", "1.5.5s", "-1s", "1d", "99999999999999s", "1.0000000000s"] {
            assert!(virtual_ns(text).is_err(), "{text}");
        }
    }

    fn asked(line: &str) -> Result<Command, Stop> {
        parse(line.split(' ').map(OsString::from))
    }

    fn error(line: &str) -> String {
        match asked(line) {
            Err(Stop::Usage(error)) => error.to_string(),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn flags_alone_mean_run() {
        let Ok(Command::Run(run)) = asked("harness --seed 18446744073709551615 --json") else { panic!() };
        assert_eq!((run.seed, run.what.spec.as_str(), run.what.json), (u64::MAX, "default", true));
        assert!(matches!(asked("harness --help"), Err(Stop::Print(_))));
        assert!(matches!(asked("harness run --seed 1"), Ok(Command::Run(_))));
    }

    #[test]
    fn a_sweep_has_exactly_one_extent() {
        let Ok(Command::Sweep(sweep)) = asked("harness sweep --time 90s") else { panic!() };
        assert_eq!(sweep.time, Some(Duration::from_secs(90)));
        let Ok(Command::Sweep(sweep)) = asked("harness sweep --until-covered --max-seeds 300") else { panic!() };
        assert_eq!((sweep.until_covered, sweep.max_seeds, sweep.seeds), (true, 300, None));
        for wrong in ["harness sweep", "harness sweep --seeds 1 --time 1s", "harness sweep --seeds 1 --max-seeds 5"] {
            error(wrong);
        }
    }

    #[test]
    fn every_mistake_is_one_line_that_says_what_is_wrong() {
        for (line, part) in [
            ("harness", "no command given"),
            ("harness run", "--seed <N>"),
            ("harness --seed -1", "--seed"),
            ("harness --seed 1x", "invalid value '1x' for '--seed <N>'"),
            ("harness sweep --seeds 5 --verify 1.5", "must be from 0 to 1"),
            ("harness sweep --seeds 5 --verify -0.1", "must be from 0 to 1"),
            ("harness sweep --until-covered --max-seeds 0", "--max-seeds"),
            ("harness sweep --seeds 5 --jobs 0", "--jobs"),
            ("harness sweep --time 90", "--time"),
            ("harness fly", "fly"),
            ("harness list stars", "possible values: specs, assertions, buggify, bugs"),
        ] {
            let message = error(line);
            assert!(message.contains(part) && !message.contains('\n'), "{line}: {message}");
            assert!(!message.contains("Usage"), "{line}: {message}");
        }
    }
}
