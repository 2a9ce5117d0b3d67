//! The command `aspen`: a client for people and scripts. Tables for people, one JSON object for programs (`--json`).
//!
//! Exit codes: 0 done, 1 it failed or something is wrong, 2 a mistake on the command line, 3 the answer is no (there is no such
//! key, or it is not as expected). `docs/aspen.md` describes it all.

mod bench;
mod check;
mod cluster;
mod kv;
mod table;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use axum::http::Uri;
use clap::{Args, Parser, Subcommand};
use serde_json::Value;

use crate::production::client::{ClientOptions, HttpClient, HttpError};
use crate::production::secret;

/// A client of aspen, the replicated key-value store.
#[derive(Debug, Parser)]
#[command(name = "aspen", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  aspen kv set greeting hello
  aspen kv get greeting
  aspen --endpoint http://a:8080,http://b:8080 status
  aspen --token-file aspen-data/http-token ticket --out ticket
  aspen check aspen-data
  aspen bench --clients 64 --value-size 128 --mode put

Environment:
  ASPEN_ENDPOINT    what --endpoint names
  ASPEN_HTTP_TOKEN  the bearer token itself, if --token-file is not given
  ASPEN_LOG         what is logged to standard error [default: error]

Exit codes: 0 done; 1 it failed, or something is wrong; 2 a mistake on the command line; 3 there is no such key, or it is not
as expected.";

#[derive(Debug, Args)]
struct Common {
    /// Nodes to ask, in this order until one answers [environment: ASPEN_ENDPOINT]
    #[arg(long, global = true, value_name = "URL[,URL]", value_delimiter = ',')]
    endpoint: Vec<String>,
    /// File with the bearer token, or ASPEN_HTTP_TOKEN in the environment
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// One JSON object instead of tables
    #[arg(long, global = true)]
    json: bool,
    /// Seconds after which an operation is given up
    #[arg(long, global = true, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read and change keys
    #[command(subcommand, after_help = kv::EXAMPLES)]
    Kv(kv::Kv),
    /// Members of the cluster: list, add, promote, remove
    #[command(subcommand, after_help = cluster::MEMBER_EXAMPLES)]
    Member(cluster::MemberCommand),
    /// The leader: show it, or hand over
    #[command(subcommand, after_help = "Examples:\n  aspen leader show\n  aspen leader transfer 2")]
    Leader(cluster::LeaderCommand),
    /// State and health of every endpoint
    #[command(after_help = "Examples:\n  aspen --endpoint 127.0.0.1:8080,127.0.0.1:8081 status\n  aspen --json status")]
    Status,
    /// Issue a ticket, with which a new node joins
    #[command(after_help = cluster::TICKET_EXAMPLES)]
    Ticket(cluster::TicketArguments),
    /// Have a node take a snapshot
    #[command(after_help = "Examples:\n  aspen --token-file aspen-data/http-token snapshot")]
    Snapshot,
    /// Validate a data directory that no node uses
    #[command(after_help = "Examples:\n  aspen check aspen-data\n  aspen --json check aspen-data")]
    Check(check::CheckArguments),
    /// Measure
    #[command(after_help = bench::EXAMPLES)]
    Bench(bench::BenchArguments),
}

/// What a command found, for both kinds of readers.
pub(super) struct Output {
    pub json: Value,
    pub text: String,
    /// Printed for people as it is rather than `text`: a value, byte for byte.
    pub bytes: Option<Vec<u8>>,
    /// For people, on standard error.
    pub note: Option<&'static str>,
    pub verdict: Verdict,
}

/// What the exit code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Good = 0,
    /// Something is wrong.
    Bad = 1,
    /// There is no such key, or it is not as expected.
    No = 3,
}

impl Output {
    fn new(json: Value, text: impl Into<String>, verdict: Verdict) -> Output {
        Output { json, text: text.into(), bytes: None, note: None, verdict }
    }

    fn good(json: Value, text: impl Into<String>) -> Output {
        Output::new(json, text, Verdict::Good)
    }

    /// Writes it to standard output, and the note to standard error.
    fn print(&self, json: bool) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        match &self.bytes {
            _ if json => writeln!(stdout, "{}", self.json)?,
            Some(bytes) => stdout.write_all(bytes)?,
            None => writeln!(stdout, "{}", self.text.trim_end())?,
        }
        stdout.flush()?;
        self.note.iter().for_each(complain);
        Ok(())
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("{0}")]
    Failed(String),
}

