//! Markdown tables.

use std::fmt::Write;

/// Rows of cells, the first of which are names.
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<S: ToString>(head: &[S]) -> Table {
        Table {
            head: head.iter().map(S::to_string).collect(),
            rows: Vec::new(),
        }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.head.len(), "a cell for each column");
        self.rows.push(cells);
    }

    /// The first column to the left, numbers to the right, all padded to be read as they are.
    pub fn render(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| &row[column]);
            let widths = cells
                .chain([&self.head[column]])
                .map(|cell| cell.chars().count());
            widths.max().unwrap_or(0).max(3)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let mut text = String::new();
        let mut line = |cells: &[String]| {
            text.push('|');
            for (column, (cell, &width)) in cells.iter().zip(&widths).enumerate() {
                let _ = match column {
                    0 => write!(text, " {cell:<width$} |"),
                    _ => write!(text, " {cell:>width$} |"),
                };
            }
            text.push('\n');
        };
        line(&self.head);
        let rule = |(column, &width): (usize, &usize)| match column {
            0 => "-".repeat(width),
            _ => "-".repeat(width - 1) + ":",
        };
        line(&widths.iter().enumerate().map(rule).collect::<Vec<_>>());
        for row in &self.rows {
            line(row);
        }
        text
    }
}

/// A ratio, as precise as it deserves.
pub fn ratio(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

/// A time in nanoseconds.
pub fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        value if value < 100.0 => format!("{value:.1} ns"),
        value if value < 10_000.0 => format!("{value:.0} ns"),
        value if value < 10_000_000.0 => format!("{:.1} µs", value / 1e3),
        value => format!("{:.1} ms", value / 1e6),
    }
}
