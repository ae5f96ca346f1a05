//! Requests over io_uring (Documentation/filesystems/fuse-io-uring.rst of the kernel): a thread gives entries to the kernel,
//! which fills them with requests of one processor's callers; with each answer the entry goes back for the next request. So
//! a request costs one call of the kernel's instead of two, and where the thread is on the processor of its callers, no
//! sleeping processor is woken.
//!
//! The kernel wakes a caller who has been answered on another processor, if one sleeps, and there by the next queue it is the
//! same again: a request of 5 µs takes 25. So a thread that has much to do stays awake for a moment; see [`Pace`].
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::Service;
use super::answer::{Answer, From};
use super::entries::Entries;
use super::inbox::{Inbox, Ready};
use crate::fs::types::Errno;
use crate::io::OwnCompletions;

/// Commands: take this entry; here is an entry's answer, and the entry.
const REGISTER: u32 = 1;
const COMMIT_AND_FETCH: u32 = 2;
/// Tokens of the bell of the inbox, and of this thread's own completions; of any other command it is the entry.
const BELL: u64 = u64::MAX;
const OWN: u64 = u64::MAX - 1;
/// Where the length lies in an entry of io_uring's submission queue.
const SQE_LEN: usize = 24;
/// A thread with less time than this between requests stays awake, for so long.
const AWAKE: Duration = Duration::from_micros(100);
/// The same while a request waits for an answer that another thread gives, which may want this processor.
const AWAKE_FOR_OTHERS: Duration = Duration::from_micros(60);
/// The same while all it waits for are reads of its own: to stay awake for longer makes those of one reader no faster, and takes
/// twice the processor time.
const AWAKE_FOR_READS: Duration = Duration::from_micros(40);
/// How often the kernel is waited for when it is to give entries back, and how long each time.
const LAST_WAITS: u32 = 1000;
const PAUSE: Duration = Duration::from_millis(1);

/// What a thread serves.
pub struct Served<S> {
    /// Queues of the kernel: numbers of processors.
    pub queues: Vec<u16>,
    /// Entries of each.
    pub entries: usize,
    /// Bytes of the largest request behind its fields, or of the largest answer.
    pub data: usize,
    /// The mount.
    pub device: Arc<File>,
    /// What is served.
    pub service: S,
    /// Where answers go.
    pub inbox: Arc<Inbox>,
    /// Memory of entries may be given back: see [`super::keeps_pages`].
    pub lets_go: bool,
    /// No other thread serves this mount.
    pub alone: bool,
}

/// How busy a thread is.
struct Pace {
    /// Time between two of its steps: the mean of the last few.
    mean: Duration,
    last: Instant,
    /// Nobody can be woken elsewhere.
    alone: bool,
}

impl Pace {
    fn new(alone: bool) -> Self {
        Self { mean: AWAKE * 2, last: Instant::now(), alone }
    }

    /// There was something to do.
    fn step(&mut self, now: Instant) {
        // One long pause shall not count for more than a few short ones.
        let gap = now.saturating_duration_since(self.last).min(AWAKE * 8);
        (self.mean, self.last) = ((self.mean * 7 + gap) / 8, now);
    }

    fn is_busy(&self, enough: Duration) -> bool {
        !self.alone && self.mean < enough
    }
}

struct Queue<S> {
    // Dropped first.
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
    entries: Entries,
    served: Served<S>,
    /// For each entry the number under which it is given back.
    commit_ids: Vec<u64>,
    /// What has completed and was not looked at yet, in front of what the ring has.
    came: VecDeque<cqueue::Entry>,
    /// Commands that the kernel has, the bell's apart.
    with_kernel: usize,
    bell: Box<[u8; 8]>,
    /// What this thread asks of the device for a request: it is woken by the device, and not by another thread that was.
    own: Option<OwnCompletions>,
    /// The kernel is to tell when there is something of it.
    told_of_own: bool,
    pace: Pace,
}

/// Serve until the mount is gone. `started` is told when the kernel has all entries, or why not.
pub fn run<S: Service>(served: Served<S>, started: &SyncSender<io::Result<()>>) -> io::Result<()> {
    stay_near(&served.queues);
    let ending = Ending(served.inbox.clone());
    let mut queue = match Queue::start(served) {
        Ok(queue) => queue,
        Err(error) => {
            // Who started us gave up only if it is gone itself.
            let _ = started.send(Err(error));
            return Ok(());
        }
    };
    let _ = started.send(Ok(()));
    let end = queue.serve();
    drop(ending);
    queue.take_back();
    end
}

