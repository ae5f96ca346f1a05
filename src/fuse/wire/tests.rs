//! Requests as no kernel sends them: cut short, with absurd numbers, about inodes that are not there. Each is answered
//! exactly once, and none does harm.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

use std::collections::HashMap;
use std::io::Read as _;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::*;
use crate::fs::{FsSettings, LlamaFs, NoPageCache};
use crate::io::{Device, SimDevice};
use crate::store::{FormatOptions, LogStructuredStore, StoreOptions};

/// FORGET, INTERRUPT and BATCH_FORGET: nobody waits for an answer to these.
const NOT_ANSWERED: [u32; 3] = [2, 36, 42];
/// Behind the last code there is.
const CODES: u64 = 53;
const REQUESTS: u64 = 30_000;
const HEADER_BYTES: usize = 40;
const LIMIT: Duration = Duration::from_secs(60);

fn mounted() -> LlamaFs {
    let device = Arc::new(SimDevice::new(64 << 20, 1));
    LogStructuredStore::format(device.clone() as Arc<dyn Device>, &FormatOptions::default(), &mut |_, _| {}).unwrap();
    let store = LogStructuredStore::open(device, StoreOptions::default()).unwrap();
    store.start();
    let settings = FsSettings { parallel: true, ..FsSettings::default() };
    LlamaFs::new(store, settings, Box::new(NoPageCache))
}

/// Numbers in the order of a seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    fn request(&mut self, unique: u64) -> (u32, Vec<u8>) {
        let code = self.below(CODES) as u32;
        let mut body = Vec::new();
        for _ in 0..self.below(12) {
            let word = [0, 1, 2, 3, 8, 64, 4096, self.below(1 << 16) as u32];
            body.extend(self.one_of(&word).to_ne_bytes());
        }
        for _ in 0..self.below(3) {
            body.extend(self.one_of(&[
                &b"log\0"[..],
                b"a\0",
                b"b\0",
                b"",
                b".llamafs\0",
                b"user.llamafs.size\0",
                b"x",
            ]));
        }
        let log = 0x101;
        let node =
            self.one_of(&[1, 1, log, log, 1 << 63 | 1, 7 << 32 | 1 << 63 | 1, 0, 1 << 40, (1 << 40) + 1, u64::MAX]);
        let mut request = ((HEADER_BYTES + body.len()) as u32).to_ne_bytes().to_vec();
        request.extend(code.to_ne_bytes());
        request.extend(unique.to_ne_bytes());
        request.extend(node.to_ne_bytes());
        request.resize(HEADER_BYTES, 0);
        request.extend(body);
        (code, request)
    }
}

#[test]
fn whatever_comes_is_answered_exactly_once() {
    let fs = mounted();
    let (ours, kernel) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    let (device, mut kernel) = (Arc::new(File::from(ours)), File::from(kernel));
    let reader = std::thread::spawn(move || {
        let (mut answers, mut buffer) = (HashMap::<u64, u32>::new(), vec![0; 1 << 20]);
        loop {
            let len = kernel.read(&mut buffer).unwrap();
            if len == 0 {
                return answers;
            }
            assert_eq!(len, u32::from_ne_bytes(buffer[..4].try_into().unwrap()) as usize, "one answer, whole");
            *answers.entry(u64::from_ne_bytes(buffer[8..16].try_into().unwrap())).or_default() += 1;
        }
    });
    let mut numbers = Numbers(7);
    let mut waiting = 0;
    for unique in 0..REQUESTS {
        let (code, request) = numbers.request(unique);
        let (header, body) = Header::split(&request).unwrap();
        fs.serve(From::Device(device.clone()), &header, body);
        waiting += u64::from(!NOT_ANSWERED.contains(&code));
    }
    // Those who wait for a lock are let go with the mount.
    fs.shut_gate();
    assert!(fs.wait_answered(LIMIT));
    drop((fs, device));
    let answers = reader.join().unwrap();
    assert!(answers.values().all(|times| *times == 1));
    assert_eq!(answers.len() as u64, waiting);
}

#[test]
fn processors_are_counted() {
    assert_eq!([count("0\n"), count("0-1\n"), count("0-3,8,10-11")], [Some(1), Some(2), Some(7)]);
    assert_eq!([count(""), count("3-1"), count("0-65535"), count("x")], [None; 4]);
}

#[test]
fn a_session_ends_when_a_thread_of_a_queue_does() {
    let pair = || socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::empty()).unwrap();
    let (ours, kernel) = pair();
    let ends = mpsc::channel();
    let told = Told(ends.0.clone(), Serves::Queue);
    let inbox = Arc::new(Inbox::new().unwrap());
    let thread = std::thread::spawn(move || {
        let _told = told;
        panic!("on purpose: what a queue serves has a fault")
    });
    let queues = vec![Queue { inbox: inbox.clone(), thread: Some(thread) }];
    let serves = std::thread::spawn(move || serve(&Arc::new(File::from(ours)), &mounted()));
    let session = Session { threads: vec![serves], queues, ends };
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || sender.send(session.run()).unwrap());
    assert!(ended.recv_timeout(LIMIT).expect("nobody waits for the other threads").is_err());
    assert!(!inbox.take(&mut Vec::new()), "the queues' threads are told to end");
    drop(kernel);
}

#[test]
fn kernels_that_lose_pages_are_known_by_their_number() {
    let keeps = |release: &str| keeps_pages(Some(release));
    for release in ["6.18.3", "6.18.44-fc-v657", "6.19", "7.0.0-rc1+", "6.20.1"] {
        assert!(keeps(release), "{release}");
    }
    for release in ["6.18.2", "6.18.0-rc7", "6.18", "6.14.11-300.fc42.x86_64", "5.15.0", "", "x"] {
        assert!(!keeps(release), "{release}");
    }
    assert!(!keeps_pages(None));
}
