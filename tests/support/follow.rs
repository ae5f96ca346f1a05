//! Readers that follow a log while it grows: `tail -f`, and readers of this process that ask again at its end.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Contents, Store, walk};

/// Pause of a reader at the end.
const PAUSE: Duration = Duration::from_millis(1);

/// They read until they are told that nothing more comes.
pub struct Followers {
    log: PathBuf,
    done: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Contents>>,
    tail: Child,
    tailed: Arc<AtomicU64>,
    walker: JoinHandle<Contents>,
}

/// A log that has no end until `done`.
struct Growing {
    log: File,
    done: Arc<AtomicBool>,
}

impl Read for Growing {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            // Looked at first: what was appended before it was set is read below.
            let done = self.done.load(Ordering::SeqCst);
            let got = self.log.read(out)?;
            if got > 0 || done {
                return Ok(got);
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// Counts what comes through.
struct Counted<R>(R, Arc<AtomicU64>);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let got = self.0.read(out)?;
        self.1.fetch_add(got as u64, Ordering::SeqCst);
        Ok(got)
    }
}

fn tail(log: &Path) -> Child {
    let mut command = Command::new("tail");
    command.args(["-c", "+1", "-s", "0.05", "-f"]).arg(log).stdout(Stdio::piped()).spawn().unwrap()
}

impl Followers {
    /// One `tail -f`, and `readers` of this process.
    pub fn start(store: &Store, readers: usize) -> Followers {
        let log = store.log();
        let done = Arc::new(AtomicBool::new(false));
        let threads = (0..readers)
            .map(|_| {
                let growing = Growing { log: File::open(&log).unwrap(), done: done.clone() };
                std::thread::spawn(move || walk(growing))
            })
            .collect();
        let mut tail = tail(&log);
        let tailed = Arc::new(AtomicU64::new(0));
        let out = Counted(tail.stdout.take().unwrap(), tailed.clone());
        let walker = std::thread::spawn(move || walk(out));
        Followers { log, done, threads, tail, tailed, walker }
    }

    /// Nothing more is appended: what each has seen.
    pub fn finish(mut self) -> Vec<Contents> {
        self.done.store(true, Ordering::SeqCst);
        let mut seen: Vec<Contents> = self.threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let size = std::fs::metadata(&self.log).unwrap().len();
        while self.tailed.load(Ordering::SeqCst) < size && !self.walker.is_finished() {
            std::thread::sleep(PAUSE);
        }
        self.tail.kill().unwrap();
        self.tail.wait().unwrap();
        seen.push(self.walker.join().unwrap());
        seen
    }
}
