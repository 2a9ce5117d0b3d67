//! A bench, as people read it.

use crate::command::bench::BenchReport;

pub fn render(report: &BenchReport) -> String {
    format!(
        "{}, seed {}, median of {}\n\
         \x20 {:.3} s of wall time, {:.3} s of CPU time for {:.1} simulated s: {:.0} per wall s, {:.0} per CPU s\n\
         \x20 {} messages, {:.0} per CPU s; {} commits, {:.0} per CPU s; {} events\n\
         \x20 peak memory {:.1} MiB, digest {}\n",
        report.bench,
        report.seed,
        report.runs,
        report.wall_s,
        report.cpu_s,
        report.sim_s,
        report.sim_s_per_wall_s,
        report.sim_s_per_cpu_s,
        report.messages,
        report.messages_per_cpu_s,
        report.commits,
        report.commits_per_cpu_s,
        report.events,
        crate::tally::to_f64(report.memory_peak_kib) / 1024.0,
        report.digest,
    )
}
