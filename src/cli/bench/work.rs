//! The work itself, as any program does it: write and fdatasync, or write and one fsync at the end, or read.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use super::place::Directory;
use crate::cli::failure::{Context, Failure};

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// Each append is made durable before the next.
    Durable {
        /// Bytes of one.
        record: usize,
        /// Threads, each with a descriptor of its own.
        writers: usize,
        /// Logs that they share.
        logs: usize,
    },
    /// One fsync at the end.
    Append {
        /// Bytes of one.
        record: usize,
    },
    /// What was appended before is read.
    Read {
        /// Bytes of one read.
        record: usize,
    },
}

impl Job {
    /// Whether a device by itself would do the same for both.
    pub fn is_same_to_a_device(&self, other: &Self) -> bool {
        match (*self, *other) {
            (Self::Durable { record: a, writers: n, .. }, Self::Durable { record: b, writers: m, .. }) => {
                (a, n) == (b, m)
            }
            _ => false,
        }
    }
}

/// How long, how much, and whether to stop.
#[derive(Debug, Clone)]
pub struct Load {
    /// Length of a timed row.
    pub seconds: Duration,
    /// Bytes that one row moves at most.
    pub most_bytes: u64,
    /// A signal came.
    pub stop: Arc<AtomicBool>,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measured {
    /// How many appends, or reads.
    pub count: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// How long each took, in ns, in growing order.
    pub latencies: Vec<u64>,
}

impl Measured {
    /// In one second.
    pub fn rate(&self) -> f64 {
        self.count as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// Bytes in one second.
    pub fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// What so many in a thousand do not take longer than, in µs.
    pub fn percentile(&self, per_mille: usize) -> Option<f64> {
        let last = self.latencies.len().checked_sub(1)?;
        let place = self.latencies.len().saturating_mul(per_mille).div_ceil(1000).saturating_sub(1);
        self.latencies.get(place.min(last)).map(|ns| *ns as f64 / 1e3)
    }
}

/// Do it in a directory.
pub fn measure(job: &Job, directory: &Directory, load: &Load) -> Result<Measured, Failure> {
    match *job {
        Job::Durable { record, writers, logs } => {
            let paths = (0..logs).map(|_| directory.log()).collect::<Result<Vec<_>, _>>()?;
            let open = |writer: usize| {
                let path = paths.get(writer % logs).map_or_else(|| Path::new(""), |path| path.as_path());
                OpenOptions::new().append(true).open(path).context(path.display())
            };
            let measured = side_by_side(writers, record, load, open, |file, data, _| {
                append(file, data)?;
                file.sync_data()
            });
            paths.iter().try_for_each(|path| directory.remove(path))?;
            measured
        }
        Job::Append { record } => {
            let path = directory.bulk()?;
            let mut file = OpenOptions::new().append(true).open(&path).context(path.display())?;
            let data = data(record);
            let begun = Instant::now();
            let mut measured = Measured::default();
            while measured.bytes < load.most_bytes && !load.stop.load(Ordering::Relaxed) {
                timed(&mut measured, record, || append(&mut file, &data)).context(path.display())?;
            }
            file.sync_all().context(path.display())?;
            Ok(done(measured, begun))
        }
        Job::Read { record } => {
            let path = directory.bulk()?;
            let mut file = File::open(&path).context(path.display())?;
            let mut buffer = vec![0; record];
            let begun = Instant::now();
            let mut measured = Measured::default();
            loop {
                let mut read = 0;
                timed(&mut measured, 0, || file.read(&mut buffer).map(|got| read = got)).context(path.display())?;
                measured.bytes += read as u64;
                if read == 0 || load.stop.load(Ordering::Relaxed) {
                    directory.remove(&path)?;
                    return Ok(done(measured, begun));
                }
            }
        }
    }
}

/// One write is one record.
fn append(file: &mut File, data: &[u8]) -> std::io::Result<()> {
    match file.write(data)? {
        written if written == data.len() => Ok(()),
        _ => Err(std::io::ErrorKind::WriteZero.into()),
    }
}

/// Bytes that nothing can make smaller.
pub fn data(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..len.div_ceil(size_of::<u64>())).flat_map(|_| next()).take(len).collect()
}

/// Do one, and note how long it took.
pub fn timed(measured: &mut Measured, bytes: usize, one: impl FnOnce() -> std::io::Result<()>) -> std::io::Result<()> {
    let begun = Instant::now();
    one()?;
    measured.latencies.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
    measured.count += 1;
    measured.bytes += bytes as u64;
    Ok(())
}

/// It has come to its end.
pub fn done(mut measured: Measured, begun: Instant) -> Measured {
    measured.seconds = begun.elapsed().as_secs_f64();
    measured.latencies.sort_unstable();
    measured
}

/// Several writers, each on a thread of its own, until the time or the bytes are up. `one` gets the writer's number of
/// the append as well.
pub fn side_by_side<T: Send>(
    writers: usize,
    record: usize,
    load: &Load,
    open: impl Fn(usize) -> Result<T, Failure>,
    one: impl Fn(&mut T, &[u8], u64) -> std::io::Result<()> + Sync,
) -> Result<Measured, Failure> {
    let opened = (0..writers).map(open).collect::<Result<Vec<T>, Failure>>()?;
    let (start, taken, data) = (Barrier::new(writers + 1), AtomicU64::new(0), data(record));
    let write = |mut target: T| -> std::io::Result<Measured> {
        start.wait();
        let (begun, mut measured) = (Instant::now(), Measured::default());
        while begun.elapsed() < load.seconds
            && taken.fetch_add(record as u64, Ordering::Relaxed) < load.most_bytes
            && !load.stop.load(Ordering::Relaxed)
        {
            let number = measured.count;
            timed(&mut measured, record, || one(&mut target, &data, number))?;
        }
        Ok(measured)
    };
    let mut all = Measured::default();
    let begun = std::thread::scope(|scope| -> Result<Instant, Failure> {
        let threads: Vec<_> = opened.into_iter().map(|target| scope.spawn(|| write(target))).collect();
        start.wait();
        let begun = Instant::now();
        for thread in threads {
            let ended = thread.join().map_err(|_| Failure::new("a writer of the bench has failed"))?;
            let measured = ended.context("an append of the bench failed")?;
            all.count += measured.count;
            all.bytes += measured.bytes;
            all.latencies.extend(measured.latencies);
        }
        Ok(begun)
    })?;
    Ok(done(all, begun))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_list() {
        let measured = Measured { latencies: (1..=1000).map(|n| n * 1000).collect(), ..Measured::default() };
        let of = |per_mille| measured.percentile(per_mille);
        assert_eq!((of(500), of(990), of(999), of(1000)), (Some(500.0), Some(990.0), Some(999.0), Some(1000.0)));
        let one = Measured { latencies: vec![7000], ..Measured::default() };
        assert_eq!((one.percentile(500), one.percentile(999)), (Some(7.0), Some(7.0)));
        assert_eq!(Measured::default().percentile(500), None);
    }

    #[test]
    fn writers_stop_when_the_bytes_are_up() {
        let stop = Arc::new(AtomicBool::new(false));
        let load = Load { seconds: Duration::from_secs(60), most_bytes: 1000, stop: stop.clone() };
        let write = |_: &mut (), data: &[u8], _| {
            assert_eq!(data.len(), 100);
            Ok(())
        };
        let measured = side_by_side(4, 100, &load, |_| Ok(()), write).unwrap();
        assert_eq!((measured.count, measured.bytes, measured.latencies.len()), (10, 1000, 10));
        let failed = side_by_side(4, 100, &load, |_| Ok(()), |(), _, _| Err(std::io::ErrorKind::StorageFull.into()));
        assert!(failed.unwrap_err().text().contains("append of the bench failed"));
        stop.store(true, Ordering::Relaxed);
        assert_eq!(side_by_side(4, 100, &load, |_| Ok(()), write).unwrap().count, 0);
    }
}
