//! The commands: one file each.

/// Run the command line; the exit code is the command's.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(8)
}
