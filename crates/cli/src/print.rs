//! How things look: tables and colours for people on a terminal, JSON for programs.

use std::io::{IsTerminal, Write};

use comfy_table::{Cell, ContentArrangement, Table, presets};
use jiff::Timestamp;
use serde::Serialize;
use taskloom::{StateName, Time};
use tracing_subscriber::EnvFilter;

/// Logs go to standard error, so that standard output is the answer alone.
pub(crate) fn set_up_logging(filter: &str, json: bool) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("warn"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second set-up can only happen in tests.
    if json {
        logs.json().try_init().ok()
    } else {
        logs.compact().try_init().ok()
    };
}

/// Whether a person looks at standard output.
pub(crate) fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Prints one JSON value on a line of its own.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    out.flush()?;
    Ok(())
}

/// Prints a line of text; a closed pipe ends the program as an error, not as a panic.
pub(crate) fn line(text: impl AsRef<str>) -> anyhow::Result<()> {
    writeln!(std::io::stdout().lock(), "{}", text.as_ref())?;
    Ok(())
}

/// A table with the given heads.
pub(crate) fn table<const N: usize>(heads: [&str; N]) -> Table {
    let mut table = Table::new();
    let style = if is_terminal() { presets::UTF8_HORIZONTAL_ONLY } else { presets::NOTHING };
    table.load_style(style).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(heads.map(Cell::new));
    table
}

/// A state in its colour, on a terminal.
pub(crate) fn state(state: StateName) -> Cell {
    use comfy_table::Color;
    let cell = Cell::new(state);
    if !is_terminal() {
        return cell;
    }
    cell.fg(match state {
        StateName::Succeeded => Color::Green,
        StateName::Failed => Color::Red,
        StateName::Running => Color::Cyan,
        StateName::Retrying | StateName::Cancelled => Color::Yellow,
        StateName::Delayed | StateName::Blocked | StateName::Ready => Color::Reset,
    })
}

/// A moment, to the millisecond, in UTC.
pub(crate) fn time(time: Time) -> String {
    match Timestamp::from_millisecond(time.as_millis()) {
        Ok(timestamp) => format!("{timestamp:.3}"),
        Err(_) => time.to_string(),
    }
}

/// A text cut to `n` characters, on one line.
pub(crate) fn short(text: &str, n: usize) -> String {
    let text = text.lines().next().unwrap_or_default();
    if text.chars().count() <= n {
        return text.to_owned();
    }
    let cut: String = text.chars().take(n.saturating_sub(1)).collect();
    format!("{cut}…")
}

/// A number with thin groups of three digits: 12,345.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if 0 < place && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_three() {
        for (n, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(n), text);
        }
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        assert_eq!(short("héllo", 5), "héllo");
        assert_eq!(short("héllo!", 5), "héll…");
        assert_eq!(short("two\nlines", 20), "two");
    }

    #[test]
    fn a_moment_is_shown_in_utc() {
        assert_eq!(time(Time::from_millis(1_767_225_600_123)), "2026-01-01T00:00:00.123Z");
    }
}
