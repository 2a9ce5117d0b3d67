//! What an earlier start left in the data directory, and whether the configuration fits it. Nothing is made here, so that a
//! start that is refused leaves no trace.

use std::path::Path;

use iroh::SecretKey;

use crate::message::ClusterId;
use crate::production::config::check::{Checker, Secret, Settings};
use crate::production::daemon::{COOKIE_FILE, Identity, IdentityError, KEY_FILE, TOKEN_FILE};
use crate::production::membership::now_s;
use crate::production::secret::{self, ClusterSecret, SecretError};
use crate::production::ticket::{Ticket, TicketError};

/// What is kept, each part with its own reason why it cannot be read.
#[derive(Debug)]
pub struct Kept {
    pub identity: Result<Option<Identity>, IdentityError>,
    pub key: Result<Option<SecretKey>, SecretError>,
    pub cookie: Result<Option<String>, SecretError>,
    pub token: Result<Option<String>, SecretError>,
}

impl Kept {
    pub fn read(dir: &Path) -> Kept {
        Kept {
            identity: Identity::read(dir),
            key: secret::node_key_if_there(&dir.join(KEY_FILE)),
            cookie: secret::read_if_there(&dir.join(COOKIE_FILE)),
            token: secret::read_if_there(&dir.join(TOKEN_FILE)),
        }
    }

    /// Whether a node has lived here, also if it cannot be told which.
    pub fn is_known(&self) -> bool {
        !matches!(self.identity, Ok(None))
    }

    /// Why no node can go on with the key and the identity that are here.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Err(error) = &self.identity {
            problems.push(format!("{error}; {REPLACE}"));
        }
        match &self.key {
            Err(error) => problems.push(format!("{error}; {REPLACE}")),
            Ok(None) if self.is_known() => problems.push(format!(
                "{KEY_FILE} is missing, but a node has lived here: with another key its peers would not know it; {REPLACE}"
            )),
            Ok(_) => {}
        }
        problems
    }
}

const REPLACE: &str = "bring the file back, or remove this node from the cluster and add one with a new id and an empty \
                       directory in its place";

/// Looks for what does not fit. `joins`: a ticket was named.
pub(super) fn check(checker: &mut Checker<'_>, settings: &Settings, joins: bool, kept: Kept, said: Option<Ticket>) {
    if settings.data_dir.as_os_str().is_empty() {
        return;
    }
    if settings.data_dir.exists() && !settings.data_dir.is_dir() {
        checker.fatal("data-dir", format!("{} is no directory", settings.data_dir.display()));
        return;
    }
    kept.problems().into_iter().for_each(|problem| checker.fatal("data-dir", problem));
    if settings.http_token.is_none()
        && let Err(error) = &kept.token
    {
        checker.fatal("http-token-file", error.to_string());
    }
    if settings.cookie.is_none()
        && let Err(error) = &kept.cookie
    {
        checker.fatal("cookie-file", error.to_string());
    }
    let is_known = kept.is_known();
    let identity = kept.identity.ok().flatten();
    match (&identity, settings.node_id) {
        (Some(known), Some(id)) if known.node_id != id && !joins => {
            checker.fatal("node-id", format!("the data directory is of node {}, not of node {id}", known.node_id));
        }
        (None, None) if !is_known && !joins && settings.expect.is_none() && checker.is_unset("node-id") => {
            let message = "the node has no id: name one, or join a cluster with a ticket (--ticket-file), or form one \
                           (--expect N, or --dev)";
            checker.fatal("node-id", message);
        }
        _ => {}
    }
    if settings.expect.is_some() && identity.as_ref().is_some_and(Identity::has_joined) {
        checker.fatal("expect", "the node of this data directory has joined a cluster: it forms none");
    }
    if !is_known && said.as_ref().is_some_and(|said| said.expires_at <= now_s()) {
        checker.fatal("ticket", TicketError::Expired.to_string());
    }
    let cookie = settings.cookie.as_ref().map(|Secret(text)| text.clone());
    let cookie = cookie.or(kept.cookie.ok().flatten());
    if let Err(problem) = cluster_of(identity.as_ref(), said.as_ref(), cookie.as_deref()) {
        checker.fatal("data-dir", problem);
    }
}

