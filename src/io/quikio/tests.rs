//! Each promise of QuikIO, on a simulated disk driven by one thread.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::*;
use crate::io::sim::{SimDevice, SimFault, SimOp};

const MIB: usize = 1 << 20;
const BLOCK: usize = 512;

fn disk(seed: u64) -> Arc<SimDevice> {
    Arc::new(SimDevice::new(64 << 20, seed))
}

fn quikio(disk: &Arc<SimDevice>) -> Arc<QuikIO> {
    QuikIO::new(disk.clone(), &[]).unwrap()
}

fn filled(len: usize, byte: u8) -> SharedBuffer {
    let mut buffer = Buffer::new_aligned(len, 4096).unwrap();
    buffer.as_mut_slice().fill(byte);
    SharedBuffer::from(buffer)
}

fn empty(len: usize) -> Buffer {
    Buffer::new_aligned(len, 4096).unwrap()
}

/// What a callback said, kept for later.
struct Log<T>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Log<T> {
    fn clone(&self) -> Self {
        Log(self.0.clone())
    }
}

impl<T: Send + 'static> Log<T> {
    fn new() -> Self {
        Log(Arc::new(Mutex::new(Vec::new())))
    }

    fn push(&self, value: T) {
        self.0.lock().push(value);
    }

    fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.0.lock())
    }
}

fn note(log: &Log<(u32, Result<(), i32>)>, id: u32) -> WriteDone {
    let log = log.clone();
    Box::new(move |result| log.push((id, result.map_err(|error| error.errno))))
}

fn drain(io: &QuikIO) {
    while io.counters().in_flight > 0 {
        io.poll(true);
    }
}

#[test]
fn what_is_written_is_read() {
    let disk = disk(1);
    let io = quikio(&disk);
    io.write_all_now(filled(MIB, 7), BLOCK..3 * BLOCK, 4096, false).unwrap();
    let read = io.read_now(empty(4 * BLOCK), 4 * BLOCK, 4096 - 512).unwrap();
    assert!(read.as_slice()[..512].iter().all(|&b| b == 0));
    assert!(read.as_slice()[512..1536].iter().all(|&b| b == 7));
    assert!(read.as_slice()[1536..].iter().all(|&b| b == 0));
    io.flush_now().unwrap();
    let c = io.counters();
    assert_eq!((c.writes, c.write_bytes, c.reads, c.read_bytes, c.flushes), (1, 1024, 1, 2048, 1));
    assert_eq!((c.retries, c.short_writes, c.in_flight), (0, 0, 0));
}

#[test]
fn a_read_never_takes_a_writes_completion() {
    // Reads and writes of different lengths, completed in any order: each gets its own bytes and its own result.
    for seed in 0..50 {
        let disk = disk(seed);
        disk.max_delay(20);
        for n in 0..32u8 {
            disk.poke(32 * MIB as u64 + u64::from(n) * 4096, &[n + 1; 4096]);
        }
        let io = quikio(&disk);
        let (reads, writes) = (Log::new(), Log::new());
        for n in 0..32u8 {
            let buf = filled(8192, 100 + n);
            io.write(buf, 0..8192, u64::from(n) * 8192, n % 2 == 0, note(&writes, u32::from(n)));
            let reads = reads.clone();
            let done = Box::new(move |result: Result<Buffer, IoError>| reads.push((n, result.unwrap())));
            io.read(empty(4096), 0..4096, 32 * MIB as u64 + u64::from(n) * 4096, done);
        }
        drain(&io);
        let reads = reads.take();
        assert_eq!(reads.len(), 32);
        for (n, buffer) in reads {
            assert!(buffer.as_slice().iter().all(|&b| b == n + 1), "seed {seed}");
        }
        let writes = writes.take();
        assert_eq!(writes.len(), 32);
        assert!(writes.iter().all(|(_, result)| result.is_ok()));
        for n in 0..32u8 {
            assert_eq!(disk.peek(u64::from(n) * 8192, 8192), vec![100 + n; 8192]);
        }
    }
}

#[test]
fn short_writes_and_reads_are_continued() {
    for seed in 0..20 {
        let disk = disk(seed);
        disk.short_one_in(2);
        let io = quikio(&disk);
        let mut buffer = empty(MIB);
        buffer.as_mut_slice().iter_mut().enumerate().for_each(|(i, byte)| *byte = (i / 512) as u8);
        let expected = buffer.as_slice().to_vec();
        io.write_all_now(SharedBuffer::from(buffer), 0..MIB, 0, true).unwrap();
        assert_eq!(disk.peek(0, MIB), expected);
        let read = io.read_now(empty(MIB), MIB, 0).unwrap();
        assert_eq!(read.as_slice(), expected);
        assert_eq!(disk.crash(seed).snapshot(), disk.snapshot(), "each part of a durable write is durable");
        let c = io.counters();
        assert_eq!((c.writes, c.write_bytes, c.flushes), (1, MIB as u64, 1));
    }
}

