//! A process that locks a file as it is told, so that locks of several processes can be held against each other.
#![allow(dead_code, clippy::undocumented_unsafe_blocks, reason = "plain calls on descriptors that are open")]

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

/// Set in the environment of such a process: the file.
const FILE: &str = "LLAMAFS_TEST_LOCKER";
/// In front of what it says, among what the test program itself prints.
const SAYS: &str = "locker: ";
/// Longest wait for an answer that has to come.
pub const SOON: Duration = Duration::from_secs(20);
/// Wait for an answer that must not come.
const NOT_YET: Duration = Duration::from_millis(150);

/// The parent's end.
pub struct Locker {
    pub child: Child,
    answers: Receiver<String>,
}

impl Locker {
    /// A process that has the file open; the test program has a test `locker_process` that calls [`locker_process`].
    pub fn start(file: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["locker_process", "--exact", "--nocapture", "--quiet"])
            .env(FILE, file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, answers) = mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if let Some((_, said)) = line.split_once(SAYS) {
                    let _ = sender.send(said.to_owned());
                }
            }
        });
        let mut locker = Self { child, answers };
        assert_eq!(locker.ask("hello"), "ok");
        locker
    }

    /// Tell it something, and not wait.
    pub fn tell(&mut self, what: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{what}").unwrap();
    }

    /// Its next answer.
    pub fn answer(&self) -> String {
        self.answers.recv_timeout(SOON).unwrap_or_else(|error| panic!("the locker does not answer: {error}"))
    }

    pub fn ask(&mut self, what: &str) -> String {
        self.tell(what);
        self.answer()
    }

    /// It has been told to wait, and does.
    pub fn waits(&self) {
        assert_eq!(self.answers.recv_timeout(NOT_YET).ok(), None, "it should wait");
    }

    pub fn pid(&self) -> String {
        self.child.id().to_string()
    }

    pub fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.pid()]).status().unwrap().success());
    }

    /// kill -9, and that it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        let (sender, gone) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| sender.send(self.child.wait()).unwrap());
            gone.recv_timeout(SOON).expect("a killed process does not end").unwrap();
        });
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The thread that makes the calls: a test's thread, while signals come to the main one.
static WORKER: AtomicI32 = AtomicI32::new(0);

extern "C" fn to_the_worker(signal: libc::c_int) {
    let worker = WORKER.load(Ordering::SeqCst);
    if unsafe { libc::gettid() } != worker {
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), worker, signal) };
    }
}

/// The process's side. Does nothing in the parent.
pub fn locker_process() {
    let Ok(path) = std::env::var(FILE) else { return };
    let open = || OpenOptions::new().read(true).append(true).open(&path).unwrap();
    let mut files = vec![open()];
    println!();
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<i64>().unwrap();
        let said = match words[0] {
            "hello" => "ok".to_owned(),
            "open" => {
                files.push(open());
                "ok".to_owned()
            }
            "close" => {
                drop(files.remove(words[1].parse().unwrap()));
                "ok".to_owned()
            }
            // lock FILE SORT MODE WAIT START LEN
            "lock" => {
                let file = &files[words[1].parse::<usize>().unwrap()];
                say(lock(file, words[2], words[3], words[4] == "wait", number(5), number(6)))
            }
            "test" => test(&files[0], number(1), number(2)),
            // count SORT TIMES WHERE
            "count" => {
                for _ in 0..number(2) {
                    lock(&files[0], words[1], "w", true, 0, 0).unwrap();
                    let before: u64 = std::fs::read_to_string(words[3]).unwrap().parse().unwrap();
                    std::fs::write(words[3], (before + 1).to_string()).unwrap();
                    lock(&files[0], words[1], "u", false, 0, 0).unwrap();
                }
                "ok".to_owned()
            }
            // A signal that ends calls that wait.
            "handle" => {
                WORKER.store(unsafe { libc::gettid() }, Ordering::SeqCst);
                let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
                action.sa_sigaction = to_the_worker as extern "C" fn(libc::c_int) as usize;
                unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) };
                "ok".to_owned()
            }
            other => panic!("{other}"),
        };
        println!("{SAYS}{said}");
    }
    std::process::exit(0);
}

fn say(result: std::io::Result<()>) -> String {
    match result {
        Ok(()) => "ok".to_owned(),
        Err(error) => match error.raw_os_error().unwrap() {
            libc::EAGAIN => "EAGAIN".to_owned(),
            libc::EINTR => "EINTR".to_owned(),
            libc::EDEADLK => "EDEADLK".to_owned(),
            other => other.to_string(),
        },
    }
}

fn region(mode: &str, start: i64, len: i64) -> libc::flock {
    let kind = match mode {
        "r" => libc::F_RDLCK,
        "w" => libc::F_WRLCK,
        _ => libc::F_UNLCK,
    };
    libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: start, l_len: len, l_pid: 0 }
}

fn lock(file: &File, sort: &str, mode: &str, wait: bool, start: i64, len: i64) -> std::io::Result<()> {
    let region = region(mode, start, len);
    let command = match (sort, wait) {
        ("whole", _) => {
            let how = match mode {
                "r" => libc::LOCK_SH,
                "w" => libc::LOCK_EX,
                _ => libc::LOCK_UN,
            };
            let result = unsafe { libc::flock(file.as_raw_fd(), if wait { how } else { how | libc::LOCK_NB }) };
            return if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) };
        }
        ("range", false) => libc::F_SETLK,
        ("range", true) => libc::F_SETLKW,
        (_, false) => libc::F_OFD_SETLK,
        (_, true) => libc::F_OFD_SETLKW,
    };
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &region) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Who is in the way of a lock for writing.
fn test(file: &File, start: i64, len: i64) -> String {
    let mut region = region("w", start, len);
    assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &mut region) }, 0);
    if i32::from(region.l_type) == libc::F_UNLCK {
        return "free".to_owned();
    }
    format!("{} {} {} {}", region.l_pid, region.l_type, region.l_start, region.l_len)
}
