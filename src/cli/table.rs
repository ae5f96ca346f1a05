//! Two columns for people.

use std::io::{self, Write};

/// Writes `key   value` lines with the values under each other.
pub fn write(out: &mut dyn Write, rows: &[(&str, String)]) -> io::Result<()> {
    let width = rows.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    for (key, value) in rows {
        writeln!(out, "{key:width$}  {value}")?;
    }
    Ok(())
}
