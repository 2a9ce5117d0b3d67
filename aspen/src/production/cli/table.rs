//! Tables for people.

use crate::production::http::text::Text;

/// A cell that is longer stands out of its column, which is not made wider for it.
const WIDTH_MAX: usize = 60;

/// Columns as wide as their widest cell, within bounds, two spaces apart.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0).min(WIDTH_MAX)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &[String]| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            line.push_str(cell);
            let padding = width.saturating_sub(cell.chars().count()) + 2;
            line.push_str(&" ".repeat(padding));
        }
        format!("{}\n", line.trim_end())
    };
    let head: Vec<String> = head.iter().map(|name| (*name).to_owned()).collect();
    std::iter::once(line(&head)).chain(rows.iter().map(|row| line(row))).collect()
}

/// A key or a value on one line, whatever is in it: control characters and bytes that are no text are escaped, and the
/// backslash with them.
pub(super) fn on_one_line(text: &Text) -> String {
    match std::str::from_utf8(&text.0) {
        Ok(text) => {
            let mut line = String::with_capacity(text.len());
            for character in text.chars() {
                if character == '\\' || character.is_control() {
                    line.extend(character.escape_default());
                } else {
                    line.push(character);
                }
            }
            line
        }
        Err(_) => text.0.escape_ascii().to_string(),
    }
}

/// The same in a table, where a long one is cut, so that one row does not fill the screen.
pub(super) fn in_a_cell(text: &Text) -> String {
    let line = on_one_line(text);
    match line.char_indices().nth(CELL_CHARACTERS_MAX) {
        None => line,
        Some((cut, _)) => format!("{}... ({} bytes)", &line[..cut], text.0.len()),
    }
}

/// As much of a key or a value as a table shows.
const CELL_CHARACTERS_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let text = table(&["ID", "KIND"], &[vec!["12345".into(), "voter".into()], vec!["1".into(), "x".into()]]);
        assert_eq!(text, "ID     KIND\n12345  voter\n1      x\n");
    }

    /// The format machinery of the standard library takes no width of more than 16 bits.
    #[test]
    fn a_cell_of_any_length_fits() {
        let long = "v".repeat(70_000);
        let text = table(&["KEY", "VALUE", "N"], &[vec!["a".into(), long.clone(), "1".into()], vec!["b".into()]]);
        assert_eq!(text, format!("KEY  VALUE{}N\na    {long}  1\nb\n", " ".repeat(WIDTH_MAX - 3)));
    }

    #[test]
    fn a_long_cell_is_cut_and_says_so() {
        let text = |count| Text("é".repeat(count).into_bytes());
        assert_eq!(in_a_cell(&text(CELL_CHARACTERS_MAX)), "é".repeat(CELL_CHARACTERS_MAX));
        let cut = format!("{}... (402 bytes)", "é".repeat(CELL_CHARACTERS_MAX));
        assert_eq!(in_a_cell(&text(CELL_CHARACTERS_MAX + 1)), cut);
    }

    #[test]
    fn what_would_break_a_line_is_escaped() {
        let line = |bytes: &[u8]| on_one_line(&Text(bytes.to_vec()));
        assert_eq!(line("Zoë, plain".as_bytes()), "Zoë, plain");
        assert_eq!(line(b"a\nb\t\x1b[31m\\"), r"a\nb\t\u{1b}[31m\\");
        assert_eq!(line(b"\0\xff\n"), r"\x00\xff\n");
    }
}
