//! What goes on beside a running node: the gate follows the membership, members are greeted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::production::admin::{self, Operator, PromoteLearner};
use crate::production::http::App;
use crate::production::transport::Place;
use crate::types::NodeId;

/// Pause between two looks.
const TICK: Duration = Duration::from_millis(250);
/// Between two attempts to reach a member that nothing else talks to.
const GREET_PAUSE_MIN: Duration = Duration::from_millis(500);
const GREET_PAUSE_MAX: Duration = Duration::from_secs(15);
const GREET_TIMEOUT: Duration = Duration::from_secs(5);
const PROMOTE_BUDGET: Duration = Duration::from_secs(5);

/// Starts all of it; ends when the handle is aborted.
pub(super) fn start(app: &Arc<App>) -> JoinHandle<()> {
    tokio::spawn(run(app.clone()))
}

#[allow(clippy::disallowed_methods, reason = "pauses between attempts on a real network")]
async fn run(app: Arc<App>) {
    let mut known: BTreeMap<NodeId, crate::types::Address> = BTreeMap::new();
    let mut next_greeting: BTreeMap<NodeId, (Instant, Duration)> = BTreeMap::new();
    loop {
        let members = admin::members(&app.node);
        if members != known {
            follow(&app, &members);
            next_greeting.retain(|id, _| members.contains_key(id));
            known = members;
        }
        for (id, address) in known.iter().filter(|(id, _)| **id != app.node.id()) {
            let Ok(place) = address.0.parse::<Place>() else { continue };
            if app.transport.is_connected(&place.key) {
                next_greeting.remove(id);
                continue;
            }
            let (due, pause) = next_greeting.get(id).copied().unwrap_or((Instant::now(), GREET_PAUSE_MIN));
            if due <= Instant::now() {
                next_greeting.insert(*id, (Instant::now() + pause, (2 * pause).min(GREET_PAUSE_MAX)));
                let transport = app.transport.clone();
                // What comes of it shows at the next look.
                tokio::spawn(async move { transport.greet(&place, GREET_TIMEOUT).await });
            }
        }
        tokio::time::sleep(TICK).await;
    }
}

/// Lets the members in and nobody who was one.
fn follow(app: &App, members: &BTreeMap<NodeId, crate::types::Address>) {
    let places: Vec<Place> = members.values().filter_map(|address| address.0.parse().ok()).collect();
    places.iter().for_each(|place| app.transport.learn_last(place));
    let gone = app.gate.set_members(places);
    app.transport.expel(|key| gone.contains(key));
}

/// Makes learners voters until there are `expect`, or somebody else leads.
pub(super) async fn promote_until(app: Arc<App>, expect: usize) {
    loop {
        tokio::time::sleep(TICK).await;
        let now = admin::reply(&app.node, None);
        if now.voters.len() >= expect {
            tracing::info!("the cluster has its {expect} voters");
            return;
        }
        let operator = Operator { app: &app, budget: PROMOTE_BUDGET };
        for node_id in now.learners {
            let request = PromoteLearner { node_id, replace: None, force: false };
            match operator.promote(request).await {
                Ok(_) => tracing::info!("node {node_id} is a voter now"),
                Err(error) => tracing::debug!("node {node_id} is not yet a voter: {}", error.message),
            }
        }
    }
}
