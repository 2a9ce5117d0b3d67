//! A wall behind the symbols: seccomp and a trapped time-stamp counter on the simulation's own thread.
//!
//! Symbols catch who calls libc by name. Who uses the `syscall` instruction, libc calling itself, the vDSO and `rdtsc` do
//! not go through them. So the simulating thread of a run's process may use only those system calls that tell it nothing
//! of the machine ([`HARMLESS`]); any other raises SIGSYS, and reading the time-stamp counter (which the vDSO does) raises
//! SIGSEGV. While the thread simulates, either ends the process with a line that names the call: the run's verdict. While it
//! does not ([`suspend`](super::suspend): a backtrace opens files), the call is made on its behalf by
//! `sim_runtime_raw_call`, the one instruction that the filter lets through.
//!
//! Linux on x86-64 only; elsewhere [`confine`] does nothing.

use std::backtrace::Backtrace;
use std::cell::Cell;
use std::io;
use std::mem;
use std::ptr;
use std::sync::OnceLock;

use libc::{c_int, c_long, c_void, siginfo_t, sock_filter, ucontext_t};

use super::ESCAPE;
use super::state::{simulating, suspend};

/// What the simulating thread may ask of the kernel: memory, signals, locks, its pipes, its own end. None of the answers
/// depends on anything but the thread's own past, except the process id, which `abort` needs.
const HARMLESS: [c_long; 29] = [
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_lseek,
    libc::SYS_fcntl,
    libc::SYS_poll,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_prctl,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_kill,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Names of the calls that a program is likely to make.
const NAMES: [(c_long, &str); 42] = [
    (libc::SYS_getrandom, "getrandom"),
    (libc::SYS_clock_gettime, "clock_gettime"),
    (libc::SYS_clock_getres, "clock_getres"),
    (libc::SYS_clock_nanosleep, "clock_nanosleep"),
    (libc::SYS_nanosleep, "nanosleep"),
    (libc::SYS_gettimeofday, "gettimeofday"),
    (libc::SYS_time, "time"),
    (libc::SYS_times, "times"),
    (libc::SYS_getrusage, "getrusage"),
    (libc::SYS_timerfd_create, "timerfd_create"),
    (libc::SYS_socket, "socket"),
    (libc::SYS_socketpair, "socketpair"),
    (libc::SYS_connect, "connect"),
    (libc::SYS_bind, "bind"),
    (libc::SYS_open, "open"),
    (libc::SYS_openat, "openat"),
    (libc::SYS_openat2, "openat2"),
    (libc::SYS_creat, "creat"),
    (libc::SYS_stat, "stat"),
    (libc::SYS_fstat, "fstat"),
    (libc::SYS_lstat, "lstat"),
    (libc::SYS_newfstatat, "newfstatat"),
    (libc::SYS_statx, "statx"),
    (libc::SYS_access, "access"),
    (libc::SYS_readlink, "readlink"),
    (libc::SYS_getcwd, "getcwd"),
    (libc::SYS_getdents64, "getdents64"),
    (libc::SYS_mkdir, "mkdir"),
    (libc::SYS_rename, "rename"),
    (libc::SYS_unlink, "unlink"),
    (libc::SYS_clone, "clone"),
    (libc::SYS_clone3, "clone3"),
    (libc::SYS_fork, "fork"),
    (libc::SYS_vfork, "vfork"),
    (libc::SYS_execve, "execve"),
    (libc::SYS_pipe2, "pipe2"),
    (libc::SYS_epoll_create1, "epoll_create1"),
    (libc::SYS_eventfd2, "eventfd2"),
    (libc::SYS_io_uring_setup, "io_uring_setup"),
    (libc::SYS_sched_getaffinity, "sched_getaffinity"),
    (libc::SYS_uname, "uname"),
    (libc::SYS_sysinfo, "sysinfo"),
];

std::arch::global_asm!(
    // c_long sim_runtime_raw_call(number, a, b, c, d, e, f): the C calling convention to that of the kernel.
    ".globl sim_runtime_raw_call",
    ".globl sim_runtime_raw_call_end",
    "sim_runtime_raw_call:",
    "mov rax, rdi",
    "mov rdi, rsi",
    "mov rsi, rdx",
    "mov rdx, rcx",
    "mov r10, r8",
    "mov r8, r9",
    "mov r9, [rsp + 8]",
    "syscall",
    "sim_runtime_raw_call_end:",
    "ret",
);

unsafe extern "C" {
    fn sim_runtime_raw_call(number: c_long, a: c_long, b: c_long, c: c_long, d: c_long, e: c_long, f: c_long)
    -> c_long;
    fn sim_runtime_raw_call_end();
}

thread_local! {
    static CONFINED: Cell<bool> = const { Cell::new(false) };
}

/// The disposition of SIGSEGV before ours: std's, which tells a stack overflow.
static PREVIOUS_SEGV: OnceLock<libc::sigaction> = OnceLock::new();

/// Room for a backtrace on the stack for signals. std's own would do for its message only.
const SIGNAL_STACK_BYTES: usize = 512 << 10;

/// Confines this thread for good. For a process that exists for one run: the signal handlers are the process's.
///
/// # Errors
/// When the kernel refuses: it is older than 3.5, or a sandbox around us forbids filters.
pub fn confine() -> io::Result<()> {
    // SAFETY: installs handlers that are safe to run at any instruction of this thread, and attributes of this thread.
    unsafe {
        install_signal_stack()?;
        handle(libc::SIGSYS, on_system_call as *const () as usize)?;
        PREVIOUS_SEGV.get_or_init(|| disposition(libc::SIGSEGV));
        handle(libc::SIGSEGV, on_fault as *const () as usize)?;
        install_filter()?;
    }
    CONFINED.set(true);
    trap_counter(simulating());
    Ok(())
}

/// Follows the thread between simulating and not: the time-stamp counter cannot be read on its behalf.
pub(super) fn trap_counter(trapped: bool) {
    if CONFINED.try_with(Cell::get).unwrap_or(false) {
        let wanted = if trapped { libc::PR_TSC_SIGSEGV } else { libc::PR_TSC_ENABLE };
        // SAFETY: an attribute of this thread.
        unsafe { libc::prctl(libc::PR_SET_TSC, wanted) };
    }
}

/// # Safety
/// Once per thread, which must not have left for another stack.
unsafe fn install_signal_stack() -> io::Result<()> {
    let bytes = Box::leak(vec![0u8; SIGNAL_STACK_BYTES].into_boxed_slice());
    let stack = libc::stack_t { ss_sp: bytes.as_mut_ptr().cast(), ss_flags: 0, ss_size: bytes.len() };
    // SAFETY: the memory is leaked, so it outlives the thread.
    check(unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) })
}

