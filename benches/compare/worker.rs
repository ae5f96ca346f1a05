//! The inside of a worker process.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use llamafs::io::{Access, QuikIO, SharedBuffer, open};
use parking_lot::Mutex;

use super::cost::{self, Cost};
use super::histogram::Histogram;
use super::job::{Answer, Durable, Job, Until, Work};

/// What `cat` asks for at a time.
const CAT_BYTES: usize = 128 << 10;
/// How often a follower at the end looks for more.
const LOOKS_EVERY: Duration = Duration::from_millis(1);

/// Does the job given as JSON.
pub fn run(told: &str) -> Result<(), String> {
    let job: Job = serde_json::from_str(told).map_err(|error| error.to_string())?;
    let answer = match job.work {
        Work::Append { record, durable } => append(&job, record, durable),
        Work::Read => read(&job.path),
        Work::ReadAnywhere { record } => read_anywhere(&job, record),
        Work::Follow => follow(&job),
        Work::RawWrite { record, dsync, depth } => raw(&job, record, depth, Some(dsync)),
        Work::RawRead { record, depth } => raw(&job, record, depth, None),
    };
    let answer = answer.map_err(|error| format!("{}: {error}", job.path.display()))?;
    let bytes = serde_json::to_vec(&answer).map_err(|error| error.to_string())?;
    std::fs::write(&job.answer, bytes).map_err(|error| format!("{}: {error}", job.answer.display()))
}

/// The time, processor time and context switches since the word to begin.
struct Meter {
    start: Instant,
    cost: Cost,
}

impl Meter {
    /// Says that all is ready and waits for the word.
    fn at_the_word() -> Result<Self, String> {
        let mut out = std::io::stdout();
        out.write_all(b"r").and_then(|()| out.flush()).map_err(|error| error.to_string())?;
        std::io::stdin().read_exact(&mut [0]).map_err(|error| error.to_string())?;
        Ok(Self { cost: cost::of(std::process::id())?, start: Instant::now() })
    }

    fn answer(&self, operations: u64, bytes: u64, latencies: &Histogram) -> Result<Answer, String> {
        let seconds = self.start.elapsed().as_secs_f64();
        let cost = cost::of(std::process::id())?.since(self.cost);
        Ok(Answer { operations, bytes, seconds, cost, latencies: latencies.compact() })
    }
}

/// Whether there is more to do after so many bytes and so long.
fn goes_on(until: Until, bytes: u64, start: Instant) -> bool {
    match until {
        Until::Seconds(seconds) => start.elapsed() < Duration::from_secs_f64(seconds),
        Until::Bytes(limit) => bytes < limit,
    }
}