#[test]
fn a_part_of_a_block_is_written_again() {
    let disk = disk(1);
    disk.inject(SimOp::Write, 0, 1, SimFault::Short(700));
    let io = quikio(&disk);
    io.write_all_now(filled(4096, 3), 0..4096, 0, false).unwrap();
    assert_eq!(disk.peek(0, 4096), vec![3; 4096]);
    assert_eq!((io.counters().short_writes, disk.ops().writes), (1, 2));
}

#[test]
fn no_progress_is_an_error_in_the_end() {
    let disk = disk(1);
    disk.inject(SimOp::Write, 0, u64::MAX, SimFault::Short(0));
    let io = quikio(&disk);
    let error = io.write_all_now(filled(4096, 3), 0..4096, 0, false).unwrap_err();
    assert_eq!((error.errno, error.op, error.len), (libc::EIO, "write", 4096));
    assert_eq!(disk.ops().writes, 8);
}

#[test]
fn what_asks_to_be_tried_again_is_but_not_for_ever() {
    for errno in [libc::EAGAIN, libc::EINTR, libc::ENOBUFS, libc::ECANCELED] {
        let disk = disk(1);
        disk.inject(SimOp::Write, 0, 7, SimFault::Error(errno));
        disk.inject(SimOp::Flush, 0, 7, SimFault::Error(errno));
        disk.inject(SimOp::Read, 0, 7, SimFault::Error(errno));
        let io = quikio(&disk);
        io.write_all_now(filled(512, 1), 0..512, 0, false).unwrap();
        io.flush_now().unwrap();
        io.read_now(empty(512), 512, 0).unwrap();
        assert_eq!(io.counters().retries, 21);
        assert!(io.failed().is_none());

        disk.inject(SimOp::Write, 0, 8, SimFault::Error(errno));
        let error = io.write_all_now(filled(512, 1), 0..512, 0, false).unwrap_err();
        assert_eq!(error.errno, errno);
        assert_eq!(io.failed(), Some(error));
    }
}

#[test]
fn the_first_failure_ends_all_writing_and_no_reading() {
    let disk = disk(1);
    disk.poke(8192, &[9; 512]);
    disk.inject(SimOp::Write, 0, 1, SimFault::Error(libc::EIO));
    let io = quikio(&disk);
    let first = io.write_all_now(filled(512, 1), 0..512, 4096, false).unwrap_err();
    assert_eq!(first, IoError { errno: libc::EIO, op: "write", offset: 4096, len: 512 });
    assert_eq!(first.to_string(), "write of 512 bytes at device offset 4096 failed: Input/output error (os error 5)");
    // The device would take them again; QuikIO does not ask it.
    let ops = disk.ops();
    assert_eq!(io.write_all_now(filled(512, 1), 0..512, 0, false).unwrap_err(), first);
    assert_eq!(io.flush_now().unwrap_err(), first);
    assert_eq!(disk.ops(), ops);
    assert_eq!(io.failed(), Some(first));
    assert_eq!(io.read_now(empty(512), 512, 8192).unwrap().as_slice(), [9; 512]);
}

#[test]
fn a_failed_flush_is_not_tried_again_and_ends_writing() {
    let disk = disk(1);
    disk.inject(SimOp::Flush, 0, 1, SimFault::Error(libc::EIO));
    let io = quikio(&disk);
    io.write_all_now(filled(512, 1), 0..512, 0, false).unwrap();
    let first = io.flush_now().unwrap_err();
    assert_eq!((first.errno, first.op), (libc::EIO, "flush"));
    assert_eq!(io.flush_now().unwrap_err(), first);
    assert_eq!(io.write_all_now(filled(512, 1), 0..512, 0, false).unwrap_err(), first);
    assert_eq!(disk.ops().flushes, 1);
}

#[test]
fn a_failed_read_is_the_readers_own() {
    let disk = disk(1);
    disk.bad_sectors(1024..1025);
    let io = quikio(&disk);
    let error = io.read_now(empty(4096), 4096, 0).unwrap_err();
    assert_eq!((error.errno, error.op), (libc::EIO, "read"));
    io.read_now(empty(1024), 1024, 0).unwrap();
    io.write_all_now(filled(512, 1), 0..512, 0, false).unwrap();
    assert!(io.failed().is_none());
}

