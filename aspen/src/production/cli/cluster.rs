//! `aspen member`, `leader`, `status`, `ticket`, `snapshot`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use futures_util::future::{join, join_all};
use serde_json::{Value, json};

use crate::production::cli::table::table;
use crate::production::cli::{CliError, Outcome, Output, Verdict};
use crate::production::client::HttpClient;
use crate::production::http::error::ErrorBody;
use crate::production::http::health::{HealthReport, Level};
use crate::production::http::status::{LeaderReply, NodeInfo, RaftStatus};
use crate::production::secret;
use crate::types::NodeId;

pub(super) const MEMBER_EXAMPLES: &str = "\
Examples (all but list need --token-file, or ASPEN_HTTP_TOKEN):
  aspen member list
  aspen member add KEY@10.0.0.4:7080
  aspen member promote 12
  aspen member promote 12 --replace 3
  aspen member remove 3";

pub(super) const TICKET_EXAMPLES: &str = "\
Examples (need --token-file, or ASPEN_HTTP_TOKEN):
  aspen ticket --out ticket
  aspen ticket --uses 2 --expires-in 600 --out ticket
  aspen-node --data-dir n4 --ticket-file ticket";

#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// Who is in the cluster
    List,
    /// Add a node as a learner
    Add {
        /// KEY@HOST:PORT, as the node prints it when it starts
        address: String,
    },
    /// Make a learner a voter
    Promote {
        id: NodeId,
        /// In the place of this voter, which leaves
        #[arg(long, value_name = "ID")]
        replace: Option<NodeId>,
        /// Also if it lags, as far as the leader's own guards allow
        #[arg(long)]
        force: bool,
    },
    /// Remove a node
    Remove { id: NodeId },
}

#[derive(Debug, Subcommand)]
pub enum LeaderCommand {
    /// Who leads
    Show,
    /// Make another voter the leader
    Transfer {
        /// The one with the most of the log if left out
        to: Option<NodeId>,
    },
}

#[derive(Debug, Args)]
pub struct TicketArguments {
    /// Nodes that it admits
    #[arg(long, default_value_t = 1)]
    uses: u8,
    /// Seconds for which it is valid
    #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
    expires_in: u64,
    /// Write it to this file, which nobody else can read, rather than to standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) async fn member(command: MemberCommand, client: &HttpClient) -> Outcome {
    let changed: Value = match command {
        MemberCommand::List => return list(client).await,
        MemberCommand::Add { address } => client.command("/add-learner", &json!({ "address": address })).await?,
        MemberCommand::Promote { id, replace, force } => {
            let mut request = json!({ "node_id": id, "force": force });
            if let Some(replace) = replace {
                request["replace"] = replace.into();
            }
            client.command("/promote-learner", &request).await?
        }
        MemberCommand::Remove { id } => client.command("/remove-node", &json!({ "node_id": id })).await?,
    };
    let text = format!("voters {}, learners {}", changed["voters"], changed["learners"]);
    Ok(Output::good(changed, text))
}

async fn list(client: &HttpClient) -> Outcome {
    let info: NodeInfo = client.get("/node-info").await?;
    let rows: Vec<Vec<String>> = info
        .members
        .iter()
        .map(|member| {
            let leads = if member.leader { "leader" } else { "" };
            vec![member.node_id.to_string(), member.kind.clone(), leads.to_owned(), member.address.clone()]
        })
        .collect();
    let json = json!({ "cluster": info.cluster, "members": info.members });
    Ok(Output::good(json, table(&["ID", "KIND", "", "ADDRESS"], &rows)))
}

pub(super) async fn leader(command: LeaderCommand, client: &HttpClient) -> Outcome {
    match command {
        LeaderCommand::Show => {
            let reply: LeaderReply = client.get("/leader").await?;
            let http = reply.leader.http.clone().unwrap_or_else(|| "unknown".to_owned());
            let text = format!("node {} leads term {}, http {http}", reply.leader.id, reply.term);
            Ok(Output::good(serde_json::to_value(&reply).unwrap_or_default(), text))
        }
        LeaderCommand::Transfer { to } => {
            let request = to.map_or(json!({}), |to| json!({ "to": to }));
            let changed: Value = client.command("/transfer-leader", &request).await?;
            let text = format!("node {} leads", changed["leader"]);
            Ok(Output::good(changed, text))
        }
    }
}

