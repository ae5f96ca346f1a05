//! A transport of our own, for what `fuser` leaves out. For `-o parallel` it tells the kernel of an inode under another
//! number than the one that `stat` shows, and passes on interrupts and which sort a lock is of; and it takes requests over
//! io_uring where the kernel sends them so, else by `/dev/fuse`. It serves the same
//! [`crate::fs::LlamaFs`] with the same answers, or whatever [`Service`] there is: the benchmark has one that does nothing.

mod answer;
mod body;
mod entries;
mod handshake;
mod inbox;
mod notice;
pub mod numbers;
mod queue;
mod serve;
mod tree;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use super::mount::FUSE_DEVICE;
use super::{PAGE, REQUEST_BYTES, REQUEST_PAGES};
use crate::io::OwnCompletions;
pub use answer::{Answer, Fields, From};
pub use body::{Body, Header};
use handshake::Agreed;
pub use handshake::Wish;
use inbox::Inbox;
pub use notice::invalidate;
use queue::Served;

/// `Y` where FUSE over io_uring is allowed; by root, for every mount that is made from then on.
pub const ENABLE_URING: &str = "/sys/module/fuse/parameters/enable_uring";
/// The numbers that processors can have: `0-7`.
const POSSIBLE_CPUS: &str = "/sys/devices/system/cpu/possible";

/// Bytes of a write that come in one request: one page more than a record, as its bytes need not begin on a page.
const MAX_WRITE: u32 = REQUEST_BYTES + PAGE;
/// The kernel wants room for the largest write and its headers.
const BUFFER_BYTES: usize = (MAX_WRITE + PAGE) as usize;

/// Entries of one queue of the kernel: requests of one processor's callers that are served at the same time. A megabyte of
/// each takes memory where callers send so much.
pub const ENTRIES: usize = 16;

/// A mount that has been greeted.
pub struct Greeted {
    device: Arc<File>,
    agreed: Agreed,
}

/// What requests come to. Each thread has its own.
pub trait Service: Clone + Send + 'static {
    /// Serve one request: every one but those that nobody waits for is answered, once, by whichever thread.
    fn serve(&self, from: From, header: &Header, body: Body<'_>);

    /// What the calling thread asks of a device, and takes the completions of, while it waits for requests; if there is one.
    fn own_completions(&self) -> io::Result<Option<OwnCompletions>> {
        Ok(None)
    }
}

/// A mount that is served.
pub struct Session {
    /// Threads that take requests from `/dev/fuse`.
    threads: Vec<JoinHandle<io::Result<()>>>,
    queues: Vec<Queue>,
    /// What the threads tell when they end.
    ends: (mpsc::Sender<Serves>, mpsc::Receiver<Serves>),
}

/// A thread that serves requests over io_uring. Dropped, it is told to end.
struct Queue {
    inbox: Arc<Inbox>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.inbox.end();
    }
}

impl Queue {
    /// Tell it to end, and wait.
    fn join(mut self) -> io::Result<()> {
        self.inbox.end();
        self.thread.take().map_or(Ok(()), joined)
    }
}

/// How a thread ended; a panic is an error.
fn joined(thread: JoinHandle<io::Result<()>>) -> io::Result<()> {
    thread.join().unwrap_or(Err(io::ErrorKind::Other.into()))
}

/// What a thread serves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Serves {
    Device,
    Queue,
}

/// Tells that a thread is about to end, however it does.
struct Told(mpsc::Sender<Serves>, Serves);

impl Drop for Told {
    fn drop(&mut self) {
        // Who listened may be gone.
        let _ = self.0.send(self.1);
    }
}

mod ioctl {
    #![allow(missing_docs, clippy::undocumented_unsafe_blocks, reason = "made by the macro")]
    // FUSE_DEV_IOC_CLONE: another descriptor of one mount, which requests can be read from by themselves.
    nix::ioctl_read!(clone, 229, 0, u32);
}

impl Greeted {
    /// Answer the kernel's first request.
    pub fn greet(fd: OwnedFd, wish: Wish) -> io::Result<Self> {
        let device = Arc::new(File::from(fd));
        let agreed = handshake::greet(&device, wish)?;
        Ok(Self { device, agreed })
    }

    /// Requests come over io_uring.
    pub fn by_uring(&self) -> bool {
        self.agreed.uring
    }

    /// What notices are written to.
    pub fn device(&self) -> Arc<File> {
        self.device.clone()
    }
}

impl Session {
    /// Serve with so many threads.
    pub fn start<S: Service>(greeted: &Greeted, service: &S, threads: usize) -> io::Result<Self> {
        let mut session = Self { threads: Vec::new(), queues: Vec::new(), ends: mpsc::channel() };
        let uring = greeted.by_uring();
        if uring {
            session.start_queues(greeted, service, threads)?;
        }
        // With queues, what comes by the device is what nobody waits for an answer to.
        for number in 0..if uring { 1 } else { threads.max(1) } {
            let device = if number == 0 { greeted.device() } else { Arc::new(another(&greeted.device)?) };
            let (service, told) = (service.clone(), Told(session.ends.0.clone(), Serves::Device));
            let name = if uring { "llamafs-told".into() } else { format!("llamafs-{number}") };
            let work = move || {
                let _told = told;
                serve(&device, &service)
            };
            session.threads.push(std::thread::Builder::new().name(name).spawn(work)?);
        }
        Ok(session)
    }

