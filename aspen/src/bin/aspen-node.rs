//! The node as a program. All it does is in [`aspen::production`].

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aspen::production::config::{Kept, Severity, Values, command, load, settings};
use aspen::production::{daemon, http, secret};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

/// As everywhere in this workspace: 2 is a mistake of the user.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    #[cfg(feature = "planted")]
    if let Some(refused) = plant() {
        return refused;
    }
    let matches = command().get_matches();
    let values = match load(&matches) {
        Ok(values) => values,
        Err(error) => return fail(&error, USAGE),
    };
    match matches.subcommand() {
        Some(("config", matches)) => return show(&values, matches.get_flag("json")),
        Some(("key", _)) => return show_key(Path::new(values.text("data-dir").unwrap_or_default())),
        _ => {}
    }
    let (settings, findings) = settings(&values);
    findings.iter().for_each(|finding| complain(finding));
    let Some(settings) = settings else { return ExitCode::from(USAGE) };
    let filter = tracing_subscriber::EnvFilter::try_new(&settings.log);
    let filter = match filter {
        Ok(filter) => filter,
        Err(error) => return fail(&format!("log: {error}"), USAGE),
    };
    // A log that cannot be written is no reason for a node to stop.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false);
    log.log_internal_errors(false).init();
    let runtime = runtime(settings.worker_threads);
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, 1),
    };
    let result = runtime.block_on(async {
        let stop = stop_signal();
        daemon::run(settings, stop, announce).await
    });
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

/// What everything but the stores runs on, which have threads of their own.
///
/// A request goes through HTTP, Raft and the network several times. On one thread none of these steps wakes another
/// thread, which takes longer than most of them; iroh too needs a third of the CPU there (see [`aspen::production::transport`]).
fn runtime(threads: usize) -> io::Result<Runtime> {
    match threads {
        1 => Builder::new_current_thread().enable_all().build(),
        threads => Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    }
}

/// Resolves when the process is asked to stop.
async fn stop_signal() {
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    match (terminate, interrupt, signal(SignalKind::hangup())) {
        (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {}
            }
        }
        _ => std::future::pending().await,
    }
}

/// One line for whoever started the node; nobody may be reading it.
fn announce(app: &http::App) {
    let (id, cluster, http) = (app.node.id(), app.cluster, app.http_address);
    let line = format!("aspen-node {id} of cluster {cluster} serves http://{http} and {}", app.transport.place());
    drop(writeln!(io::stdout(), "{line}"));
}

/// The values in force and where each came from; what is wrong with them goes to standard error.
fn show(values: &Values, json: bool) -> ExitCode {
    let mut page = String::new();
    if json {
        let options = values.shown().into_iter().map(|(name, value)| {
            let (text, origin) =
                value.map_or((None, "unset".to_owned()), |(text, from)| (Some(text), from.to_string()));
            (name.to_owned(), serde_json::json!({ "value": text, "origin": origin }))
        });
        page.push_str(&serde_json::Value::Object(options.collect()).to_string());
    } else {
        for (name, value) in values.shown() {
            let (text, origin) =
                value.map_or(("-".to_owned(), "unset".to_owned()), |(text, from)| (text, from.to_string()));
            page.push_str(&format!("{name:<26} {text:<40} {origin}\n"));
        }
    }
    if let Err(failed) = print(page.trim_end()) {
        return failed;
    }
    let (settings, findings) = settings(values);
    findings.iter().for_each(|finding| complain(finding));
    let fatal = findings.iter().any(|finding| finding.severity == Severity::Fatal);
    if settings.is_none() || fatal { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
}

/// The key that the node of a directory has, or will have.
fn show_key(dir: &Path) -> ExitCode {
    if dir.as_os_str().is_empty() {
        return fail(&"data-dir: it is empty", USAGE);
    }
    let kept = Kept::read(dir);
    if let Some(problem) = kept.problems().first() {
        return fail(problem, 1);
    }
    let made = || {
        std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let path: PathBuf = dir.join(daemon::KEY_FILE);
        secret::node_key(&path).map_err(|error| error.to_string())
    };
    match made() {
        Ok(key) => print(&key.public().to_string()).map_or_else(|failed| failed, |()| ExitCode::SUCCESS),
        Err(error) => fail(&error, 1),
    }
}

/// To standard output. A reader who has seen enough is no error.
fn print(text: &str) -> Result<(), ExitCode> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(fail(&format!("standard output: {error}"), 1)),
        _ => Ok(()),
    }
}

/// To standard error, if there is one.
fn complain(what: &dyn std::fmt::Display) {
    drop(writeln!(io::stderr(), "aspen-node: {what}"));
}

/// Switches on the planted bug that the environment names. Only in a build that must never serve anybody.
#[cfg(feature = "planted")]
fn plant() -> Option<ExitCode> {
    let bug = std::env::var("PLANTED_BUG").ok()?;
    if !aspen::planted::enable(Some(&bug)) {
        return Some(fail(&format!("PLANTED_BUG: no planted bug is named {bug:?}"), USAGE));
    }
    complain(&format!("the planted bug {bug} is on"));
    None
}

fn fail(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    complain(error);
    ExitCode::from(code)
}
