//! The forked process that runs one simulation and ends.

use std::any::Any;
use std::fs::File;
use std::io::{self, PipeWriter};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::thread;

use serde::{Deserialize, Serialize};

use crate::engine::log;
use crate::engine::record::{RunRecord, RunRequest};
use crate::engine::report::{Verdict, Violation};
use crate::escape;

use super::{Limits, Run, allocator, frame};

/// What the child writes before it ends.
#[derive(Serialize, Deserialize)]
pub(super) enum Answer {
    Record(Box<RunRecord>),
    Panicked { message: String },
}

/// Ends of the pipes that the child writes to.
pub(super) struct Pipes {
    pub result: PipeWriter,
    pub stderr: PipeWriter,
}

/// Runs `request` and ends this process. Exit 0 says only that the answer was written.
pub(super) fn main(run: Run, request: &RunRequest, limits: &Limits, parent: libc::pid_t, mut pipes: Pipes) -> ! {
    let answered = prepare(limits, parent, &pipes.stderr)
        .and_then(|()| answer(run, request, limits))
        .and_then(|answer| serde_json::to_vec(&answer).map_err(io::Error::from))
        .and_then(|bytes| frame::write(&mut pipes.result, &bytes));
    let code = match answered {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("the run could not be set up or reported: {error}");
            EXIT_SETUP
        }
    };
    // SAFETY: ends the process without running the zygote's atexit handlers a second time.
    unsafe { libc::_exit(code) }
}

/// Exit status of a child that could not be set up or could not report.
const EXIT_SETUP: i32 = 70;

fn prepare(limits: &Limits, parent: libc::pid_t, stderr: &PipeWriter) -> io::Result<()> {
    // SAFETY: prctl and getppid touch nothing but this process's own attributes.
    unsafe {
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        // The parent may have died before it could be watched.
        if libc::getppid() != parent {
            libc::_exit(EXIT_SETUP);
        }
    }
    allocator::tune();
    redirect(File::open("/dev/null")?.as_raw_fd(), libc::STDIN_FILENO)?;
    redirect(stderr.as_raw_fd(), libc::STDOUT_FILENO)?;
    redirect(stderr.as_raw_fd(), libc::STDERR_FILENO)?;
    limits.apply()
}

fn answer(run: Run, request: &RunRequest, limits: &Limits) -> io::Result<Answer> {
    remember_panics();
    escape::declare_alone();
    let (seed, request) = (request.seed, request.clone());
    if request.log.is_some() {
        // SAFETY: this process was forked from a single-threaded one and has no other thread yet.
        unsafe { std::env::set_var("TZ", log::TIME_ZONE) };
    }
    // `HashMap` keys belong to the thread, so only a fresh one has fresh keys.
    let thread =
        thread::Builder::new().name("simulation".to_owned()).stack_size(limits.stack_bytes).spawn(move || {
            allocator::reserve();
            escape::seed_hash_keys(seed);
            if request.log.is_some() {
                log::prepare();
            }
            escape::confine()?;
            let record = run(&request);
            io::Result::Ok((record, escape::taken()))
        })?;
    Ok(match thread.join() {
        Ok(Err(refused)) => return Err(refused),
        Ok(Ok((mut record, escapes))) => {
            blame_escapes(&mut record, escapes);
            Answer::Record(Box::new(record))
        }
        Err(payload) => Answer::Panicked { message: panic_message(payload.as_ref()) },
    })
}

/// A call that had to be refused is a violation, also when the program swallowed the error.
fn blame_escapes(record: &mut RunRecord, escapes: Vec<String>) {
    let Some(first) = escapes.first() else { return };
    let message = match escapes.len() {
        1 => format!("escape: {first}"),
        count => format!("escape: {first} and {} more", count - 1),
    };
    record.report.verdict = Verdict::Fail;
    record.report.violations.push(Violation { property: "process".to_owned(), message, at_ns: None, node: None });
}

/// Where and with what words the simulation's thread last panicked; the payload alone lacks the place.
static LAST_PANIC: Mutex<Option<String>> = Mutex::new(None);

fn remember_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let message = panic_message(info.payload());
        let place = info.location().map(|at| format!(", {}:{}", at.file(), at.line())).unwrap_or_default();
        *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{message}{place}"));
        report(info);
    }));
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned());
    let placed = LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner);
    placed.as_ref().filter(|placed| placed.starts_with(&text)).cloned().unwrap_or(text)
}

fn redirect(from: RawFd, to: RawFd) -> io::Result<()> {
    // SAFETY: both are descriptors of this process; nothing else of it holds `to` as its own.
    check(unsafe { libc::dup2(from, to) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
