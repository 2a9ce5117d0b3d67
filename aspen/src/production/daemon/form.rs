//! A founder completes its cluster: it forms one of itself alone, writes a ticket, and makes those who join it voters. What
//! it expects is kept with its identity until it is there, so that a founder that was restarted goes on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::production::admin;
use crate::production::config::Settings;
use crate::production::daemon::{DaemonError, Identity, tasks};
use crate::production::http::{self, App};
use crate::production::secret;

/// The ticket that is written at the start is valid for so long.
const TICKET_OUT_SECONDS: u64 = 24 * 3600;

/// Forms a cluster of this node alone, unless it is part of one, and sees to it that it becomes complete.
pub(super) async fn form_cluster(settings: &Settings, identity: &Identity, app: &Arc<App>) -> Result<(), DaemonError> {
    let Some(expect) = settings.expect.or(identity.expect) else { return Ok(()) };
    let members = BTreeMap::from([(app.node.id(), app.address())]);
    let is_new = admin::initialize(&app.node, members).await.is_ok();
    if is_new {
        app.node.serving(Duration::from_millis(10 * app.config.raft.election_max_ms)).await;
    } else if identity.expect.is_none() {
        if settings.ticket_out.as_ref().is_some_and(|path| !path.exists()) {
            tracing::info!("the cluster is complete: no ticket is written any more; `aspen ticket` issues one");
        }
        return Ok(());
    } else {
        tracing::info!("the cluster is not complete: its learners become voters until there are {expect}");
    }
    if let Some(path) = &settings.ticket_out
        && (is_new || !is_valid_ticket(app, path))
    {
        write_ticket(app, path, expect)?;
    }
    if expect > 1 {
        tokio::spawn(tasks::promote_until(app.clone(), settings.data_dir.clone(), expect));
    }
    Ok(())
}

fn is_valid_ticket(app: &App, path: &Path) -> bool {
    secret::read(path).is_ok_and(|text| app.gate.verify(&text).is_ok())
}

/// For those who are missing.
fn write_ticket(app: &App, path: &Path, expect: usize) -> Result<(), DaemonError> {
    let fail = |problem: String| DaemonError::TicketOut { path: path.to_owned(), problem };
    let missing = expect.saturating_sub(admin::members(&app.node).len()).max(1);
    let uses = u8::try_from(missing).unwrap_or(u8::MAX);
    let ticket = http::admin::issue_ticket(app, TICKET_OUT_SECONDS, uses);
    let ticket = ticket.map_err(|failure| fail(failure.body.message))?.ticket;
    secret::write(path, &ticket).map_err(|error| fail(error.to_string()))?;
    tracing::info!("a ticket for {uses} nodes is in {}", path.display());
    Ok(())
}
