//! stub
use sim_runtime::engine::Oracle;
use crate::event::Event;
#[derive(Default)]
pub struct OracleConfig;
pub fn all(_: &OracleConfig) -> Vec<Box<dyn Oracle<Event>>> { Vec::new() }
