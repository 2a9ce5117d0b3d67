//! Asking a zygote for runs, from the harness's side.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::engine::record::{RunRecord, RunRequest};

use super::child::Answer;
use super::zygote::{ARGUMENT, Ask, Reply};
use super::{Death, Limits, Outcome, frame};

/// What a process finds around it. A run must not notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Surroundings {
    /// As the harness's own.
    #[default]
    Usual,
    /// Other environment, directory, address layout and contents of fresh memory.
    Strange,
}

/// Runs requests one after the other, each in a process of its own.
#[derive(Debug)]
pub struct Runner {
    limits: Limits,
    surroundings: Surroundings,
    zygote: Option<Zygote>,
}

impl Runner {
    pub fn new(limits: Limits) -> Runner {
        Runner { limits, surroundings: Surroundings::Usual, zygote: None }
    }

    /// Runs `request` to its end. A zygote that dies meanwhile is replaced and asked once more.
    pub fn run(&mut self, request: &RunRequest) -> Outcome {
        self.attempt(request).or_else(|_lost| self.attempt(request)).unwrap_or_else(|error| Outcome {
            result: Err(Death::Isolation { error: error.to_string() }),
            stderr_tail: String::new(),
            cpu_us: 0,
            wall_us: 0,
            memory_kib: 0,
        })
    }

    fn attempt(&mut self, request: &RunRequest) -> io::Result<Outcome> {
        let mut zygote = match self.zygote.take() {
            Some(zygote) => zygote,
            None => Zygote::start(self.surroundings)?,
        };
        let outcome = zygote.ask(request, self.limits)?;
        self.zygote = Some(zygote);
        Ok(outcome)
    }

    /// Process id of the zygote, if one is running.
    pub fn zygote_id(&self) -> Option<u32> {
        self.zygote.as_ref().map(|zygote| zygote.process.id())
    }
}

/// Runs `request` in a newly exec'ed process: siblings forked from one zygote share address layout and statics, and
/// would hide a leak of either.
pub fn fresh(request: &RunRequest, limits: Limits, surroundings: Surroundings) -> Outcome {
    Runner { limits, surroundings, zygote: None }.run(request)
}

#[derive(Debug)]
struct Zygote {
    process: Child,
    requests: Option<ChildStdin>,
    replies: ChildStdout,
}

impl Zygote {
    fn start(surroundings: Surroundings) -> io::Result<Zygote> {
        // The image of this very process, also after a rebuild has replaced the file.
        let mut command = Command::new("/proc/self/exe");
        if let Some(name) = std::env::args_os().next() {
            command.arg0(name);
        }
        command.arg(ARGUMENT).stdin(Stdio::piped()).stdout(Stdio::piped());
        // A terminal's Ctrl-C is for us: the runs under way end as they would, or when we are gone.
        command.process_group(0);
        if surroundings == Surroundings::Strange {
            estrange(&mut command);
        }
        let mut process = command.spawn()?;
        let requests = process.stdin.take();
        let replies = process.stdout.take().expect("stdout is piped");
        Ok(Zygote { process, requests, replies })
    }

    fn ask(&mut self, request: &RunRequest, limits: Limits) -> io::Result<Outcome> {
        let ask = serde_json::to_vec(&Ask { request: request.clone(), limits })?;
        frame::write(self.requests.as_mut().expect("open until dropped"), &ask)?;
        let reply: Reply = serde_json::from_slice(&self.receive()?)?;
        let answer = self.receive()?;
        let result = match reply.death {
            Some(death) => Err(death),
            None => answered(&answer)?,
        };
        Ok(Outcome {
            result,
            stderr_tail: reply.stderr_tail,
            cpu_us: reply.cpu_us,
            wall_us: reply.wall_us,
            memory_kib: reply.memory_kib,
        })
    }

    fn receive(&mut self) -> io::Result<Vec<u8>> {
        frame::read(&mut self.replies)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        // The end of its requests ends the zygote, and the child it may be watching.
        self.requests = None;
        let _ = self.process.wait();
    }
}

fn answered(bytes: &[u8]) -> io::Result<Result<RunRecord, Death>> {
    Ok(match serde_json::from_slice(bytes)? {
        Answer::Record(record) => Ok(*record),
        Answer::Panicked { message } => Err(Death::Panic { message }),
    })
}

/// Makes everything around the process different that a run might wrongly depend on.
fn estrange(command: &mut Command) {
    command
        .current_dir("/")
        .env("TZ", "Pacific/Kiritimati")
        .env("LANG", "tr_TR.UTF-8")
        .env("HOME", "/nonexistent")
        // Moves the stack, and with it whatever is found above it.
        .env("SIM_PADDING", "x".repeat(4321))
        // glibc fills fresh and freed memory with a pattern, so that uninitialised bytes differ.
        .env("MALLOC_PERTURB_", "165");
    // SAFETY: personality is a plain system call, allowed between fork and exec.
    unsafe { command.pre_exec(flip_address_layout) };
}

/// Switches address randomisation off if it is on, and on if it is off, so that two sides never share a layout. Where
/// the system forbids it the randomised layouts differ anyway.
fn flip_address_layout() -> io::Result<()> {
    const QUERY: libc::c_ulong = 0xffff_ffff;
    const NO_RANDOMIZE: libc::c_int = libc::ADDR_NO_RANDOMIZE;
    // SAFETY: changes only how this process's next image is laid out.
    unsafe {
        let current = libc::personality(QUERY);
        if let Ok(wanted) = libc::c_ulong::try_from(current ^ NO_RANDOMIZE)
            && current >= 0
        {
            libc::personality(wanted);
        }
    }
    Ok(())
}

/// Reads `/proc/self/exe`, the image that every run of this process executes.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn executable() -> io::Result<File> {
    File::open("/proc/self/exe")
}
