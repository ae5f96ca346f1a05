//! Requests as no kernel sends them: absurd lengths, places, handles and numbers are answered, within bounds.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use llamafs::fs::types::{Errno, Ioctl, New, Read, Write};
use llamafs::fs::{FsSettings, Limits, LlamaFs, NoPageCache};
use llamafs::io::{Device, SimDevice};
use llamafs::store::{FormatOptions, Lends, LogStructuredStore, StoreOptions};

const ROOT: u64 = 1;
const SIZE: usize = 20 << 20;
const MOUNTER: u32 = 77;

fn mounted() -> LlamaFs {
    limited(Limits::default(), |_| {})
}

fn limited(limits: Limits, change: impl FnOnce(&mut StoreOptions)) -> LlamaFs {
    let device = Arc::new(SimDevice::new(64 << 20, 1));
    LogStructuredStore::format(device.clone() as Arc<dyn Device>, &FormatOptions::default(), &mut |_, _| {}).unwrap();
    let mut options = StoreOptions::default();
    change(&mut options);
    let store = LogStructuredStore::open(device, options).unwrap();
    store.start();
    let settings = FsSettings { limits, uid: MOUNTER, ..FsSettings::default() };
    let fs = LlamaFs::new(store, settings, Box::new(NoPageCache));
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
    let (fs, most) = (mounted(), Limits::default().read_memory);
    let log = fs.lookup(ROOT, b"log").unwrap().ino;
    let control = fs.lookup(ROOT, b".llamafs").unwrap().ino;
    let device = fs.lookup(control, b"device").unwrap().ino;
    for ino in [log, device] {
        for (offset, len) in [(0, usize::MAX), (u64::MAX, usize::MAX), (5, 0), (u64::MAX, 0), (u64::MAX - 1, 4096)] {
            let read = Read { ino, fh: 2, offset, len, for_pages: false, lends: Lends::Slices };
            let bytes = answer(|reply| fs.read(read, reply)).unwrap();
            assert!(bytes.len() <= most, "{offset} {len}");
            assert_eq!(bytes.len() == most, offset == 0, "{offset} {len}");
        }
    }
    for ino in [0, ROOT, control, u64::MAX, 1 << 63] {
        let read = Read { ino, fh: u64::MAX, offset: 0, len: usize::MAX, for_pages: false, lends: Lends::Whole };
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
    let handles: Vec<_> = (0..Limits::default().control_files).map(|_| open(7).unwrap().fh).collect();
    assert_eq!(open(7).unwrap_err(), Errno::EMFILE);
    assert!(open(8).is_ok());
    handles.into_iter().for_each(|fh| fs.release(status, fh));
    assert!(open(7).is_ok());
}

fn make(fs: &LlamaFs, name: &[u8], uid: u32) -> Result<u64, Errno> {
    let new = New { parent: ROOT, name, mode: 0o644, uid, gid: 0 };
    let created = answer(|reply| fs.create(&new, libc::O_RDWR | libc::O_APPEND, reply));
    created.map(|(attr, opened)| {
        fs.release(attr.ino, opened.fh);
        attr.ino
    })
}

fn mkdir(fs: &LlamaFs, name: &[u8]) -> Result<u64, Errno> {
    let new = New { parent: ROOT, name, mode: 0o755, uid: 0, gid: 0 };
    answer(|reply| fs.mkdir(&new, reply)).map(|attr| attr.ino)
}

#[test]
fn open_files_are_counted_for_each_user_and_for_all() {
    let fs = limited(Limits { user_handles: 3, max_handles: 5, ..Limits::default() }, |_| {});
    let log = fs.lookup(ROOT, b"log").unwrap().ino;
    let control = fs.lookup(ROOT, b".llamafs").unwrap().ino;
    let device = fs.lookup(control, b"device").unwrap().ino;
    let retained = fs.lookup(fs.lookup(control, b"retained").unwrap().ino, b"log").unwrap().ino;
    let open = |ino, uid| answer(|reply| fs.open(ino, libc::O_RDONLY, uid, reply)).map(|opened| (ino, opened.fh));
    let mut handles = [log, device, retained].map(|ino| open(ino, 8).unwrap()).to_vec();
    assert_eq!((open(log, 8), make(&fs, b"new", 8)), (Err(Errno::EMFILE), Err(Errno::EMFILE)));
    assert!(fs.lookup(ROOT, b"new").is_err(), "nothing is made that can't be opened");
    handles.extend([log, log].map(|ino| open(ino, 9).unwrap()));
    assert_eq!((open(log, 9), make(&fs, b"new", 10)), (Err(Errno::ENFILE), Err(Errno::ENFILE)));
    handles.extend([log, device, retained].map(|ino| open(ino, MOUNTER).unwrap()));
    assert_eq!(open(log, MOUNTER), Err(Errno::EMFILE));
    handles.extend((0..20).map(|_| open(log, 0).unwrap()));
    // What is refused for another reason takes none.
    let refused = answer(|reply| fs.open(log, libc::O_WRONLY, 0, reply));
    assert_eq!(refused.err(), Some(Errno::EPERM));
    handles.into_iter().for_each(|(ino, fh)| fs.release(ino, fh));
    for _ in 0..10 {
        assert!(make(&fs, b"new", 8).is_ok() && answer(|reply| fs.unlink(ROOT, b"new", reply)).is_ok());
        assert_eq!(answer(|reply| fs.open(log, libc::O_WRONLY, 9, reply)).err(), Some(Errno::EPERM));
    }
    let handles: Vec<_> = (0..3).map(|_| open(log, 8).unwrap()).collect();
    assert_eq!(open(log, 8), Err(Errno::EMFILE), "all were given back, and no more");
    handles.into_iter().for_each(|(ino, fh)| fs.release(ino, fh));
}

#[test]
fn names_logs_and_directories_have_limits_and_what_is_there_stays() {
    let fs = limited(Limits { name_max: 5, ..Limits::default() }, |options| {
        (options.max_logs, options.max_dirs) = (3, 1);
    });
    let none = Errno(libc::ENOSPC);
    assert_eq!((make(&fs, b"longer", 0), mkdir(&fs, b"longer")), (Err(Errno::ENAMETOOLONG), Err(Errno::ENAMETOOLONG)));
    assert!(make(&fs, b"short", 0).is_ok() && make(&fs, b"two", 0).is_ok());
    assert_eq!((make(&fs, b"three", 0), fs.statfs().files_free), (Err(none), 1));
    assert!(mkdir(&fs, b"d").is_ok());
    assert_eq!((mkdir(&fs, b"e"), fs.statfs().files_free, fs.statfs().name_max), (Err(none), 0, 5));
    let rename = |from: &'static [u8], to: &'static [u8]| answer(|reply| fs.rename((ROOT, from), (ROOT, to), 0, reply));
    assert_eq!(rename(b"two", b"longer"), Err(Errno::ENAMETOOLONG));
    assert_eq!((rename(b"two", b"other"), rename(b"d", b"dir")), (Ok(()), Ok(())));
    assert!(answer(|reply| fs.unlink(ROOT, b"other", reply)).is_ok() && make(&fs, b"three", 0).is_ok());
    assert!(answer(|reply| fs.rmdir(ROOT, b"dir", reply)).is_ok() && mkdir(&fs, b"e").is_ok());
}

#[test]
fn reads_are_bounded_by_what_the_mount_says() {
    let fs = limited(Limits { read_memory: 1 << 20, ..Limits::default() }, |_| {});
    let log = fs.lookup(ROOT, b"log").unwrap().ino;
    let read = Read { ino: log, fh: 2, offset: 0, len: usize::MAX, for_pages: false, lends: Lends::Slices };
    assert_eq!(answer(|reply| fs.read(read, reply)).unwrap().len(), 1 << 20);
}
