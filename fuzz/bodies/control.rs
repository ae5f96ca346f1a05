//! What a user can say to llamafs: the command line, mount options, sizes, and requests to a mounted file system with
//! hostile arguments, in any order. No panic; refusals are one line; a log is only ever appended to, and shows what
//! was appended.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use llamafs::cli;
use llamafs::fs::types::{Ioctl, New, Read, SetAttr, SetTime, Write};
use llamafs::fs::{Errno, FsSettings, Lent, LlamaFs, NoPageCache, Reply};
use llamafs::io::{Device, SimDevice, SimFault, SimOp};
use llamafs::store::{Lends, LogStructuredStore, StoreOptions, Tail};

use super::guard::Guard;
use super::images;
use super::input::Input;

/// How long a request may take to be answered.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests of one input, at most.
const MOST: usize = 200;
/// Bytes of one write; the largest record is far below.
const LARGEST_WRITE: usize = 6000;
/// What the kernel lets an ioctl hand back: 14 bits of length.
const IOCTL_OUT: usize = 1 << 14;
/// The kernel asks for no more.
const LARGEST_READ: usize = 1 << 20;
/// Memory that options may ask for here.
const RING_BYTES: usize = 4 << 20;
/// Inodes that are kept for later requests, about.
const MOST_MADE: usize = 64;
/// Times that a change of a byte or two keeps times, or not.
const TIMES: [&str; 4] =
    ["1970-01-01T00:00:00Z", "2026-11-26T12:00:00.000000001Z", "2026-11-26T12:00:00+02:00", "2999-12-31T23:59:59Z"];
const LOG_INO: u64 = 0x101;
const CONTROL_INO: u64 = 1 << 40;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.u8() % 4 {
        0 => options(&mut input),
        1 => sizes(&mut input),
        2 => usage(&mut input),
        _ => requests(&mut input),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn one_line(message: &str) {
    assert!(!message.is_empty() && !message.contains('\n'), "{message:?}");
}

fn options(input: &mut Input<'_>) {
    let sloppy = input.u8() % 2 == 1;
    match cli::mount_options(&text(input.rest()), sloppy) {
        Err(message) => one_line(&message),
        Ok(options) => {
            assert!((2..=64).contains(&options.ring_size) && options.flush_ms > 0);
            open_with(options);
        }
    }
}

/// What the options allow must open a store, or be refused in one line.
fn open_with(options: StoreOptions) {
    if options.ring_size * options.buffer_size > RING_BYTES {
        return;
    }
    let device = Guard::new(images::shapes()[1].device.crash(0), !options.read_only);
    match LogStructuredStore::open(device as Arc<dyn Device>, options) {
        Ok(store) => store.close().unwrap(),
        Err(error) => one_line(&error.to_string()),
    }
}

fn sizes(input: &mut Input<'_>) {
    let text = text(input.rest());
    match cli::parse_size(&text) {
        Ok(bytes) => assert!(i64::try_from(bytes).is_ok() && text.starts_with(|c: char| c.is_ascii_digit())),
        Err(message) => assert!(!message.is_empty()),
    }
}

fn usage(input: &mut Input<'_>) {
    let arguments = text(input.rest());
    let arguments = std::iter::once("llamafs").chain(arguments.split('\n')).map(str::to_owned).collect();
    if let Err(message) = cli::usage(arguments) {
        one_line(&message);
    }
}

fn whole(read: Lent) -> Vec<u8> {
    read.slices().collect::<Vec<_>>().concat()
}

/// One of the numbers that the log has: its own, or one under which the kernel is told of it once more (`-o parallel`).
fn is_log(ino: u64) -> bool {
    ino == LOG_INO || (ino >> 63 == 1 && u64::from(ino as u32) == LOG_INO - 0x100)
}

/// A mounted store, and what its log must hold.
struct Mounted {
    guard: Arc<Guard>,
    store: Arc<LogStructuredStore>,
    fs: LlamaFs,
    tail: Tail,
    log: Vec<u8>,
    /// So many bytes of it are durable.
    durable: usize,
    /// The device was told to fail a write.
    failing: bool,
    shut: bool,
    /// Inodes of what was made besides.
    made: Vec<u64>,
}

fn requests(input: &mut Input<'_>) {
    let tail = if input.u8().is_multiple_of(2) { Tail::Rewrite } else { Tail::Pad };
    let mut mounted = Mounted::new(images::shapes()[0].device.crash(0), tail, Vec::new(), input);
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        mounted.step(input);
    }
    mounted.read(LOG_INO, 2, 0, mounted.log.len());
}