#[test]
fn overlapping_writes_keep_their_order() {
    for seed in 0..200 {
        let disk = disk(seed);
        disk.max_delay(10);
        let io = quikio(&disk);
        let log = Log::new();
        // The tail block again and again, with neighbours that overlap it in part.
        let mut expected = vec![0u8; 8192];
        for n in 0..40u8 {
            let start = usize::from(n % 3) * 512;
            let len = 512 * (1 + usize::from(n % 5));
            expected[start..start + len].fill(n + 1);
            io.write(filled(4096, n + 1), 0..len, start as u64, false, note(&log, u32::from(n)));
        }
        drain(&io);
        assert_eq!(disk.peek(0, 8192), expected, "seed {seed}");
        assert_eq!(log.take().len(), 40);
    }
}

#[test]
fn writes_that_share_no_block_are_in_flight_together() {
    let disk = disk(3);
    let io = quikio(&disk);
    let log = Log::new();
    for n in 0..8 {
        io.write(filled(4096, 1), 0..4096, n * 4096, false, note(&log, n as u32));
    }
    assert_eq!(disk.pending(), 8);
    io.write(filled(4096, 2), 0..4096, 0, false, note(&log, 99));
    assert_eq!(disk.pending(), 8, "this one waits");
    drain(&io);
    let order: Vec<u32> = log.take().into_iter().map(|(id, _)| id).collect();
    let place = |id| order.iter().position(|&o| o == id).unwrap();
    assert!(place(0) < place(99));
    assert_eq!(disk.peek(0, 512), [2; 512]);
}

#[test]
fn those_that_wait_for_a_failed_write_fail_without_being_written() {
    let disk = disk(1);
    disk.inject(SimOp::Write, 0, 1, SimFault::Error(libc::EIO));
    let io = quikio(&disk);
    let log = Log::new();
    for n in 0..5 {
        io.write(filled(512, 1), 0..512, 0, false, note(&log, n));
    }
    drain(&io);
    let all = log.take();
    assert_eq!(all.len(), 5);
    assert!(all.iter().enumerate().all(|(i, (id, result))| i as u32 == *id && *result == Err(libc::EIO)));
    assert_eq!(disk.ops().writes, 1);
}

#[test]
fn no_more_is_given_to_the_device_than_it_takes() {
    let disk = disk(1);
    let io = quikio(&disk);
    let log = Log::new();
    let depth = disk.depth();
    for n in 0..3 * depth as u32 {
        io.write(filled(512, 1), 0..512, u64::from(n) * 512, false, note(&log, n));
    }
    assert_eq!(disk.pending(), depth);
    while io.counters().in_flight > 0 {
        io.poll(true);
        assert!(disk.pending() <= depth);
    }
    assert_eq!(log.take().len(), 3 * depth);
}

#[test]
fn misuse_is_refused_at_once() {
    let disk = disk(1);
    let end = disk.geometry().capacity;
    let read = |len, offset| quikio(&disk).read_now(empty(4096), len, offset).unwrap_err().errno;
    assert_eq!(read(512, end), libc::EIO, "past the end");
    assert_eq!(read(4096, end - 512), libc::EIO);
    assert_eq!(read(512, u64::MAX - 511), libc::EIO);
    assert_eq!(read(100, 0), libc::EINVAL, "not a block");
    assert_eq!(read(512, 100), libc::EINVAL);
    assert_eq!(read(8192, 0), libc::EINVAL, "longer than the buffer");
    let write = |range, offset| {
        let io = quikio(&disk);
        let errno = io.write_all_now(filled(4096, 1), range, offset, false).unwrap_err().errno;
        assert!(io.failed().is_some(), "what was to be on the device is not");
        errno
    };
    assert_eq!(write(0..512, end), libc::ENOSPC);
    assert_eq!(write(0..500, 0), libc::EINVAL);
    assert_eq!(write(4..516, 0), libc::EINVAL, "unaligned memory");
    assert_eq!(write(4096..4608, 0), libc::EINVAL);
    #[expect(clippy::reversed_empty_ranges, reason = "misuse")]
    let reversed = 1024..512;
    assert_eq!(write(reversed, 0), libc::EINVAL);
    assert_eq!(disk.ops().total(), 0);
    let io = quikio(&disk);
    io.write_all_now(filled(512, 1), 512..512, 0, false).unwrap();
    io.read_now(empty(512), 0, 0).unwrap();
}

