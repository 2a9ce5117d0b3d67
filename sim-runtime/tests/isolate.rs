//! Every way a run can end, in a process of its own, and that nothing of it reaches the next run.
//!
//! This executable is its own zygote, so it has its own `main`; `cargo test` sees one test that prints its parts.
#![allow(unsafe_code)] // Dying on purpose.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sim_runtime::engine::record::{RunRecord, RunRequest};
use sim_runtime::engine::report::{RunReport, SCHEMA, Verdict};
use sim_runtime::escape::{self, Answers};
use sim_runtime::isolate::{Death, Limits, Outcome, Pool, Runner, Surroundings, enter, fresh, in_process};

const TESTS: [(&str, fn()); 11] = [
    ("a_run_that_ends_well_hands_back_its_record", a_run_that_ends_well_hands_back_its_record),
    ("every_death_has_its_name", every_death_has_its_name),
    ("a_refused_call_fails_the_run", a_refused_call_fails_the_run),
    ("what_no_symbol_catches_ends_the_run_and_names_the_call", what_no_symbol_catches_ends_the_run_and_names_the_call),
    ("outside_a_simulation_the_machine_answers", outside_a_simulation_the_machine_answers),
    ("wall_time_ends_a_run_as_inconclusive", wall_time_ends_a_run_as_inconclusive),
    ("the_pool_keeps_the_order_and_stops_when_told", the_pool_keeps_the_order_and_stops_when_told),
    ("a_lost_zygote_is_replaced", a_lost_zygote_is_replaced),
    ("siblings_are_equal_and_fresh_processes_are_not", siblings_are_equal_and_fresh_processes_are_not),
    ("a_child_ends_with_its_zygote", a_child_ends_with_its_zygote),
    ("in_process_runs_one_at_a_time_with_the_same_keys", in_process_runs_one_at_a_time_with_the_same_keys),
];

fn main() -> ExitCode {
    if let Some(code) = enter(subject) {
        return code;
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    for (name, test) in TESTS {
        if wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())) {
            let started = Instant::now();
            test();
            println!("test {name} ... ok ({} ms)", started.elapsed().as_millis());
        }
    }
    ExitCode::SUCCESS
}

fn a_run_that_ends_well_hands_back_its_record() {
    let mut runner = Runner::new(limits());
    let first = runner.run(&request("echo", 7));
    let record = first.clone().into_record(&request("echo", 7));
    assert_eq!((record.report.seed, record.report.verdict), (7, Verdict::Pass));
    assert!(first.stderr_tail.contains("hello stdout") && first.stderr_tail.contains("hello stderr"), "{first:?}");
    assert!(first.wall_us > 0 && first.memory_kib > 0 && first.cpu_us < 5_000_000);
    // A run changes statics of its own image only.
    assert_eq!(note(&runner.run(&request("count", 1))), "1");
    assert_eq!(note(&runner.run(&request("count", 1))), "1");
    // A record much larger than a pipe arrives whole.
    assert_eq!(note(&runner.run(&request("large", 1))).len(), 3 << 20);
    // Of a flood on stderr the end is kept.
    let flood = runner.run(&request("flood", 1));
    assert!(flood.result.is_ok() && flood.stderr_tail.len() <= 16 << 10 && flood.stderr_tail.contains("line 19999"));
}

fn every_death_has_its_name() {
    let mut runner = Runner::new(limits());
    let mut expect = |spec: &str, death: Death, property: &str, message: &str| {
        let request = request(spec, 3);
        let outcome = runner.run(&request);
        assert_eq!(outcome.death(), Some(&death), "{spec}: {}", outcome.stderr_tail);
        let record = outcome.into_record(&request);
        assert_eq!(record.report.verdict, Verdict::Fail);
        assert_eq!(record.report.digest, None);
        let [violation] = &record.report.violations[..] else { panic!("{spec}: {:?}", record.report.violations) };
        assert_eq!((violation.property.as_str(), violation.message.as_str()), (property, message));
        assert_eq!((violation.at_ns, &violation.node), (None, &None));
    };
    let panic = format!("invariant of seed 3 broken, {}:{}", file!(), PANIC_LINE);
    expect("panic", Death::Panic { message: panic.clone() }, "panic", &panic);
    expect("abort", Death::Abort, "process", "abort");
    expect("double-panic", Death::Abort, "process", "abort");
    expect("overflow", Death::StackOverflow, "process", "stack overflow");
    expect("spin", Death::EndlessLoop, "process", "endless loop");
    expect("hoard", Death::OutOfMemory, "process", "out of memory");
    expect("segfault", Death::SegmentationFault, "process", "segmentation fault");
    expect("killed", Death::Killed { signal: 9 }, "process", "killed by signal 9");
    expect("exit", Death::NoResult { code: 0 }, "process", "exit 0 without a result");
    expect("block", Death::BlockingWait, "process", "blocking wait while simulating");
    // The runner is as good as new.
    assert_eq!(note(&runner.run(&request("count", 1))), "1");
}

