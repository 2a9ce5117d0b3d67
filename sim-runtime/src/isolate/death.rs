//! Why a process ended without a record, by name.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::escape::{BLOCKING_WAIT, ESCAPE};

/// A run that left no record. `Display` is the message of its violation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Death {
    /// The simulation's thread panicked outside everything that catches panics.
    Panic {
        message: String,
    },
    Abort,
    StackOverflow,
    /// The limit of CPU time was reached.
    EndlessLoop,
    OutOfMemory,
    SegmentationFault,
    /// A lock or condition variable that nobody could ever release.
    BlockingWait,
    /// It talked to the machine behind the guards' back.
    Escape {
        call: String,
    },
    Killed {
        signal: i32,
    },
    /// The process ended by itself, without a complete record.
    NoResult {
        code: i32,
    },
    /// The limit of wall time was reached: the machine's fault or the run's, nobody knows.
    WallTime,
    /// The process that starts runs could not be started, or was lost, twice. It says nothing about the run.
    Isolation {
        error: String,
    },
}

impl Death {
    /// Whether the run is to blame. If not, it is inconclusive.
    pub fn is_failure(&self) -> bool {
        !matches!(self, Death::WallTime | Death::Isolation { .. })
    }

    /// The property that the death violates.
    pub fn property(&self) -> &'static str {
        match self {
            Death::Panic { .. } => "panic",
            _ => "process",
        }
    }

    /// Reads the reason from the wait status and from what the process last wrote to stderr.
    ///
    /// Rust ends by SIGABRT in several ways that only the message tells apart.
    pub(super) fn from_status(status: i32, stderr: &str, out_of_time: bool) -> Death {
        if out_of_time {
            return Death::WallTime;
        }
        if !libc::WIFSIGNALED(status) {
            return Death::NoResult { code: libc::WEXITSTATUS(status) };
        }
        match libc::WTERMSIG(status) {
            libc::SIGABRT if stderr.contains(BLOCKING_WAIT) => Death::BlockingWait,
            libc::SIGABRT if stderr.contains("has overflowed its stack") => Death::StackOverflow,
            libc::SIGABRT if stderr.contains("memory allocation of") => Death::OutOfMemory,
            libc::SIGABRT => escape(stderr).unwrap_or(Death::Abort),
            // Its backtrace asks for the directory, which the filter refuses.
            libc::SIGALRM if stderr.contains("memory allocation of") => Death::OutOfMemory,
            signal @ libc::SIGALRM => escape(stderr).unwrap_or(Death::Killed { signal }),
            // glibc blocks signals while it starts a thread or a process; then the filter cannot report.
            libc::SIGSYS => Death::Escape { call: "raw system call with signals blocked".to_owned() },
            libc::SIGXCPU => Death::EndlessLoop,
            libc::SIGSEGV | libc::SIGBUS => Death::SegmentationFault,
            signal => Death::Killed { signal },
        }
    }
}

/// What the filter reports, before and after its backtrace.
fn escape(stderr: &str) -> Option<Death> {
    let call = stderr.lines().rev().find_map(|line| line.strip_prefix(ESCAPE))?;
    Some(Death::Escape { call: call.to_owned() })
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Death::Panic { message } => f.write_str(message),
            Death::Abort => f.write_str("abort"),
            Death::StackOverflow => f.write_str("stack overflow"),
            Death::EndlessLoop => f.write_str("endless loop"),
            Death::OutOfMemory => f.write_str("out of memory"),
            Death::SegmentationFault => f.write_str("segmentation fault"),
            Death::BlockingWait => f.write_str(BLOCKING_WAIT),
            Death::Escape { call } => write!(f, "{ESCAPE}{call}"),
            Death::Killed { signal } => write!(f, "killed by signal {signal}"),
            Death::NoResult { code } => write!(f, "exit {code} without a result"),
            Death::WallTime => f.write_str("out of wall time"),
            Death::Isolation { error } => write!(f, "the process that starts runs was lost: {error}"),
        }
    }
}