#[test]
fn callbacks_may_start_the_next_operation() {
    let disk = disk(1);
    let io = quikio(&disk);
    let log = Log::new();
    fn step(io: &Arc<QuikIO>, n: u32, log: &Log<(u32, Result<(), i32>)>) {
        let (next, log2) = (io.clone(), log.clone());
        let done: WriteDone = Box::new(move |result| {
            log2.push((n, result.map_err(|e| e.errno)));
            if n < 100 {
                step(&next, n + 1, &log2);
            }
        });
        io.write(filled(512, n as u8), 0..512, 0, n.is_multiple_of(10), done);
    }
    step(&io, 0, &log);
    drain(&io);
    assert_eq!(log.take().len(), 101);
    assert_eq!(disk.peek(0, 1), [100]);
}

#[test]
fn one_seed_is_one_course_of_events() {
    let course = |seed| {
        let disk = disk(seed);
        disk.short_one_in(3);
        let io = quikio(&disk);
        let log = Log::new();
        for n in 0..60u32 {
            io.write(filled(4096, n as u8), 0..4096, u64::from(n * 7 % 20) * 2048, n % 4 == 0, note(&log, n));
            if n % 5 == 0 {
                io.flush(note(&log, 1000 + n));
                io.poll(false);
            }
        }
        drain(&io);
        (log.take(), io.counters(), disk.crash(seed).snapshot())
    };
    assert_eq!(course(5), course(5));
    assert_ne!(course(5).0, course(6).0);
}

#[test]
fn poll_does_not_wait_for_nothing() {
    assert_eq!(quikio(&disk(1)).poll(true), 0);
}

#[test]
fn close_drains_without_a_thread() {
    let disk = disk(1);
    let io = quikio(&disk);
    let log = Log::new();
    for n in 0..10 {
        io.write(filled(512, 1), 0..512, 0, false, note(&log, n));
    }
    io.close();
    io.close();
    assert_eq!(log.take().len(), 10);
    let late = io.write_all_now(filled(512, 1), 0..512, 0, false).unwrap_err();
    assert_eq!(late.errno, libc::ESHUTDOWN);
    assert!(io.failed().is_none(), "nothing has failed");
}

#[test]
fn drop_drains_and_the_thread_ends() {
    let disk = disk(1);
    let io = quikio(&disk);
    io.start();
    io.start();
    let log = Log::new();
    for n in 0..100 {
        io.write(filled(512, 1), 0..512, u64::from(n % 10) * 512, false, note(&log, n));
    }
    drop(io);
    assert_eq!(log.take().len(), 100);
    assert_eq!(Arc::strong_count(&disk), 1, "the thread has let go of the device");
}

#[test]
fn a_stalled_device_is_waited_for() {
    let disk = disk(1);
    disk.stall(true);
    let io = quikio(&disk);
    io.start();
    let (sent, got) = mpsc::channel();
    io.write(filled(512, 1), 0..512, 0, true, Box::new(move |result| sent.send(result).unwrap()));
    assert!(got.recv_timeout(Duration::from_millis(50)).is_err());
    let closing = {
        let io = io.clone();
        thread::spawn(move || io.close())
    };
    thread::sleep(Duration::from_millis(50));
    assert!(!closing.is_finished(), "close waits for what was accepted");
    disk.stall(false);
    closing.join().unwrap();
    got.try_recv().unwrap().unwrap();
}

