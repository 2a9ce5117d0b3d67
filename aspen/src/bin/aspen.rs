//! The command line client as a program. All it does is in [`aspen::production::cli`].

use std::io::Write;
use std::process::ExitCode;

use aspen::production::cli;
use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("ASPEN_LOG").unwrap_or_else(|_| "error".into());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    log.log_internal_errors(false).init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(cli::run(cli)),
        Err(error) => {
            drop(writeln!(std::io::stderr(), "aspen: {error}"));
            ExitCode::FAILURE
        }
    }
}
