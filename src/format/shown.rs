//! Text from a device or a command line as a terminal may show it: no name can make a line of its own, move the cursor or
//! turn the direction of writing.

use std::fmt::Write as _;

/// Text as it is shown to people: control characters are written as escapes.
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if is_unseen(character) {
            // Writing to a String cannot fail.
            let _ = write!(out, "{}", character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

/// Control characters, ends of lines, and what turns the direction of writing.
fn is_unseen(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_languages_are_shown_as_they_are() {
        for name in ["log", "Zugriffe für März", "アクセス", "a\\b \"c\"", "🦙"] {
            assert_eq!(shown(name), name);
        }
    }

    #[test]
    fn no_name_makes_a_line_or_moves_the_cursor() {
        assert_eq!(shown("a\nlog /b\t\x1b[2J\r\x7f"), r"a\nlog /b\t\u{1b}[2J\r\u{7f}");
        assert_eq!(shown("a\u{9b}b\u{202e}c\u{2028}"), r"a\u{9b}b\u{202e}c\u{2028}");
        assert_eq!(shown(&String::from_utf8_lossy(b"\xff\xfe")), "\u{fffd}\u{fffd}");
    }
}