/// However a thread ends, answers that nobody gives any more do not keep what they were lent.
struct Ending(Arc<Inbox>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
        self.0.take(&mut Vec::new());
    }
}

/// Keep to the processors of these queues, as far as they may be used.
fn stay_near(queues: &[u16]) {
    let Ok(allowed) = sched_getaffinity(Pid::from_raw(0)) else { return };
    let mut near = CpuSet::new();
    let mut any = false;
    for cpu in queues.iter().map(|queue| usize::from(*queue)).filter(|cpu| allowed.is_set(*cpu) == Ok(true)) {
        any |= near.set(cpu).is_ok();
    }
    if any && let Err(error) = sched_setaffinity(Pid::from_raw(0), &near) {
        log::debug!("a thread does not stay on its processors: {error}");
    }
}

/// A command about an entry of a queue.
fn command(device: &File, code: u32, queue: u16, commit_id: u64) -> squeue::Entry128 {
    // struct fuse_uring_cmd_req: flags, the number, the queue.
    let mut text = [0; 80];
    let queue = &queue.to_ne_bytes();
    let fields = [0u64.to_ne_bytes(), commit_id.to_ne_bytes()];
    let bytes = fields.iter().flatten().chain(queue);
    text.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
    opcode::UringCmd80::new(Fd(device.as_raw_fd()), code).cmd(text).build()
}

/// The same, with the addresses of the entry.
fn register(device: &File, queue: u16, vectors: *const [libc::iovec; 2]) -> squeue::Entry128 {
    const { assert!(size_of::<squeue::Entry128>() == 128) };
    let mut entry = command(device, REGISTER, queue, 0);
    let start = (&raw mut entry).cast::<u8>();
    let address = vectors as u64;
    // The crate has no word for these fields of a command.
    // SAFETY: the entry is the kernel's struct io_uring_sqe of 128 plain bytes, in which an address of eight lies at 16, and
    // a length of four behind it; both are within.
    unsafe {
        start.add(SQE_LEN - 8).cast::<u64>().write_unaligned(address);
        start.add(SQE_LEN).cast::<u32>().write_unaligned(2);
    }
    entry
}

impl<S: Service> Queue<S> {
    /// Give all entries to the kernel.
    fn start(served: Served<S>) -> io::Result<Self> {
        let count = served.queues.len() * served.entries;
        let entries = Entries::new(count, served.data, served.lets_go)?;
        let own = served.service.own_completions().unwrap_or_else(|error| {
            log::warn!("a thread does not take the completions of what it asks for: {error}");
            None
        });
        let depth = u32::try_from(count + 2).map_err(io::Error::other)?;
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(depth)?;
        let bell = Box::new([0; 8]);
        let pace = Pace::new(served.alone);
        let (commit_ids, came) = (vec![0; count], VecDeque::new());
        let (with_kernel, told_of_own) = (0, false);
        let mut queue = Self { ring, entries, served, commit_ids, came, with_kernel, bell, own, told_of_own, pace };
        for entry in 0..u32::try_from(count).unwrap_or(u32::MAX) {
            let vectors = queue.entries.vectors(entry).ok_or(io::ErrorKind::InvalidInput)?;
            let command = register(&queue.served.device, queue.queue_of(entry), vectors);
            queue.push(command.user_data(u64::from(entry)))?;
        }
        queue.listen()?;
        queue.enter(0)?;
        queue.look()?;
        let mut refused = None;
        // The kernel answers at once to what it refuses, and else when there is a request.
        while let Some(done) = queue.next() {
            match queue.completed(&done) {
                Some(entry) if done.result() == 0 => queue.request(entry),
                Some(_) => refused = Some(io::Error::from_raw_os_error(done.result().saturating_neg())),
                None => {}
            }
        }
        match refused {
            Some(error) => {
                queue.take_back();
                Err(error)
            }
            None => Ok(queue),
        }
    }

    fn queue_of(&self, entry: u32) -> u16 {
        let number = (entry as usize).checked_div(self.served.entries).unwrap_or_default();
        self.served.queues.get(number).copied().unwrap_or_default()
    }

