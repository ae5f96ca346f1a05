//! A command's failure: one line that says what and what to do, and an exit status.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use crate::format::shown;

/// Exit status of a command that could not do its work.
pub const FAILED: u8 = 1;
/// Exit status of a command that was called wrongly.
pub const USAGE: u8 = 2;

/// What ends a command early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    code: u8,
    text: String,
}

/// What a command gives back: its exit status, or why it stopped.
pub type Outcome = Result<ExitCode, Failure>;

impl Failure {
    /// The command could not do its work.
    pub fn new(text: impl Into<String>) -> Self {
        Self { code: FAILED, text: text.into() }
    }

    /// The command was called wrongly.
    pub fn usage(text: impl Into<String>) -> Self {
        Self { code: USAGE, text: text.into() }
    }

    /// Somebody else has already said what is wrong: only the exit status is left to give.
    pub fn silent(code: u8) -> Self {
        Self { code, text: String::new() }
    }

    /// The same failure with another exit status.
    pub fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// The exit status.
    pub fn code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }

    /// What and what to do; never more than one line, and nothing that a terminal would act on.
    pub fn text(&self) -> String {
        shown(&self.text.split('\n').map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "))
    }

    /// Says it on stderr.
    pub fn say(&self) {
        if !self.text.is_empty() {
            say(&self.text());
        }
    }
}

/// One line on stderr, in the name of the program.
pub fn say(text: &str) {
    // Nothing is left to be done where stderr itself can't be written.
    let _ = writeln!(std::io::stderr(), "llamafs: {}", shown(text));
}

/// Gives a failure to what went wrong, with the object's name in front.
pub trait Context<T> {
    /// `what: error`.
    fn context(self, what: impl Display) -> Result<T, Failure>;
}

impl<T, E: Display> Context<T> for Result<T, E> {
    fn context(self, what: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(format!("{what}: {error}")))
    }
}

/// Standard output for results. A reader that went away (`| head`) is no failure; any other error is.
pub fn print(write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<(), Failure> {
    let mut out = std::io::BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("can't write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_whatever_it_was_made_of() {
        let failure = Failure::new("first\n  second\n\n");
        assert_eq!(failure.text(), "first second");
        assert_eq!(Failure::new("a\x1b[2Jb\r").text(), r"a\u{1b}[2Jb");
    }

    #[test]
    fn the_object_stands_before_what_is_wrong_with_it() {
        let error: Result<(), _> = Err(std::io::Error::other("broken"));
        assert_eq!(error.context("disk").unwrap_err().text(), "disk: broken");
    }
}
