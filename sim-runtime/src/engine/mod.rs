//! What turns a world into a test: plans, faults, workloads, oracles, reports.
pub mod oracle;
pub mod record;
pub mod report;