impl Mounted {
    fn new(device: SimDevice, tail: Tail, log: Vec<u8>, input: &mut Input<'_>) -> Self {
        let guard = Guard::new(device, true);
        let store = LogStructuredStore::open(guard.clone() as Arc<dyn Device>, images::options(tail)).unwrap();
        let bits = input.u8();
        let settings = FsSettings { sync: bits & 1 != 0, cached_reads: bits & 2 != 0, ..FsSettings::default() };
        let fs = LlamaFs::new(store.clone(), settings, Box::new(NoPageCache));
        let durable = log.len();
        Self { guard, store, fs, tail, log, durable, failing: false, shut: false, made: vec![1] }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let ino = self.ino(input);
        let size = self.log.len() as u64;
        match input.u8() % 32 {
            0 => {
                let len = usize::from(input.u8());
                self.lookup(ino, input.bytes(len));
            }
            1 => self.attributes(ino),
            2 => self.setattr(ino, input),
            3 => {
                let flags = input.u32() as i32;
                let uid = u32::from(input.u8());
                let opened = self.ask(|fs, reply| fs.open(ino, flags, uid, reply));
                let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
                let rule = flags & libc::O_TRUNC == 0 && (!writes || flags & libc::O_APPEND != 0);
                assert!(!is_log(ino) || opened.is_ok() == rule, "{flags:#x}: {opened:?}");
            }
            4 | 5 => {
                let (fh, offset) = (u64::from(input.u8() % 20), input.near(size, &[size]));
                let len = input.u32() as usize % LARGEST_READ;
                self.read(ino, fh, offset, len);
            }
            6..=8 => self.write(ino, libc::O_APPEND, input),
            9 => {
                let flags = input.u32() as i32;
                self.write(ino, flags, input);
            }
            10 => self.fsync(ino),
            11 => self.lseek(ino, input),
            12 => {
                let out = usize::from(input.u16()) % IOCTL_OUT;
                let command = [0x8008_6601, 0x8004_6601, 0x4008_6602, 0x801c_581f, input.u32()][input.below(5)];
                let answer = self.fs.ioctl(Ioctl { ino, command, out });
                assert!(answer.is_err() || answer.is_ok_and(|bytes| bytes.len() == out));
            }
            13 => {
                let len = usize::from(input.u8());
                let name = input.bytes(len);
                let _ = (
                    self.fs.getxattr(ino, name),
                    self.fs.listxattr(ino),
                    self.fs.setxattr(ino, 1, name, name, 0, |_| {}),
                );
            }
            14 => self.readdir(ino, input.near(0, &[LOG_INO])),
            15 => {
                let (mask, mode) = (input.u32() as i32, input.u32() as i32);
                let _ = (self.fs.access(ino, mask), self.fs.fallocate(ino, mode), self.fs.opendir(ino));
                let statfs = self.fs.statfs();
                assert!(statfs.free <= statfs.blocks);
            }
            16 => self.store.tick(),
            17 => self.store.tick_idle(),
            18 => {
                check_texts(&self.fs);
                self.fs.release(ino, input.near(16, &[]));
            }
            19 => self.remount(input),
            20 => {
                let (op, nth) = if input.u8().is_multiple_of(2) { (SimOp::Write, 0) } else { (SimOp::Flush, 0) };
                self.guard.sim.inject(op, nth, 1, SimFault::Error(libc::EIO));
                self.failing = true;
            }
            22..=29 => self.change(input),
            30 | 31 => self.view(input),
            _ => {
                // Rarely: nothing much happens afterwards.
                if input.u8() == 7 {
                    self.fs.shut_gate();
                    self.shut = true;
                }
            }
        }
    }

    fn ino(&self, input: &mut Input<'_>) -> u64 {
        match input.u8() % 16 {
            n @ 0..=3 => [0, 1, 2, 0x100][usize::from(n)],
            4 => CONTROL_INO + u64::from(input.u8() % 6),
            5 => input.near(LOG_INO, &[CONTROL_INO]),
            6..=8 => self.made[input.below(self.made.len())],
            _ => LOG_INO,
        }
    }

