//! Results as text: tables without lines, sizes that people can read.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use indicatif::{BinaryBytes, HumanDuration};
use sarsen_edge::exit::one_line;
use sarsen_edge::json;
use std::time::Duration;

/// Rows of columns, those of `right` aligned to the right.
pub(crate) fn table(header: &[&str], right: &[usize], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    if !header.is_empty() {
        table.set_header(header.iter().copied());
    }
    for row in rows {
        table.add_row(row.iter().map(|cell| one_line(cell)));
    }
    for (place, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&place) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// Bytes with a unit.
pub(crate) fn size(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

/// A duration in seconds, to the millisecond while that matters.
pub(crate) fn seconds(elapsed: Duration) -> String {
    match elapsed.as_secs() {
        0..100 => format!("{:.2} s", elapsed.as_secs_f64()),
        _ => HumanDuration(elapsed).to_string(),
    }
}

/// Unix milliseconds as a date and a time in UTC, to the second.
pub(crate) fn time(unix_ms: u64) -> String {
    let text = json::time(unix_ms);
    let seconds = text.split('.').next().unwrap_or_default();
    seconds.replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_aligned_and_stay_rows() {
        let rows = vec![
            vec!["7".into(), "short".into()],
            vec!["1024".into(), "a\nb".into()],
        ];
        let text = table(&["SIZE", "NAME"], &[0], rows);
        assert_eq!(text, "SIZE  NAME\n   7  short\n1024  a\\nb");
    }

    #[test]
    fn times_and_sizes() {
        assert_eq!(time(1_700_000_000_123), "2023-11-14 22:13:20");
        assert_eq!(size(1536), "1.50 KiB");
        assert_eq!(seconds(Duration::from_millis(1_234)), "1.23 s");
    }
}