fn a_refused_call_fails_the_run() {
    let record = Runner::new(limits()).run(&request("thread", 1)).into_record(&request("thread", 1));
    assert_eq!(record.report.verdict, Verdict::Fail);
    let [violation] = &record.report.violations[..] else { panic!("{:?}", record.report.violations) };
    assert_eq!(violation.property, "process");
    assert_eq!(violation.message, "escape: pthread_create and 1 more");
}

/// A linked call, a looked-up one and a raw one of each kind: an answer from the seed, or the run's verdict.
fn what_no_symbol_catches_ends_the_run_and_names_the_call() {
    let mut runner = Runner::new(limits());
    for spec in ["entropy-linked", "entropy-looked-up", "clock-linked", "clock-looked-up"] {
        assert_eq!(note(&runner.run(&request(spec, 1))), "answered", "{spec}");
    }
    for spec in ["socket-linked", "socket-looked-up", "file-linked", "file-looked-up", "thread-linked"] {
        let record = runner.run(&request(spec, 1)).into_record(&request(spec, 1));
        let [violation] = &record.report.violations[..] else { panic!("{spec}: {:?}", record.report.violations) };
        assert!(violation.message.starts_with("escape: "), "{spec}: {violation:?}");
        assert_eq!((record.report.verdict, violation.property.as_str()), (Verdict::Fail, "process"));
    }
    for (spec, call) in [
        ("entropy-raw", "raw system call getrandom"),
        ("clock-raw", "raw system call clock_gettime"),
        ("socket-raw", "raw system call socket"),
        ("file-raw", "raw system call openat"),
        ("process-raw", "raw system call fork"),
        ("counter", "rdtsc or a clock of the vDSO"),
    ] {
        let outcome = runner.run(&request(spec, 1));
        let expected = Death::Escape { call: call.to_owned() };
        assert_eq!(outcome.death(), Some(&expected), "{spec}: {}", outcome.stderr_tail);
        assert!(outcome.stderr_tail.contains("isolate::escape_as"), "the report says where: {}", outcome.stderr_tail);
        let record = outcome.into_record(&request(spec, 1));
        assert_eq!(record.report.violations[0].message, format!("escape: {call}"));
        // The sweep goes on.
        assert_eq!(note(&runner.run(&request("count", 1))), "1");
    }
}

/// What a run does before and after it simulates, and while it prints a backtrace, is none of the filter's business.
fn outside_a_simulation_the_machine_answers() {
    assert_eq!(note(&Runner::new(limits()).run(&request("outside", 1))), "real");
}

fn wall_time_ends_a_run_as_inconclusive() {
    let limits = Limits { wall: Duration::from_millis(300), ..limits() };
    let outcome = Runner::new(limits).run(&request("sleep", 1));
    assert_eq!(outcome.death(), Some(&Death::WallTime));
    let report = outcome.into_record(&request("sleep", 1)).report;
    assert_eq!((report.verdict, report.violations.len()), (Verdict::Inconclusive, 0));
}

