//! Numbers as people write them.

use std::time::Duration;

use crate::tally::to_f64;

/// Groups of three digits: `1 234 567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 node`, `3 nodes`.
pub fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// `1.2 %`; empty when there is nothing to have a share of.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { String::new() } else { format!("{:.1} %", 100.0 * to_f64(part) / to_f64(whole)) }
}

/// Three significant digits with a unit: `812 ms`, `23.4 s`.
pub fn duration(time: Duration) -> String {
    let ns = time.as_secs_f64() * 1e9;
    if time >= Duration::from_secs(600) {
        return format!("{:.0} min", ns / 6e10);
    }
    scaled(ns, &[(1.0, "ns"), (1e3, "us"), (1e6, "ms"), (1e9, "s")])
}

/// Like [`duration`], from us.
pub fn latency(us: u64) -> String {
    duration(Duration::from_micros(us))
}

/// `3.42 MB`, in powers of ten.
pub fn bytes(number: u64) -> String {
    scaled(to_f64(number), &[(1.0, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB")])
}

/// A moment of a run, to the us and aligned with its neighbours: `   1.234567 s`.
pub fn moment(ns: u64) -> String {
    format!("{:>4}.{:06} s", ns / 1_000_000_000, ns % 1_000_000_000 / 1000)
}

fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    let fits = |&&(scale, _): &&(f64, &str)| value >= scale;
    let &(scale, unit) = units.iter().rev().find(fits).unwrap_or(&units[0]);
    let value = value / scale;
    // 9.995 rounds to 10.0, and so on.
    let decimals = match value {
        value if value >= 99.95 => 0,
        value if value >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    let short = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{short} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([count(7), count(999), count(1000), count(1_234_567)], ["7", "999", "1 000", "1 234 567"]);
        assert_eq!(counted(1, "node", "nodes"), "1 node");
        assert_eq!(percent(20, 1234), "1.6 %");
        assert_eq!(percent(0, 0), "");
        assert_eq!(latency(0), "0 ns");
        assert_eq!(
            [latency(5), latency(4_120), latency(812_000), latency(23_400_000)],
            ["5 us", "4.12 ms", "812 ms", "23.4 s"]
        );
        assert_eq!(duration(Duration::from_secs(1200)), "20 min");
        assert_eq!([bytes(12), bytes(3_420_000)], ["12 B", "3.42 MB"]);
        assert_eq!(moment(12_345_678_901), "  12.345678 s");
    }
}
