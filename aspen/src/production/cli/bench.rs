//! `aspen bench`: a closed loop of clients, each of which waits for its reply before it asks again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use futures_util::future::join;
use hdrhistogram::Histogram;
use iroh::SecretKey;
use serde_json::json;
use tokio::task::{LocalSet, spawn_local};

use crate::client::{Client, ClientConfig, ClientTuning};
use crate::command::{Command, Query};
use crate::error::ClientError;
use crate::production::cli::{CliError, Outcome, Output, Verdict};
use crate::production::client::{ClientOptions, HttpClient, HttpError};
use crate::production::env::RealEnv;
use crate::production::http::status::{LeaderReply, NodeInfo};
use crate::production::secret::{self, ClusterSecret};
use crate::production::transport::gate::Open;
use crate::production::transport::{IrohTransport, TransportConfig};
use crate::transport::Transport as _;
use crate::types::Address;

pub(super) const EXAMPLES: &str = "\
Examples:
  aspen bench --clients 64 --value-size 128 --mode put
  aspen bench --mode mixed --seconds 30
  aspen --json bench --transport iroh --cookie-file aspen-data/cookie

The log is that of the node that leads when it begins: each of its commits is one sync, of as many entries as had gathered.";

#[derive(Debug, Args)]
pub struct BenchArguments {
    /// How the clients ask
    #[arg(long, value_enum, default_value_t = By::Http)]
    transport: By,
    /// The cluster's secret, needed for --transport iroh
    #[arg(long, value_name = "FILE")]
    cookie_file: Option<PathBuf>,
    /// That ask at the same time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
    /// Bytes
    #[arg(long, default_value_t = 128)]
    value_size: usize,
    #[arg(long, value_enum, default_value_t = Mode::Put)]
    mode: Mode,
    /// Different keys
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// How long to measure
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS", value_parser = seconds)]
    seconds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    Http,
    Iroh,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    Put,
    /// Linearizable reads
    Get,
    /// Nine reads for a write
    Mixed,
}

/// Not measured: connections are made, caches filled.
const WARM_UP: Duration = Duration::from_millis(500);
/// The last words on the connections.
const FAREWELL: Duration = Duration::from_secs(1);
/// An operation may take a minute at most, in microseconds.
const LONGEST_US: u64 = 60_000_000;

/// One of the clients.
#[derive(Clone)]
enum Asker {
    Http(HttpClient),
    Iroh(Client<RealEnv>),
}

impl Asker {
    async fn put(&self, key: String, value: Vec<u8>) -> Result<(), Failure> {
        let command = Command::Set { key: key.into_bytes(), value };
        match self {
            Asker::Http(client) => client.execute(command).await.map(drop).map_err(of_http),
            Asker::Iroh(client) => client.execute(command).await.map(drop).map_err(of_iroh),
        }
    }

    async fn get(&self, key: String) -> Result<(), Failure> {
        match self {
            Asker::Http(client) => client.read(key.as_str().into(), None).await.map(drop).map_err(of_http),
            Asker::Iroh(client) => {
                let query = Query::Get { key: key.into_bytes() };
                client.query(query).await.map(drop).map_err(of_iroh)
            }
        }
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if seconds > 0.0 && seconds <= SECONDS_MAX => Ok(seconds),
        _ => Err(format!("a number above 0 and up to {SECONDS_MAX} is expected")),
    }
}

/// A day.
const SECONDS_MAX: f64 = 86_400.0;

/// What was measured.
struct Measured {
    latencies: Histogram<u64>,
    /// Operations that failed, by the code of the error.
    errors: BTreeMap<String, Failures>,
}

/// Failures of one code.
#[derive(Default)]
struct Failures {
    count: u64,
    /// What the first one said.
    message: String,
}

/// Code and message.
type Failure = (String, String);

fn of_http(HttpError(body): HttpError) -> Failure {
    (body.code, body.message)
}

fn of_iroh(error: ClientError) -> Failure {
    (error.code.to_string(), error.message)
}

/// Counters of the leader's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct LogCounts {
    entries: u64,
    commits: u64,
}

impl LogCounts {
    /// From the page of `/metrics`.
    fn read(page: &str) -> Option<LogCounts> {
        let counter = |name: &str| {
            let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
            value.parse().ok()
        };
        Some(LogCounts { entries: counter("aspen_log_entries_total")?, commits: counter("aspen_log_commits_total")? })
    }

