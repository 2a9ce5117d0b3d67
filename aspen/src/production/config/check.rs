//! From texts to [`Settings`]: everything that is wrong is said at once.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use crate::config::RaftTuning;
use crate::production::config::load::Values;
use crate::production::config::options::OPTIONS;
use crate::production::secret::is_exposed;
use crate::production::transport::{Place, check_at};
use crate::store::StoreConfig;
use crate::types::NodeId;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Warning,
    /// The node does not start.
    Fatal,
}

/// Something about the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    pub option: String,
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = if self.severity == Severity::Fatal { "error" } else { "warning" };
        write!(f, "{severity}: {}: {}", self.option, self.message)
    }
}

/// What `aspen-node` runs with.
#[derive(Clone, Debug)]
pub struct Settings {
    pub dev: bool,
    pub node_id: Option<NodeId>,
    pub data_dir: PathBuf,
    pub http_addr: SocketAddr,
    pub bind_addr: SocketAddr,
    pub advertise_addr: Option<String>,
    pub peers: Vec<Place>,
    /// Form a new cluster of so many voters.
    pub expect: Option<usize>,
    pub ticket_out: Option<PathBuf>,
    pub ticket: Secret,
    pub cookie: Secret,
    pub http_token: Secret,
    pub relay_url: Option<iroh::RelayUrl>,
    pub raft: RaftTuning,
    pub store: StoreConfig,
    /// Of the runtime; 1 to 64.
    pub worker_threads: usize,
    pub log: String,
}

/// A credential: itself, or the file that holds it.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Secret {
    #[default]
    None,
    Text(String),
    File(PathBuf),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::None => f.write_str("None"),
            Secret::Text(_) => f.write_str("(hidden)"),
            Secret::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

struct Checker<'a> {
    values: &'a Values,
    findings: Vec<Finding>,
}

impl Checker<'_> {
    fn find(&mut self, severity: Severity, option: &str, message: impl Into<String>) {
        self.findings.push(Finding { severity, option: option.to_owned(), message: message.into() });
    }

    fn fatal(&mut self, option: &str, message: impl Into<String>) {
        self.find(Severity::Fatal, option, message);
    }

    fn warn(&mut self, option: &str, message: impl Into<String>) {
        self.find(Severity::Warning, option, message);
    }

    fn text(&self, option: &str) -> Option<String> {
        self.values.text(option).map(str::to_owned)
    }

    /// The value, if there is one and it is what it should be.
    fn parse<T: FromStr>(&mut self, option: &str, expected: &str) -> Option<T> {
        let text = self.text(option)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.fatal(option, format!("{text:?} is not {expected}"));
        }
        parsed
    }

    fn number(&mut self, option: &str) -> u64 {
        self.parse(option, "a number").unwrap_or(1)
    }

    fn address(&mut self, option: &str) -> SocketAddr {
        self.parse(option, "IP:PORT").unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    fn secret(&mut self, option: &str, file_option: &str) -> Secret {
        match (self.text(option), self.text(file_option)) {
            (Some(_), Some(_)) => {
                self.fatal(file_option, format!("{} is set too: use one of them", option_env(option)));
                Secret::None
            }
            (Some(text), None) => Secret::Text(text),
            (None, Some(path)) => {
                let path = PathBuf::from(path);
                if is_exposed(&path) {
                    self.warn(file_option, format!("{} can be read by others: chmod 600", path.display()));
                }
                Secret::File(path)
            }
            (None, None) => Secret::None,
        }
    }
}

fn option_env(name: &str) -> String {
    OPTIONS.iter().find(|option| option.name == name).map_or(String::new(), |option| option.env_name())
}

const WORKER_THREADS_MAX: usize = 64;

/// Checks all values together. With a fatal finding there are no settings.
pub fn settings(values: &Values) -> (Option<Settings>, Vec<Finding>) {
    let mut checker = Checker { values, findings: Vec::new() };
    let settings = check(&mut checker);
    let fatal = checker.findings.iter().any(|finding| finding.severity == Severity::Fatal);
    (Some(settings).filter(|_| !fatal), checker.findings)
}