    /// Answer and serve until the mount is gone.
    fn serve(&mut self) -> io::Result<()> {
        let mut ready = Vec::new();
        while self.served.inbox.take(&mut ready) {
            for answer in &ready {
                self.answer(answer)?;
            }
            if ready.iter().any(|answer| answer.is_lent()) {
                // What goes back may start other reads: those who are answered shall not wait for them.
                self.enter(0)?;
            }
            ready.clear();
            self.wait()?;
            self.served.inbox.awake();
            self.pace.step(Instant::now());
            while let Some(done) = self.next() {
                let Some(entry) = self.completed(&done) else { continue };
                match done.result() {
                    0 => self.request(entry),
                    // No memory for the command; the answer is as it was.
                    error if [libc::ENOMEM, libc::EAGAIN, libc::EINTR].contains(&error.saturating_neg()) => {
                        self.pause();
                        self.commit(entry)?;
                    }
                    // The mount is gone, and this thread is told so.
                    error if [libc::ENOTCONN, libc::ECONNABORTED].contains(&error.saturating_neg()) => {}
                    error => log::error!(
                        "queue {}: the kernel does not take an answer: {}",
                        self.queue_of(entry),
                        io::Error::from_raw_os_error(error.saturating_neg())
                    ),
                }
            }
        }
        Ok(())
    }

    /// A request has come.
    fn request(&mut self, entry: u32) {
        let Some((commit_id, request)) = self.entries.request(entry) else { return };
        if let Some(place) = self.commit_ids.get_mut(entry as usize) {
            *place = commit_id;
        }
        let from = From::Queue(self.served.inbox.clone(), entry);
        match request {
            Some((header, body)) => self.served.service.serve(from, &header, body),
            None => {
                log::error!("queue {}: the kernel sent a request that makes no sense", self.queue_of(entry));
                Answer::to(from, commit_id).error(Errno::EIO);
            }
        }
        self.entries.served(entry);
    }

    /// Give an answer, and the entry with it.
    fn answer(&mut self, ready: &Ready) -> io::Result<()> {
        let entry = ready.entry;
        if self.entries.answer(ready).is_none() {
            return Err(io::Error::other("an answer to no entry"));
        }
        self.commit(entry)?;
        if self.entries.is_one_too_many(entry) {
            self.enter(0)?;
            self.relieve(entry);
        }
        Ok(())
    }

    /// The answer in an entry goes to the kernel, and the entry with it.
    fn commit(&mut self, entry: u32) -> io::Result<()> {
        let commit_id = self.commit_ids.get(entry as usize).copied().unwrap_or_default();
        let command = command(&self.served.device, COMMIT_AND_FETCH, self.queue_of(entry), commit_id);
        self.push(command.user_data(u64::from(entry)))
    }

    /// Give the memory of an answer back that was handed over just now.
    ///
    /// The kernel takes an answer while the command is handed over; and it puts a request in, and completes the command, only
    /// while this thread is in a call of it (one issuer, deferred task work). So an entry without a completion holds nothing,
    /// and one with a completion what its header says: a request, or the answer if the command failed.
    fn relieve(&mut self, entry: u32) {
        self.came.extend(self.ring.completion());
        let is_ours = self.came.iter().any(|done| done.user_data() == u64::from(entry));
        self.entries.answered(entry, is_ours);
    }

    /// Wait for the bell.
    fn listen(&mut self) -> io::Result<()> {
        let bell = Fd(self.served.inbox.bell());
        let (place, len) = (self.bell.as_mut_ptr(), 8);
        let read = opcode::Read::new(bell, place, len).build().user_data(BELL);
        self.queue_up(&read.into())
    }

    fn push(&mut self, command: squeue::Entry128) -> io::Result<()> {
        self.queue_up(&command)?;
        self.with_kernel += 1;
        Ok(())
    }

    fn queue_up(&mut self, entry: &squeue::Entry128) -> io::Result<()> {
        // SAFETY: the memory of an entry and of the bell lives until the ring is gone, or for ever; see `take_back`. There is
        // at most one command for each entry, whose memory is then the kernel's.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.map_err(|_| io::Error::other("more commands than entries"))
    }