/// # Safety
/// `handler` must be a signal handler with three arguments.
unsafe fn handle(signal: c_int, handler: usize) -> io::Result<()> {
    // SAFETY: all fields of sigaction are integers or pointers, for which zero is valid.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handler;
    // A backtrace makes calls of its own, so the handlers must be able to interrupt themselves.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
    // SAFETY: promised by the caller.
    check(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) })
}

/// What happens on a signal now.
fn disposition(signal: c_int) -> libc::sigaction {
    // SAFETY: all fields of sigaction are integers or pointers, for which zero is valid; the kernel fills ours.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        libc::sigaction(signal, ptr::null(), &raw mut action);
        action
    }
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// # Safety
/// The handler of SIGSYS must be in place.
unsafe fn install_filter() -> io::Result<()> {
    let mut program = program(sim_runtime_raw_call_end as *const () as u64);
    let length = u16::try_from(program.len()).expect("a short program");
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: attributes of this thread; the program is copied.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        check(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program))
    }
}

/// The filter, in the kernel's classic BPF (seccomp(2)): what comes from the instruction before `let_through`, and
/// [`HARMLESS`], passes; the rest traps.
fn program(let_through: u64) -> Vec<sock_filter> {
    const NUMBER: u32 = 0;
    const ARCHITECTURE: u32 = 4;
    const INSTRUCTION: u32 = 8;
    let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let low = |word: u64| (word & 0xffff_ffff) as u32;
    let harmless = u8::try_from(HARMLESS.len()).expect("few calls");
    let mut program = vec![
        load(ARCHITECTURE),
        // Another architecture's numbers mean other calls.
        jump_if(AUDIT_ARCH_X86_64, 0, harmless + 6),
        load(INSTRUCTION),
        jump_if(low(let_through), 0, 2),
        load(INSTRUCTION + 4),
        jump_if(low(let_through >> 32), harmless + 2, 0),
        load(NUMBER),
    ];
    for (left, number) in (0..harmless).rev().zip(HARMLESS) {
        program.push(jump_if(u32::try_from(number).expect("a call's number"), left + 1, 0));
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_TRAP));
    program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    program
}

/// The kernel's name for x86-64: little-endian, 64 bits, ELF machine 62.
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: u16::try_from(code).expect("an instruction"), jt: 0, jf: 0, k }
}

/// Skips `equal` or `different` instructions.
fn jump_if(k: u32, equal: u8, different: u8) -> sock_filter {
    let code = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    sock_filter { code: u16::try_from(code).expect("an instruction"), jt: equal, jf: different, k }
}