type Outcome = Result<Output, CliError>;

/// Runs the command and prints what it found.
pub async fn run(cli: Cli) -> ExitCode {
    let json = cli.common.json;
    let (printed, code) = match execute(cli).await {
        Ok(output) => (output.print(json), output.verdict as u8),
        Err(error) => {
            let body = match &error {
                CliError::Http(HttpError(body)) => serde_json::to_value(body).unwrap_or_default(),
                other => serde_json::json!({ "message": other.to_string() }),
            };
            let printed = match json {
                true => writeln!(io::stdout(), "{}", serde_json::json!({ "error": body })),
                false => Ok(()),
            };
            complain(&error);
            (printed, if matches!(error, CliError::Usage(_)) { 2 } else { 1 })
        }
    };
    match printed {
        // A reader who has seen enough is no error.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(format_args!("standard output: {error}"));
            ExitCode::FAILURE
        }
        _ => ExitCode::from(code),
    }
}

/// To standard error, if there is one.
fn complain(what: impl std::fmt::Display) {
    drop(writeln!(io::stderr(), "aspen: {what}"));
}

async fn execute(cli: Cli) -> Outcome {
    let Cli { common, command } = cli;
    match command {
        Command::Check(arguments) => check::run(arguments).await,
        Command::Bench(arguments) => bench::run(arguments, options(&common)?, endpoints(&common)?).await,
        Command::Kv(command) => kv::run(command, &client(&common)?).await,
        Command::Member(command) => cluster::member(command, &client(&common)?).await,
        Command::Leader(command) => cluster::leader(command, &client(&common)?).await,
        Command::Status => cluster::status(&client(&common)?).await,
        Command::Ticket(arguments) => cluster::ticket(arguments, &client(&common)?).await,
        Command::Snapshot => cluster::snapshot(&client(&common)?).await,
    }
}

fn endpoints(common: &Common) -> Result<Vec<String>, CliError> {
    let given = match common.endpoint.as_slice() {
        [] => variable("ASPEN_ENDPOINT")?.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned()),
        some => some.join(","),
    };
    let mut endpoints = Vec::new();
    for url in given.split(',').map(str::trim).filter(|url| !url.is_empty()) {
        let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let is_url = url.parse::<Uri>().is_ok_and(|uri| uri.scheme_str() == Some("http") && uri.host().is_some());
        if !is_url {
            return Err(CliError::Usage(format!("the endpoint {url:?} is not http://HOST:PORT")));
        }
        endpoints.push(url);
    }
    if endpoints.is_empty() {
        return Err(CliError::Usage("name an endpoint: --endpoint http://HOST:PORT".to_owned()));
    }
    Ok(endpoints)
}

const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:8080";

/// A variable of the environment, if it is set.
fn variable(name: &str) -> Result<Option<String>, CliError> {
    match std::env::var(name) {
        Ok(text) => Ok(Some(text)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(CliError::Usage(format!("{name} is not UTF-8"))),
    }
}

fn options(common: &Common) -> Result<ClientOptions, CliError> {
    let token = match &common.token_file {
        Some(path) => Some(secret::read(path).map_err(|error| CliError::Usage(error.to_string()))?),
        None => match variable("ASPEN_HTTP_TOKEN")?.map(|token| token.trim().to_owned()) {
            Some(token) if secret::is_too_short(&token) => {
                let message = format!("ASPEN_HTTP_TOKEN: a token has {} characters at least", secret::SECRET_BYTES_MIN);
                return Err(CliError::Usage(message));
            }
            token => token,
        },
    };
    let deadline = Duration::from_secs(common.timeout);
    let defaults = ClientOptions::default();
    Ok(ClientOptions { deadline, attempt: defaults.attempt.min(deadline), token, ..defaults })
}

fn client(common: &Common) -> Result<HttpClient, CliError> {
    Ok(HttpClient::new(endpoints(common)?, options(common)?))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_endpoint_needs_no_scheme() {
        let cli = Cli::parse_from(["aspen", "--endpoint", "a:1,http://b:2", "status"]);
        assert_eq!(endpoints(&cli.common).unwrap(), ["http://a:1", "http://b:2"]);
        for wrong in [",", "https://a:1", "http://", "a b"] {
            let cli = Cli::parse_from(["aspen", "--endpoint", wrong, "status"]);
            assert!(matches!(endpoints(&cli.common), Err(CliError::Usage(_))), "{wrong}");
        }
    }
}