/// Every endpoint by itself, all at once; one that does not answer is shown as such, and makes the command fail.
pub(super) async fn status(client: &HttpClient) -> Outcome {
    let mut rows = Vec::new();
    let mut all = Vec::new();
    let mut ailing = String::new();
    let mut good = true;
    for (endpoint, asked) in join_all(client.endpoints().iter().map(|endpoint| endpoint_status(client, endpoint))).await
    {
        let (raft, health) = match asked {
            Ok(answers) => answers,
            Err(error) => {
                good = false;
                let unknown = ["-", "-", "-", "-", "-", "no answer"].map(str::to_owned);
                rows.push([vec![endpoint.to_owned()], unknown.to_vec()].concat());
                ailing.push_str(&format!("{endpoint}: {error}\n"));
                all.push(json!({ "endpoint": endpoint, "error": error }));
                continue;
            }
        };
        let word = |level: Level| format!("{level:?}").to_lowercase();
        let level = word(health.level);
        for component in health.components.iter().filter(|component| component.level != Level::Ok) {
            let (level, detail) = (word(component.level), &component.detail);
            ailing.push_str(&format!("node {}: {} {level}: {detail}\n", raft.node_id, component.name));
        }
        good &= level != "critical";
        let index = |index: Option<u64>| index.map_or("-".to_owned(), |index| index.to_string());
        rows.push(vec![
            endpoint.to_owned(),
            raft.node_id.to_string(),
            raft.role.clone(),
            raft.term.to_string(),
            index(raft.last_log_index),
            index(raft.applied.map(|applied| applied.index)),
            level,
        ]);
        all.push(json!({ "endpoint": endpoint, "raft": raft, "health": health }));
    }
    let text = table(&["ENDPOINT", "NODE", "ROLE", "TERM", "LOG", "APPLIED", "HEALTH"], &rows) + &ailing;
    Ok(Output::new(json!({ "endpoints": all }), text, if good { Verdict::Good } else { Verdict::Bad }))
}

async fn endpoint_status<'a>(
    client: &HttpClient,
    endpoint: &'a str,
) -> (&'a str, Result<(RaftStatus, HealthReport), String>) {
    let (raft, health) = join(client.get_from(endpoint, "/raft-metrics"), client.get_from(endpoint, "/health")).await;
    let both = || {
        let (status, raft) = raft.map_err(|error| error.to_string())?;
        let (_, health) = health.map_err(|error| error.to_string())?;
        if status != 200 {
            let said = serde_json::from_slice::<ErrorBody>(&raft).map(|body| body.message);
            return Err(said.unwrap_or_else(|_| format!("status {status}")));
        }
        let strange = |_| "not a node of aspen".to_owned();
        Ok((serde_json::from_slice(&raft).map_err(strange)?, serde_json::from_slice(&health).map_err(strange)?))
    };
    (endpoint, both())
}

pub(super) async fn ticket(arguments: TicketArguments, client: &HttpClient) -> Outcome {
    let request = json!({ "uses": arguments.uses, "expires_in_s": arguments.expires_in });
    let reply: Value = client.command("/cluster-ticket", &request).await?;
    let text = reply["ticket"].as_str().unwrap_or_default().to_owned();
    let Some(path) = arguments.out else { return Ok(Output::good(reply, text)) };
    let failed = |error| CliError::Failed(format!("{}: {error}", path.display()));
    secret::write(&path, &text).map_err(failed)?;
    let json = json!({ "out": path, "expires_at": reply["expires_at"], "uses": reply["uses"] });
    let nodes = if arguments.uses == 1 { "one node".to_owned() } else { format!("{} nodes", arguments.uses) };
    Ok(Output::good(json, format!("a ticket for {nodes} is in {}", path.display())))
}

pub(super) async fn snapshot(client: &HttpClient) -> Outcome {
    let reply: Value = client.command("/trigger-snapshot", &json!({})).await?;
    Ok(Output::good(reply, "a snapshot is being taken"))
}
