//! The catalog of the LogStructuredStore on a simulated device: damage, a full device, and many logs between one another.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

use std::ops::ControlFlow;
use std::sync::Arc;

use llamafs::io::{Device, SimDevice};
use llamafs::store::{
    Change, FormatOptions, Image, LogStructuredStore, NodeKind, ROOT_ID, RenameHow, StoreError, StoreOptions,
};

fn made(capacity: u64) -> Arc<SimDevice> {
    let device = Arc::new(SimDevice::new(capacity, 1));
    let format = FormatOptions { segment_size: Some(64 << 10), max_record: Some(8 << 10), ..FormatOptions::default() };
    LogStructuredStore::format(device.clone() as Arc<dyn Device>, &format, &mut |_, _| {}).unwrap();
    device
}

fn open(device: &Arc<SimDevice>) -> Arc<LogStructuredStore> {
    let options = StoreOptions { buffer_size: 20 << 10, ..StoreOptions::default() };
    LogStructuredStore::open(device.clone() as Arc<dyn Device>, options).unwrap()
}

fn make(store: &LogStructuredStore, parent: u32, name: &str, kind: NodeKind) -> Result<u32, StoreError> {
    let change = Change::Create { parent, name: name.into(), kind, mode: 0o755, uid: 0, gid: 0 };
    store.change_now(change).map(|changed| changed.node.id)
}

fn rename(store: &LogStructuredStore, name: &str, new_name: &str) -> Result<(), StoreError> {
    let (name, new_name) = (name.into(), new_name.into());
    let how = RenameHow::Replace;
    store.change_now(Change::Rename { parent: ROOT_ID, name, new_parent: ROOT_ID, new_name, how }).map(drop)
}

