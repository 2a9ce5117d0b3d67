//! What must be once faults are over (Raft, sections 5.6 and 8; the bound is the driver's).
pub mod agreement;
pub mod convergence;
pub mod steadfast;
