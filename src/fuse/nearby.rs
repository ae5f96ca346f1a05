//! A thread that serves one process alone works on that process's processor.
//!
//! The process sleeps while its request is served, so both have room on one processor, and there waking each other takes
//! a few µs. To wake a thread on a processor that sleeps takes 35 µs and more on a virtual machine, twice for each
//! request; yet that is what the kernel prefers, for it has nothing else to do. What is small is served before either falls
//! asleep: there two processors are better. A thread that serves several processes, or hardly anybody, goes where the kernel
//! puts it.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Bytes of a request that takes long enough for who waits to fall asleep.
const LARGE: usize = 64 << 10;
/// Requests of one process in turn until it counts as alone; of each thread it is its share, but not less than the least.
const ALONE: u32 = 64;
const LEAST: u32 = 8;
/// Time between two looks at where the process runs, for each processor: a look costs 10 µs.
const PAUSE: Duration = Duration::from_millis(4);
/// Who asks less often than this, for each thread, gains nothing.
const SLOW: Duration = Duration::from_millis(1);

/// What a thread knows of whom it serves.
struct Nearby {
    /// Process of the last request, or thread of it.
    client: u32,
    /// Requests that were all its own, since `counted`.
    streak: u32,
    counted: Instant,
    looked: Option<Instant>,
    /// Processors that may be used, as whoever started the daemon, or changed it since, has said.
    all: CpuSet,
    /// How many those are: as many threads serve.
    threads: u32,
    /// The one that the thread keeps to.
    kept: Option<CpuSet>,
}

thread_local! {
    static NEARBY: RefCell<Option<Nearby>> = const { RefCell::new(None) };
}

/// This thread serves a request for `bytes` of `client`, a thread's number; 0 if it has none here.
pub fn serve(client: u32, bytes: usize) {
    // Nobody has this number.
    let client = if bytes < LARGE { 0 } else { client };
    NEARBY.with_borrow_mut(|nearby| nearby.get_or_insert_with(|| Nearby::new(client)).serve(client));
}

impl Nearby {
    fn new(client: u32) -> Self {
        let all = allowed();
        Self { client, streak: 0, counted: Instant::now(), looked: None, all, threads: count(&all), kept: None }
    }

    fn serve(&mut self, client: u32) {
        if client != self.client {
            (self.client, self.streak) = (client, 0);
            self.keep_to(None);
            return;
        }
        let threads = self.threads;
        if client == 0 || threads < 2 {
            return;
        }
        self.streak += 1;
        let wanted = ALONE.checked_div(threads).unwrap_or(ALONE).max(LEAST);
        if self.streak < wanted {
            return;
        }
        let now = Instant::now();
        let (took, share) = (now - self.counted, wanted * threads);
        (self.streak, self.counted) = (0, now);
        if took > SLOW * share {
            self.keep_to(None);
        } else if self.looked.is_none_or(|at| now - at >= PAUSE * threads) {
            self.looked = Some(now);
            self.keep_to(only(processor(client)));
        }
    }

    /// Keep to these processors, if they are among those that may be used; else to none.
    fn keep_to(&mut self, cpus: Option<CpuSet>) {
        if cpus == self.kept {
            return;
        }
        // Another's word counts: who has set something else since means it.
        let now = allowed();
        if now != self.kept.unwrap_or(self.all) {
            (self.all, self.threads) = (now, count(&now));
        }
        let within = |cpus: &CpuSet| (0..CpuSet::count()).all(|cpu| is_set(&self.all, cpu) || !is_set(cpus, cpu));
        self.kept = cpus.filter(within);
        if sched_setaffinity(Pid::from_raw(0), &self.kept.unwrap_or(self.all)).is_err() {
            self.kept = None;
        }
    }
}

/// Processors that this thread may run on.
fn allowed() -> CpuSet {
    sched_getaffinity(Pid::from_raw(0)).unwrap_or_default()
}

fn is_set(cpus: &CpuSet, cpu: usize) -> bool {
    cpus.is_set(cpu) == Ok(true)
}

fn count(cpus: &CpuSet) -> u32 {
    (0..CpuSet::count()).map(|cpu| u32::from(is_set(cpus, cpu))).sum()
}

fn only(cpu: Option<usize>) -> Option<CpuSet> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu?).ok().map(|()| cpus)
}

/// Where a thread ran last: proc_pid_stat(5), field 39.
fn processor(thread: u32) -> Option<usize> {
    let stat = std::fs::read(format!("/proc/{thread}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let behind = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(stat.get(behind + 1..)?).ok()?;
    fields.split_ascii_whitespace().nth(36)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use nix::unistd::gettid;

    use super::*;

    fn own() -> u32 {
        gettid().as_raw().cast_unsigned()
    }

    /// In a thread of its own, whose affinity dies with it.
    fn apart(test: impl FnOnce() + Send + 'static) {
        thread::spawn(test).join().unwrap();
    }

    #[test]
    fn a_thread_goes_to_the_only_one_whom_it_serves_and_is_free_again() {
        apart(|| {
            let all = allowed();
            // A thread that was kept from running for long counts as one that hardly anybody asks.
            let until = Instant::now() + Duration::from_secs(10);
            while count(&all) > 1 && count(&allowed()) > 1 {
                assert!(Instant::now() < until, "it stays where it was");
                serve(own(), LARGE);
            }
            // Init's number is another than ours.
            serve(1, LARGE);
            assert_eq!(allowed(), all);
        });
    }

    #[test]
    fn who_serves_two_in_turns_stays_free() {
        apart(|| {
            let all = allowed();
            for _ in 0..4 * ALONE {
                serve(own(), LARGE);
                assert_eq!(allowed(), all);
                serve(1, LARGE);
            }
        });
    }

    #[test]
    fn who_serves_small_requests_stays_free() {
        apart(|| {
            let all = allowed();
            (0..1000 * ALONE).for_each(|_| serve(own(), LARGE - 1));
            assert_eq!(allowed(), all);
        });
    }

    #[test]
    fn what_another_has_set_counts() {
        apart(|| {
            let all = allowed();
            let mut nearby = Nearby::new(own());
            let (first, last) = (0..CpuSet::count())
                .filter(|cpu| is_set(&all, *cpu))
                .fold((None, None), |(first, _): (Option<usize>, Option<usize>), cpu| (first.or(Some(cpu)), Some(cpu)));
            nearby.keep_to(only(first));
            assert_eq!(Some(allowed()), only(first));
            sched_setaffinity(Pid::from_raw(0), &only(last).unwrap()).unwrap();
            nearby.keep_to(None);
            assert_eq!(Some(allowed()), only(last));
        });
    }

    #[test]
    fn a_processor_is_known_of_who_is_there() {
        assert!(processor(own()).is_some_and(|cpu| cpu < CpuSet::count()));
        assert_eq!(processor(0), None);
    }
}
