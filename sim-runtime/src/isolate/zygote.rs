//! The small single-threaded process that forks one child per run.
//!
//! A process with threads must not fork and then go on (locks stay taken for ever), and a fork costs by touched
//! memory, so the harness with its progress bars and records is not the one that forks.

use std::fs;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::engine::record::RunRequest;

use super::child::{self, Pipes};
use super::{Death, Limits, Run, frame};

/// The hidden first argument that makes a process a zygote.
pub(super) const ARGUMENT: &str = "__zygote";

/// What the zygote is asked.
#[derive(Serialize, Deserialize)]
pub(super) struct Ask {
    pub request: RunRequest,
    pub limits: Limits,
}

/// What the zygote answers, followed by a frame with the child's own answer (empty after a death).
#[derive(Serialize, Deserialize)]
pub(super) struct Reply {
    pub death: Option<Death>,
    pub stderr_tail: String,
    pub cpu_us: u64,
    pub wall_us: u64,
    pub memory_kib: u64,
}

/// Becomes a zygote for `run` if this process was started as one; then the result is its exit code. Otherwise returns
/// `None` at once. Must be the first thing in `main`, before any thread is started.
pub fn enter(run: Run) -> Option<ExitCode> {
    if std::env::args_os().nth(1).is_none_or(|argument| argument != ARGUMENT) {
        return None;
    }
    Some(match serve(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the process that starts runs stopped: {error}");
            ExitCode::FAILURE
        }
    })
}

fn serve(run: Run) -> io::Result<()> {
    let threads = fs::read_dir("/proc/self/task")?.count();
    assert_eq!(threads, 1, "a zygote forks, so it must have one thread only");
    // SAFETY: the standard streams are open and nothing else in this process owns them: std only borrows them.
    let (mut requests, mut replies) = unsafe {
        let replies = libc::fcntl(libc::STDOUT_FILENO, libc::F_DUPFD_CLOEXEC, 3);
        if replies < 0 || libc::dup2(libc::STDERR_FILENO, libc::STDOUT_FILENO) < 0 {
            return Err(io::Error::last_os_error());
        }
        (fs::File::from_raw_fd(libc::STDIN_FILENO), fs::File::from(OwnedFd::from_raw_fd(replies)))
    };
    while let Some(bytes) = frame::read(&mut requests)? {
        let ask: Ask = serde_json::from_slice(&bytes)?;
        let Some((reply, answer)) = supervise(run, &ask, requests.as_raw_fd(), replies.as_raw_fd())? else {
            break;
        };
        frame::write(&mut replies, &serde_json::to_vec(&reply)?)?;
        frame::write(&mut replies, &answer)?;
    }
    Ok(())
}

/// Forks a child for `ask` and watches it to its end; `None` when the asker went away meanwhile.
fn supervise(run: Run, ask: &Ask, requests: RawFd, replies: RawFd) -> io::Result<Option<(Reply, Vec<u8>)>> {
    let (result_reader, result) = io::pipe()?;
    let (stderr_reader, stderr) = io::pipe()?;
    let started = Instant::now();
    // SAFETY: this process has one thread, so the child may do anything that the parent may.
    let (parent, pid) = unsafe { (libc::getpid(), libc::fork()) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        // SAFETY: the child is not to answer for the zygote; its copy of the descriptor is its own to close.
        unsafe { libc::close(replies) };
        drop((result_reader, stderr_reader));
        child::main(run, &ask.request, &ask.limits, parent, Pipes { result, stderr });
    }
    drop((result, stderr));
    let mut watch = Watch { pid, requests, deadline: started + ask.limits.wall, killed: None };
    let mut answer = Stream { pipe: Some(result_reader), bytes: Vec::new(), bytes_max: usize::MAX };
    let mut errors = Stream { pipe: Some(stderr_reader), bytes: Vec::new(), bytes_max: STDERR_BYTES_MAX };
    while answer.pipe.is_some() || errors.pipe.is_some() {
        watch.poll(&mut answer, &mut errors)?;
    }
    let (status, usage) = watch.reap()?;
    if watch.killed == Some(Killed::AskerGone) {
        return Ok(None);
    }
    let stderr_tail = String::from_utf8_lossy(&errors.bytes).into_owned();
    let out_of_time = watch.killed == Some(Killed::OutOfTime);
    let whole = frame::whole(&answer.bytes).filter(|_| status == 0);
    let reply = Reply {
        death: whole.is_none().then(|| Death::from_status(status, &stderr_tail, out_of_time)),
        stderr_tail,
        cpu_us: microseconds(usage.ru_utime) + microseconds(usage.ru_stime),
        wall_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        memory_kib: u64::try_from(usage.ru_maxrss).unwrap_or(0),
    };
    Ok(Some((reply, whole.map(<[u8]>::to_vec).unwrap_or_default())))
}

