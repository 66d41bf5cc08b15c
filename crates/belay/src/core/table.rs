//! Tables for people: columns as wide as their widest cell, two spaces between, no rules.

/// Whether colours may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// For pipes, files and `NO_COLOR`.
    Plain,
    /// For a terminal.
    Colour,
}

/// What a word says about what it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Doubtful,
    Bad,
    Faint,
}

impl Tone {
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Doubtful => Some("33"),
            Self::Bad => Some("31"),
            Self::Faint => Some("2"),
        }
    }

    /// `text` in this tone.
    pub(crate) fn paint(self, style: Style, text: &str) -> String {
        match (style, self.code()) {
            (Style::Colour, Some(code)) if !text.is_empty() => format!("\x1b[{code}m{text}\x1b[0m"),
            (Style::Colour | Style::Plain, _) => text.to_owned(),
        }
    }
}

/// One cell. Control characters are shown as spaces, so that nothing a container named can move
/// the cursor of the operator's terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(crate) fn new(text: impl AsRef<str>, tone: Tone) -> Self {
        Self { text: one_line(text.as_ref()), tone }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// `text` with every control character replaced by a space.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A table, filled row by row.
#[derive(Debug)]
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; it has a cell for each column.
    pub(crate) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        debug_assert_eq!(N, self.header.len(), "a row fits its header");
        self.rows.push(cells.into());
    }

    /// The table as text, each line ended.
    pub(crate) fn render(&self, style: Style) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            let widest = cells.map(|cell| cell.text.chars().count()).max().unwrap_or(0);
            widest.max(self.header[column].len())
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let header = self.header.iter().map(|name| (Tone::Faint, *name));
        let mut text = line(style, &widths, header);
        for row in &self.rows {
            text += &line(style, &widths, row.iter().map(|cell| (cell.tone, cell.text.as_str())));
        }
        text
    }
}

fn line<'a>(
    style: Style,
    widths: &[usize],
    cells: impl Iterator<Item = (Tone, &'a str)>,
) -> String {
    let mut line = String::new();
    let mut owed = 0;
    for ((tone, text), width) in cells.zip(widths) {
        if !text.is_empty() {
            line.extend(std::iter::repeat_n(' ', owed));
            owed = 0;
        }
        line += &tone.paint(style, text);
        owed += width + 2 - text.chars().count();
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NAME", "STATE", "NOTE"]);
        table.row(["web".into(), Cell::new("ready", Tone::Good), "".into()]);
        table.row(["a-longer-name".into(), Cell::new("back-off", Tone::Bad), "ö\x1b[2J".into()]);
        table
    }

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_spaces() {
        assert_eq!(
            table().render(Style::Plain),
            "NAME           STATE     NOTE\n\
             web            ready\n\
             a-longer-name  back-off  ö [2J\n"
        );
    }

    #[test]
    fn colours_do_not_shift_columns() {
        let coloured = table().render(Style::Colour);
        let stripped = ["\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[0m"]
            .iter()
            .fold(coloured.clone(), |text, code| text.replace(code, ""));
        assert_eq!(stripped, table().render(Style::Plain));
        assert!(coloured.contains("\x1b[32mready\x1b[0m"));
    }
}
