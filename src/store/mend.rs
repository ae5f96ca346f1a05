//! Making a tree of what recovery found. Without damage it is one already. With it, a node may lack its directory,
//! directories may be within one another, and two nodes may have one name: such a node goes into the root, as
//! `lost.ID`. Decided by the bytes alone, so the next recovery decides the same.

use std::collections::{HashMap, HashSet};

use super::replay::Replay;
use super::tree::MAX_DEPTH;
use super::types::NodeId;
use crate::format::{CatalogEntry, NodeKind, ROOT_ID};

/// Permission bits of a root that no entry describes: that of a store with entries of version 1.
const ROOT_MODE: u32 = 0o755;

/// The name of a node that lost its own; `n` if the name before is taken.
pub fn lost_name(id: NodeId, n: u32) -> Vec<u8> {
    if n == 0 { format!("lost.{id}").into_bytes() } else { format!("lost.{id}.{n}").into_bytes() }
}

/// Give every node a name of its own in a directory that is there.
pub fn mend(replay: &mut Replay) {
    let first = replay.logs.values().next().map(|log| log.entry.clone()).unwrap_or_default();
    replay.directories.entry(ROOT_ID).or_insert_with(|| CatalogEntry {
        id: ROOT_ID,
        kind: NodeKind::Directory,
        mode: ROOT_MODE,
        uid: first.uid,
        gid: first.gid,
        mtime_ns: first.btime_ns,
        ctime_ns: first.btime_ns,
        btime_ns: first.btime_ns,
        ..CatalogEntry::default()
    });
    let astray = directories_astray(replay);
    let mut taken = HashSet::<(NodeId, Vec<u8>)>::new();
    let mut lost = Vec::new();
    for entry in entries(replay).filter(|entry| !entry.is_root()) {
        let key = (entry.parent, entry.name.clone());
        let placed = !astray.contains(&entry.id) && replay.directories.contains_key(&entry.parent);
        if !placed || !taken.insert(key) {
            lost.push(entry.id);
        }
    }
    for id in lost {
        let names = (0..).map(|n| lost_name(id, n));
        let Some(name) = names.into_iter().find(|name| !taken.contains(&(ROOT_ID, name.clone()))) else { continue };
        taken.insert((ROOT_ID, name.clone()));
        replay.note(format!(
            "node {id} had lost its place to damage: it is `/{}` from now on",
            String::from_utf8_lossy(&name)
        ));
        let entry = match replay.logs.get_mut(&id) {
            Some(log) => Some(&mut log.entry),
            None => replay.directories.get_mut(&id),
        };
        if let Some(entry) = entry {
            entry.parent = ROOT_ID;
            entry.name = name;
        }
    }
}

fn entries(replay: &Replay) -> impl Iterator<Item = &CatalogEntry> {
    replay.directories.values().chain(replay.logs.values().map(|log| &log.entry))
}

/// Directories from which no way leads to the root, or a way that is too long: one of each circle, and the end of each
/// way.
fn directories_astray(replay: &Replay) -> HashSet<NodeId> {
    let mut depths = HashMap::from([(ROOT_ID, 0usize)]);
    let mut astray = HashSet::new();
    for &start in replay.directories.keys() {
        // Up to a directory whose depth is known, or that is on this very way.
        let (mut way, mut on_way, mut at) = (Vec::new(), HashSet::new(), start);
        while !depths.contains_key(&at) && on_way.insert(at) {
            way.push(at);
            let Some(directory) = replay.directories.get(&at) else { break };
            at = directory.parent;
        }
        let mut depth = depths.get(&at).copied();
        for &id in way.iter().rev() {
            depth = match depth {
                Some(depth) if depth < MAX_DEPTH => Some(depth + 1),
                // It is in nothing, in a circle, or too deep.
                _ => replay.directories.contains_key(&id).then(|| {
                    astray.insert(id);
                    1
                }),
            };
            if let Some(depth) = depth {
                depths.insert(id, depth);
            }
        }
    }
    astray
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::catalog::LogState;
    use crate::store::geometry::Shape;
    use crate::store::index::SparseIndex;

    fn entry(id: NodeId, parent: NodeId, kind: NodeKind, name: &str) -> CatalogEntry {
        CatalogEntry { id, parent, kind, name: name.into(), ..CatalogEntry::default() }
    }

    fn replay(directories: &[(NodeId, NodeId, &str)], logs: &[(NodeId, NodeId, &str)]) -> Replay {
        let shape = Shape { segment_size: 1 << 20, block: 4096, data_start: 1 << 20, segments: 4, max_record: 1 << 14 };
        let mut replay = Replay::new(shape, 16, usize::MAX);
        for &(id, parent, name) in directories {
            replay.directories.insert(id, entry(id, parent, NodeKind::Directory, name));
        }
        for &(id, parent, name) in logs {
            replay.logs.insert(id, LogState::new(entry(id, parent, NodeKind::Log, name), SparseIndex::default()));
        }
        mend(&mut replay);
        replay
    }

    fn places(replay: &Replay) -> Vec<(NodeId, NodeId, String)> {
        let rest = entries(replay).filter(|entry| !entry.is_root());
        rest.map(|e| (e.id, e.parent, String::from_utf8(e.name.clone()).unwrap())).collect()
    }

    #[test]
    fn a_tree_stays_as_it_is() {
        let replay = replay(&[(2, ROOT_ID, "a"), (3, 2, "b")], &[(1, ROOT_ID, "log"), (4, 3, "log")]);
        let expected = [(2, ROOT_ID, "a"), (3, 2, "b"), (1, ROOT_ID, "log"), (4, 3, "log")];
        assert_eq!(places(&replay), expected.map(|(id, parent, name)| (id, parent, name.to_owned())));
        assert!(replay.notes.is_empty() && replay.directories[&ROOT_ID].mode == ROOT_MODE);
    }

    #[test]
    fn who_has_no_directory_or_no_name_of_its_own_goes_to_the_root() {
        let replay = replay(&[(9, 8, "x")], &[(1, 7, "log"), (2, 9, "y"), (3, 9, "y"), (4, ROOT_ID, "lost.1")]);
        let expected = [
            (9, ROOT_ID, "lost.9"),
            (1, ROOT_ID, "lost.1.1"),
            (2, 9, "y"),
            (3, ROOT_ID, "lost.3"),
            (4, ROOT_ID, "lost.1"),
        ];
        assert_eq!(places(&replay), expected.map(|(id, parent, name)| (id, parent, name.to_owned())));
        assert_eq!(replay.notes.len(), 3);
    }

    #[test]
    fn circles_and_ways_without_end_are_cut() {
        let round = replay(&[(2, 3, "a"), (3, 4, "b"), (4, 2, "c"), (5, 4, "d"), (6, 6, "self")], &[]);
        let roots = places(&round).iter().filter(|(_, parent, _)| *parent == ROOT_ID).count();
        assert_eq!(roots, 2, "{:?}", places(&round));
        let deep: Vec<_> = (2..10_000u32).map(|id| (id, if id == 2 { ROOT_ID } else { id - 1 }, "d")).collect();
        let deep = replay(&deep, &[]);
        let roots = places(&deep).iter().filter(|(_, parent, _)| *parent == ROOT_ID).count();
        assert_eq!(roots, 9_998usize.div_ceil(MAX_DEPTH), "{roots}");
    }
}