    /// What was counted since; `None` if the node was started anew.
    fn since(self, before: LogCounts) -> Option<LogCounts> {
        let entries = self.entries.checked_sub(before.entries)?;
        Some(LogCounts { entries, commits: self.commits.checked_sub(before.commits)? })
    }

    /// Entries in one commit.
    fn batch(self) -> Option<f64> {
        #[allow(clippy::cast_precision_loss, reason = "a mean for people")]
        (self.entries > 0 && self.commits > 0).then(|| self.entries as f64 / self.commits as f64)
    }
}

pub(super) async fn run(arguments: BenchArguments, options: ClientOptions, endpoints: Vec<String>) -> Outcome {
    let options = ClientOptions { session: false, ..options };
    let client = HttpClient::new(endpoints, options);
    // Whoever is asked, the clients begin at the leader.
    let info: NodeInfo = client.get("/node-info").await?;
    let leader = leader(&client).await?;
    let (asker, transport) = match arguments.transport {
        By::Http => (Asker::Http(client.clone()), None),
        By::Iroh => {
            let (client, transport) = over_iroh(&arguments, &info).await?;
            (Asker::Iroh(client), Some(transport))
        }
    };
    let arguments = Arc::new(arguments);
    let begin = Instant::now() + WARM_UP;
    let end = begin + Duration::from_secs_f64(arguments.seconds);
    let log_at_begin = async {
        tokio::time::sleep_until(begin.into()).await;
        log_counts(&client, &leader).await
    };
    // One thread: the servers that are measured want the others.
    let clients = LocalSet::new();
    let asking = clients.run_until(all_clients(asker, arguments.clone(), begin, end));
    let (before, measured) = join(log_at_begin, asking).await;
    let took = begin.elapsed();
    let after = log_counts(&client, &leader).await;
    if let Some(transport) = transport {
        transport.close();
        transport.closed(FAREWELL).await;
    }
    let log = after.zip(before).and_then(|(after, before)| after.since(before));
    Ok(report(&arguments, &measured?, log, took))
}

/// Where the leader's HTTP interface is, which the client asks first from now on.
async fn leader(client: &HttpClient) -> Result<String, CliError> {
    let reply: LeaderReply = client.get("/leader").await?;
    let Some(http) = reply.leader.http else { return Ok(client.endpoints()[0].clone()) };
    let url = format!("http://{http}");
    client.prefer(url.clone());
    Ok(url)
}

async fn log_counts(client: &HttpClient, leader: &str) -> Option<LogCounts> {
    let (status, page) = client.get_from(leader, "/metrics").await.ok()?;
    LogCounts::read(std::str::from_utf8(&page).ok().filter(|_| status == 200)?)
}

async fn all_clients(
    asker: Asker,
    arguments: Arc<BenchArguments>,
    begin: Instant,
    end: Instant,
) -> Result<Measured, CliError> {
    let mut tasks = Vec::new();
    for client in 0..arguments.clients {
        let (asker, arguments) = (asker.clone(), arguments.clone());
        tasks.push(spawn_local(async move { one_client(asker, &arguments, client.into(), begin, end).await }));
    }
    let mut all = Measured { latencies: histogram(), errors: BTreeMap::new() };
    for task in tasks {
        let measured = task.await.map_err(|error| CliError::Failed(error.to_string()))?;
        all.latencies.add(measured.latencies).map_err(|error| CliError::Failed(error.to_string()))?;
        for (code, failures) in measured.errors {
            all.errors.entry(code).or_insert(Failures { count: 0, ..failures }).count += failures.count;
        }
    }
    Ok(all)
}

async fn over_iroh(arguments: &BenchArguments, info: &NodeInfo) -> Result<(Client<RealEnv>, IrohTransport), CliError> {
    let Some(path) = &arguments.cookie_file else {
        return Err(CliError::Usage(
            "--transport iroh needs --cookie-file: the cluster admits no strangers".to_owned(),
        ));
    };
    let text = secret::read(path).map_err(|error| CliError::Usage(error.to_string()))?;
    let secret = ClusterSecret::new(&text);
    let cluster = secret.cluster();
    let transport = IrohTransport::bind(TransportConfig {
        key: SecretKey::generate(),
        cluster,
        bind: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
        incarnation: u64::from_le_bytes(secret::random()),
        node: None,
        advertise: None,
        http: None,
        secret: Some(secret),
        ticket: None,
        relay: None,
        gate: Arc::new(Open),
        message_bytes_max: 10 << 20,
        connections_max: 100,
    })
    .await
    .map_err(|error| CliError::Failed(error.to_string()))?;
    let addresses = info.members.iter().map(|member| Address(member.address.clone())).collect();
    let config = ClientConfig { cluster, tuning: ClientTuning::default(), session: false };
    Ok((Client::new(RealEnv::new(transport.clone()), addresses, config), transport))
}

