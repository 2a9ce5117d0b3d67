//! How hard losses of power have to be, over many runs, for a pass to mean something.
//!
//! A simulated disk that became too kind (that keeps what was never synced, or loses it in one way only) would let every
//! run pass. So each way to lose, and each moment, is owed by the specs in which the power goes often.

use buggify::assert_sometimes;
use sim_runtime::disk::{PowerLossOutcome, Role};
use sim_runtime::engine::report::PowerLossReport;

/// Asserts what some run has to have met; `report` sums `losses` up.
pub fn assert_hard(losses: &[PowerLossOutcome], report: &PowerLossReport) {
    let PowerLossReport { shapes, moments, .. } = report;
    assert_sometimes!(shapes.none > 0, "a power loss took all that was un-synced", owed_by = "default,power");
    assert_sometimes!(shapes.all > 0, "a power loss left all that was un-synced", owed_by = "default,power");
    assert_sometimes!(
        shapes.prefix > 0,
        "a power loss left the first of the un-synced writes",
        owed_by = "default,power"
    );
    assert_sometimes!(
        shapes.suffix > 0,
        "a power loss left the last of the un-synced writes",
        owed_by = "default,power"
    );
    assert_sometimes!(shapes.holes > 0, "a power loss left holes between un-synced writes", owed_by = "default,power");
    assert_sometimes!(shapes.torn > 0, "a power loss tore an un-synced write", owed_by = "default,power");

    assert_sometimes!(
        moments.before_write > 0,
        "the power went while nothing was being written",
        owed_by = "default,power"
    );
    assert_sometimes!(
        moments.between_write_and_sync > 0,
        "the power went between a write and its sync",
        owed_by = "default,power"
    );
    assert_sometimes!(moments.in_sync > 0, "the power went during a sync", owed_by = "default,power");
    assert_sometimes!(moments.in_recovery > 0, "the power went during a recovery", owed_by = "default,power");

    assert_sometimes!(
        report.lost_then_served > 0,
        "a node served again after it had lost un-synced sectors",
        owed_by = "default,power"
    );
    let took = |role| losses.iter().any(|loss| loss.sectors_lost_by_role.get(&role).is_some_and(|lost| *lost > 0));
    assert_sometimes!(took(Role::Log), "a power loss took un-synced sectors of a log", owed_by = "default,power");
    assert_sometimes!(took(Role::State), "a power loss took un-synced sectors of a state", owed_by = "default,power");
    assert_sometimes!(
        took(Role::Snapshot),
        "a power loss took un-synced sectors of a snapshot",
        owed_by = "default,power"
    );
    assert_sometimes!(
        losses.iter().any(|loss| loss.names_lost > 0),
        "a power loss took the name of a file",
        owed_by = "default,power"
    );
    assert_sometimes!(
        losses.iter().any(|loss| loss.lengths_lost > 0),
        "a power loss took back the growth of a file",
        owed_by = "default,power"
    );
}