/// The cluster that all we have speaks of; `None` if nothing does.
pub fn cluster_of(
    known: Option<&Identity>,
    ticket: Option<&Ticket>,
    cookie: Option<&str>,
) -> Result<Option<ClusterId>, String> {
    let named = [
        ("the data directory", known.map(Identity::cluster)),
        ("the cookie", cookie.map(|text| ClusterSecret::new(text).cluster())),
        ("the ticket", ticket.map(|ticket| ticket.cluster)),
    ];
    let mut named = named.into_iter().filter_map(|(what, cluster)| Some((what, cluster?)));
    let Some((first, cluster)) = named.next() else { return Ok(None) };
    match named.find(|(_, other)| *other != cluster) {
        None => Ok(Some(cluster)),
        Some((second, other)) => Err(format!(
            "{first} is of cluster {cluster}, but {second} is of cluster {other}: one of them is the wrong one"
        )),
    }
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;

    use super::*;
    use crate::production::config::{Finding, Severity, command, load_from, settings};
    use crate::production::transport::Place;

    const COOKIE: &str = "the secret of the test cluster";

    fn fatal(dir: &Path, arguments: &[&str]) -> Vec<Finding> {
        let dir = dir.to_str().unwrap();
        let all = ["aspen-node", "--data-dir", dir].into_iter().chain(arguments.iter().copied());
        let matches = command().try_get_matches_from(all).unwrap();
        let (_, findings) = settings(&load_from(&matches, []).unwrap());
        findings.into_iter().filter(|finding| finding.severity == Severity::Fatal).collect()
    }

    fn says(findings: &[Finding], option: &str, what: &str) -> bool {
        findings.iter().any(|found| found.option == option && found.message.contains(what))
    }

    fn identity() -> Identity {
        let cluster = ClusterSecret::new(COOKIE).cluster().0;
        Identity { node_id: 5, cluster, peers: Vec::new(), served: true, expect: None }
    }

    fn ticket(dir: &Path, cookie: &str, expires_at: u64) -> String {
        let secret = ClusterSecret::new(cookie);
        let peers = vec![Place::new(SecretKey::from_bytes(&[7; 32]).public(), "127.0.0.1:1")];
        let ticket = Ticket { cluster: secret.cluster(), peers, expires_at, join_id: [1; 16], uses: 1 };
        let path = dir.join(format!("ticket-{expires_at}"));
        secret::write(&path, &ticket.issue(&secret)).unwrap();
        path.display().to_string()
    }

    #[test]
    fn a_directory_that_was_lived_in_keeps_its_node() {
        let dir = tempfile::tempdir().unwrap();
        identity().write(dir.path()).unwrap();
        assert!(says(&fatal(dir.path(), &[]), "data-dir", "node.key is missing"));
        secret::node_key(&dir.path().join(KEY_FILE)).unwrap();
        assert_eq!(fatal(dir.path(), &[]), []);
        assert_eq!(fatal(dir.path(), &["--node-id", "5"]), []);
        assert!(says(&fatal(dir.path(), &["--node-id", "6"]), "node-id", "of node 5, not of node 6"));
        std::fs::write(dir.path().join(TOKEN_FILE), "short").unwrap();
        std::fs::write(dir.path().join(COOKIE_FILE), "of some other cluster").unwrap();
        let findings = fatal(dir.path(), &[]);
        assert!(says(&findings, "http-token-file", "16 characters") && says(&findings, "data-dir", "the wrong one"));
        let joined = Identity { peers: vec!["somebody".to_owned()], ..identity() };
        joined.write(dir.path()).unwrap();
        assert!(says(&fatal(dir.path(), &["--expect", "3"]), "expect", "has joined"));
        std::fs::write(dir.path().join("identity.json"), "{").unwrap();
        assert!(says(&fatal(dir.path(), &[]), "data-dir", "identity.json"));
    }

    #[test]
    fn a_ticket_that_lets_nobody_in_is_refused_unless_it_is_not_needed() {
        let dir = tempfile::tempdir().unwrap();
        let (old, good) = (ticket(dir.path(), COOKIE, 1000), ticket(dir.path(), COOKIE, u64::MAX));
        let other = ticket(dir.path(), "the secret of another cluster", u64::MAX - 1);
        let cut = dir.path().join("cut");
        std::fs::write(&cut, &std::fs::read_to_string(&good).unwrap()[..60]).unwrap();
        let home = dir.path().join("home");
        assert!(says(&fatal(&home, &["--ticket-file", &old]), "ticket", "has expired"));
        assert!(says(&fatal(&home, &["--ticket-file", cut.to_str().unwrap()]), "ticket", "damaged"));
        assert_eq!(fatal(&home, &["--ticket-file", &good]), []);
        std::fs::create_dir(&home).unwrap();
        identity().write(&home).unwrap();
        secret::node_key(&home.join(KEY_FILE)).unwrap();
        for unneeded in [&old, cut.to_str().unwrap(), "/nowhere"] {
            assert_eq!(fatal(&home, &["--ticket-file", unneeded]), [], "{unneeded}");
        }
        assert!(says(&fatal(&home, &["--ticket-file", &other]), "data-dir", "the wrong one"));
    }
}