async fn one_client(asker: Asker, arguments: &BenchArguments, seed: u64, begin: Instant, end: Instant) -> Measured {
    let mut measured = Measured { latencies: histogram(), errors: BTreeMap::new() };
    let mut random = mix(seed);
    loop {
        random = mix(random);
        let asked = Instant::now();
        if asked >= end {
            return measured;
        }
        let key = format!("key-{:012}", random % arguments.keys);
        let write = match arguments.mode {
            Mode::Put => true,
            Mode::Get => false,
            Mode::Mixed => random >> 32 & 0xff < 26,
        };
        let done = if write { asker.put(key, vec![b'v'; arguments.value_size]).await } else { asker.get(key).await };
        match done {
            Err((code, message)) => measured.errors.entry(code).or_insert(Failures { count: 0, message }).count += 1,
            Ok(()) if asked >= begin => {
                let us = u64::try_from(asked.elapsed().as_micros()).unwrap_or(LONGEST_US);
                measured.latencies.saturating_record(us);
            }
            Ok(()) => {}
        }
    }
}

fn report(arguments: &BenchArguments, measured: &Measured, log: Option<LogCounts>, took: Duration) -> Output {
    let Measured { latencies, errors } = measured;
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let per_second = latencies.len().saturating_mul(1_000_000) / micros;
    let at = |quantile: f64| latencies.value_at_quantile(quantile);
    let failed: u64 = errors.values().map(|failures| failures.count).sum();
    let by_code: BTreeMap<&String, u64> = errors.iter().map(|(code, failures)| (code, failures.count)).collect();
    let json = json!({
        "sync": "every commit",
        "transport": format!("{:?}", arguments.transport).to_lowercase(),
        "mode": format!("{:?}", arguments.mode).to_lowercase(),
        "clients": arguments.clients,
        "value_size": arguments.value_size,
        "operations": latencies.len(),
        "errors": failed,
        "errors_by_code": by_code,
        "ops_per_second": per_second,
        "latency_us": { "p50": at(0.5), "p99": at(0.99), "p999": at(0.999), "max": latencies.max() },
        "log": log.map(|log| json!({ "entries": log.entries, "commits": log.commits, "batch": log.batch() })),
    });
    let log = match log {
        Some(log) => {
            let batch = log.batch().map_or("-".to_owned(), |batch| format!("{batch:.1}"));
            format!("{batch} entries ({} entries in {} commits of the leader)", log.entries, log.commits)
        }
        None => "unknown: the leader's /metrics cannot be read".to_owned(),
    };
    let latency = match latencies.is_empty() {
        true => "no latency".to_owned(),
        false => format!("p50 {} us, p99 {} us, p99.9 {} us", at(0.5), at(0.99), at(0.999)),
    };
    let mut text = format!(
        "sync every commit, {:?} over {:?}, {} clients, {} bytes\nbatch {log}\n{per_second} operations/s, {latency}, \
         {failed} errors",
        arguments.mode, arguments.transport, arguments.clients, arguments.value_size,
    );
    for (code, Failures { count, message }) in errors {
        text.push_str(&format!("\n  {count} {code}, the first: {message}"));
    }
    Output::new(json, text, if failed == 0 { Verdict::Good } else { Verdict::Bad })
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, 3).expect("the bounds are in order")
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same keys as other benchmarks of this kind.
fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_counted_between_two_pages() {
        let page = |entries: u64, commits: u64| {
            format!(
                "# TYPE aspen_log_entries_total counter\naspen_log_entries_total {entries}\naspen_log_commits_total {commits}\n"
            )
        };
        let read = |entries, commits| LogCounts::read(&page(entries, commits)).unwrap();
        let log = read(70, 20).since(read(10, 5)).unwrap();
        assert_eq!((log, log.batch()), (LogCounts { entries: 60, commits: 15 }, Some(4.0)));
        assert_eq!(read(10, 5).since(read(10, 5)).unwrap().batch(), None, "nothing was written");
        assert_eq!(read(1, 1).since(read(10, 5)), None, "another process");
        assert_eq!(LogCounts::read("aspen_log_entries_total_of_others 1"), None);
    }

    #[test]
    fn a_measurement_takes_some_time() {
        assert_eq!(seconds("0.5"), Ok(0.5));
        for wrong in ["0", "-1", "NaN", "inf", "1e9", "x"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
