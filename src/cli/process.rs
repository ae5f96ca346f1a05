//! The end of the daemon, seen from another process.
//!
//! An open `/proc/PID` directory belongs to that one process, as a pidfd does: once the process is gone every look
//! through it fails, even when the number has been given to another. (A pidfd itself can't be had without `unsafe`.)

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Time between two looks.
const LOOK_MS: u16 = 5;

/// A process that is not our child.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    directory: File,
}

impl Process {
    /// Takes hold of the process; `None` when there is none of that number.
    pub fn hold(pid: i32) -> Option<Self> {
        let directory = File::open(format!("/proc/{pid}")).ok()?;
        let process = Self { pid, directory };
        process.alive().then_some(process)
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// It runs. A zombie has closed everything it had, so it is gone for us.
    pub fn alive(&self) -> bool {
        let path = PathBuf::from(format!("/proc/self/fd/{}/stat", self.directory.as_raw_fd()));
        let mut stat = String::new();
        if File::open(path).and_then(|mut file| file.read_to_string(&mut stat)).is_err() {
            return false;
        }
        // The state follows the name, which may itself hold spaces and parentheses.
        let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
        !matches!(state, None | Some('Z' | 'X'))
    }

    /// Waits for its end; false when `limit` has passed first.
    pub fn wait(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while self.alive() {
            if Instant::now() >= until {
                return false;
            }
            // Nothing ever happens on a directory's descriptor: this is a wait without a busy CPU.
            let mut nothing = [PollFd::new(self.directory.as_fd(), PollFlags::empty())];
            let _ = poll(&mut nothing, PollTimeout::from(LOOK_MS));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_end_of_a_process_is_seen() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let process = Process::hold(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(!process.wait(Duration::from_millis(30)), "it still runs");
        drop(child.stdin.take());
        assert!(process.wait(Duration::from_secs(20)), "a zombie counts as gone");
        child.wait().unwrap();
        assert!(!process.alive());
    }

    #[test]
    fn no_process_is_no_process() {
        assert!(Process::hold(i32::MAX).is_none());
    }
}
