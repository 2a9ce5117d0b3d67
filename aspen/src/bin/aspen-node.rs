//! The node as a program. All it does is in [`aspen::production`].

use std::io;
use std::process::ExitCode;

use aspen::production::config::{Settings, Severity, Values, command, load, settings};
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
    if let Some(("config", matches)) = matches.subcommand() {
        return show(&values, matches.get_flag("json"));
    }
    let (settings, findings) = settings(&values);
    for finding in &findings {
        eprintln!("aspen-node: {finding}");
    }
    let Some(settings) = settings else { return ExitCode::from(USAGE) };
    if let Some(("key", _)) = matches.subcommand() {
        return show_key(&settings);
    }
    let filter = tracing_subscriber::EnvFilter::try_new(&settings.log);
    let filter = match filter {
        Ok(filter) => filter,
        Err(error) => return fail(&format!("log: {error}"), USAGE),
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
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
    match (terminate, interrupt) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        _ => std::future::pending().await,
    }
}

fn announce(app: &http::App) {
    println!(
        "aspen-node {} of cluster {} serves http://{} and {}",
        app.node.id(),
        app.cluster,
        app.http_address,
        app.transport.place()
    );
}

/// The values in force and where each came from; what is wrong with them goes to standard error.
fn show(values: &Values, json: bool) -> ExitCode {
    if json {
        let options = values.shown().into_iter().map(|(name, text, origin)| {
            (name.to_owned(), serde_json::json!({ "value": text, "origin": origin.to_string() }))
        });
        println!("{}", serde_json::Value::Object(options.collect()));
    } else {
        for (name, text, origin) in values.shown() {
            println!("{name:<26} {text:<40} {origin}");
        }
    }
    let (settings, findings) = settings(values);
    let fatal = findings.iter().any(|finding| finding.severity == Severity::Fatal);
    for finding in findings {
        eprintln!("aspen-node: {finding}");
    }
    if settings.is_none() || fatal { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
}

fn show_key(settings: &Settings) -> ExitCode {
    let key = std::fs::create_dir_all(&settings.data_dir)
        .map_err(|error| error.to_string())
        .and_then(|()| secret::node_key(&settings.data_dir.join(daemon::KEY_FILE)).map_err(|error| error.to_string()));
    match key {
        Ok(key) => {
            println!("{}", key.public());
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error, 1),
    }
}

/// Switches on the planted bug that the environment names. Only in a build that must never serve anybody.
#[cfg(feature = "planted")]
fn plant() -> Option<ExitCode> {
    let bug = std::env::var("PLANTED_BUG").ok()?;
    if !aspen::planted::enable(Some(&bug)) {
        return Some(fail(&format!("PLANTED_BUG: no planted bug is named {bug:?}"), USAGE));
    }
    eprintln!("aspen-node: the planted bug {bug} is on");
    None
}

fn fail(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("aspen-node: {error}");
    ExitCode::from(code)
}
