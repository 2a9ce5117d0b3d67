//! What goes on beside a running node: the gate follows the membership, members are greeted, and changes of who leads are
//! said.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver;
use tokio::task::JoinSet;

use crate::production::admin::{self, ChangeMembership, Operator, PromoteLearner};
use crate::production::daemon::Identity;
use crate::production::http::App;
use crate::production::http::standing::Standing;
use crate::production::side;
use crate::production::transport::Place;
use crate::production::transport::hello::Rejection;
use crate::types::{LogId, NodeId};

/// Pause between two looks.
const TICK: Duration = Duration::from_millis(250);
/// Between two attempts to reach a member that nothing else talks to.
const GREET_PAUSE_MIN: Duration = Duration::from_millis(500);
const GREET_PAUSE_MAX: Duration = Duration::from_secs(15);
const GREET_TIMEOUT: Duration = Duration::from_secs(5);
/// A change that is in progress at so many looks was left alone.
const CHANGE_LOOKS: u32 = 4;
const STANDING_TIMEOUT: Duration = Duration::from_millis(500);
const PROMOTE_BUDGET: Duration = Duration::from_secs(5);

/// Starts all of it; ends when what is returned is dropped.
pub(super) fn start(app: &Arc<App>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(run(app.clone()));
    tasks.spawn(say_who_leads(app.clone()));
    tasks.spawn(say_what_is_wrong(app.clone()));
    tasks
}

/// One line for every change of the term, of the leader or of this node's part.
async fn say_who_leads(app: Arc<App>) {
    let mut metrics = app.node.raft().metrics();
    let mut said = None;
    loop {
        let now = {
            let metrics = metrics.borrow_watched();
            (metrics.current_term, metrics.current_leader, metrics.state)
        };
        if said.is_some_and(|said| said != now) || now.1.is_some() {
            let (term, leader, role) = now;
            let role = format!("{role:?}").to_lowercase();
            match leader {
                Some(leader) if leader == app.node.id() => tracing::info!("term {term}: this node leads"),
                Some(leader) => tracing::info!("term {term}: node {leader} leads, this node is a {role}"),
                None => tracing::info!("term {term}: no leader is known, this node is a {role}"),
            }
        }
        said = Some(now);
        let changed = metrics
            .wait_until(move |metrics| (metrics.current_term, metrics.current_leader, metrics.state) != now)
            .await;
        if changed.is_err() {
            return;
        }
    }
}

/// One line when the leader is lost or heard again, and one when this node turns out to be no member any more.
async fn say_what_is_wrong(app: Arc<App>) {
    // `None` until it was heard for the first time.
    let mut was_heard: Option<bool> = None;
    let mut was_removed = false;
    loop {
        match (app.heard_leader(), was_heard) {
            (Ok(leader), Some(false)) => {
                tracing::info!("the leader, node {leader}, is heard again");
                was_heard = Some(true);
            }
            (Ok(_), _) => was_heard = Some(true),
            (Err(problem), Some(true)) => {
                tracing::warn!("{problem}");
                was_heard = Some(false);
            }
            (Err(_), _) => {}
        }
        if app.is_quiet() {
            ask_the_others(&app).await;
        }
        let is_removed = app.standing() == Standing::Removed;
        if is_removed && !was_removed {
            tracing::warn!(
                "node {} is no member of the cluster any more: stop it; if it shall serve again, start it with an empty \
                 directory and a new ticket",
                app.node.id()
            );
        }
        was_removed = is_removed;
        tokio::time::sleep(TICK).await;
    }
}

/// Asks the members that this node knows whether it was removed, until one knows.
async fn ask_the_others(app: &App) {
    let mut is_disowned = false;
    for (_, address) in admin::members(&app.node).into_iter().filter(|(id, _)| *id != app.node.id()) {
        is_disowned = match side::ask_standing(app, &address, STANDING_TIMEOUT).await {
            Some(is_removed) => is_removed,
            None => address
                .0
                .parse::<Place>()
                .is_ok_and(|place| app.transport.rejection(&place.key) == Some(Rejection::Stranger)),
        };
        if is_disowned {
            break;
        }
    }
    app.is_disowned.store(is_disowned, Ordering::Relaxed);
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

/// Makes learners voters until there are `expect`, and forgets then that they were expected. A change that was interrupted,
/// as by the end of an earlier process, is finished.
pub(super) async fn promote_until(app: Arc<App>, data_dir: PathBuf, expect: usize) {
    // Looks at one and the same change that was in progress.
    let (mut unfinished, mut looks) = (None, 0);
    loop {
        tokio::time::sleep(TICK).await;
        let operator = Operator { app: &app, budget: PROMOTE_BUDGET };
        if let Some(id) = joint(&app) {
            looks = if unfinished == Some(id) { looks + 1 } else { 0 };
            unfinished = Some(id);
            if looks >= CHANGE_LOOKS {
                let finish = ChangeMembership { voters: None, retain: true, finish: true };
                match operator.change_membership(finish).await {
                    Ok(_) => tracing::info!("a change of the membership that was interrupted is finished"),
                    Err(error) => tracing::debug!("a change of the membership is not finished yet: {}", error.message),
                }
            }
            continue;
        }
        let now = admin::reply(&app.node, None);
        if now.voters.len() >= expect {
            tracing::info!("the cluster has its {expect} voters");
            if let Err(error) = Identity::update(&data_dir, |identity| identity.expect = None) {
                tracing::warn!("at its next start this node will look for its voters again: {error}");
            }
            return;
        }
        for node_id in now.learners {
            let request = PromoteLearner { node_id, replace: None, force: false };
            match operator.promote(request).await {
                Ok(_) => tracing::info!("node {node_id} is a voter now"),
                Err(error) => tracing::debug!("node {node_id} is not yet a voter: {}", error.message),
            }
        }
    }
}

/// The membership that is of two configurations, if it is.
fn joint(app: &App) -> Option<LogId> {
    let metrics = app.node.raft().metrics();
    let metrics = metrics.borrow_watched();
    let stored = &metrics.membership_config;
    (stored.membership().get_joint_config().len() > 1).then(|| *stored.log_id()).flatten()
}
