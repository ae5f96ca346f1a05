//! Requests as no kernel sends them: absurd lengths, places, handles and numbers are answered, within bounds.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use llamafs::fs::types::{Errno, Ioctl, Read, Write};
use llamafs::fs::{FsSettings, LlamaFs, NoPageCache, READ_BYTES, USER_SNAPSHOTS};
use llamafs::io::{Device, SimDevice};
use llamafs::store::{FormatOptions, LogStructuredStore, StoreOptions};

const ROOT: u64 = 1;
const SIZE: usize = 20 << 20;

fn mounted() -> LlamaFs {
    let device = Arc::new(SimDevice::new(64 << 20, 1));
    LogStructuredStore::format(device.clone() as Arc<dyn Device>, &FormatOptions::default(), &mut |_, _| {}).unwrap();
    let store = LogStructuredStore::open(device, StoreOptions::default()).unwrap();
    store.start();
    let fs = LlamaFs::new(store, FsSettings::default(), Box::new(NoPageCache));
    let ino = fs.lookup(ROOT, b"log").unwrap().ino;
    let data = vec![b'x'; SIZE];
    let write = Write { ino, offset: u64::MAX, data: &data, flags: libc::O_APPEND, kill_set_id: false };
    assert_eq!(answer(|reply| fs.write(write, reply)), Ok(SIZE as u32));
    fs
}

/// What is answered, by whichever thread.
fn answer<T: Send + 'static>(ask: impl FnOnce(Box<dyn FnOnce(Result<T, Errno>) + Send>)) -> Result<T, Errno> {
    let (sender, receiver) = mpsc::channel();
    ask(Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv_timeout(Duration::from_secs(30)).expect("it is answered")
}

#[test]
fn a_read_of_any_length_at_any_place_is_bounded_and_answered() {
    let fs = mounted();
    let log = fs.lookup(ROOT, b"log").unwrap().ino;
    let control = fs.lookup(ROOT, b".llamafs").unwrap().ino;
    let device = fs.lookup(control, b"device").unwrap().ino;
    for ino in [log, device] {
        for (offset, len) in [(0, usize::MAX), (u64::MAX, usize::MAX), (5, 0), (u64::MAX, 0), (u64::MAX - 1, 4096)] {
            let read = Read { ino, fh: 2, offset, len };
            let bytes = answer(|reply| fs.read(read, reply)).unwrap();
            assert!(bytes.len() <= READ_BYTES, "{offset} {len}");
            assert_eq!(bytes.len() == READ_BYTES, offset == 0, "{offset} {len}");
        }
    }
    for ino in [0, ROOT, control, u64::MAX, 1 << 63] {
        let read = Read { ino, fh: u64::MAX, offset: 0, len: usize::MAX };
        assert!(answer(|reply| fs.read(read, reply)).is_err());
    }
    assert!(fs.lseek(log, i64::MIN, libc::SEEK_DATA).is_err() && fs.lseek(log, i64::MAX, libc::SEEK_HOLE).is_err());
    for out in [0, usize::MAX] {
        assert!(fs.ioctl(Ioctl { ino: log, command: u32::MAX, out }).is_err());
    }
}

#[test]
fn a_user_has_so_many_control_files_and_no_more() {
    let fs = mounted();
    let control = fs.lookup(ROOT, b".llamafs").unwrap().ino;
    let status = fs.lookup(control, b"status").unwrap().ino;
    let open = |uid| answer(|reply| fs.open(status, libc::O_RDONLY, uid, reply));
    let handles: Vec<_> = (0..USER_SNAPSHOTS).map(|_| open(7).unwrap().fh).collect();
    assert_eq!(open(7).unwrap_err(), Errno::EMFILE);
    assert!(open(8).is_ok());
    handles.into_iter().for_each(|fh| fs.release(status, fh));
    assert!(open(7).is_ok());
}
