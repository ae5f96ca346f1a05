//! Very many logs: without a mount as many as are promised; over a mount as many as `LLAMAFS_SCALE_LOGS` says, with
//! figures on stderr (`make scale`).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

mod common;

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use common::{Image as StoreFile, Mount, sh};
use llamafs::fs::types::{Errno, Kind, New, Write};
use llamafs::fs::{FsSettings, LlamaFs, NoPageCache};
use llamafs::io::{Device, SimDevice};
use llamafs::store::{FormatOptions, Image, LogStructuredStore, StoreOptions};

const ROOT: u64 = 1;
const DIRECTORIES: usize = 1000;
const LOGS_EACH: usize = 100;

struct World {
    store: Arc<LogStructuredStore>,
    fs: LlamaFs,
}

impl World {
    fn open(device: &Arc<SimDevice>) -> Self {
        let store = LogStructuredStore::open(device.clone() as Arc<dyn Device>, StoreOptions::default()).unwrap();
        let fs = LlamaFs::new(store.clone(), FsSettings::default(), Box::new(NoPageCache));
        Self { store, fs }
    }

    /// Ask, and take completions until the answer is there.
    fn ask<T: Send + 'static>(&self, ask: impl FnOnce(&LlamaFs, Box<dyn FnOnce(Result<T, Errno>) + Send>)) -> T {
        let (sender, answer) = mpsc::channel();
        ask(&self.fs, Box::new(move |result| sender.send(result).unwrap()));
        for _ in 0..100_000 {
            if let Ok(result) = answer.try_recv() {
                return result.unwrap();
            }
            self.store.poll(true);
        }
        panic!("no answer");
    }

    fn list(&self, directory: u64) -> Vec<(u64, Kind, Vec<u8>)> {
        let mut names = Vec::new();
        // As the kernel does: a page full at a time.
        let mut from = 2;
        loop {
            let (before, mut next) = (names.len(), from);
            let add = |entry: &llamafs::fs::types::Entry| {
                names.push((entry.ino, entry.kind, entry.name.clone()));
                next = entry.next;
                names.len() - before == 100
            };
            self.fs.readdir(directory, from, add).unwrap();
            from = next;
            if names.len() == before {
                names.retain(|(_, _, name)| name != b".llamafs");
                return names;
            }
        }
    }
}

fn new(parent: u64, name: &[u8], mode: u32) -> New<'_> {
    New { parent, name, mode, uid: 1, gid: 2 }
}

fn name(number: usize) -> Vec<u8> {
    format!("log number {number}").into_bytes()
}

#[test]
fn a_hundred_thousand_logs_in_a_thousand_directories_are_made_listed_appended_to_and_there_after_a_remount() {
    let device = Arc::new(SimDevice::new(256 << 20, 1));
    let logs = (DIRECTORIES * (LOGS_EACH + 1) + 1) as u64;
    let format = FormatOptions { max_logs: Some(logs), ..FormatOptions::default() };
    LogStructuredStore::format(device.clone() as Arc<dyn Device>, &format, &mut |_, _| {}).unwrap();
    let world = World::open(&device);
    let mut inodes = Vec::new();
    for directory in 0..DIRECTORIES {
        let label = format!("directory {directory}");
        let directory = world.ask(|fs, reply| fs.mkdir(&new(ROOT, label.as_bytes(), 0o755), reply)).ino;
        for log in 0..LOGS_EACH {
            inodes.push(world.ask(|fs, reply| fs.mknod(&new(directory, &name(log), 0o644), reply)).ino);
        }
    }
    let stats = world.store.stats();
    assert_eq!((stats.logs_total, stats.directories), (1 + inodes.len() as u64, 1 + DIRECTORIES as u64));
    assert!(stats.catalog_bytes <= stats.catalog_limit);
    let text = |number: usize| format!("record of log {number}\n").into_bytes();
    for (number, &ino) in inodes.iter().enumerate() {
        let data = text(number);
        let write = Write { ino, offset: 0, data: &data, flags: libc::O_APPEND, kill_set_id: false };
        world.ask(|fs, reply| fs.write(write, reply));
    }
    let check = |world: &World| {
        let directories = world.list(ROOT);
        assert_eq!(directories.len(), DIRECTORIES + 1);
        let mut number = 0;
        for (directory, kind, _) in directories.into_iter().filter(|(_, kind, _)| *kind == Kind::Directory) {
            let listed = world.list(directory);
            assert_eq!(listed.len(), LOGS_EACH);
            for (n, (ino, _, name_of)) in listed.into_iter().enumerate() {
                assert_eq!((ino, &name_of), (inodes[number], &name(n)));
                assert_eq!(world.fs.getattr(ino).unwrap().size, text(number).len() as u64);
                number += 1;
            }
            assert_eq!(kind, Kind::Directory);
        }
        assert_eq!(number, inodes.len());
        for number in (0..inodes.len()).step_by(997) {
            let id = world.store.resolve(format!("directory {}/log number {}", number / 100, number % 100).as_bytes());
            assert_eq!(world.store.read_now(id.unwrap().id, 0, 1000).unwrap(), text(number));
        }
    };
    check(&world);
    world.store.close().unwrap();
    drop(world);
    let image = Image::open(device.clone() as Arc<dyn Device>).unwrap();
    assert!(image.recovery().clean && image.recovery().notes.is_empty(), "{:?}", image.recovery());
    assert_eq!(image.logs().len(), inodes.len() + 1);
    let world = World::open(&device);
    check(&world);
    // A crash right behind it loses nothing either.
    let crashed = Arc::new(device.crash(7));
    check(&World::open(&crashed));
}