fn check(checker: &mut Checker<'_>) -> Settings {
    let dev = checker.values.is_on("dev");
    for name in checker.values.unknown_variables.clone() {
        checker.warn(&name, "it looks like an option, but there is none of this name");
    }
    let peers = checker.text("peers").unwrap_or_default();
    let mut places = Vec::new();
    for text in peers.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        match text.parse::<Place>() {
            Ok(place) => places.push(place),
            Err(error) => checker.fatal("peers", error.to_string()),
        }
    }
    let advertise_addr = checker.text("advertise-addr");
    if let Some(Err(problem)) = advertise_addr.as_deref().map(check_at) {
        checker.fatal("advertise-addr", format!("it is not HOST:PORT: {problem}"));
    }
    let settings = Settings {
        dev,
        node_id: checker.parse("node-id", "a number"),
        data_dir: PathBuf::from(checker.text("data-dir").unwrap_or_default()),
        http_addr: checker.address("http-addr"),
        bind_addr: checker.address("bind-addr"),
        advertise_addr,
        peers: places,
        expect: checker.parse("expect", "a number of nodes").or(dev.then_some(1)),
        ticket_out: checker.text("ticket-out").map(PathBuf::from),
        ticket: checker.secret("ticket", "ticket-file"),
        cookie: checker.secret("cookie", "cookie-file"),
        http_token: checker.secret("http-token", "http-token-file"),
        relay_url: checker.parse("relay-url", "a URL"),
        raft: RaftTuning {
            heartbeat_ms: checker.number("heartbeat-interval-ms"),
            election_min_ms: checker.number("election-timeout-min-ms"),
            election_max_ms: checker.number("election-timeout-max-ms"),
            snapshot_entries: checker.number("snapshot-entries"),
            snapshot_bytes: checker.number("snapshot-bytes"),
            snapshot_age_ms: checker.number("snapshot-age-ms"),
            request_timeout_ms: checker.number("request-timeout-ms"),
            stop_timeout_ms: checker.number("stop-timeout-ms"),
            ..RaftTuning::default()
        },
        store: StoreConfig::default(),
        worker_threads: checker.parse("worker-threads", "a number").unwrap_or(1),
        log: checker.text("log").unwrap_or_default(),
    };
    together(checker, settings)
}

