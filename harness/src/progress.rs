//! How far a long command is, on stderr: a bar on a terminal, now and then a line elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two lines when stderr is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    last_line: Instant,
    done: u64,
    total: Option<u64>,
    what: &'static str,
}

impl Progress {
    /// Over seeds; `total` is their number, if known.
    pub fn new(total: Option<u64>) -> Progress {
        Progress::over("seeds", total)
    }

    /// `what` names the steps.
    pub fn over(what: &'static str, total: Option<u64>) -> Progress {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
            let template = match total {
                Some(_) => "{bar:30} {pos}/{len} {prefix}, {msg}, {per_sec}, {eta} left",
                None => "{spinner} {pos} {prefix}, {msg}, {per_sec}, {elapsed}",
            };
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(what);
            bar
        });
        Progress { bar, last_line: Instant::now(), done: 0, total, what }
    }

    /// One more step is done; `state` says how it stands.
    pub fn step(&mut self, state: impl FnOnce() -> String) {
        self.done += 1;
        match &self.bar {
            Some(bar) => {
                bar.set_message(state());
                bar.inc(1);
            }
            None if self.last_line.elapsed() >= LINE_INTERVAL => {
                self.last_line = Instant::now();
                let of = self.total.map(|total| format!("/{total}")).unwrap_or_default();
                eprintln!("{}{of} {}, {}", self.done, self.what, state());
            }
            None => {}
        }
    }

    /// A line above the bar.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
