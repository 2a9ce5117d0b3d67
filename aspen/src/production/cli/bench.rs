//! `aspen bench`: a closed loop of clients, each of which waits for its reply before it asks again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use iroh::SecretKey;
use serde_json::json;
use tokio::task::{LocalSet, spawn_local};

use crate::client::{Client, ClientConfig, ClientTuning};
use crate::command::{Command, Query};
use crate::production::cli::{CliError, Outcome, Output};
use crate::production::client::{ClientOptions, HttpClient};
use crate::production::env::RealEnv;
use crate::production::http::status::NodeInfo;
use crate::production::secret::{self, ClusterSecret};
use crate::production::transport::gate::Open;
use crate::production::transport::{IrohTransport, TransportConfig};
use crate::transport::Transport as _;
use crate::types::Address;

#[derive(Debug, Args)]
pub struct BenchArguments {
    /// How the clients ask
    #[arg(long, value_enum, default_value_t = By::Http)]
    transport: By,
    /// The cluster's secret, needed for --transport iroh
    #[arg(long, value_name = "FILE")]
    cookie_file: Option<PathBuf>,
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// Bytes
    #[arg(long, default_value_t = 128)]
    value_size: usize,
    #[arg(long, value_enum, default_value_t = Mode::Put)]
    mode: Mode,
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
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
    async fn put(&self, key: String, value: Vec<u8>) -> bool {
        let command = Command::Set { key: key.into_bytes(), value };
        match self {
            Asker::Http(client) => client.execute(command).await.is_ok(),
            Asker::Iroh(client) => client.execute(command).await.is_ok(),
        }
    }

    async fn get(&self, key: String) -> bool {
        match self {
            Asker::Http(client) => client.read(key.as_str().into(), None).await.is_ok(),
            Asker::Iroh(client) => client.query(Query::Get { key: key.into_bytes() }).await.is_ok(),
        }
    }
}

pub(super) async fn run(arguments: BenchArguments, options: ClientOptions, endpoints: Vec<String>) -> Outcome {
    let options = ClientOptions { session: false, ..options };
    let client = HttpClient::new(endpoints, options);
    // Whoever is asked, the clients begin at the leader.
    let info: NodeInfo = client.get("/node-info").await?;
    let (asker, transport) = match arguments.transport {
        By::Http => (Asker::Http(at_leader(&client).await?), None),
        By::Iroh => {
            let (client, transport) = over_iroh(&arguments, &info).await?;
            (Asker::Iroh(client), Some(transport))
        }
    };
    let arguments = Arc::new(arguments);
    let begin = Instant::now() + WARM_UP;
    let end = begin + Duration::from_secs_f64(arguments.seconds);
    // One thread: the servers that are measured want the others.
    let (all, errors) = LocalSet::new().run_until(all_clients(asker, arguments.clone(), begin, end)).await?;
    let took = begin.elapsed();
    if let Some(transport) = transport {
        transport.close();
        transport.closed(FAREWELL).await;
    }
    Ok(report(&arguments, &all, errors, took))
}

async fn all_clients(
    asker: Asker,
    arguments: Arc<BenchArguments>,
    begin: Instant,
    end: Instant,
) -> Result<(Histogram<u64>, u64), CliError> {
    let mut tasks = Vec::new();
    for client in 0..arguments.clients {
        let (asker, arguments) = (asker.clone(), arguments.clone());
        let seed = u64::try_from(client).unwrap_or(0);
        tasks.push(spawn_local(async move { one_client(asker, &arguments, seed, begin, end).await }));
    }
    let mut all = histogram();
    let mut errors = 0;
    for task in tasks {
        let (measured, failed) = task.await.map_err(|error| CliError::Failed(error.to_string()))?;
        all.add(measured).map_err(|error| CliError::Failed(error.to_string()))?;
        errors += failed;
    }
    Ok((all, errors))
}

/// A client that asks the leader first.
async fn at_leader(client: &HttpClient) -> Result<HttpClient, CliError> {
    let reply: crate::production::http::status::LeaderReply = client.get("/leader").await?;
    if let Some(http) = reply.leader.http {
        client.prefer(format!("http://{http}"));
    }
    Ok(client.clone())
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

async fn one_client(
    asker: Asker,
    arguments: &BenchArguments,
    seed: u64,
    begin: Instant,
    end: Instant,
) -> (Histogram<u64>, u64) {
    let mut measured = histogram();
    let mut errors = 0;
    let mut random = mix(seed);
    loop {
        random = mix(random);
        let asked = Instant::now();
        if asked >= end {
            return (measured, errors);
        }
        let key = format!("key-{:012}", random % arguments.keys.max(1));
        let write = match arguments.mode {
            Mode::Put => true,
            Mode::Get => false,
            Mode::Mixed => random >> 32 & 0xff < 26,
        };
        let done = if write { asker.put(key, vec![b'v'; arguments.value_size]).await } else { asker.get(key).await };
        if !done {
            errors += 1;
        } else if asked >= begin {
            measured.saturating_record(u64::try_from(asked.elapsed().as_micros()).unwrap_or(LONGEST_US));
        }
    }
}

fn report(arguments: &BenchArguments, all: &Histogram<u64>, errors: u64, took: Duration) -> Output {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let per_second = all.len().saturating_mul(1_000_000) / micros;
    let at = |quantile: f64| all.value_at_quantile(quantile);
    let json = json!({
        "sync": "every commit",
        "transport": format!("{:?}", arguments.transport).to_lowercase(),
        "mode": format!("{:?}", arguments.mode).to_lowercase(),
        "clients": arguments.clients,
        "value_size": arguments.value_size,
        "operations": all.len(),
        "errors": errors,
        "ops_per_second": per_second,
        "latency_us": { "p50": at(0.5), "p99": at(0.99), "p999": at(0.999), "max": all.max() },
    });
    let text = format!(
        "sync every commit, {:?} over {:?}, {} clients, {} bytes\n{per_second} operations/s, p50 {} us, p99 {} us, \
         p99.9 {} us, {errors} errors",
        arguments.mode,
        arguments.transport,
        arguments.clients,
        arguments.value_size,
        at(0.5),
        at(0.99),
        at(0.999),
    );
    Output { json, text, good: errors == 0 }
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
