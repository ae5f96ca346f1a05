//! Two columns for people.

use std::io::{self, Write};

use crate::format::shown;

/// Writes `key   value` lines with the values under each other; a value is one line whatever is in it.
pub fn write(out: &mut dyn Write, rows: &[(&str, String)]) -> io::Result<()> {
    let width = rows.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    for (key, value) in rows {
        writeln!(out, "{key:width$}  {}", shown(value))?;
    }
    Ok(())
}