/// Of a chatty run only the end is kept.
const STDERR_BYTES_MAX: usize = 16 << 10;

/// How often a child that closed its pipes without ending is looked at.
const REAP_INTERVAL: Duration = Duration::from_micros(50);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Killed {
    OutOfTime,
    AskerGone,
}

struct Watch {
    pid: libc::pid_t,
    requests: RawFd,
    deadline: Instant,
    killed: Option<Killed>,
}

impl Watch {
    /// Waits until a pipe has something, the asker goes away, or time is up.
    fn poll(&mut self, answer: &mut Stream, errors: &mut Stream) -> io::Result<()> {
        let interest = |fd, events| libc::pollfd { fd, events, revents: 0 };
        let mut fds = [
            interest(answer.descriptor(), libc::POLLIN),
            interest(errors.descriptor(), libc::POLLIN),
            // No events asked for: only the hang-up, which is always reported.
            interest(if self.killed.is_none() { self.requests } else { -1 }, 0),
        ];
        let left = self.deadline.saturating_duration_since(Instant::now());
        let timeout_ms = match self.killed {
            None => libc::c_int::try_from(left.as_millis() + 1).unwrap_or(libc::c_int::MAX),
            Some(_) => -1,
        };
        // SAFETY: the array is ours and its length is given.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), 3, timeout_ms) };
        if ready < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        if fds[2].revents != 0 {
            self.kill(Killed::AskerGone);
        } else if ready == 0 && left.is_zero() {
            self.kill(Killed::OutOfTime);
        }
        if fds[0].revents != 0 {
            answer.read()?;
        }
        if fds[1].revents != 0 {
            errors.read()?;
        }
        Ok(())
    }

    fn kill(&mut self, why: Killed) {
        self.killed.get_or_insert(why);
        // SAFETY: the child is not reaped yet, so its id is still its own.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }

    /// Waits for the child's end: its status and what it used.
    fn reap(&mut self) -> io::Result<(libc::c_int, libc::rusage)> {
        loop {
            let mut status = 0;
            // SAFETY: all fields of rusage are integers, for which zero is valid.
            let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
            // SAFETY: the pointers are to variables of ours.
            let reaped = unsafe { libc::wait4(self.pid, &raw mut status, libc::WNOHANG, &raw mut usage) };
            match reaped {
                0 if Instant::now() >= self.deadline => self.kill(Killed::OutOfTime),
                0 => {}
                pid if pid == self.pid => return Ok((status, usage)),
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
            std::thread::sleep(REAP_INTERVAL);
        }
    }
}

/// One pipe from the child and what came out of it so far.
struct Stream {
    pipe: Option<PipeReader>,
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl Stream {
    /// Negative once closed, which `poll` ignores.
    fn descriptor(&self) -> RawFd {
        self.pipe.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    fn read(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        let mut chunk = [0; 64 << 10];
        match pipe.read(&mut chunk) {
            Ok(0) => self.pipe = None,
            Ok(count) => self.bytes.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if self.bytes.len() > self.bytes_max {
            self.bytes.drain(..self.bytes.len() - self.bytes_max);
        }
        Ok(())
    }
}

fn microseconds(time: libc::timeval) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(time.tv_usec).unwrap_or(0)
}
