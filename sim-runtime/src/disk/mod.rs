//! The simulated disk: one per host, under real storage engines.
//!
//! A file is a persisted image plus a log of what no sync has made durable yet, each operation with its interval in
//! virtual time. That is enough to answer what a reader sees, what a crash undoes and what a power loss at any time may
//! leave, also inside a blocking section, which runs ahead of the world's clock.
//!
//! The core decides and is pure, times and chance are arguments:
//! - [`image`]: the bytes of a file, copy on write
//! - [`mod@file`]: one file, its log, and how the log reads at a time
//! - [`names`]: the directory tree and which names would survive
//! - [`power_loss`]: what may survive, how one outcome is chosen, and its shape
//! - [`volume`]: all of that together; clone it to keep a disk as it is now
//! - [`defects`], [`damage`]: what is wrong with the platter, and how it becomes so
//! - [`config`], [`device`]: latency, errors, quota, counters
//!
//! The shell gives it a host, a clock, chance, and a place in the trace:
//! - [`Disk`]: names, faults, power loss, reports
//! - [`SimFile`]: an open file of one incarnation
//!
//! What the model leaves out: `mmap`, hard links, permissions, renames across directories, sectors torn inside 512 bytes,
//! and two threads inside one blocking section.

pub mod config;
pub mod damage;
pub mod defects;
pub mod device;
pub mod file;
mod host_disk;
pub mod image;
pub mod names;
pub mod power_loss;
mod registry;
mod sim_file;
mod state;
pub mod volume;

pub use config::{DiskConfig, ErrorRates, Latency, OpKind, Role, Stalls};
pub use damage::Damage;
pub use device::{Counters, DiskError, FaultCount, FaultPoint, RoleCount, fault};
pub use host_disk::{Disk, declare_recovered};
pub use image::{Image, SECTOR_BYTES};
pub use power_loss::{Choice, Pending, Shape, Toll};
pub use sim_file::SimFile;
pub use state::{OpReport, PowerLossOutcome, Probe};
pub use volume::{FileState, Moment, OpenMode, Volume};