fn the_pool_keeps_the_order_and_stops_when_told() {
    let sweep = |jobs: usize, stop_at: u64| {
        let mut seen = Vec::new();
        let requests = (0..150).map(|seed| request("echo", seed));
        Pool::new(NonZeroUsize::new(jobs).unwrap(), limits()).each(
            requests,
            |runner, request| {
                // Some seeds take long, so that results come in out of order.
                std::thread::sleep(Duration::from_millis(if request.seed % 40 == 0 { 20 } else { 0 }));
                runner.run(&request).into_record(&request).report.seed
            },
            |seed| {
                seen.push(seed);
                if seed == stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
        );
        seen
    };
    assert_eq!(sweep(3, u64::MAX), (0..150).collect::<Vec<_>>());
    assert_eq!(sweep(1, 5), (0..=5).collect::<Vec<_>>());
    assert_eq!(sweep(4, 41), (0..=41).collect::<Vec<_>>());
}

fn a_lost_zygote_is_replaced() {
    let mut runner = Runner::new(limits());
    assert!(runner.run(&request("echo", 1)).result.is_ok());
    let first = runner.zygote_id().expect("a zygote is running");
    kill(&first.to_string());
    assert!(runner.run(&request("echo", 2)).result.is_ok());
    assert_ne!(runner.zygote_id(), Some(first));
    // A run that kills its zygote every time says nothing about the subject.
    let record = runner.run(&request("kill-zygote", 2)).into_record(&request("kill-zygote", 2));
    assert_eq!(record.report.verdict, Verdict::Inconclusive);
    assert!(runner.run(&request("echo", 3)).result.is_ok());
}

/// Siblings share addresses, which would hide a leak; the two sides of a verification share nothing but the image.
fn siblings_are_equal_and_fresh_processes_are_not() {
    let mut runner = Runner::new(limits());
    let sibling = note(&runner.run(&request("surroundings", 9)));
    assert_eq!(note(&runner.run(&request("surroundings", 9))), sibling);
    let usual = note(&fresh(&request("surroundings", 9), limits(), Surroundings::Usual));
    let strange = note(&fresh(&request("surroundings", 9), limits(), Surroundings::Strange));
    for (left, right) in usual.split(';').zip(strange.split(';')) {
        // What must agree is the `HashMap` keys; what must differ is everything that a run could leak.
        assert_eq!(left == right, left.starts_with("keys="), "{left} and {right}");
    }
    let keys = |seed| {
        let outcome = fresh(&request("surroundings", seed), limits(), Surroundings::Usual);
        note(&outcome).split(';').next().map(str::to_owned)
    };
    assert_ne!(keys(1), keys(2), "the keys are drawn from the seed");
}

fn a_child_ends_with_its_zygote() {
    let path = std::env::temp_dir().join(format!("sim-isolate-{}", std::process::id()));
    std::fs::write(&path, "").unwrap();
    let mut request = request("write-pid-and-sleep", 1);
    request.plan = Some(path.to_string_lossy().into_owned().into());
    let runner = std::thread::spawn(move || Runner::new(limits()).run(&request));
    let child = wait_for(|| std::fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n')));
    let child: u32 = child.trim().parse().unwrap();
    // The file is gone, so the second attempt ends at once.
    std::fs::remove_file(&path).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap();
    kill(stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap());
    wait_for(|| is_gone(child).then_some(()));
    assert!(runner.join().unwrap().result.is_ok());
}

fn in_process_runs_one_at_a_time_with_the_same_keys() {
    let hash = || in_process(|| RandomState::new().hash_one("key"));
    assert_eq!(hash(), hash());
    let failed = std::panic::catch_unwind(|| in_process(|| panic!("this one is expected")));
    assert!(failed.is_err());
    assert_eq!(in_process(|| 5), 5, "a failed simulation leaves no poison behind");
}

fn kill(process: &str) {
    assert!(Command::new("kill").args(["-9", process]).status().expect("kill can be run").success());
}

fn is_gone(process: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

fn wait_for<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn limits() -> Limits {
    Limits { cpu: Duration::from_secs(1), memory_bytes: 512 << 20, ..Limits::default() }
}

fn request(spec: &str, seed: u64) -> RunRequest {
    RunRequest { seed, spec: spec.to_owned(), ..RunRequest::default() }
}

fn note(outcome: &Outcome) -> String {
    outcome.result.as_ref().expect("the run ends well").summary[0].clone()
}

/// The subject: does what its spec is called.
fn subject(request: &RunRequest) -> RunRecord {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let note = match request.spec.as_str() {
        "echo" => {
            println!("hello stdout");
            eprintln!("hello stderr");
            String::new()
        }
        "count" => (RUNS.fetch_add(1, Ordering::Relaxed) + 1).to_string(),
        "large" => "x".repeat(3 << 20),
        "flood" => {
            (0..20_000).for_each(|line| eprintln!("line {line}"));
            String::new()
        }
        "surroundings" => surroundings(),
        "write-pid-and-sleep" => {
            let path = request.plan.as_ref().and_then(|plan| plan.as_str()).unwrap().to_owned();
            if std::fs::metadata(&path).is_ok() {
                std::fs::write(path, format!("{}\n", std::process::id())).unwrap();
                std::thread::sleep(Duration::from_secs(60));
            }
            String::new()
        }
        "sleep" => {
            std::thread::sleep(Duration::from_secs(60));
            String::new()
        }
        "thread" => {
            let _guard = escape::install(answers());
            escape::assert_linked();
            assert!(std::thread::Builder::new().spawn(|| ()).is_err());
            assert!(std::net::UdpSocket::bind("127.0.0.1:0").is_err());
            String::new()
        }
        "outside" => outside(),
        spec if spec.split('-').next().is_some_and(|kind| ESCAPES.contains(&kind)) => {
            let _guard = escape::install(answers());
            escape_as(spec)
        }
        _ => die(request),
    };
    RunRecord {
        report: RunReport {
            schema: SCHEMA,
            seed: request.seed,
            spec: request.spec.clone(),
            verdict: Verdict::Pass,
            violations: Vec::new(),
            doubts: Vec::new(),
            digest: Some("0".repeat(32)),
            events: None,
            sim_time_ns: None,
            wall_time_ms: 0,
            cpu_time_ms: 0,
            memory_peak_kib: 0,
            ops: None,
            faults: None,
            assertions: None,
            buggify: None,
            oracles: None,
            power_loss: None,
            metrics: None,
            artifact: None,
        },
        plan: serde_json::Value::Null,
        summary: vec![note],
        checkpoints: Vec::new(),
        events: Vec::new(),
        history: Vec::new(),
        look: None,
        log: Vec::new(),
    }
}

const ESCAPES: [&str; 7] = ["entropy", "clock", "socket", "file", "thread", "process", "counter"];

/// Leaves the simulation in the way that `spec` is called. What is answered or refused by a symbol returns.
#[inline(never)]
fn escape_as(spec: &str) -> String {
    use std::arch::asm;
    let raw = |number: libc::c_long, a: usize, b: usize, c: usize| unsafe {
        let mut result = number;
        asm!("syscall", inout("rax") result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") 0, out("rcx") _, out("r11") _);
        result
    };
    let look_up = |name: &std::ffi::CStr| unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    let mut bytes = [0u8; 8];
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let path = c"/etc/hostname".as_ptr();
    unsafe {
        match spec {
            "entropy-linked" => assert_eq!(libc::getrandom(bytes.as_mut_ptr().cast(), 8, 0), 8),
            "entropy-looked-up" => {
                let call: extern "C" fn(*mut u8, usize, u32) -> isize = std::mem::transmute(look_up(c"getrandom"));
                assert_eq!(call(bytes.as_mut_ptr(), 8, 0), 8);
            }
            "entropy-raw" => drop(raw(libc::SYS_getrandom, bytes.as_mut_ptr() as usize, 8, 0).to_string()),
            "clock-linked" => assert_eq!(libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time), 0),
            "clock-looked-up" => {
                let call: extern "C" fn(i32, *mut libc::timespec) -> i32 =
                    std::mem::transmute(look_up(c"clock_gettime"));
                assert_eq!(call(libc::CLOCK_MONOTONIC, &raw mut time), 0);
            }
            "clock-raw" => drop(raw(libc::SYS_clock_gettime, 1, &raw mut time as usize, 0).to_string()),
            "socket-linked" => drop(std::net::UdpSocket::bind("127.0.0.1:0").unwrap_err().to_string()),
            "socket-looked-up" => {
                let call: extern "C" fn(i32, i32, i32) -> i32 = std::mem::transmute(look_up(c"socket"));
                assert_eq!(call(libc::AF_INET, libc::SOCK_DGRAM, 0), -1);
            }
            "socket-raw" => drop(raw(libc::SYS_socket, 2, 2, 0).to_string()),
            "file-linked" => drop(std::fs::File::open("/etc/hostname").unwrap_err().to_string()),
            "file-looked-up" => {
                let call: extern "C" fn(*const libc::c_char, i32, u32) -> i32 = std::mem::transmute(look_up(c"open"));
                assert_eq!(call(path, libc::O_RDONLY, 0), -1);
            }
            "file-raw" => drop(raw(libc::SYS_openat, libc::AT_FDCWD as usize, path as usize, 0).to_string()),
            "thread-linked" => drop(std::thread::Builder::new().spawn(|| ()).unwrap_err().to_string()),
            "process-raw" => drop(raw(libc::SYS_fork, 0, 0, 0).to_string()),
            "counter" => drop(std::arch::x86_64::_rdtsc().to_string()),
            _ => unreachable!("{spec}"),
        }
    }
    if spec.starts_with("entropy") {
        assert_eq!(bytes, [7; 8], "answered from the world");
    } else if spec.starts_with("clock") {
        assert_eq!((time.tv_sec, time.tv_nsec), (0, 1), "answered from the world");
    }
    "answered".to_owned()
}

fn outside() -> String {
    let guard = escape::install(answers());
    let real = {
        let _suspended = escape::suspend();
        std::fs::read_to_string("/proc/self/stat").is_ok() && Instant::now().elapsed() < Duration::from_secs(60)
    };
    drop(guard);
    let also = std::fs::metadata("/proc").is_ok() && unsafe { std::arch::x86_64::_rdtsc() } > 0;
    if real && also { "real".to_owned() } else { format!("{real} {also}") }
}

const PANIC_LINE: u32 = line!() + 4;

fn die(request: &RunRequest) -> ! {
    match request.spec.as_str() {
        "panic" => panic!("invariant of seed {} broken", request.seed),
        "abort" => std::process::abort(),
        "double-panic" => {
            struct Bomb;
            impl Drop for Bomb {
                fn drop(&mut self) {
                    panic!("again");
                }
            }
            let _bomb = Bomb;
            panic!("once")
        }
        "overflow" => unreachable!("{}", recurse(0)),
        "spin" => loop {
            std::hint::spin_loop();
        },
        "hoard" => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(std::hint::black_box(vec![1u8; 8 << 20]));
            }
        }
        "segfault" => unsafe {
            std::hint::black_box(std::ptr::without_provenance_mut::<u8>(8)).write_volatile(1);
            unreachable!()
        },
        "killed" => unsafe {
            libc::kill(libc::getpid(), libc::SIGKILL);
            unreachable!()
        },
        "kill-zygote" => unsafe {
            libc::kill(libc::getppid(), libc::SIGKILL);
            loop {
                libc::pause();
            }
        },
        "exit" => std::process::exit(0),
        "block" => {
            let _guard = escape::install(answers());
            let (_sender, receiver) = std::sync::mpsc::channel::<()>();
            receiver.recv().unwrap();
            unreachable!()
        }
        other => panic!("no such spec: {other}"),
    }
}

#[allow(unconditional_recursion)]
fn recurse(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    recurse(depth + 1) + frame[1]
}

fn surroundings() -> String {
    let local = 0u8;
    let mut heap: Vec<u8> = Vec::with_capacity(4000);
    // Looked at on purpose: this is the leak that the two sides of a verification must not share.
    let unwritten = unsafe { heap.as_mut_ptr().add(2000).read_volatile() };
    format!(
        "keys={};stack={:p};heap={:p};code={:p};unwritten={unwritten};directory={};zone={:?}",
        RandomState::new().hash_one("key"),
        &raw const local,
        heap.as_ptr(),
        surroundings as *const (),
        std::env::current_dir().unwrap().display(),
        std::env::var_os("TZ"),
    )
}

fn answers() -> Answers {
    Answers { entropy: |bytes| bytes.fill(7), monotonic_ns: || 1, wall_ns: || 1, sleep: |_| {} }
}
