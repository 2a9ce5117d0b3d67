//! What the system under test says through `tracing`, kept as lines that name virtual time and host.
//!
//! A subscriber of our own and no more than needed: it draws nothing, hashes nothing, and makes no event, so that a run
//! which is listened to is the run that nobody listens to. Spans are not kept; what happens in them is.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::filter::Targets;

use crate::world;

/// The time zone of a process whose run is listened to. openraft renders instants in local time, and with a zone in the
/// environment nobody looks for a file that names one.
pub const TIME_ZONE: &str = "UTC0";

/// Looks up the time zone on this thread, which opens files, before it may no longer do so.
pub fn prepare() {
    let _ = chrono::Local::now();
}

/// Lines kept of one run: the first ones, and how many more there were.
const LINES_MAX: usize = 500_000;

/// Runs `f` and returns the lines of what was logged meanwhile on this thread.
///
/// # Panics
/// If `filter` is none: whoever takes it from outside checks it first, with [`check`].
pub fn capture<R>(filter: &str, f: impl FnOnce() -> R) -> (R, Vec<String>) {
    let listener = Listener {
        filter: filter.parse().expect("the filter was checked when it was given"),
        spans: AtomicU64::new(0),
        kept: Arc::default(),
    };
    let kept = Arc::clone(&listener.kept);
    let result = tracing::subscriber::with_default(listener, f);
    let Kept { mut lines, more } = std::mem::take(&mut *kept.lock().unwrap_or_else(PoisonError::into_inner));
    if more > 0 {
        lines.push(format!("and {more} more lines; a narrower filter keeps those that matter"));
    }
    (result, lines)
}

/// # Errors
/// What is wrong with a filter: neither a level nor a list of `target=level`.
pub fn check(filter: &str) -> Result<(), String> {
    filter.parse::<Targets>().map(drop).map_err(|error| error.to_string())
}

#[derive(Default)]
struct Kept {
    lines: Vec<String>,
    more: u64,
}

struct Listener {
    filter: Targets,
    spans: AtomicU64,
    kept: Arc<Mutex<Kept>>,
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && self.filter.would_enable(metadata.target(), metadata.level())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        self.filter.iter().map(|(_, level)| level).chain(self.filter.default_level()).max()
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut line = stamp();
        // Writing to a string cannot fail.
        let _ = write!(line, " {:>5} {}:", metadata.level(), metadata.target());
        event.record(&mut Words(&mut line));
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.lines.len() < LINES_MAX {
            kept.lines.push(line);
        } else {
            kept.more += 1;
        }
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

/// Virtual time in s, and the host on whose behalf code is running.
fn stamp() -> String {
    if !world::in_world() {
        return "outside".to_owned();
    }
    let (at_ns, who) = (world::now_ns(), world::current());
    let (seconds, nanos) = (at_ns / 1_000_000_000, at_ns % 1_000_000_000);
    format!("{seconds:>4}.{nanos:09} s {}#{}", world::host_name(who.host), who.boot)
}

/// The message, then the other fields as `name=value`, in the order in which the call names them.
struct Words<'a>(&'a mut String);

impl Visit for Words<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = match field.name() {
            "message" => write!(self.0, " {value}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}