    /// The kernel has a queue for each processor, and sends requests once it has an entry for each.
    fn start_queues<S: Service>(&mut self, greeted: &Greeted, service: &S, threads: usize) -> io::Result<()> {
        let queues = queues()?;
        let threads = threads.clamp(1, usize::from(queues));
        let lets_go = keeps_pages(nix::sys::utsname::uname()?.release().to_str());
        let inboxes = (0..threads).map(|_| Inbox::new().map(Arc::new)).collect::<io::Result<Vec<_>>>()?;
        let (started, answers) = mpsc::sync_channel(threads);
        let mut all = Ok(());
        // From here on nothing returns before all that were started have answered.
        for (number, inbox) in inboxes.into_iter().enumerate() {
            let served = Served {
                queues: (0..queues).skip(number).step_by(threads).collect(),
                entries: ENTRIES,
                data: greeted.agreed.data,
                device: greeted.device(),
                service: service.clone(),
                inbox: inbox.clone(),
                lets_go,
                alone: threads == 1,
            };
            let (name, started, told) =
                (format!("llamafs-{number}"), started.clone(), Told(self.ends.0.clone(), Serves::Queue));
            let work = move || {
                let _told = told;
                queue::run(served, &started)
            };
            match std::thread::Builder::new().name(name).spawn(work) {
                Ok(thread) => self.queues.push(Queue { inbox, thread: Some(thread) }),
                Err(error) => {
                    all = Err(error);
                    break;
                }
            }
        }
        drop(started);
        // Also when one has failed: the mount may not be ended while others give entries to the kernel.
        for _ in 0..self.queues.len() {
            all = all.and(answers.recv().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())));
        }
        all.map_err(|error| io::Error::new(error.kind(), format!("FUSE over io_uring: {error}")))
    }

    /// Wait until the mount is gone. An error before that: a thread has ended, whose callers nobody would answer.
    pub fn run(self) -> io::Result<()> {
        // The threads of queues end when they are told to, and that is behind this loop.
        for _ in 0..self.threads.len() {
            if self.ends.1.recv() != Ok(Serves::Device) {
                return Err(io::Error::other("a thread that serves a queue has ended"));
            }
        }
        let end = self.threads.into_iter().map(joined).fold(Ok(()), io::Result::and);
        self.queues.into_iter().map(Queue::join).fold(end, io::Result::and)
    }
}

/// Whether this kernel offers FUSE over io_uring (Linux 6.14), and its administrator has allowed it.
pub fn uring_is_enabled() -> bool {
    std::fs::read_to_string(ENABLE_URING).is_ok_and(|text| text.trim() == "Y")
}

/// Whether the kernel keeps the pages of an entry that are given back to it. Before Linux 6.18.3 it lost the last page of
/// each request and answer then ("fuse: missing copy_finish in fuse-over-io-uring argument copies").
fn keeps_pages(release: Option<&str>) -> bool {
    let digits = release.unwrap_or_default().split(|c: char| !c.is_ascii_digit());
    let mut numbers = digits.map(|number| number.parse::<u32>().unwrap_or_default());
    let mut next = || numbers.next().unwrap_or_default();
    (next(), next(), next()) >= (6, 18, 3)
}

/// Queues that the kernel has: as many as there can be processors.
fn queues() -> io::Result<u16> {
    let text = std::fs::read_to_string(POSSIBLE_CPUS)?;
    count(&text).ok_or_else(|| io::Error::other(format!("{POSSIBLE_CPUS} makes no sense: {text:?}")))
}

/// How many numbers a list such as `0-3,8` has.
fn count(list: &str) -> Option<u16> {
    list.trim().split(',').try_fold(0u16, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// Another descriptor of the same mount.
#[allow(unsafe_code)]
fn another(first: &File) -> io::Result<File> {
    let device = File::options().read(true).write(true).open(FUSE_DEVICE)?;
    let mut source = u32::try_from(first.as_raw_fd()).map_err(io::Error::other)?;
    // SAFETY: both descriptors are open, and the call reads four bytes from `source`.
    unsafe { ioctl::clone(device.as_raw_fd(), &mut source) }?;
    Ok(device)
}

/// One request after the other.
fn serve(device: &Arc<File>, service: &impl Service) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match (&**device).read(&mut buffer) {
            Ok(len) => {
                let parts = buffer.get(..len).and_then(Header::split);
                let (header, body) = parts.ok_or(io::ErrorKind::InvalidData)?;
                service.serve(From::Device(device.clone()), &header, body);
            }
            Err(error) => match error.raw_os_error() {
                // The request was taken back, or nothing was there after all.
                Some(libc::ENOENT | libc::EINTR | libc::EAGAIN) => {}
                // The mount is gone.
                Some(libc::ENODEV | libc::ECONNABORTED) => return Ok(()),
                _ => return Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests;
