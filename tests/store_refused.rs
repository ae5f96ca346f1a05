//! A kernel that takes no more requests, from one moment on: everybody is answered, nobody waits for ever.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use llamafs::io::{Completion, Device, Geometry, Request, SharedBuffer, SimDevice, SubmitError};
use llamafs::store::{AppendAt, FormatOptions, LogStructuredStore, StoreError, StoreOptions};

const LOG: u32 = 1;
const LIMIT: Duration = Duration::from_secs(30);

/// A disk that is told to refuse.
struct Refusing {
    disk: SimDevice,
    refuses: AtomicBool,
}

impl Device for Refusing {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn describe(&self) -> String {
        "refusing".to_owned()
    }

    fn register(&self, buffers: &[SharedBuffer]) -> io::Result<()> {
        self.disk.register(buffers)
    }

    unsafe fn submit(&self, requests: &[Request]) -> Result<(), SubmitError> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err(SubmitError { taken: 0, errno: libc::ENOMEM });
        }
        // SAFETY: promised by the caller.
        unsafe { self.disk.submit(requests) }
    }

    fn reap(&self, out: &mut Vec<Completion>, wait: bool) -> io::Result<()> {
        self.disk.reap(out, wait)
    }

    fn wake(&self) {
        self.disk.wake();
    }
}

/// Appends that wait for room, a fsync, and then a request that the kernel refuses, made by the thread that seals.
fn refused_at(appends: usize) {
    let device = Arc::new(Refusing { disk: SimDevice::new(8 << 20, 1), refuses: AtomicBool::new(false) });
    let format = FormatOptions { segment_size: Some(64 << 10), max_record: Some(8 << 10), ..FormatOptions::default() };
    LogStructuredStore::format(device.clone(), &format, &mut |_, _| {}).unwrap();
    let options = StoreOptions { buffer_size: 20 << 10, ..StoreOptions::default() };
    let store = LogStructuredStore::open(device.clone(), options).unwrap();
    store.start();
    device.disk.stall(true);
    let answered = Arc::new(AtomicUsize::new(0));
    let answer = || {
        let answered = answered.clone();
        move || _ = answered.fetch_add(1, Ordering::SeqCst)
    };
    let mut asked = 0;
    for number in 0..appends {
        if number == appends / 2 {
            device.refuses.store(true, Ordering::SeqCst);
            device.disk.stall(false);
        }
        match store.try_append(LOG, &[7; 5000], AppendAt::End) {
            Ok(appended) => {
                let answer = answer();
                store.make_stable(appended.end_lsn, Box::new(move |_| answer()));
            }
            Err(StoreError::WouldBlock) => {
                let answer = answer();
                store.append_later(LOG, vec![8; 5000], AppendAt::End, Box::new(move |_| answer()));
            }
            Err(error) => {
                assert_eq!(error, StoreError::ReadOnly);
                break;
            }
        }
        asked += 1;
    }
    let end = store.stats().end_lsn;
    assert!(store.make_stable_now(end).is_err());
    assert!(store.close().is_err());
    assert_eq!(answered.load(Ordering::SeqCst), asked, "everybody is answered");
}

#[test]
fn a_kernel_that_takes_no_more_requests_leaves_nobody_waiting() {
    let (done, finished) = mpsc::channel();
    std::thread::spawn(move || {
        for appends in 4..60 {
            refused_at(appends);
        }
        done.send(()).unwrap();
    });
    finished.recv_timeout(LIMIT).expect("it waits for ever");
}
