//! `aspen member`, `leader`, `status`, `ticket`, `snapshot`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::production::cli::table::table;
use crate::production::cli::{Outcome, Output};
use crate::production::client::HttpClient;
use crate::production::http::health::HealthReport;
use crate::production::http::status::{LeaderReply, NodeInfo, RaftStatus};
use crate::types::NodeId;

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

/// Every endpoint by itself; one that does not answer is shown as such, and makes the command fail.
pub(super) async fn status(client: &HttpClient) -> Outcome {
    let mut rows = Vec::new();
    let mut all = Vec::new();
    let mut good = true;
    for endpoint in client.endpoints() {
        let raft = client.get_from(endpoint, "/raft-metrics").await;
        let health = client.get_from(endpoint, "/health").await;
        let (raft, health) = match (raft, health) {
            (Ok((200, raft)), Ok((_, health))) => {
                (serde_json::from_slice::<RaftStatus>(&raft), serde_json::from_slice::<HealthReport>(&health))
            }
            (Err(error), _) | (_, Err(error)) => {
                good = false;
                rows.push(vec![endpoint.clone(), error.to_string()]);
                all.push(json!({ "endpoint": endpoint, "error": error.to_string() }));
                continue;
            }
            (Ok((status, _)), _) => {
                good = false;
                rows.push(vec![endpoint.clone(), format!("status {status}")]);
                all.push(json!({ "endpoint": endpoint, "error": format!("status {status}") }));
                continue;
            }
        };
        let (Ok(raft), Ok(health)) = (raft, health) else {
            good = false;
            rows.push(vec![endpoint.clone(), "not a node of aspen".to_owned()]);
            all.push(json!({ "endpoint": endpoint, "error": "not a node of aspen" }));
            continue;
        };
        let level = format!("{:?}", health.level).to_lowercase();
        good &= level != "critical";
        let index = |index: Option<u64>| index.map_or("-".to_owned(), |index| index.to_string());
        rows.push(vec![
            endpoint.clone(),
            raft.node_id.to_string(),
            raft.role.clone(),
            raft.term.to_string(),
            index(raft.last_log_index),
            index(raft.applied.map(|applied| applied.index)),
            level,
        ]);
        all.push(json!({ "endpoint": endpoint, "raft": raft, "health": health }));
    }
    let text = table(&["ENDPOINT", "NODE", "ROLE", "TERM", "LOG", "APPLIED", "HEALTH"], &rows);
    Ok(Output { json: json!({ "endpoints": all }), text, good })
}

pub(super) async fn ticket(arguments: TicketArguments, client: &HttpClient) -> Outcome {
    let request = json!({ "uses": arguments.uses, "expires_in_s": arguments.expires_in });
    let reply: Value = client.command("/cluster-ticket", &request).await?;
    let text = reply["ticket"].as_str().unwrap_or_default().to_owned();
    Ok(Output::good(reply, text))
}

pub(super) async fn snapshot(client: &HttpClient) -> Outcome {
    let reply: Value = client.command("/trigger-snapshot", &json!({})).await?;
    Ok(Output::good(reply, "a snapshot is being taken"))
}
