//! Text in columns, for people. Programs use `--json`.

/// Rows under a heading; columns as wide as their widest cell, the last one free.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(|cell| cell.to_uppercase()).collect()] }
    }

    pub fn row(&mut self, cells: &[&dyn std::fmt::Display]) {
        self.rows.push(cells.iter().map(ToString::to_string).collect());
    }

    /// An empty cell is shown as `-`, so that columns can be counted.
    pub fn write(self, indent: usize, out: &mut String) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let shown = |cell: &String| if cell.is_empty() { "-".to_owned() } else { cell.clone() };
        let width = |n: usize| {
            self.rows.iter().filter_map(|r| r.get(n)).map(|c| shown(c).chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|n| width(n).unwrap_or(0)).collect();
        for row in &self.rows {
            let mut line = " ".repeat(indent);
            for (n, cell) in row.iter().enumerate() {
                let cell = shown(cell);
                let pad = widths[n].saturating_sub(cell.chars().count());
                line.push_str(&cell);
                line.push_str(&" ".repeat(pad + 2));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_empty_cells_show() {
        let mut table = Table::new(&["name", "n", "note"]);
        table.row(&[&"häns", &1, &""]);
        table.row(&[&"x", &12345, &"long note"]);
        let mut out = String::new();
        table.write(1, &mut out);
        assert_eq!(out, " NAME  N      NOTE\n häns  1      -\n x     12345  long note\n");
    }
}
