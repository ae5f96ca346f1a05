//! Where the daemon's log goes: stderr in the foreground, else the journal, else a file.
//!
//! `RUST_LOG` says how much of it (default `info`).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use env_logger::{Builder, Env, Target};
use log::Level;

use super::failure::{Context, Failure};

/// systemd's journal takes lines of text here.
const JOURNAL: &str = "/run/systemd/journal/stdout";
/// Said once on each connection: name, unit, priority, "lines begin with a priority in angle brackets", and three times "don't forward".
const JOURNAL_HEADER: &[u8] = b"llamafs\n\n6\n1\n0\n0\n0\n";

/// Logs to stderr.
pub fn to_stderr() {
    // A logger that is set already stays.
    let _ = builder().try_init();
}

/// Logs to `file` where one is given, else to the journal, else to the usual file of the user.
pub fn in_background(file: Option<&Path>) -> Result<(), Failure> {
    let journal = if file.is_none() { Journal::connect().ok() } else { None };
    match journal {
        Some(journal) => {
            let _ = builder()
                .format(|out, record| writeln!(out, "<{}>{}", priority(record.level()), record.args()))
                .target(Target::Pipe(Box::new(journal)))
                .try_init();
        }
        None => {
            let path = file.map_or_else(usual_file, Path::to_path_buf);
            let _ = builder().target(Target::Pipe(Box::new(open(&path)?))).try_init();
        }
    }
    // stderr is gone in the background; a panic must not go with it.
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    Ok(())
}

fn builder() -> Builder {
    let mut builder = Builder::from_env(Env::default().default_filter_or("info"));
    builder.format_target(false);
    builder
}

fn open(path: &Path) -> Result<File, Failure> {
    if let Some(directory) = path.parent() {
        // Where this fails, opening the file says why.
        let _ = std::fs::create_dir_all(directory);
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .context(format_args!("can't open the log file {} (`-o log=FILE` names another)", path.display()))
}

/// `/var/log/llamafs.log` for root, else in the user's own state directory.
fn usual_file() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/var/log/llamafs.log");
    }
    let from = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    from("XDG_STATE_HOME")
        .or_else(|| from("HOME").map(|home| home.join(".local/state")))
        .unwrap_or_else(std::env::temp_dir)
        .join("llamafs.log")
}

/// syslog's numbers.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// A connection to the journal that is made anew when the journal was restarted.
struct Journal(UnixStream);

impl Journal {
    fn connect() -> io::Result<Self> {
        let mut stream = UnixStream::connect(JOURNAL)?;
        stream.write_all(JOURNAL_HEADER)?;
        Ok(Self(stream))
    }
}

impl Write for Journal {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.0.write(line) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                *self = Self::connect()?;
                self.0.write(line)
            }
            done => done,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_file_is_appended_to_and_its_directory_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/llamafs.log");
        open(&path).unwrap().write_all(b"one\n").unwrap();
        open(&path).unwrap().write_all(b"two\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\n");
    }

    #[test]
    fn a_log_file_that_cannot_be_is_told() {
        let text = open(Path::new("/proc/none/x.log")).unwrap_err().text();
        assert!(text.contains("/proc/none/x.log") && text.contains("-o log="), "{text}");
    }
}
