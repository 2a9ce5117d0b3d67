//! What turns a world into a test: plans, faults, workloads, oracles, reports.
pub mod listing;
pub mod record;
pub mod report;