fn append(job: &Job, record: usize, durable: Durable) -> Result<Answer, String> {
    let say = |error: std::io::Error| error.to_string();
    let flags = if durable == Durable::Dsync { libc::O_DSYNC } else { 0 };
    let mut file = OpenOptions::new().append(true).create(true).custom_flags(flags).open(&job.path).map_err(say)?;
    let payload: Vec<u8> = (0..record).map(|at| b'a' + (at % 26) as u8).collect();
    let mut latencies = Histogram::new();
    let (mut operations, mut bytes) = (0, 0);
    let meter = Meter::at_the_word()?;
    while goes_on(job.until, bytes, meter.start) {
        let began = Instant::now();
        match file.write_all(&payload) {
            // Faster than the device is large: the time until then counts.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && matches!(job.until, Until::Seconds(_)) => break,
            written => written.map_err(say)?,
        }
        operations += 1;
        bytes += record as u64;
        let due = match durable {
            Durable::Each => true,
            Durable::Every(count) => operations % count == 0,
            Durable::Dsync | Durable::End | Durable::Never => false,
        };
        if due {
            file.sync_data().map_err(say)?;
        }
        latencies.record(nanoseconds(began));
    }
    if durable == Durable::End {
        file.sync_all().map_err(say)?;
    }
    meter.answer(operations, bytes, &latencies)
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn read(path: &Path) -> Result<Answer, String> {
    let say = |error: std::io::Error| error.to_string();
    let mut file = File::open(path).map_err(say)?;
    let mut buffer = vec![0; CAT_BYTES];
    let mut latencies = Histogram::new();
    let (mut operations, mut bytes) = (0, 0);
    let meter = Meter::at_the_word()?;
    loop {
        let began = Instant::now();
        let count = file.read(&mut buffer).map_err(say)?;
        if count == 0 {
            return meter.answer(operations, bytes, &latencies);
        }
        latencies.record(nanoseconds(began));
        operations += 1;
        bytes += count as u64;
    }
}

/// Records at places that nothing can foresee.
fn read_anywhere(job: &Job, record: usize) -> Result<Answer, String> {
    let say = |error: std::io::Error| error.to_string();
    let file = File::open(&job.path).map_err(say)?;
    let records = file.metadata().map_err(say)?.len() / record as u64;
    let mut buffer = vec![0; record];
    let mut latencies = Histogram::new();
    let (mut operations, mut bytes, mut state) = (0, 0, 0x9e37_79b9_7f4a_7c15u64);
    let meter = Meter::at_the_word()?;
    while goes_on(job.until, bytes, meter.start) {
        // Marsaglia's xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let began = Instant::now();
        file.read_exact_at(&mut buffer, state % records.max(1) * record as u64).map_err(say)?;
        latencies.record(nanoseconds(began));
        operations += 1;
        bytes += record as u64;
    }
    meter.answer(operations, bytes, &latencies)
}

fn follow(job: &Job) -> Result<Answer, String> {
    let say = |error: std::io::Error| error.to_string();
    let mut file = File::open(&job.path).map_err(say)?;
    let mut buffer = vec![0; CAT_BYTES];
    let mut bytes = 0;
    let meter = Meter::at_the_word()?;
    // To the end that the file has when the time is over: who follows may be behind, but misses nothing.
    loop {
        match file.read(&mut buffer).map_err(say)? as u64 {
            0 if !goes_on(job.until, 0, meter.start) => break,
            0 => std::thread::sleep(LOOKS_EVERY),
            count => bytes += count,
        }
    }
    let size = file.metadata().map_err(say)?.len();
    if bytes < size {
        return Err(format!("a follower has read {bytes} bytes of {size}"));
    }
    meter.answer(0, 0, &Histogram::new())
}

/// What the callbacks of raw requests tell: requests that ended, their latencies, the first failure.
#[derive(Default)]
struct Ended {
    count: AtomicU64,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    latencies: Vec<u64>,
    error: Option<String>,
}

impl Ended {
    fn one(&self, began: Instant, result: Result<(), String>) {
        let mut seen = self.seen.lock();
        seen.latencies.push(nanoseconds(began));
        if let Err(error) = result {
            seen.error.get_or_insert(error);
        }
        self.count.fetch_add(1, Ordering::Release);
    }
}

/// Sequential requests, `depth` of them on their way; `write` says whether each write is durable, none reads.
fn raw(job: &Job, record: usize, depth: usize, write: Option<bool>) -> Result<Answer, String> {
    let access = if write.is_some() { Access::ReadWrite } else { Access::ReadOnlyShared };
    let device = open(&job.path, access).map_err(|error| error.to_string())?;
    let buffers = (0..depth).map(|_| aligned(record)).collect::<Result<Vec<_>, _>>()?;
    let io = QuikIO::new(Arc::new(device), &buffers).map_err(|error| error.to_string())?;
    let capacity = io.geometry().capacity;
    let spare = Arc::new(Mutex::new(Vec::new()));
    let ended = Arc::new(Ended::default());
    let (mut started, mut bytes) = (0u64, 0u64);
    let meter = Meter::at_the_word()?;
    while goes_on(job.until, bytes, meter.start) {
        while started - ended.count.load(Ordering::Acquire) >= depth as u64 {
            io.poll(true);
        }
        // Round and round, as a log that gives its space back.
        let offset = started * record as u64 % (capacity - capacity % record as u64);
        let (began, told) = (Instant::now(), ended.clone());
        match write {
            Some(dsync) => {
                // The buffer of the request before which `depth` others were started; nobody changes it.
                let buffer = buffers[started as usize % depth].clone();
                let done = Box::new(move |result: Result<(), _>| told.one(began, say(result)));
                io.write(buffer, 0..record, offset, dsync, done);
            }
            None => {
                // One that was read into before: new memory would cost more than the device.
                let used = spare.lock().pop();
                let buffer = used.map_or_else(|| io.buffer(record), Ok).map_err(|error| error.to_string())?;
                let back = spare.clone();
                let done = Box::new(move |result: Result<_, _>| {
                    told.one(began, say(result.map(|buffer| back.lock().push(buffer))));
                });
                io.read(buffer, 0..record, offset, done);
            }
        }
        started += 1;
        bytes += record as u64;
    }
    while ended.count.load(Ordering::Acquire) < started {
        io.poll(true);
    }
    if write == Some(false) {
        io.flush_now().map_err(|error| error.to_string())?;
    }
    let mut latencies = Histogram::new();
    let seen = ended.seen.lock();
    seen.latencies.iter().for_each(|latency| latencies.record(*latency));
    match &seen.error {
        Some(error) => Err(error.clone()),
        None => meter.answer(started, bytes, &latencies),
    }
}

fn say(result: Result<(), llamafs::io::IoError>) -> Result<(), String> {
    result.map_err(|error| error.to_string())
}

fn aligned(record: usize) -> Result<SharedBuffer, String> {
    let buffer = llamafs::io::Buffer::new_aligned(record, llamafs::io::FOUR_KB_BLOCK);
    let mut buffer = buffer.map_err(|error| error.to_string())?;
    buffer.as_mut_slice().fill(b'a');
    Ok(SharedBuffer::new(buffer))
}