/// Flip bits in the META frames of a node.
fn damage(device: &Arc<SimDevice>, id: u32) {
    let image = Image::open(device.clone() as Arc<dyn Device>).unwrap();
    let mut places = Vec::new();
    image
        .for_each_frame(false, &mut |frame| {
            if frame.kind == "META" && frame.log == id {
                places.push(frame.device_offset);
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(!places.is_empty());
    places.iter().for_each(|place| device.corrupt(place + 40, 0x55));
}

fn read(store: &LogStructuredStore, path: &str) -> Option<Vec<u8>> {
    let node = store.resolve(path.as_bytes())?;
    Some(store.read_now(node.id, 0, 1 << 20).unwrap())
}

#[test]
fn a_log_whose_name_is_damaged_gets_another_and_keeps_its_bytes() {
    let device = made(4 << 20);
    let store = open(&device);
    let directory = make(&store, ROOT_ID, "directory", NodeKind::Directory).unwrap();
    let in_it = make(&store, directory, "in it", NodeKind::Log).unwrap();
    let nameless = make(&store, ROOT_ID, "nameless", NodeKind::Log).unwrap();
    let removed = make(&store, ROOT_ID, "removed", NodeKind::Log).unwrap();
    for (log, text) in [(in_it, "in it"), (nameless, "nameless"), (removed, "removed")] {
        store.append(log, text.as_bytes()).unwrap();
    }
    store.change_now(Change::Remove { parent: ROOT_ID, name: b"removed".into(), kind: NodeKind::Log }).unwrap();
    let last = store.append(removed, b"still open").unwrap();
    store.make_stable_now(last.end_lsn).unwrap();
    // Tells that the flush before was stable: damage there is no torn tail.
    let last = store.append(1, b"later").unwrap();
    store.make_stable_now(last.end_lsn).unwrap();
    let crashed = Arc::new(device.crash(3));
    damage(&crashed, directory);
    damage(&crashed, nameless);
    let check = |store: &Arc<LogStructuredStore>| {
        assert_eq!(read(store, &format!("lost.{in_it}")).unwrap(), b"in it");
        assert_eq!(read(store, &format!("lost.{nameless}")).unwrap(), b"nameless");
        assert_eq!(store.logs().len(), 3, "a removed log stays removed: {:?}", store.logs());
        assert!(store.lookup(ROOT_ID, b"directory").is_err());
    };
    let store = open(&crashed);
    check(&store);
    let notes = store.stats().recovery.notes.join("\n");
    assert!(notes.contains(&format!("`/lost.{in_it}`")) && notes.contains(&format!("`/lost.{nameless}`")), "{notes}");
    // Whoever knows what it is gives it its name again.
    rename(&store, &format!("lost.{nameless}"), "nameless").unwrap();
    rename(&store, "nameless", &format!("lost.{nameless}")).unwrap();
    let new = make(&store, ROOT_ID, "new", NodeKind::Directory).unwrap();
    assert!(new > removed, "no id is used twice");
    store.change_now(Change::Remove { parent: ROOT_ID, name: b"new".into(), kind: NodeKind::Directory }).unwrap();
    store.close().unwrap();
    check(&open(&crashed));
}

#[test]
fn on_a_full_device_a_change_is_refused_and_nothing_has_changed() {
    let device = made(1 << 20);
    let store = open(&device);
    let log = make(&store, ROOT_ID, "other", NodeKind::Log).unwrap();
    while store.append(log, &[7; 4000]).is_ok() {}
    while store.append(log, b"x").is_ok() {}
    let before = (store.logs(), store.node(ROOT_ID), store.stats().catalog_bytes);
    assert_eq!(make(&store, ROOT_ID, "new", NodeKind::Log), Err(StoreError::NoSpace));
    assert_eq!(rename(&store, "other", "another"), Err(StoreError::NoSpace));
    assert_eq!((store.logs(), store.node(ROOT_ID), store.stats().catalog_bytes), before);
    store.close().unwrap();
    assert_eq!(open(&device).logs(), before.0);
}

#[test]
fn any_place_of_many_logs_between_one_another_is_read_right_before_and_after_a_remount() {
    let device = made(16 << 20);
    let mut store = open(&device);
    let logs: Vec<u32> = (0..100).map(|n| make(&store, ROOT_ID, &format!("log {n}"), NodeKind::Log).unwrap()).collect();
    let byte = |log: u32, at: usize| (log as usize * 7 + at * 13 + at / 256) as u8;
    let mut sizes = vec![0; logs.len()];
    for round in 0..60usize {
        for (n, &log) in logs.iter().enumerate() {
            let len = 1 + (round * 37 + n * 101) % 3000;
            let data: Vec<u8> = (sizes[n]..sizes[n] + len).map(|at| byte(log, at)).collect();
            store.append(log, &data).unwrap();
            sizes[n] += len;
        }
        if round == 30 {
            store.tick();
        }
    }
    for _mount in 0..2 {
        for (n, &log) in logs.iter().enumerate() {
            for offset in [0, sizes[n] / 3, sizes[n] - 1] {
                let expected: Vec<u8> = (offset..sizes[n].min(offset + 5000)).map(|at| byte(log, at)).collect();
                let mut data = store.read_now(log, offset as u64, 5000).unwrap();
                data.truncate(expected.len());
                assert!(expected.starts_with(&data) && !data.is_empty(), "log {log} at {offset}");
            }
        }
        store.close().unwrap();
        store = open(&device);
    }
}

#[test]
fn a_rename_that_replaces_is_whole_or_not_at_all_wherever_the_power_fails() {
    for seed in 0..200 {
        let device = made(1 << 20);
        let store = open(&device);
        let old = make(&store, ROOT_ID, "name", NodeKind::Log).unwrap();
        let new = make(&store, ROOT_ID, "next", NodeKind::Log).unwrap();
        store.append(old, b"old").unwrap();
        let lsn = store.append(new, b"new").unwrap().end_lsn;
        store.make_stable_now(lsn).unwrap();
        rename(&store, "next", "name").unwrap();
        store.make_stable(u64::MAX, Box::new(|_| {}));
        for _ in 0..seed % 8 {
            store.poll(false);
        }
        let store = open(&Arc::new(device.crash(seed)));
        let seen = (read(&store, "name"), read(&store, "next"));
        let before = (Some(b"old".to_vec()), Some(b"new".to_vec()));
        assert!(seen == before || seen == (Some(b"new".to_vec()), None), "seed {seed}: {seen:?}");
    }
}
