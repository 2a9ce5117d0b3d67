//! A page: titles, entries under a label in the left margin, and lines.

use std::env;
use std::io::{IsTerminal, stdout};

use super::figures;
use sim_runtime::engine::record::TraceEvent;

/// Longer lines wrap, where they have words.
pub const COLUMNS_MAX: usize = 100;

const LABEL_COLUMNS: usize = 13;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Good,
    Bad,
    Doubtful,
    Faint,
    Strong,
}

impl Tone {
    fn code(self) -> &'static str {
        match self {
            Tone::Good => "1;32",
            Tone::Bad => "1;31",
            Tone::Doubtful => "1;33",
            Tone::Faint => "2",
            Tone::Strong => "1",
        }
    }
}

/// Collects text; layout is done before colour, so that colour never moves a column.
#[derive(Clone, Debug)]
pub struct Page {
    text: String,
    colour: bool,
}

impl Default for Page {
    fn default() -> Page {
        let wanted = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let able = env::var_os("TERM").is_none_or(|term| term != "dumb");
        Page { text: String::new(), colour: wanted && able && stdout().is_terminal() }
    }
}

impl Page {
    pub fn finish(self) -> String {
        self.text
    }

    pub fn gap(&mut self) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
    }

    /// A verdict in its tone, and what it is about.
    pub fn title(&mut self, tone: Tone, word: &str, rest: &str) {
        let word = self.toned(tone, word);
        let rest = self.toned(Tone::Strong, rest);
        self.text.push_str(&format!("{word}  {rest}\n"));
    }

    pub fn heading(&mut self, text: &str) {
        self.gap();
        let text = self.toned(Tone::Strong, text);
        self.text.push_str(&format!("{text}\n"));
    }

    /// `text` beside `label`, wrapped; nothing at all when `text` is empty.
    pub fn entry(&mut self, label: &str, text: &str) {
        self.lines(label, &wrapped(text, COLUMNS_MAX - LABEL_COLUMNS));
    }

    /// Lines beside `label`, as they are.
    pub fn lines(&mut self, label: &str, lines: &[String]) {
        for (index, line) in lines.iter().enumerate() {
            let label = if index == 0 { label } else { "" };
            let label = self.toned(Tone::Faint, &format!("{label:<LABEL_COLUMNS$}"));
            self.text.push_str(format!("{label}{line}").trim_end());
            self.text.push('\n');
        }
    }

    /// A paragraph, indented.
    pub fn paragraph(&mut self, text: &str) {
        for line in wrapped(text, COLUMNS_MAX - 2) {
            self.text.push_str(&format!("  {line}\n"));
        }
    }

    /// One line exactly as it is, indented: for commands, which must not wrap.
    pub fn verbatim(&mut self, line: &str) {
        self.text.push_str(&format!("  {line}\n"));
    }

    /// One event of a trace, marked when it is the one that matters.
    pub fn event(&mut self, event: &TraceEvent, marked: bool) {
        let cause = event.cause.map(|cause| format!("  (from #{cause})")).unwrap_or_default();
        let node = if event.node.is_empty() { "-" } else { &event.node };
        let head = format!(
            "{} #{:<8} {}  {:<8} {:<10} ",
            if marked { ">" } else { " " },
            event.number,
            figures::moment(event.at_ns),
            node,
            event.class
        );
        let room = COLUMNS_MAX.saturating_sub(head.chars().count()).max(MIN_EVENT_COLUMNS);
        let lines = wrapped(&format!("{}{cause}", event.text), room);
        let indent = " ".repeat(head.chars().count());
        let mut shown = String::new();
        for (index, line) in lines.iter().enumerate() {
            let margin = if index == 0 { &head } else { &indent };
            shown.push_str(format!("{margin}{line}").trim_end());
            shown.push('\n');
        }
        if lines.is_empty() {
            shown = format!("{}\n", head.trim_end());
        }
        let shown = if marked { self.toned(Tone::Strong, shown.trim_end()) + "\n" } else { shown };
        self.text.push_str(&shown);
    }

    pub fn toned(&self, tone: Tone, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("\x1b[{}m{text}\x1b[0m", tone.code()) } else { text.to_owned() }
    }
}

/// However deep the margin, an event's text has room for a few words.
const MIN_EVENT_COLUMNS: usize = 30;

/// Breaks at spaces; a word longer than `columns` stands alone. Line breaks of `text` stay.
pub fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            let needed = line.chars().count() + 1 + word.chars().count();
            if !line.is_empty() && needed > columns {
                lines.push(std::mem::take(&mut line));
            } else if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_wraps_at_words_under_its_label() {
        assert_eq!(wrapped("aa bb cc", 5), ["aa bb", "cc"]);
        assert_eq!(wrapped("a\nabcdefgh b", 3), ["a", "abcdefgh", "b"]);
        let mut page = Page { text: String::new(), colour: false };
        page.entry("faults", &"word ".repeat(40));
        page.entry("nothing", "");
        let text = page.finish();
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS_MAX), "{text}");
        assert!(text.starts_with("faults       word") && text.lines().nth(1).unwrap().starts_with("             word"));
        assert!(!text.contains("nothing"));
    }

    #[test]
    fn colour_changes_no_column() {
        let render = |colour| {
            let mut page = Page { text: String::new(), colour };
            page.title(Tone::Good, "PASS", "seed 1");
            page.entry("label", "text");
            page.finish()
        };
        let mut plain = String::new();
        let coloured = render(true);
        let mut rest = coloured.as_str();
        while let Some((before, after)) = rest.split_once('\x1b') {
            plain.push_str(before);
            rest = after.split_once('m').unwrap().1;
        }
        plain.push_str(rest);
        assert_eq!(plain, render(false));
    }
}