/// What concerns more than one value.
fn together(checker: &mut Checker<'_>, mut settings: Settings) -> Settings {
    let in_flight = checker.number("proposals-in-flight-max");
    settings.store.limits.proposals_in_flight_max = usize::try_from(in_flight).unwrap_or(usize::MAX);
    if let Err(error) = settings.raft.validate() {
        checker.fatal("raft", error.message);
    }
    let ceiling = crate::limits::PROPOSALS_IN_FLIGHT_CEILING;
    if !(1..=ceiling).contains(&settings.store.limits.proposals_in_flight_max) {
        checker.fatal("proposals-in-flight-max", format!("{in_flight}: 1 to {ceiling} are allowed"));
    }
    if settings.data_dir.as_os_str().is_empty() {
        checker.fatal("data-dir", "it is empty");
    }
    if !(1..=WORKER_THREADS_MAX).contains(&settings.worker_threads) {
        checker.fatal("worker-threads", format!("1 to {WORKER_THREADS_MAX} are allowed"));
    }
    if settings.node_id == Some(0) {
        checker.fatal("node-id", "ids begin with 1");
    }
    let joins = settings.ticket != Secret::None;
    if joins && settings.expect.is_some() {
        checker.fatal("expect", "a node forms a new cluster or joins one with a ticket, not both");
    }
    if joins && settings.node_id.is_some() {
        checker.warn("node-id", "the cluster gives a node that joins with a ticket its id; this one is ignored");
    }
    if settings.ticket_out.is_some() && settings.expect.is_none() {
        checker.fatal("ticket-out", "only a node that forms a cluster (expect) writes a ticket at its start");
    }
    let voters_max = settings.store.limits.voters_max;
    if settings.expect.is_some_and(|expect| !(1..=voters_max).contains(&expect)) {
        checker.fatal("expect", format!("1 to {voters_max} voters are allowed"));
    }
    if settings.expect.is_some_and(|expect| expect % 2 == 0) {
        checker.warn("expect", "an even number of voters survives no more failures than one less");
    }
    if !settings.http_addr.ip().is_loopback() {
        if settings.http_token == Secret::None {
            checker.fatal("http-addr", "beyond loopback a token is needed: name one with --http-token-file");
        }
        checker.warn("http-addr", "HTTP is not encrypted: put a proxy with TLS before it, or use a private network");
    }
    if settings.bind_addr.ip().is_unspecified() && settings.advertise_addr.is_none() {
        checker.fatal("bind-addr", "other nodes cannot dial it: say where they reach it with --advertise-addr");
    }
    let interval = settings.raft.heartbeat_ms;
    if settings.raft.election_min_ms < 3 * interval {
        checker.warn("election-timeout-min-ms", "fewer than three heartbeats: one that is lost starts an election");
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::production::config::{command, load_from};

    fn check(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<Settings>, Vec<Finding>) {
        let arguments = std::iter::once("aspen-node").chain(arguments.iter().copied());
        let matches = command().try_get_matches_from(arguments).unwrap();
        let variables = variables.iter().map(|(name, text)| (name.to_string(), text.to_string()));
        settings(&load_from(&matches, variables).unwrap())
    }

    #[test]
    fn nothing_at_all_is_a_valid_configuration() {
        let (settings, findings) = check(&[], &[]);
        assert_eq!(findings, []);
        let settings = settings.unwrap();
        // Within what is simulated, but for a machine that is faster than one that is simulated.
        assert_eq!(settings.raft, RaftTuning { snapshot_entries: 20_000, ..RaftTuning::default() });
        assert!(settings.http_addr.ip().is_loopback() && settings.expect.is_none());
        assert_eq!(check(&["--dev"], &[]).0.unwrap().expect, Some(1));
    }

    #[test]
    fn every_mistake_is_fatal_and_names_its_option() {
        let cases: [(&[&str], &str); 20] = [
            (&["--node-id", "one"], "node-id"),
            (&["--node-id", "0"], "node-id"),
            (&["--data-dir", ""], "data-dir"),
            (&["--http-addr", "localhost"], "http-addr"),
            (&["--http-addr", "0.0.0.0:80"], "http-addr"),
            (&["--bind-addr", "7080"], "bind-addr"),
            (&["--bind-addr", "0.0.0.0:7080"], "bind-addr"),
            (&["--advertise-addr", "host"], "advertise-addr"),
            (&["--peers", "127.0.0.1:1"], "peers"),
            (&["--expect", "0"], "expect"),
            (&["--expect", "3", "--ticket-file", "t"], "expect"),
            (&["--ticket-out", "t"], "ticket-out"),
            (&["--relay-url", "no url"], "relay-url"),
            (&["--heartbeat-interval-ms", "0"], "raft"),
            (&["--election-timeout-min-ms", "5000"], "raft"),
            (&["--proposals-in-flight-max", "10001"], "proposals-in-flight-max"),
            (&["--worker-threads", "0"], "worker-threads"),
            (&["--worker-threads", "65"], "worker-threads"),
            (&["--snapshot-bytes", "64MiB"], "snapshot-bytes"),
            (&["--snapshot-age-ms", "never"], "snapshot-age-ms"),
        ];
        for (arguments, option) in cases {
            let (settings, findings) = check(arguments, &[]);
            assert!(settings.is_none(), "{arguments:?}");
            let fatal = findings.iter().any(|found| found.severity == Severity::Fatal && found.option == option);
            assert!(fatal, "{arguments:?}: {findings:?}");
        }
    }

    #[test]
    fn all_mistakes_are_said_at_once() {
        let (_, findings) = check(&["--node-id", "x", "--http-addr", "y", "--expect", "z"], &[]);
        assert_eq!(findings.len(), 3, "{findings:?}");
    }

    #[test]
    fn what_is_unwise_is_a_warning() {
        type Case = (&'static [&'static str], &'static [(&'static str, &'static str)], &'static str);
        let cases: [Case; 4] = [
            (&["--expect", "4"], &[], "expect"),
            (&["--election-timeout-min-ms", "250"], &[], "election-timeout-min-ms"),
            (&[], &[("ASPEN_HTTP_ADRR", "x")], "ASPEN_HTTP_ADRR"),
            (&["--http-addr", "0.0.0.0:80"], &[("ASPEN_HTTP_TOKEN", "long enough a token")], "http-addr"),
        ];
        for (arguments, variables, option) in cases {
            let (settings, findings) = check(arguments, variables);
            assert!(settings.is_some(), "{arguments:?}: {findings:?}");
            assert!(findings.iter().any(|found| found.option == option), "{arguments:?}: {findings:?}");
        }
    }

    #[test]
    fn a_credential_twice_is_a_mistake_and_never_printed() {
        let (settings, findings) = check(&["--http-token-file", "f"], &[("ASPEN_HTTP_TOKEN", "the secret token")]);
        assert!(settings.is_none());
        let (settings, _) = check(&[], &[("ASPEN_HTTP_TOKEN", "the secret token")]);
        assert!(!format!("{settings:?} {findings:?}").contains("the secret token"));
    }
}