#[test]
fn close_and_drop_from_a_callback_do_not_deadlock() {
    let disk = disk(1);
    let io = quikio(&disk);
    io.start();
    let (sent, got) = mpsc::channel();
    let inside = io.clone();
    disk.stall(true);
    io.write(
        filled(512, 1),
        0..512,
        0,
        false,
        Box::new(move |_| {
            inside.close();
            drop(inside);
            sent.send(()).unwrap();
        }),
    );
    drop(io);
    disk.stall(false);
    got.recv_timeout(Duration::from_secs(20)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while Arc::strong_count(&disk) > 1 {
        assert!(Instant::now() < deadline, "the thread ends by itself");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_callback_may_wait_for_another_operation() {
    let disk = disk(1);
    for threaded in [false, true] {
        let io = quikio(&disk);
        if threaded {
            io.start();
        }
        let (sent, got) = mpsc::channel();
        let inside = io.clone();
        io.write(
            filled(512, 1),
            0..512,
            0,
            false,
            Box::new(move |_| sent.send(inside.read_now(empty(512), 512, 0).unwrap().as_slice()[0]).unwrap()),
        );
        if !threaded {
            drain(&io);
        }
        assert_eq!(got.recv_timeout(Duration::from_secs(20)).unwrap(), 1);
    }
}

#[test]
fn blocking_calls_of_many_threads_with_and_without_a_completion_thread() {
    for threaded in [false, true] {
        let disk = disk(1);
        let io = quikio(&disk);
        if threaded {
            io.start();
        }
        let count = AtomicUsize::new(0);
        thread::scope(|scope| {
            for t in 0..8u64 {
                let (io, count) = (&io, &count);
                scope.spawn(move || {
                    for n in 0..100u64 {
                        let place = (t * 100 + n) * 512;
                        io.write_all_now(filled(512, t as u8 + 1), 0..512, place, false).unwrap();
                        let read = io.read_now(empty(512), 512, place).unwrap();
                        assert!(read.as_slice().iter().all(|&b| b == t as u8 + 1));
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(count.load(Ordering::Relaxed), 800);
    }
}

#[test]
fn a_panicking_callback_keeps_nobody_waiting() {
    let disk = disk(1);
    let io = quikio(&disk);
    io.start();
    io.write(filled(512, 1), 0..512, 0, false, Box::new(|_| panic!("this panic is part of the test")));
    io.write_all_now(filled(512, 2), 0..512, 0, false).unwrap();
    io.close();
}

#[test]
fn a_panicking_callback_gives_the_turn_back() {
    let disk = disk(1);
    let io = quikio(&disk);
    io.write(filled(512, 1), 0..512, 0, false, Box::new(|_| panic!("this panic is part of the test")));
    let polling = io.clone();
    assert!(thread::spawn(move || polling.poll(true)).join().is_err());
    io.write_all_now(filled(512, 2), 0..512, 0, false).unwrap();
    io.start();
    io.read_now(empty(512), 512, 0).unwrap();
}

/// A device that refuses: submission, or the taking of completions, or the registration.
struct Broken {
    submit: bool,
    reap: AtomicBool,
    register: i32,
    disk: SimDevice,
}

impl Device for Broken {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }
    fn describe(&self) -> String {
        "broken".into()
    }
    fn register(&self, _: &[SharedBuffer]) -> std::io::Result<()> {
        Err(std::io::Error::from_raw_os_error(self.register))
    }
    unsafe fn submit(&self, requests: &[crate::io::Request]) -> Result<(), crate::io::SubmitError> {
        if self.submit {
            return Err(crate::io::SubmitError { taken: 0, errno: libc::EBADFD });
        }
        // SAFETY: as promised to us.
        unsafe { self.disk.submit(requests) }
    }
    fn reap(&self, out: &mut Vec<Completion>, wait: bool) -> std::io::Result<()> {
        if self.reap.load(Ordering::Relaxed) {
            return Err(std::io::Error::from_raw_os_error(libc::EBADF));
        }
        self.disk.reap(out, wait)
    }
    fn wake(&self) {
        self.disk.wake();
    }
}

fn broken(submit: bool, reap: bool, register: i32) -> Arc<Broken> {
    Arc::new(Broken { submit, reap: AtomicBool::new(reap), register, disk: SimDevice::new(1 << 20, 1) })
}

#[test]
fn a_device_that_takes_nothing_fails_every_operation() {
    let io = QuikIO::new(broken(true, false, 0), &[]).unwrap();
    let error = io.write_all_now(filled(512, 1), 0..512, 0, false).unwrap_err();
    assert_eq!((error.errno, io.counters().in_flight), (libc::EBADFD, 0));
    assert_eq!(io.read_now(empty(512), 512, 0).unwrap_err().errno, libc::EBADFD);
}

#[test]
fn a_device_that_gives_no_completions_is_given_up() {
    let io = QuikIO::new(broken(false, true, 0), &[]).unwrap();
    let log = Log::new();
    io.write(filled(512, 1), 0..512, 0, false, note(&log, 1));
    io.write(filled(512, 1), 0..512, 0, false, note(&log, 2));
    let error = io.read_now(empty(512), 512, 0).unwrap_err();
    assert_eq!((error.errno, error.op), (libc::EBADF, "read"));
    assert_eq!(log.take(), [(1, Err(libc::EBADF)), (2, Err(libc::EBADF))]);
    assert_eq!(io.failed().unwrap().errno, libc::EBADF);
}

#[test]
fn buffers_that_cannot_be_registered() {
    let buffers = [filled(4096, 1)];
    let io = QuikIO::new(broken(false, false, libc::ENOMEM), &buffers).unwrap();
    io.write_all_now(buffers[0].clone(), 0..4096, 0, false).unwrap();
    let error = QuikIO::new(broken(false, false, libc::EFAULT), &buffers).unwrap_err();
    assert_eq!((error.errno, error.op), (libc::EFAULT, "register"));
}
