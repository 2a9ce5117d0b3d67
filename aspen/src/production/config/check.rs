//! From texts to [`Settings`]: everything that is wrong is said at once.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;

use crate::config::RaftTuning;
use crate::production::config::directory;
use crate::production::config::load::Values;
use crate::production::config::options::OPTIONS;
use crate::production::secret::{self, SECRET_BYTES_MIN, is_exposed, is_too_short};
use crate::production::ticket::Ticket;
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
    pub http_advertise: Option<String>,
    pub bind_addr: SocketAddr,
    pub advertise_addr: Option<String>,
    pub peers: Vec<Place>,
    /// Form a new cluster of so many voters.
    pub expect: Option<usize>,
    pub ticket_out: Option<PathBuf>,
    pub ticket: Option<Secret>,
    pub cookie: Option<Secret>,
    pub http_token: Option<Secret>,
    pub relay_url: Option<iroh::RelayUrl>,
    pub raft: RaftTuning,
    pub store: StoreConfig,
    /// Of the runtime; 1 to 64.
    pub worker_threads: usize,
    pub log: String,
}

/// A credential. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

pub(super) struct Checker<'a> {
    values: &'a Values,
    findings: Vec<Finding>,
}

impl Checker<'_> {
    pub(super) fn find(&mut self, severity: Severity, option: &str, message: impl Into<String>) {
        self.findings.push(Finding { severity, option: option.to_owned(), message: message.into() });
    }

    pub(super) fn fatal(&mut self, option: &str, message: impl Into<String>) {
        self.find(Severity::Fatal, option, message);
    }

    pub(super) fn warn(&mut self, option: &str, message: impl Into<String>) {
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

    /// `true`, `false`, `1` or `0`.
    fn switch(&mut self, option: &str) -> bool {
        match self.values.text(option) {
            None | Some("false" | "0") => false,
            Some("true" | "1") => true,
            Some(other) => {
                let message = format!("{other:?} is neither true nor false");
                self.fatal(option, message);
                false
            }
        }
    }

    pub(super) fn is_unset(&self, option: &str) -> bool {
        self.values.text(option).is_none()
    }

    /// Whether a credential was named, be it of use or not.
    fn is_given(&self, option: &str, file_option: &str) -> bool {
        self.values.text(option).is_some() || self.values.text(file_option).is_some()
    }

    /// A credential that can be used. `severity` is that of one that cannot.
    fn secret(&mut self, option: &str, file_option: &str, severity: Severity) -> Option<Secret> {
        match (self.text(option), self.text(file_option)) {
            (Some(_), Some(_)) => {
                self.fatal(file_option, format!("{} is set too: use one of them", option_env(option)));
                None
            }
            (Some(text), None) => {
                let text = text.trim().to_owned();
                if is_too_short(&text) {
                    let message = format!("it has {} characters, {SECRET_BYTES_MIN} are needed at least", text.len());
                    self.find(severity, &option_env(option), message);
                    return None;
                }
                Some(Secret(text))
            }
            (None, Some(path)) => {
                let path = PathBuf::from(path);
                if is_exposed(&path) {
                    self.warn(file_option, format!("{} can be read by others: chmod 600", path.display()));
                }
                let read = secret::read(&path);
                read.map(Secret).map_err(|error| self.find(severity, file_option, error.to_string())).ok()
            }
            (None, None) => None,
        }
    }

    /// What the ticket says.
    fn ticket(&mut self, ticket: &Option<Secret>, severity: Severity) -> Option<Ticket> {
        let Secret(text) = ticket.as_ref()?;
        Ticket::parse(text).map_err(|error| self.find(severity, "ticket", error.to_string())).ok()
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
    let dev = checker.switch("dev");
    for name in checker.values.not_text.clone() {
        checker.fatal(&name, "the variable is not UTF-8");
    }
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
    let http_advertise = checker.text("http-advertise");
    if let Some(Err(problem)) = http_advertise.as_deref().map(check_at) {
        checker.fatal("http-advertise", format!("it is not HOST:PORT: {problem}"));
    }
    let data_dir = PathBuf::from(checker.text("data-dir").unwrap_or_default());
    let kept = directory::Kept::read(&data_dir);
    // A node that is known has joined: its ticket is not needed any more.
    let of_ticket = if kept.is_known() { Severity::Warning } else { Severity::Fatal };
    let ticket = checker.secret("ticket", "ticket-file", of_ticket);
    let said = checker.ticket(&ticket, of_ticket);
    let settings = Settings {
        dev,
        node_id: checker.parse("node-id", "a number"),
        data_dir,
        http_addr: checker.address("http-addr"),
        http_advertise,
        bind_addr: checker.address("bind-addr"),
        advertise_addr,
        peers: places,
        expect: checker.parse("expect", "a number of nodes").or(dev.then_some(1)),
        ticket_out: checker.text("ticket-out").map(PathBuf::from),
        // One that cannot be read is of no use to a node that does not need it.
        ticket: ticket.filter(|_| said.is_some()),
        cookie: checker.secret("cookie", "cookie-file", Severity::Fatal),
        http_token: checker.secret("http-token", "http-token-file", Severity::Fatal),
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
    let settings = together(checker, settings);
    let joins = checker.is_given("ticket", "ticket-file");
    directory::check(checker, &settings, joins, kept, said);
    settings
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
    let joins = checker.is_given("ticket", "ticket-file");
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
        if !checker.is_given("http-token", "http-token-file") {
            checker.fatal("http-addr", "beyond loopback a token is needed: name one with --http-token-file");
        }
        checker.warn("http-addr", "HTTP is not encrypted: put a proxy with TLS before it, or use a private network");
    }
    if settings.bind_addr.ip().is_unspecified() && settings.advertise_addr.is_none() {
        checker.fatal("bind-addr", "other nodes cannot dial it: say where they reach it with --advertise-addr");
    }
    if let Some(Secret(token)) = &settings.http_token
        && !token.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
    {
        checker.fatal("http-token", "a header cannot carry it: printable characters of ASCII are allowed");
    }
    if let Err(error) = EnvFilter::try_new(&settings.log) {
        checker.fatal("log", format!("{:?}: {error}", settings.log));
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

    /// Of a node that has an id.
    fn check(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<Settings>, Vec<Finding>) {
        let named = [&[("ASPEN_NODE_ID", "1")], variables].concat();
        check_nameless(arguments, &named)
    }

    fn check_nameless(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<Settings>, Vec<Finding>) {
        let arguments = std::iter::once("aspen-node").chain(arguments.iter().copied());
        let matches = command().try_get_matches_from(arguments).unwrap();
        let variables = variables.iter().map(|(name, text)| (name.to_string(), text.to_string()));
        settings(&load_from(&matches, variables).unwrap())
    }

    fn is_fatal(findings: &[Finding], option: &str) -> bool {
        findings.iter().any(|found| found.severity == Severity::Fatal && found.option == option)
    }

    #[test]
    fn an_id_is_enough_of_a_configuration() {
        let (settings, findings) = check(&[], &[]);
        assert_eq!(findings, []);
        let settings = settings.unwrap();
        // Within what is simulated, but for a machine that is faster than one that is simulated.
        assert_eq!(settings.raft, RaftTuning { snapshot_entries: 20_000, ..RaftTuning::default() });
        assert!(settings.http_addr.ip().is_loopback() && settings.expect.is_none());
        let (settings, findings) = check_nameless(&[], &[]);
        assert!(settings.is_none() && is_fatal(&findings, "node-id"), "{findings:?}");
    }

    #[test]
    fn a_switch_is_true_or_false() {
        for on in ["true", "1"] {
            assert_eq!(check_nameless(&[], &[("ASPEN_DEV", on)]).0.unwrap().expect, Some(1), "{on}");
        }
        for off in ["false", "0"] {
            assert_eq!(check(&[], &[("ASPEN_DEV", off)]).0.unwrap().expect, None, "{off}");
        }
        assert_eq!(check_nameless(&["--dev"], &[("ASPEN_DEV", "0")]).0.unwrap().expect, Some(1));
        for wrong in ["yes", "", "TRUE"] {
            assert!(is_fatal(&check(&[], &[("ASPEN_DEV", wrong)]).1, "dev"), "{wrong}");
        }
    }

    /// From wherever a secret comes, it is as long as one must be; an empty one is a mistake rather than none.
    #[test]
    fn a_secret_that_can_be_guessed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let short = dir.path().join("short");
        std::fs::write(&short, "short\n").unwrap();
        for (file_option, variable) in
            [("cookie-file", "ASPEN_COOKIE"), ("http-token-file", "ASPEN_HTTP_TOKEN"), ("ticket-file", "ASPEN_TICKET")]
        {
            for text in ["", "  ", "abc", "fifteen letters"] {
                assert!(is_fatal(&check(&[], &[(variable, text)]).1, variable), "{variable}={text:?}");
            }
            let option = format!("--{file_option}");
            for path in [short.to_str().unwrap(), "/nowhere", ""] {
                assert!(is_fatal(&check(&[&option, path], &[]).1, file_option), "{option} {path:?}");
            }
        }
        assert!(check(&[], &[("ASPEN_COOKIE", "sixteen letters!")]).0.is_some());
        assert!(is_fatal(&check(&[], &[("ASPEN_HTTP_TOKEN", "sixteen\nletters!")]).1, "http-token"));
    }

    #[test]
    fn every_mistake_is_fatal_and_names_its_option() {
        let cases: [(&[&str], &str); 25] = [
            (&["--node-id", "one"], "node-id"),
            (&["--node-id", "0"], "node-id"),
            (&["--data-dir", ""], "data-dir"),
            (&["--http-addr", "localhost"], "http-addr"),
            (&["--http-addr", "0.0.0.0:80"], "http-addr"),
            (&["--bind-addr", "7080"], "bind-addr"),
            (&["--bind-addr", "0.0.0.0:7080"], "bind-addr"),
            (&["--advertise-addr", "host"], "advertise-addr"),
            (&["--http-advertise", "host"], "http-advertise"),
            (&["--peers", "127.0.0.1:1"], "peers"),
            (&["--expect", "0"], "expect"),
            (&["--expect", "3", "--ticket-file", "t"], "expect"),
            (&["--ticket-out", "t"], "ticket-out"),
            (&["--relay-url", "no url"], "relay-url"),
            (&["--heartbeat-interval-ms", "0"], "raft"),
            (&["--election-timeout-min-ms", "5000"], "raft"),
            (&["--election-timeout-min-ms", "1000", "--election-timeout-max-ms", "1000"], "raft"),
            (&["--log", "info,=x=y"], "log"),
            (&["--data-dir", "/dev/null"], "data-dir"),
            (&["--cookie-file", "/nowhere"], "cookie-file"),
            (&["--proposals-in-flight-max", "10001"], "proposals-in-flight-max"),
            (&["--worker-threads", "0"], "worker-threads"),
            (&["--worker-threads", "65"], "worker-threads"),
            (&["--snapshot-bytes", "64MiB"], "snapshot-bytes"),
            (&["--snapshot-age-ms", "never"], "snapshot-age-ms"),
        ];
        for (arguments, option) in cases {
            let (settings, findings) = check(arguments, &[]);
            assert!(settings.is_none(), "{arguments:?}");
            assert!(is_fatal(&findings, option), "{arguments:?}: {findings:?}");
        }
    }

    #[test]
    fn all_mistakes_are_said_at_once() {
        let wrong =
            ["--node-id", "x", "--http-addr", "y", "--bind-addr", "z", "--cookie-file", "/nowhere", "--log", "=="];
        let (_, findings) = check(&wrong, &[]);
        assert_eq!(findings.len(), 5, "{findings:?}");
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