#[test]
fn many_logs_over_a_mount() {
    let logs: usize = std::env::var("LLAMAFS_SCALE_LOGS").ok().and_then(|logs| logs.parse().ok()).unwrap_or(3000);
    let each = 100.min(logs);
    let image = StoreFile::with(1 << 30, |options| options.max_logs = Some(2 * logs as u64 + 20_000));
    let mount = Mount::new(&image);
    let figure = |what: &str, started: Instant, count: usize| {
        let seconds = started.elapsed().as_secs_f64();
        eprintln!("{what}: {count} in {seconds:.2} s, {:.0}/s", count as f64 / seconds);
    };
    let path = |number: usize| format!("d{}/log{}", number / each, number % each);
    let started = Instant::now();
    for directory in 0..logs.div_ceil(each) {
        fs::create_dir(mount.path().join(format!("d{directory}"))).unwrap();
    }
    for number in 0..logs {
        OpenOptions::new().append(true).create_new(true).open(mount.path().join(path(number))).unwrap();
    }
    figure("create", started, logs);
    let started = Instant::now();
    for number in 0..logs {
        let mut log = OpenOptions::new().append(true).open(mount.path().join(path(number))).unwrap();
        log.write_all(format!("{number}\n").as_bytes()).unwrap();
    }
    figure("open, append, close", started, logs);
    let started = Instant::now();
    let listed = sh("find \"$1\" -name .llamafs -prune -o -name 'log?*' -print | wc -l", mount.path());
    assert_eq!(listed.trim().parse(), Ok(logs));
    figure("find", started, logs);
    let large = 10_000.min(logs);
    fs::create_dir(mount.path().join("large")).unwrap();
    for number in 0..large {
        fs::File::create(mount.path().join(format!("large/{number}"))).unwrap();
    }
    for (what, script) in [("ls", "ls \"$1/large\" | wc -l"), ("ls -l", "ls -l \"$1/large\" | tail -n +2 | wc -l")] {
        let started = Instant::now();
        assert_eq!(sh(script, mount.path()).trim().parse(), Ok(large));
        figure(what, started, large);
    }
    let started = Instant::now();
    mount.umount();
    figure("umount", started, logs);
    let started = Instant::now();
    let mount = Mount::new(&image);
    figure("mount", started, logs);
    for number in 0..logs {
        assert_eq!(fs::read(mount.path().join(path(number))).unwrap(), format!("{number}\n").as_bytes());
    }
    assert_eq!(mount.status("logs_total"), (1 + logs + large) as u64);
    let status = fs::metadata(mount.control("status")).unwrap();
    assert!(fs::read(mount.control("status.json")).unwrap().len() < 100_000, "bounded: {status:?}");
    let rss = sh("grep VmRSS /proc/$PPID/status", mount.path());
    eprintln!("this process: {}", rss.trim());
}
