//! The command `aspen`: a client for people and scripts. Tables for people, one JSON object for programs (`--json`).
//!
//! Exit codes: 0 done, 1 it failed or something is wrong, 2 a mistake on the command line.

mod bench;
mod check;
mod cluster;
mod kv;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

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
  aspen --token-file aspen-data/http-token member list
  aspen check aspen-data
  aspen bench --clients 64 --value-size 128 --mode put";

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
    #[arg(long, global = true, default_value_t = 10, value_name = "SECONDS")]
    timeout: u64,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read and change keys
    #[command(subcommand)]
    Kv(kv::Kv),
    /// Members of the cluster: list, add, promote, remove
    #[command(subcommand)]
    Member(cluster::MemberCommand),
    /// The leader: show it, or hand over
    #[command(subcommand)]
    Leader(cluster::LeaderCommand),
    /// State and health of every endpoint
    Status,
    /// Issue a ticket, with which a new node joins
    Ticket(cluster::TicketArguments),
    /// Have a node take a snapshot
    Snapshot,
    /// Validate a data directory that no node uses
    Check(check::CheckArguments),
    /// Measure
    Bench(bench::BenchArguments),
}

/// What a command found, for both kinds of readers.
pub(super) struct Output {
    pub json: Value,
    pub text: String,
    /// Everything is as it should be.
    pub good: bool,
}

impl Output {
    fn good(json: Value, text: impl Into<String>) -> Output {
        Output { json, text: text.into(), good: true }
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
    match execute(cli).await {
        Ok(output) => {
            if json {
                println!("{}", output.json);
            } else {
                println!("{}", output.text.trim_end());
            }
            if output.good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            let body = match &error {
                CliError::Http(HttpError(body)) => serde_json::to_value(body).unwrap_or_default(),
                other => serde_json::json!({ "message": other.to_string() }),
            };
            if json {
                println!("{}", serde_json::json!({ "error": body }));
            }
            eprintln!("aspen: {error}");
            ExitCode::from(if matches!(error, CliError::Usage(_)) { 2 } else { 1 })
        }
    }
}

async fn execute(cli: Cli) -> Outcome {
    let Cli { common, command } = cli;
    match command {
        Command::Check(arguments) => check::run(arguments).await,
        Command::Bench(arguments) => bench::run(arguments, options(&common)?, endpoints(&common)).await,
        Command::Kv(command) => kv::run(command, &client(&common)?).await,
        Command::Member(command) => cluster::member(command, &client(&common)?).await,
        Command::Leader(command) => cluster::leader(command, &client(&common)?).await,
        Command::Status => cluster::status(&client(&common)?).await,
        Command::Ticket(arguments) => cluster::ticket(arguments, &client(&common)?).await,
        Command::Snapshot => cluster::snapshot(&client(&common)?).await,
    }
}

fn endpoints(common: &Common) -> Vec<String> {
    let given = match common.endpoint.as_slice() {
        [] => std::env::var("ASPEN_ENDPOINT").unwrap_or_else(|_| DEFAULT_ENDPOINT.to_owned()),
        some => some.join(","),
    };
    let with_scheme = |url: &str| if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    given.split(',').map(str::trim).filter(|url| !url.is_empty()).map(with_scheme).collect()
}

const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:8080";

fn options(common: &Common) -> Result<ClientOptions, CliError> {
    let token = match &common.token_file {
        Some(path) => Some(secret::read(path).map_err(|error| CliError::Usage(error.to_string()))?),
        None => std::env::var("ASPEN_HTTP_TOKEN").ok().map(|token| token.trim().to_owned()),
    };
    Ok(ClientOptions { deadline: Duration::from_secs(common.timeout.max(1)), token, ..ClientOptions::default() })
}

fn client(common: &Common) -> Result<HttpClient, CliError> {
    let endpoints = endpoints(common);
    if endpoints.is_empty() {
        return Err(CliError::Usage("name an endpoint: --endpoint http://HOST:PORT".to_owned()));
    }
    Ok(HttpClient::new(endpoints, options(common)?))
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
        assert_eq!(endpoints(&cli.common), ["http://a:1", "http://b:2"]);
    }
}
