//! Tables for people, as aligned text or as Markdown.

/// Rows under a head; the first column is text, the others are numbers.
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(head: &[&'static str]) -> Table {
        Table { head: head.to_vec(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.head.len());
        self.rows.push(cells);
    }

    fn widths(&self) -> Vec<usize> {
        let width = |i: usize| self.rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0);
        (0..self.head.len()).map(|i| width(i).max(self.head[i].chars().count()).max(3)).collect()
    }

    fn padded(cells: &[String], widths: &[usize], between: &str) -> String {
        let pad = |(i, (cell, width)): (usize, (&String, &usize))| match i {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        };
        cells.iter().zip(widths).enumerate().map(pad).collect::<Vec<_>>().join(between)
    }

    fn head(&self) -> Vec<String> {
        self.head.iter().map(|h| h.to_string()).collect()
    }

    /// Columns under their heads, two spaces apart.
    pub fn text(&self) -> String {
        let widths = self.widths();
        let lines = std::iter::once(self.head()).chain(self.rows.iter().cloned());
        lines.map(|cells| Self::padded(&cells, &widths, "  ").trim_end().to_string() + "\n").collect()
    }

    pub fn markdown(&self) -> String {
        let widths = self.widths();
        let line = |cells: &[String]| format!("| {} |\n", Self::padded(cells, &widths, " | "));
        let rule = |(i, width): (usize, &usize)| match i {
            0 => "-".repeat(width + 2),
            _ => "-".repeat(width + 1) + ":",
        };
        let rules: Vec<String> = widths.iter().enumerate().map(rule).collect();
        let rows: String = self.rows.iter().map(|cells| line(cells)).collect();
        format!("{}|{}|\n{rows}", line(&self.head()), rules.join("|"))
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["test", "t/s"]);
        table.row(vec!["pp512".into(), "10.5 ± 0.2".into()]);
        table.row(vec!["tg8".into(), "3".into()]);
        assert_eq!(table.text(), "test          t/s\npp512  10.5 ± 0.2\ntg8             3\n");
        assert!(table.markdown().starts_with("| test  |        t/s |\n|-------|-----------:|\n| pp512 |"));
    }
}