    /// Make a request and drive the store until it is answered, which happens once.
    fn ask<T: Send + 'static>(&self, request: impl FnOnce(&LlamaFs, Answer<T>)) -> Result<T, Errno> {
        let slot = Arc::new(Mutex::new(None));
        request(&self.fs, Answer(slot.clone()));
        let asked = Instant::now();
        loop {
            if let Some(result) = slot.lock().unwrap().take() {
                return result;
            }
            // Where a view begins is looked for by a thread, which may be the one that takes completions just now.
            if self.store.poll(true) == 0 && slot.lock().unwrap().is_none() {
                assert!(asked.elapsed() < PATIENCE, "a request that is never answered");
                // Room, where there is none but can be some, is made by another, which is not started here.
                if self.store.deferred() > 0 {
                    self.store.tick();
                }
                std::thread::sleep(Duration::from_micros(100));
            }
        }
    }

    /// A name as callers may give it; `/log` is left where it is, so that what it holds can be told.
    fn name(input: &mut Input<'_>) -> Vec<u8> {
        let name = match input.u8() {
            n @ 0..=127 => [&b"a"[..], b"b", b"c", b"dir", b".llamafs", b".", b"..", b""][usize::from(n) % 8].to_vec(),
            n => input.bytes(usize::from(n) * 3).to_vec(),
        };
        if name == b"log" { b"other".to_vec() } else { name }
    }

    /// Make, rename or remove something.
    fn change(&mut self, input: &mut Input<'_>) {
        let parent = self.made[input.below(self.made.len())];
        let (name, to, what) = (Self::name(input), Self::name(input), input.u8());
        let new = New { parent, name: &name, mode: input.u32(), uid: u32::from(input.u8()), gid: 0 };
        let made = match what % 8 {
            0 => {
                let flags = input.u32() as i32;
                self.ask(|fs, reply| fs.create(&new, flags, reply)).map(|(attr, _)| attr)
            }
            1 => self.ask(|fs, reply| fs.mknod(&new, reply)),
            2 | 3 => self.ask(|fs, reply| fs.mkdir(&new, reply)),
            4 => {
                let _ = self.ask(|fs, reply| fs.unlink(parent, &name, reply));
                return;
            }
            5 => {
                let _ = self.ask(|fs, reply| fs.rmdir(parent, &name, reply));
                return;
            }
            _ => {
                let (target, flags) = (self.made[input.below(self.made.len())], u32::from(what >> 5));
                let _ = self.ask(|fs, reply| fs.rename((parent, &name), (target, &to), flags, reply));
                return;
            }
        };
        if let Ok(attr) = made {
            assert!(name.len() <= 255 && !name.is_empty() && !name.contains(&0) && !name.contains(&b'/'), "{name:?}");
            assert_eq!(self.fs.lookup(parent, &name).map(|found| found.ino), Ok(attr.ino));
            self.made.push(attr.ino);
        }
    }

    fn lookup(&self, parent: u64, name: &[u8]) {
        let found = self.fs.lookup(parent, name).map(|attr| attr.ino);
        match (parent, name) {
            (1, b"log") => assert_eq!(found, Ok(LOG_INO)),
            (1, b".llamafs") => assert_eq!(found, Ok(CONTROL_INO)),
            (CONTROL_INO, b"status" | b"status.json" | b"ring" | b"device" | b"retained" | b"at") => {
                assert!(found.is_ok())
            }
            (CONTROL_INO, _) => assert!(found.is_err(), "{name:?} in {parent}: {found:?}"),
            _ => {}
        }
    }

    /// A log from where it begins, or from a time on: the end of what was appended to it, and the times as callers may give
    /// them. What was found is there for all other requests.
    fn view(&mut self, input: &mut Input<'_>) {
        let in_control = |name: &[u8]| self.fs.lookup(CONTROL_INO, name).expect("a directory that is always there").ino;
        let directory = match usize::from(input.u8()) % 5 {
            0 => in_control(b"retained"),
            n => {
                let mut time = TIMES[n - 1].as_bytes().to_vec();
                for _ in 0..input.u8() % 4 {
                    let at = input.below(time.len());
                    time[at] = input.u8();
                }
                match self.fs.lookup(in_control(b"at"), &time) {
                    Ok(found) => found.ino,
                    Err(_) => return,
                }
            }
        };
        let Ok(file) = self.fs.lookup(directory, b"log").map(|found| found.ino) else { return };
        self.made.truncate(MOST_MADE);
        self.made.extend([directory, file]);
        let fh = u64::from(input.u8() % 20);
        let read = self
            .ask(|fs, reply| {
                fs.read(
                    Read { ino: file, fh, offset: 0, len: LARGEST_READ, for_pages: false, lends: Lends::Slices },
                    reply,
                )
            })
            .map(whole);
        match read {
            Ok(bytes) if bytes.len() < LARGEST_READ => assert!(self.log.ends_with(&bytes), "{} bytes", bytes.len()),
            Ok(_) => {}
            Err(error) => assert!(self.shut || self.failing, "{error:?}"),
        }
    }

    fn attributes(&self, ino: u64) {
        let attr = self.fs.getattr(ino);
        if is_log(ino) {
            assert_eq!(attr.map(|attr| attr.size), Ok(self.log.len() as u64));
        }
    }

    fn setattr(&self, ino: u64, input: &mut Input<'_>) {
        let bits = input.u8();
        let number = |bit: u8, value: u32| (bits & bit != 0).then_some(value);
        let time = [None, Some(SetTime::Now), Some(SetTime::At(u64::from(bits)))][usize::from(bits >> 6) % 3];
        let set = SetAttr {
            mode: number(1, input.u32()),
            uid: number(2, input.u32()),
            gid: number(4, input.u32()),
            size: (bits & 8 != 0).then(|| input.near(0, &[])),
            atime: time,
            mtime: number(16, 0).and(time),
        };
        let result = self.ask(|fs, reply| fs.setattr(ino, set, reply));
        if set.size.is_some() {
            assert!(result.is_err(), "a size was set");
        }
        if let (Ok(attr), Some(mode), LOG_INO) = (result, set.mode, ino) {
            assert_eq!(attr.mode, mode & 0o7777);
        }
        self.attributes(ino);
    }

    fn read(&self, ino: u64, fh: u64, offset: u64, len: usize) {
        let read = self
            .ask(|fs, reply| fs.read(Read { ino, fh, offset, len, for_pages: false, lends: Lends::Slices }, reply))
            .map(whole);
        if self.shut {
            assert_eq!(read, Err(Errno::ESHUTDOWN));
        } else if is_log(ino) {
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.log.len());
            let to = from.saturating_add(len).min(self.log.len());
            let wanted = &self.log[from..to];
            let read = read.unwrap_or_else(|error| panic!("{offset}+{len} of {}: {error:?}", self.log.len()));
            let wrong = read.iter().zip(wanted).position(|(a, b)| a != b);
            assert!(read == wanted, "{} bytes at {offset}, not {}; wrong at {wrong:?}", read.len(), wanted.len());
        }
    }

    fn write(&mut self, ino: u64, flags: i32, input: &mut Input<'_>) {
        let size = self.log.len() as u64;
        let offset = input.near(size, &[size]);
        let (count, fill, bits) = (usize::from(input.u16()) % LARGEST_WRITE, input.u8(), input.u8());
        let data: Vec<u8> = (0..count).map(|at| fill.wrapping_add(at as u8)).collect();
        let write = Write { ino, offset, data: &data, flags, kill_set_id: bits & 1 != 0 };
        let written = self.ask(|fs, reply| fs.write(write, reply));
        if !is_log(ino) {
            return;
        }
        let at_end = flags & libc::O_APPEND != 0 || offset == size;
        match written {
            Ok(taken) => {
                assert!(at_end && !self.shut && taken as usize <= count, "{taken} bytes at {offset} of {size}");
                self.log.extend_from_slice(&data[..taken as usize]);
                // A short count is the start of a large write on a device that is full, or failed.
                assert!(taken as usize == count || taken as usize >= images::MAX_RECORD as usize);
            }
            Err(Errno::EPERM) => assert!(!at_end),
            Err(error) => {
                let known = [Errno(libc::ENOSPC), Errno(libc::EROFS), Errno::EIO, Errno::ESHUTDOWN];
                assert!(known.contains(&error), "{error:?}");
                assert!(error == Errno(libc::ENOSPC) || self.failing || self.shut, "{error:?}");
                // A durable write that failed has perhaps appended: what is there is seen by all.
                let size = self.store.log(1).map_or(0, |log| log.size as usize);
                let more = size.checked_sub(self.log.len()).expect("a log never shrinks");
                assert!(more <= data.len());
                self.log.extend_from_slice(&data[..more]);
            }
        }
    }

    fn fsync(&mut self, ino: u64) {
        match self.ask(|fs, reply| fs.fsync(ino, reply)) {
            Ok(()) if is_log(ino) || ino == 1 => {
                assert!(!self.shut);
                self.durable = self.log.len();
            }
            Ok(()) => {}
            Err(error) => assert!(!is_log(ino) || self.failing || self.shut, "{error:?}"),
        }
    }

    fn lseek(&self, ino: u64, input: &mut Input<'_>) {
        let offset = input.near(self.log.len() as u64, &[]) as i64;
        let whence = [libc::SEEK_DATA, libc::SEEK_HOLE, input.u32() as i32][input.below(3)];
        let place = self.fs.lseek(ino, offset, whence);
        if is_log(ino) && (0..self.log.len() as i64).contains(&offset) {
            match whence {
                libc::SEEK_DATA => assert_eq!(place, Ok(offset)),
                libc::SEEK_HOLE => assert_eq!(place, Ok(self.log.len() as i64)),
                _ => assert_eq!(place, Err(Errno::EINVAL)),
            }
        }
    }

    fn readdir(&self, ino: u64, from: u64) {
        let mut last = from;
        let _ = self.fs.readdir(ino, from, |entry| {
            assert!(entry.next > last && !entry.name.is_empty(), "a directory that is read without end");
            last = entry.next;
            false
        });
    }

    /// Unmount cleanly, or lose the power.
    fn remount(&mut self, input: &mut Input<'_>) {
        let crash = input.u8();
        let clean = crash < 128 && !self.failing;
        let device = if clean {
            self.store.close().unwrap();
            self.guard.sim.crash(0)
        } else {
            self.guard.sim.crash(u64::from(crash))
        };
        let next = Self::new(device, self.tail, Vec::new(), input);
        let size = next.store.log(1).map_or(0, |log| log.size as usize);
        assert!(size <= self.log.len() && size >= self.durable, "{size} of {}, {}", self.log.len(), self.durable);
        assert!(!clean || size == self.log.len());
        let mut log = std::mem::take(&mut self.log);
        log.truncate(size);
        *self = Self { log, durable: size, ..next };
        self.read(LOG_INO, 2, 0, size);
    }
}