/// A system call that the filter does not know.
extern "C" fn on_system_call(_: c_int, _: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes the interrupted context.
    let registers = unsafe { &mut (*context.cast::<ucontext_t>()).uc_mcontext.gregs };
    let register = |name: c_int| registers[usize::try_from(name).expect("an index")];
    let number = register(libc::REG_RAX);
    // SAFETY: the second argument of openat is a path.
    if simulating() && !unsafe { is_allocator(number, register(libc::REG_RSI)) } {
        die(&["raw system call ", name(number)]);
    }
    // SAFETY: the call that the interrupted code wanted to make, with its own arguments.
    let result = unsafe {
        sim_runtime_raw_call(
            number,
            register(libc::REG_RDI),
            register(libc::REG_RSI),
            register(libc::REG_RDX),
            register(libc::REG_R10),
            register(libc::REG_R8),
            register(libc::REG_R9),
        )
    };
    registers[usize::try_from(libc::REG_RAX).expect("an index")] = result;
}

fn name(number: c_long) -> &'static str {
    let known = NAMES.iter().find(|(known, _)| *known == number);
    known.map_or("without a name here", |(_, name)| *name)
}

/// glibc's allocator looks at one setting of the kernel when it gives memory back. Only addresses depend on it.
///
/// # Safety
/// If `number` is that of openat, `path` must be its second argument.
unsafe fn is_allocator(number: c_long, path: c_long) -> bool {
    const SETTING: &std::ffi::CStr = c"/proc/sys/vm/overcommit_memory";
    // SAFETY: promised by the caller.
    number == libc::SYS_openat && unsafe { std::ffi::CStr::from_ptr(path as *const libc::c_char) } == SETTING
}

/// A fault: the time-stamp counter, or what SIGSEGV usually is.
extern "C" fn on_fault(signal: c_int, information: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes the interrupted context.
    let instruction = unsafe { (*context.cast::<ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] } as *const u8;
    // A forbidden instruction is a general protection fault, which has no address.
    // SAFETY: the kernel fills the information.
    let is_protection = unsafe { (*information).si_code } == SI_KERNEL;
    // SAFETY: the instruction was just fetched from there, so at least its bytes are mapped.
    if is_protection && simulating() && unsafe { reads_counter(instruction) } {
        die(&["rdtsc or a clock of the vDSO"]);
    }
    let previous = PREVIOUS_SEGV.get().expect("set before this handler was installed");
    let has_information = previous.sa_flags & libc::SA_SIGINFO != 0;
    match previous.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: the default disposition; returning runs into the fault again.
            unsafe { libc::sigaction(signal, previous, ptr::null_mut()) };
        }
        handler if has_information => {
            // SAFETY: a handler with SA_SIGINFO takes these three arguments.
            let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = unsafe { mem::transmute(handler) };
            handler(signal, information, context);
        }
        handler => {
            // SAFETY: a handler without SA_SIGINFO takes the signal.
            let handler: extern "C" fn(c_int) = unsafe { mem::transmute(handler) };
            handler(signal);
        }
    }
}

/// `si_code` of what the kernel raised without an address.
const SI_KERNEL: c_int = 0x80;

/// Whether the instruction is `rdtsc` or `rdtscp`.
///
/// # Safety
/// `instruction` must be where an instruction was fetched from.
unsafe fn reads_counter(instruction: *const u8) -> bool {
    // SAFETY: both are prefixes of each other's length or were fetched whole; a third byte is read only if the first two
    // say that there is one.
    unsafe {
        match (instruction.read(), instruction.add(1).read()) {
            (0x0f, 0x31) => true,
            (0x0f, 0x01) => instruction.add(2).read() == 0xf9,
            _ => false,
        }
    }
}

/// Ends the process. The reason comes first, since the interrupted code may hold the allocator's lock, for which a
/// backtrace would wait for ever; and last, since of a long report only the end is kept.
fn die(what: &[&str]) -> ! {
    let _suspended = suspend();
    let say = |text: &str| {
        // SAFETY: the bytes are those of the text. What cannot be written is lost: there is no one left to tell.
        unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
    };
    let say_why = || {
        say(ESCAPE);
        what.iter().for_each(|part| say(part));
        say("\n");
    };
    say_why();
    // SAFETY: arms a timer of this process, which is about to end; its signal ends it too.
    unsafe { libc::alarm(BACKTRACE_S_MAX) };
    eprintln!("{}", Backtrace::force_capture());
    say_why();
    std::process::abort()
}

/// How long a backtrace may take, in s.
const BACKTRACE_S_MAX: u32 = 20;
