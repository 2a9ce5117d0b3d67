//! Every option of `aspen-node`, in one table.

use clap::{Arg, ArgAction, Command};

/// An option. Its environment name is `ASPEN_` and the name in upper snake case; in the file it has the same name.
#[derive(Clone, Copy, Debug)]
pub struct OptionSpec {
    pub name: &'static str,
    /// What the value is called in the help; empty for a switch.
    pub value: &'static str,
    /// Empty: there is none.
    pub default: &'static str,
    pub about: &'static str,
    /// A credential: only from the environment, or a file whose name is another option. Never shown.
    pub secret: bool,
}

const fn option(name: &'static str, value: &'static str, default: &'static str, about: &'static str) -> OptionSpec {
    OptionSpec { name, value, default, about, secret: false }
}

const fn secret(name: &'static str, about: &'static str) -> OptionSpec {
    OptionSpec { name, value: "SECRET", default: "", about, secret: true }
}

/// Variables of the command `aspen`, which one environment may hold too.
pub const CLIENT_VARIABLES: [&str; 1] = ["ASPEN_ENDPOINT"];

/// All of them, in the order of the help.
pub const OPTIONS: &[OptionSpec] = &[
    option("config", "FILE", "", "TOML file with any of these options, under the same names"),
    option("dev", "", "", "A single node that forms a cluster of its own, with no configuration"),
    option("node-id", "ID", "", "This node's id; never reused. Left out: stored, or given by the cluster"),
    option("data-dir", "DIR", "aspen-data", "Where the node keeps everything; nobody else may use it"),
    option("http-addr", "IP:PORT", "127.0.0.1:8080", "Where the HTTP interface listens"),
    option(
        "http-advertise",
        "HOST:PORT",
        "",
        "Where clients reach http-addr, if not there; told to them by other nodes",
    ),
    option("bind-addr", "IP:PORT", "127.0.0.1:7080", "Where QUIC listens, for other nodes"),
    option("advertise-addr", "HOST:PORT", "", "Where other nodes reach bind-addr, if not there"),
    option("peers", "KEY@HOST:PORT,...", "", "Nodes to let in and to find"),
    option("expect", "N", "", "Form a new cluster, and make those who join it with a ticket voters until it has N"),
    option("ticket-out", "FILE", "", "With expect: write a ticket for the other nodes to this file"),
    option("ticket-file", "FILE", "", "Join the cluster whose ticket this file holds"),
    secret("ticket", "The ticket itself"),
    option("cookie-file", "FILE", "", "The cluster's secret, the same at every node; made in data-dir if left out"),
    secret("cookie", "The cluster's secret itself"),
    option("http-token-file", "FILE", "", "The bearer token of the HTTP interface; made in data-dir if left out"),
    secret("http-token", "The token itself"),
    option("relay-url", "URL", "", "An iroh relay to use; none is contacted otherwise"),
    option("heartbeat-interval-ms", "MS", "100", "Interval of the leader's heartbeats"),
    option("election-timeout-min-ms", "MS", "500", "A follower waits at least so long for a heartbeat"),
    option("election-timeout-max-ms", "MS", "1000", "and at most so long; also the leader's lease"),
    option("snapshot-entries", "N", "20000", "A snapshot is taken after so many committed entries"),
    option(
        "snapshot-bytes",
        "N",
        "67108864",
        "and after so many bytes of entries since the last one; 0: whatever their size",
    ),
    option("snapshot-age-ms", "MS", "0", "and when the last one is so old and something was applied since; 0: never"),
    option("proposals-in-flight-max", "N", "1000", "Writes in progress; more are refused"),
    option("request-timeout-ms", "MS", "10000", "A request is answered after so long, whatever its outcome"),
    option("stop-timeout-ms", "MS", "5000", "A graceful stop takes no longer"),
    option(
        "worker-threads",
        "N",
        "1",
        "Threads for HTTP, Raft and the network; more than 2 CPUs may be worth more than 1",
    ),
    option("log", "FILTER", "info,openraft=error,iroh=error,noq=error", "What is logged to standard error"),
];

impl OptionSpec {
    pub fn env_name(&self) -> String {
        format!("ASPEN_{}", self.name.replace('-', "_").to_uppercase())
    }

    pub fn is_switch(&self) -> bool {
        self.value.is_empty()
    }

    fn arg(&self) -> Arg {
        let mut help = self.about.to_owned();
        if !self.default.is_empty() {
            help.push_str(&format!(" [default: {}]", self.default));
        }
        let arg = Arg::new(self.name).long(self.name).help(help).global(true);
        if self.is_switch() {
            arg.action(ArgAction::SetTrue)
        } else {
            arg.value_name(self.value).action(ArgAction::Set)
        }
    }
}

/// The command line of `aspen-node`.
pub fn command() -> Command {
    let options = OPTIONS.iter().filter(|option| !option.secret).map(OptionSpec::arg);
    Command::new("aspen-node")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A node of aspen, the replicated key-value store")
        .after_help(EXAMPLES)
        .args(options)
        .subcommand(
            Command::new("config")
                .about("Print the values in force and where each came from")
                .arg(Arg::new("json").long("json").help("As one JSON object").action(ArgAction::SetTrue)),
        )
        .subcommand(Command::new("key").about("Print this node's public key, which is made if there is none"))
}

const EXAMPLES: &str = "\
Every option is also an environment variable (ASPEN_HTTP_ADDR) and a line of the file (http-addr = \"...\"). The
command line overrules the file, the file the environment. Secrets: ASPEN_TICKET, ASPEN_COOKIE, ASPEN_HTTP_TOKEN, or the
files named above.

Examples:
  aspen-node --dev
  aspen-node --data-dir n1 --expect 3 --ticket-out ticket
  aspen-node --data-dir n2 --ticket-file ticket --http-addr 127.0.0.1:8081 --bind-addr 127.0.0.1:7081
  aspen-node config --config /etc/aspen.toml";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed_and_takes_no_secret() {
        command().debug_assert();
        for option in OPTIONS.iter().filter(|option| option.secret) {
            let argument = format!("--{}", option.name);
            assert!(command().try_get_matches_from(["aspen-node", &argument, "x"]).is_err(), "{argument}");
        }
    }

    #[test]
    fn names_are_those_of_the_environment() {
        let find = |name| OPTIONS.iter().find(|option| option.name == name).unwrap();
        assert_eq!(find("http-token-file").env_name(), "ASPEN_HTTP_TOKEN_FILE");
        assert_eq!(find("ticket").env_name(), "ASPEN_TICKET");
    }
}