/// Where an answer is kept; a second one is a fault.
struct Answer<T>(Arc<Mutex<Option<Result<T, Errno>>>>);

impl<T: Send + 'static> Reply<T> for Answer<T> {
    fn send(self, result: Result<T, Errno>) {
        assert!(self.0.lock().unwrap().replace(result).is_none());
    }
}

/// The control files as a program reads them: in pieces, each line a key and a value.
pub fn check_texts(fs: &LlamaFs) {
    for name in ["status", "status.json", "ring"] {
        let Ok(attr) = fs.lookup(CONTROL_INO, name.as_bytes()) else { panic!("no {name}") };
        let slot = Arc::new(Mutex::new(None));
        // A user who is nobody else here: what others hold open is bounded for each of them.
        fs.open(attr.ino, libc::O_RDONLY, u32::MAX, Answer(slot.clone()));
        let Ok(opened) = slot.lock().unwrap().take().expect("opening is answered at once") else { continue };
        let mut text = Vec::new();
        loop {
            let slot = Arc::new(Mutex::new(None));
            let read = Read {
                ino: attr.ino,
                fh: opened.fh,
                offset: text.len() as u64,
                len: 1000,
                for_pages: false,
                lends: Lends::Whole,
            };
            fs.read(read, Answer(slot.clone()));
            match slot.lock().unwrap().take().expect("a snapshot is read at once") {
                Ok(piece) if !piece.is_empty() => piece.slices().for_each(|bytes| text.extend_from_slice(bytes)),
                Ok(_) | Err(Errno::ESHUTDOWN) => break,
                Err(error) => panic!("{error:?}"),
            }
        }
        fs.release(attr.ino, opened.fh);
        let text = String::from_utf8(text).expect("a text");
        if name == "status" {
            assert!(text.lines().all(|line| line.contains(": ")), "{text}");
        }
    }
}