    /// Hand over all that is queued, and wait for so much.
    fn enter(&mut self, want: usize) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(want) {
                // It stops behind a command that it has no memory for.
                Ok(_) if !self.ring.submission().is_empty() => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                // The kernel has no memory for a command just now.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM)) => {
                    self.pause();
                }
                entered => return entered.map(drop),
            }
        }
    }

    /// Hand over what is queued, and wait for a request or the bell: awake at first, if there is much to do.
    fn wait(&mut self) -> io::Result<()> {
        self.watch_own()?;
        if !self.came.is_empty() {
            self.enter(0)?;
            return self.look();
        }
        let awake = self.awake();
        if !self.pace.is_busy(awake) {
            return self.enter(1);
        }
        self.enter(0)?;
        let until = Instant::now() + awake;
        while self.ring.completion().is_empty() {
            // Whoever else wants the processor goes first.
            std::thread::yield_now();
            self.look()?;
            if self.ring.completion().is_empty() && Instant::now() >= until {
                return self.enter(1);
            }
        }
        Ok(())
    }

    /// How long it stays awake, by what it waits for.
    fn awake(&self) -> Duration {
        match self.own.as_ref().filter(|own| own.any()) {
            Some(own) if own.only_reads() => AWAKE_FOR_READS,
            Some(_) => AWAKE,
            // There is a request that another thread will answer.
            None if self.with_kernel < self.commit_ids.len() => AWAKE_FOR_OTHERS,
            None => AWAKE,
        }
    }

    /// Be woken when something of this thread's own has completed, if any is under way.
    fn watch_own(&mut self) -> io::Result<()> {
        let Some(own) = self.own.as_ref().filter(|own| !self.told_of_own && own.any()) else {
            return Ok(());
        };
        let readable = opcode::PollAdd::new(Fd(own.fd()), libc::POLLIN as u32).build().user_data(OWN);
        self.told_of_own = true;
        self.queue_up(&readable.into())
    }

    /// Have the kernel show what has completed: without being asked it does so only for a thread that waits.
    fn look(&self) -> io::Result<()> {
        // SAFETY: nothing is handed over and no argument is passed.
        let looked = unsafe { self.ring.submitter().enter::<libc::sigset_t>(0, 0, EnterFlags::GETEVENTS.bits(), None) };
        match looked {
            Err(error) if error.raw_os_error() != Some(libc::EINTR) => Err(error),
            _ => Ok(()),
        }
    }

    /// Wait for anything that completes, but not for long.
    fn pause(&self) {
        let (patience, flags) = (Timespec::from(PAUSE), (EnterFlags::GETEVENTS | EnterFlags::EXT_ARG).bits());
        let args = SubmitArgs::new().timespec(&patience);
        // SAFETY: nothing is handed over; the argument lives until the call returns, and the flags say its kind.
        if let Err(error) = unsafe { self.ring.submitter().enter(0, 1, flags, Some(&args)) } {
            log::trace!("nothing completed meanwhile: {error}");
        }
    }

    fn next(&mut self) -> Option<cqueue::Entry> {
        self.came.pop_front().or_else(|| self.ring.completion().next())
    }

    /// The entry that is ours again; none: it is the bell, or a completion of the device's.
    fn completed(&mut self, done: &cqueue::Entry) -> Option<u32> {
        if done.user_data() == OWN {
            self.told_of_own = false;
            if let Some(own) = &self.own {
                own.take();
            }
            return None;
        }
        if done.user_data() != BELL {
            self.with_kernel = self.with_kernel.saturating_sub(1);
            return u32::try_from(done.user_data()).ok();
        }
        if let Err(error) = self.listen() {
            log::error!("the bell of a queue can't be heard: {error}");
        }
        None
    }

    /// The kernel gives all entries back when the mount is gone. Only then may their memory go.
    fn take_back(self) {
        let mut queue = self;
        // Whatever becomes of the entries, the device is let go.
        drop(queue.own.take());
        for _ in 0..LAST_WAITS {
            if queue.with_kernel == 0 {
                return;
            }
            if queue.enter(0).and_then(|()| queue.look()).is_err() {
                break;
            }
            while let Some(done) = queue.next() {
                queue.completed(&done);
            }
            if queue.with_kernel > 0 {
                queue.pause();
            }
        }
        if queue.with_kernel > 0 {
            log::warn!("the kernel keeps {} requests of a mount that is gone, and their memory", queue.with_kernel);
            std::mem::forget(queue);
        }
    }
}
