//! Log time: the clock by which sessions expire.
//!
//! A leader stamps each proposal with the log time that was applied when it took office, plus its monotonic time since.
//! Wall clocks decide nothing: an offset, a step or a pause of any of them cannot expire a session early. Applying takes
//! the maximum, so log time never goes back; over a change of leaders it may stand still, so a session lives at least as
//! long as it was promised.

use openraft::Instant;

use crate::planted::planted;
use crate::types::Term;

/// The leader's clock.
#[derive(Debug)]
pub(super) struct LogClock<I> {
    office: Option<Office<I>>,
}

/// One term of office.
#[derive(Debug)]
struct Office<I> {
    term: Term,
    /// Log time applied when it began.
    base_ms: u64,
    began: I,
}

impl<I> Default for LogClock<I> {
    fn default() -> Self {
        LogClock { office: None }
    }
}

impl<I: Instant> LogClock<I> {
    /// Log time at `now` for a proposal of `term`, ms. The first call of a term begins the office.
    pub(super) fn stamp(&mut self, term: Term, applied_ms: u64, now: I) -> u64 {
        let office = match &self.office {
            Some(office) if office.term == term => office,
            _ => {
                let base_ms = if planted!("log-time-starts-over") { 0 } else { applied_ms };
                self.office.insert(Office { term, base_ms, began: now })
            }
        };
        let elapsed = now.saturating_duration_since(office.began).as_millis();
        office.base_ms.saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn log_time_runs_with_the_monotonic_clock_from_what_was_applied() {
        let mut clock = LogClock::default();
        let start = std::time::Instant::now();
        let later = |ms| start + Duration::from_millis(ms);
        assert_eq!(clock.stamp(3, 1000, start), 1000);
        assert_eq!(clock.stamp(3, 1200, later(50)), 1050, "what is applied during the office is its own");
        assert_eq!(clock.stamp(4, 1050, later(70)), 1050, "a new office begins at what is applied");
        assert_eq!(clock.stamp(4, 0, later(90)), 1070);
        assert_eq!(clock.stamp(4, 0, start), 1050, "a clock that goes back stands still");
    }
}
