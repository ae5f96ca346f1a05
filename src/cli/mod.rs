//! The command line: one file per command, every failure one line on stderr.
//!
//! Exit status: 0 done, 1 failed, 2 called wrongly. `check` answers with the codes of fsck(8).

mod attribute;
mod bench;
mod cat;
mod check;
mod daemon;
mod device;
mod dump;
mod failure;
mod format;
mod grow;
mod limits;
mod logging;
mod mount;
mod mounts;
mod options;
mod process;
mod remains;
mod salvage;
mod signature;
mod status;
mod table;
mod trim;
mod umount;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::store::types::StoreOptions;
use failure::Failure;

/// Append-only logs on a raw block device.
///
/// A store lives on a block device or in a file; mounted, it shows append-only logs that any program writes to with
/// plain `write`, `>>` or `tee -a`, and a directory `.llamafs` that shows the store itself.
#[derive(Debug, Parser)]
#[command(name = "llamafs", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Format(format::Args),
    Mount(mount::Args),
    Umount(umount::Args),
    Status(status::Args),
    Check(check::Args),
    Dump(dump::Args),
    Cat(cat::Args),
    Salvage(salvage::Args),
    Trim(trim::Args),
    Grow(grow::Args),
    Bench(bench::Args),
}

/// Parses the arguments, runs the command, says what went wrong, and gives the exit status.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return wrong_usage(&error),
    };
    let outcome = match cli.command {
        Command::Format(args) => format::run(&args),
        Command::Mount(args) => mount::run(&args),
        Command::Umount(args) => umount::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Dump(args) => dump::run(&args),
        Command::Cat(args) => cat::run(&args),
        Command::Salvage(args) => salvage::run(&args),
        Command::Trim(args) => trim::run(&args),
        Command::Grow(args) => grow::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            failure.say();
            failure.code()
        }
    }
}

/// clap's own message takes several lines; ours is one, like every other error.
fn wrong_usage(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        // With help asked for this is stdout and 0; with no command at all it is stderr and 2.
        let failed = error.print().is_err();
        return if failed || error.exit_code() != 0 { ExitCode::from(failure::USAGE) } else { ExitCode::SUCCESS };
    }
    let failure = Failure::usage(one_line(&error.to_string()));
    failure.say();
    if std::env::args_os().nth(1).is_some_and(|c| c == "check") {
        return ExitCode::from(check::USAGE_ERROR);
    }
    failure.code()
}

/// What clap says up to its usage text, as one line.
fn one_line(message: &str) -> String {
    let what = message
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    format!("{what}; `llamafs --help` shows how it is called")
}

/// What mount options ask of the store, or the line that refuses them: for tests that feed it anything.
pub fn mount_options(text: &str, sloppy: bool) -> Result<StoreOptions, String> {
    let options = options::MountOptions::parse(&[text.to_owned()], sloppy);
    options.map(|options| options.store).map_err(|failure| failure.text())
}

/// A size as the command line takes it, or why not: for the same tests.
pub fn parse_size(text: &str) -> Result<u64, String> {
    crate::fs::size::parse(text)
}

/// The line that refuses a call with these arguments, if it is refused: for the same tests.
pub fn usage(arguments: Vec<String>) -> Result<(), String> {
    Cli::try_parse_from(arguments).map(drop).map_err(|error| Failure::usage(one_line(&error.to_string())).text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_wrong_call_is_told_in_one_line() {
        for call in [
            &["llamafs", "mount", "dev"][..],
            &["llamafs", "frobnicate"],
            &["llamafs", "format", "--bogus", "dev"],
            &["llamafs", "format", "--size", "many", "dev"],
        ] {
            let error = Cli::try_parse_from(call).unwrap_err();
            let line = one_line(&error.to_string());
            assert!(!line.contains('\n') && !line.contains("error:"), "{line}");
            assert!(line.len() > 50, "{line}");
        }
    }
}
