//! Where the daemon's log goes: stderr in the foreground, else the journal, else a file.
//!
//! `RUST_LOG` says how much of it (default `info`). Lines are written by a thread of their own: a log that can't be
//! written, because its file system is full or its reader stands still, never holds up who has something to say. Lines
//! that find no room in the queue are dropped and counted.

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use env_logger::{Builder, Env, Target};
use log::Level;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::failure::{Context, Failure};

/// systemd's journal takes lines of text here.
const JOURNAL: &str = "/run/systemd/journal/stdout";
/// Said once on each connection: name, unit, priority, "lines begin with a priority in angle brackets", and three times "don't forward".
const JOURNAL_HEADER: &[u8] = b"llamafs\n\n6\n1\n0\n0\n0\n";

/// The stack of a thread, and what the system and its standard library lay beside it.
const THREAD_BYTES: usize = (2 << 20) + (256 << 10);
/// Lines that wait to be written.
const QUEUED_LINES: usize = 1024;
/// How long the end of the daemon waits for them.
const LAST_LINES: Duration = Duration::from_secs(2);
/// And for a place behind them: a busy machine may not have let the thread write yet.
const LAST_ROOM: Duration = Duration::from_millis(300);

/// What goes to the thread that writes.
enum Said {
    Line(Vec<u8>),
    /// Everything before is written: tell so.
    End(SyncSender<()>),
}

/// The end that `log` writes to.
struct Queue {
    lines: SyncSender<Said>,
    dropped: Arc<AtomicU64>,
}

impl Write for Queue {
    /// A record comes as one piece.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(TrySendError::Full(_)) = self.lines.try_send(Said::Line(line.to_vec())) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits, when it goes, for what was said to be written, but not for long.
#[must_use = "the last lines are written when it goes"]
pub struct Log(SyncSender<Said>);

impl Drop for Log {
    fn drop(&mut self) {
        let (written, end) = sync_channel(1);
        let until = Instant::now() + LAST_ROOM;
        // Where the queue stays full, its thread stands still, and waiting is no use.
        while self.0.try_send(Said::End(written.clone())).is_err() {
            if Instant::now() >= until {
                return;
            }
            // Nobody answers yet: a moment's wait.
            let _ = end.recv_timeout(Duration::from_millis(1));
        }
        let _ = end.recv_timeout(LAST_LINES);
    }
}

/// Start the thread that writes to `out`.
fn queue(out: impl Write + Send + 'static) -> Result<(Queue, Log), Failure> {
    let (lines, receiver) = sync_channel(QUEUED_LINES);
    let dropped = Arc::new(AtomicU64::new(0));
    let counter = dropped.clone();
    // A thread that has its stack and nothing beside it ends the process.
    let room = crate::io::try_room(THREAD_BYTES);
    room.map(drop).ok_or_else(|| Failure::new("can't start a thread: out of memory"))?;
    std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || write_lines(out, &receiver, &counter))
        .context("can't start a thread")?;
    Ok((Queue { lines: lines.clone(), dropped }, Log(lines)))
}

/// What can't be written is lost, and the next line tried again: a full file system may have room by then.
fn write_lines(mut out: impl Write, lines: &Receiver<Said>, dropped: &AtomicU64) {
    for said in lines {
        match said {
            Said::Line(line) => {
                let _ = out.write_all(&line).and_then(|()| out.flush());
            }
            Said::End(written) => drop(written.try_send(())),
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(out, "{lost} lines of the log were dropped: it was written too slowly");
        }
    }
}

/// Logs to stderr.
pub fn to_stderr() -> Result<Log, Failure> {
    let (queue, log) = queue(io::stderr())?;
    // A logger that is set already stays.
    let _ = builder().target(Target::Pipe(Box::new(queue))).try_init();
    Ok(log)
}

/// Logs to `file` where one is given, else to the journal, else to the usual file of the user.
pub fn in_background(file: Option<&Path>) -> Result<Log, Failure> {
    let journal = if file.is_none() { Journal::connect().ok() } else { None };
    let log = match journal {
        Some(journal) => {
            let (queue, log) = queue(journal)?;
            let _ = builder()
                .format(|out, record| writeln!(out, "<{}>{}", priority(record.level()), record.args()))
                .target(Target::Pipe(Box::new(queue)))
                .try_init();
            log
        }
        None => {
            let path = file.map_or_else(usual_file, Path::to_path_buf);
            let (queue, log) = queue(open(&path)?)?;
            let _ = builder().target(Target::Pipe(Box::new(queue))).try_init();
            log
        }
    };
    // stderr is gone in the background; a panic must not go with it.
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    Ok(log)
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
    // A pipe that nobody reads would be waited for, by a process that no signal ends.
    let opened = OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(libc::O_NONBLOCK).open(path);
    let failed = |why: &dyn Display| {
        Failure::new(format!("can't open the log file {} (`-o log=FILE` names another): {why}", path.display()))
    };
    let file = opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ENXIO) => failed(&"nobody reads this pipe"),
        _ => failed(&error),
    })?;
    // It is the thread's to wait, once there is a reader.
    let flags = fcntl_getfl(&file).map_err(|error| failed(&error))?;
    fcntl_setfl(&file, flags - OFlags::NONBLOCK).map_err(|error| failed(&error))?;
    Ok(file)
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

    /// A reader that stands still until it is told, and then keeps what it gets.
    struct Stuck(std::sync::mpsc::Receiver<()>, Arc<std::sync::Mutex<Vec<u8>>>);

    impl Write for Stuck {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_that_stands_still_holds_nobody_up() {
        let (go, wait) = std::sync::mpsc::channel();
        let kept = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (mut queue, log) = queue(Stuck(wait, kept.clone())).unwrap();
        for number in 0..QUEUED_LINES + 100 {
            queue.write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        drop(go);
        let text = || String::from_utf8(kept.lock().unwrap().clone()).unwrap();
        let until = std::time::Instant::now() + LAST_LINES * 10;
        // All that found room, and the word of those that did not.
        while text().lines().count() <= QUEUED_LINES {
            assert!(std::time::Instant::now() < until, "{}", text());
            std::thread::yield_now();
        }
        queue.write_all(b"last\n").unwrap();
        drop(log);
        let text = text();
        assert!(text.starts_with("0\n") && text.contains("1022\n1023\n") && text.ends_with("last\n"), "{text}");
        assert!(text.contains(" lines of the log were dropped"), "{text}");
    }

    #[test]
    fn a_pipe_is_a_log_when_somebody_reads_it_and_is_not_waited_for_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let text = open(&path).unwrap_err().text();
        assert!(text.contains("nobody reads this pipe") && text.contains("-o log="), "{text}");
        let mut reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        let mut log = open(&path).unwrap();
        assert!(!fcntl_getfl(&log).unwrap().contains(OFlags::NONBLOCK), "lines would be lost");
        log.write_all(b"one\n").unwrap();
        let mut line = [0; 4];
        io::Read::read_exact(&mut reader, &mut line).unwrap();
        assert_eq!(&line, b"one\n");
    }

    #[test]
    fn a_log_file_that_cannot_be_is_told() {
        let text = open(Path::new("/proc/none/x.log")).unwrap_err().text();
        assert!(text.contains("/proc/none/x.log") && text.contains("-o log="), "{text}");
    }
}
