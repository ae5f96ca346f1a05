//! `llamafs mount`: the foreground is the daemon itself; the background is a child that reports when it is mounted.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use super::daemon;
use super::failure::{Context, Failure, Outcome};
use super::options::MountOptions;
use crate::fs::size;

/// What the child writes once the mount is in place.
const MOUNTED: &[u8] = b"mounted\n";

/// Mounts a store; returns when it is mounted.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Options: rw, ro, sync, dirsync, async, parallel, noparallel, uring, nouring, exec, noexec, flush_ms=N,
    /// tail=rewrite|pad, errors=remount-ro|shutdown, allow_other, ring_size=N, buffer_size=SIZE, log=FILE; and limits: max_logs=N, max_dirs=N, name_max=N, max_handles=N,
    /// user_handles=N, control_files=N, read_memory=SIZE, append_memory=SIZE
    #[arg(short = 'o', value_name = "OPTS")]
    options: Vec<String>,
    /// Stay in the foreground and log to stderr
    #[arg(long)]
    foreground: bool,
    /// Make and format a file of this size first if it does not exist
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    create: Option<u64>,
    /// Pass over unknown options (mount -s)
    #[arg(long, hide = true)]
    sloppy: bool,
    /// Descriptor on which the parent waits for the word that it is mounted
    #[arg(long, hide = true, value_name = "N", requires = "foreground")]
    ready_fd: Option<RawFd>,
    /// Block device or file
    device: PathBuf,
    /// Directory
    mountpoint: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let options = MountOptions::parse(&args.options, args.sloppy)?;
    if !args.foreground {
        return in_background(args);
    }
    let mut ready = args.ready_fd.map(Ready::take).transpose()?;
    daemon::run(
        daemon::What {
            device: &args.device,
            mountpoint: &args.mountpoint,
            create: args.create,
            options: &options,
            background: ready.is_some(),
        },
        &mut || ready.take().map_or(Ok(()), Ready::say),
    )
}

/// Starts the daemon as a child and waits for its word.
///
/// The child is this program started anew, not a fork: no threads, locks or descriptors of ours come along. Its stdout
/// is the pipe on which it reports; its stderr is ours, so that its one line of error is ours too.
fn in_background(args: &Args) -> Outcome {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("llamafs").args(["mount", "--foreground", "--ready-fd", "1"]);
    for options in &args.options {
        command.arg("-o").arg(options);
    }
    if args.sloppy {
        command.arg("--sloppy");
    }
    if let Some(bytes) = args.create {
        command.arg("--create").arg(bytes.to_string());
    }
    command.arg("--").arg(&args.device).arg(&args.mountpoint);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().context("can't start the daemon")?;
    let mut word = Vec::new();
    if let Some(pipe) = child.stdout.take() {
        pipe.take(MOUNTED.len() as u64).read_to_end(&mut word).context("can't hear from the daemon")?;
    }
    if word == MOUNTED {
        return Ok(ExitCode::SUCCESS);
    }
    // The pipe is closed without the word: the child has ended, or is about to.
    Err(ended(child.wait().context("can't wait for the daemon")?))
}

/// A daemon that ended by itself has said why; one that was killed could not.
fn ended(status: ExitStatus) -> Failure {
    match (status.code(), status.signal()) {
        (Some(0), _) => Failure::new("the daemon stopped before it had mounted: was it asked to?"),
        (Some(code), _) => Failure::silent(u8::try_from(code).unwrap_or(super::failure::FAILED)),
        (None, signal) => Failure::new(format!(
            "the daemon was killed by signal {} before it had mounted: `--foreground` shows more",
            signal.unwrap_or(0)
        )),
    }
}

/// The child's end of the pipe.
struct Ready(File);

impl Ready {
    /// Takes over the descriptor. From here on the child is a session of its own.
    fn take(fd: RawFd) -> Result<Self, Failure> {
        let pipe = File::options().write(true).open(format!("/proc/self/fd/{fd}"));
        let pipe = pipe.context(format_args!("--ready-fd {fd} is no open descriptor"))?;
        // Only the session leader of a terminal's job is refused; it stays in its session then.
        let _ = nix::unistd::setsid();
        if fd > 2 {
            let _ = nix::unistd::close(fd);
        } else {
            null_over(fd)?;
        }
        // `exe` would be the name of what was started as /proc/self/exe.
        let _ = nix::sys::prctl::set_name(c"llamafs");
        Ok(Self(pipe))
    }

    /// Tells the parent, and lets go of the terminal.
    fn say(mut self) -> Result<(), Failure> {
        // A parent that is gone is no reason to give up the mount.
        let _ = self.0.write_all(MOUNTED);
        for fd in [0, 1, 2] {
            null_over(fd)?;
        }
        Ok(())
    }
}

/// Puts /dev/null in the place of a standard descriptor.
fn null_over(fd: RawFd) -> Result<(), Failure> {
    let null = File::options().read(true).write(true).open("/dev/null").context("/dev/null")?;
    if null.as_raw_fd() == fd {
        // It was closed before and would be closed again.
        std::mem::forget(null);
        return Ok(());
    }
    match fd {
        0 => nix::unistd::dup2_stdin(null.as_fd()),
        1 => nix::unistd::dup2_stdout(null.as_fd()),
        _ => nix::unistd::dup2_stderr(null.as_fd()),
    }
    .context("can't let go of the terminal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_said_why_needs_no_second_line() {
        assert_eq!(ended(ExitStatus::from_raw(1 << 8)), Failure::silent(1));
        assert!(ended(ExitStatus::from_raw(9)).text().contains("signal 9"));
        assert!(!ended(ExitStatus::from_raw(0)).text().is_empty());
    }
}
