//! What the store's users build on it: locks, sums, lists, sessions, upkeep. Each is judged where its workload runs.
pub mod append_list;
pub mod bank_total;
pub mod bounded;
pub mod fencing;
pub mod mutual_exclusion;
pub mod session_lifetime;
pub mod upkeep;
