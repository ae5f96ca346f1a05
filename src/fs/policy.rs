//! What users may set by extended attributes: how much of a log is kept, and what to do now.
//!
//! `user.llamafs.retain_bytes`, `.retain_age` and `.keep_min` of a log, and of the mount's root for all logs that have
//! none; `.on_full` of the root. Writing `.trim` lets go of a log's old end, writing `.grow` to the root makes the store
//! take all of a device that has become larger. For the owner and root alone.

use std::sync::atomic::Ordering;

use super::inode::Node;
use super::types::{Errno, Reply};
use super::{Inner, LlamaFs, size};
use crate::store::types::{AttrChange, Change, Changed, NodeId, NodeInfo, NodeKind, ROOT_ID, StoreError};
use crate::store::{NO_LIMIT, TrimTo};

/// In front of the names of ours.
pub const PREFIX: &str = "user.llamafs.";
/// Settings of a log, and of the root.
pub const SETTINGS: [&str; 3] = ["retain_bytes", "retain_age", "keep_min"];
/// A setting of the root alone.
pub const ON_FULL: &str = "on_full";
/// Written to a log: lets go of its old end.
pub const TRIM: &str = "trim";
/// Written to the root: takes all of a device that has become larger.
pub const GROW: &str = "grow";
/// Where a log begins.
pub const HEAD: &str = "head";
/// What a limit is that says nothing.
const DEFAULT: &str = "default";
/// What a limit is that is none.
const NONE: &str = "none";
/// The value of [`GROW`].
const NOW: &str = "now";
/// Values of `on_full`; the first is that of a new store.
const STOP: &str = "stop";
const DROP_OLDEST: &str = "drop-oldest";

/// Something that takes its time.
enum Work {
    Trim(NodeId, TrimTo),
    Grow,
}

/// A change of a log or directory, or some work.
type Asked = Result<(NodeId, AttrChange), Work>;

/// The value of a setting as `getfattr` shows it.
pub fn shown(info: &NodeInfo, name: &str) -> Option<String> {
    let limit = |value: u64, text: String| match value {
        0 => DEFAULT.to_owned(),
        NO_LIMIT => NONE.to_owned(),
        _ => text,
    };
    Some(match name {
        "retain_bytes" => limit(info.retain_bytes, info.retain_bytes.to_string()),
        "retain_age" => {
            let age = std::time::Duration::from_nanos(info.retain_age_ns);
            limit(info.retain_age_ns, humantime::format_duration(age).to_string().replace(' ', ""))
        }
        "keep_min" => limit(info.keep_min, info.keep_min.to_string()),
        ON_FULL if info.id == ROOT_ID => if info.drop_oldest { DROP_OLDEST } else { STOP }.to_owned(),
        _ => return None,
    })
}

/// A limit as people write it.
fn limit(value: &str, parse: impl Fn(&str) -> Result<u64, String>) -> Result<u64, Errno> {
    match value {
        DEFAULT => Ok(0),
        NONE => Ok(NO_LIMIT),
        // 0 bytes are no limit that anybody could mean, and stand for something else.
        text => parse(text).ok().filter(|value| ![0, NO_LIMIT].contains(value)).ok_or(Errno::EINVAL),
    }
}

/// `30d`, `12h`: ns.
pub fn age(text: &str) -> Result<u64, String> {
    let age =
        humantime::parse_duration(text).map_err(|error| format!("`{text}` is no age such as 30d or 12h: {error}"))?;
    u64::try_from(age.as_nanos()).map_err(|_| format!("`{text}` is longer than anything lasts"))
}

/// What a setting comes to.
fn setting(root: bool, name: &str, value: &str) -> Result<AttrChange, Errno> {
    let none = AttrChange::default();
    Ok(match name {
        "retain_bytes" => AttrChange { retain_bytes: Some(limit(value, size::parse)?), ..none },
        "retain_age" => AttrChange { retain_age_ns: Some(limit(value, age)?), ..none },
        "keep_min" => AttrChange { keep_min: Some(limit(value, size::parse)?), ..none },
        ON_FULL if root => match value {
            STOP => AttrChange { drop_oldest: Some(false), ..none },
            DROP_OLDEST => AttrChange { drop_oldest: Some(true), ..none },
            _ => return Err(Errno::EINVAL),
        },
        _ => return Err(Errno::EPERM),
    })
}

/// `before:OFFSET`, `since:NANOSECONDS`, `keep:BYTES`.
fn trim_to(value: &str) -> Result<TrimTo, Errno> {
    let (how, number) = value.split_once(':').ok_or(Errno::EINVAL)?;
    let number = number.parse().map_err(|_| Errno::EINVAL)?;
    match how {
        "before" => Ok(TrimTo::Before(number)),
        "since" => Ok(TrimTo::Since(number)),
        "keep" => Ok(TrimTo::Keep(number)),
        _ => Err(Errno::EINVAL),
    }
}

/// `now`: there is nothing else that could be meant.
fn grow(value: &str) -> Result<Work, Errno> {
    if value == NOW { Ok(Work::Grow) } else { Err(Errno::EINVAL) }
}

impl LlamaFs {
    /// `setxattr`, by a user, with `XATTR_CREATE` or `XATTR_REPLACE`, or neither.
    pub fn setxattr(&self, ino: u64, uid: u32, name: &[u8], value: &[u8], flags: i32, reply: impl Reply<()>) {
        self.ask(self.asked(ino, uid, name, Some(value), flags), reply);
    }

    /// `removexattr`: a limit goes back to the store's default, and `on_full` to what it is in a new store.
    pub fn removexattr(&self, ino: u64, uid: u32, name: &[u8], reply: impl Reply<()>) {
        self.ask(self.asked(ino, uid, name, None, 0), reply);
    }

    fn ask(&self, asked: Result<Asked, Errno>, reply: impl Reply<()>) {
        match asked {
            Ok(Ok((id, change))) => {
                let then = |_: &Inner, result: Result<Changed, StoreError>| {
                    result?;
                    Ok(())
                };
                self.change(Change::Attributes { id, change }, then, reply);
            }
            Ok(Err(work)) => self.work(work, reply),
            Err(errno) => reply.send(Err(errno)),
        }
    }

    /// What a value comes to, or that there is to be none.
    fn asked(&self, ino: u64, uid: u32, name: &[u8], value: Option<&[u8]>, flags: i32) -> Result<Asked, Errno> {
        let name = text(name.strip_prefix(PREFIX.as_bytes()).ok_or(Errno::EOPNOTSUPP)?)?;
        let (info, root) = match Node::of(ino).ok_or(Errno::ENOENT)? {
            Node::Log(id) => (self.inner.store.log(id).ok_or(Errno::ESTALE)?, false),
            Node::Root => (self.inner.store.node(ROOT_ID).ok_or(Errno::EIO)?, true),
            _ => return Err(Errno::EPERM),
        };
        if uid != 0 && uid != info.uid {
            return Err(Errno::EPERM);
        }
        let is_command = [TRIM, GROW].contains(&name);
        let value = match value {
            Some(value) => text(value)?,
            // Nothing of it stays that could be removed.
            None if is_command => return Err(Errno::ENODATA),
            None if name == ON_FULL => STOP,
            None => DEFAULT,
        };
        let asked = match name {
            TRIM if info.kind == NodeKind::Log => Err(Work::Trim(info.id, trim_to(value)?)),
            GROW if root => Err(grow(value)?),
            name => Ok((info.id, setting(root, name, value)?)),
        };
        let is_set = shown(&info, name).is_some_and(|value| ![DEFAULT, STOP].contains(&value.as_str()));
        match is_set {
            true if flags & libc::XATTR_CREATE != 0 => Err(Errno::EEXIST),
            false if flags & libc::XATTR_REPLACE != 0 => Err(Errno::ENODATA),
            _ => Ok(asked),
        }
    }

    /// Do it on a thread of its own, one at a time: it waits for the device.
    fn work(&self, work: Work, reply: impl Reply<()>) {
        let inner = self.inner.clone();
        if inner.working.swap(true, Ordering::SeqCst) {
            return reply.send(Err(Errno(libc::EBUSY)));
        }
        if !inner.gate.enter() {
            inner.working.store(false, Ordering::SeqCst);
            return reply.send(Err(Errno::ESHUTDOWN));
        }
        let todo = move || {
            let result = match work {
                Work::Trim(id, to) => {
                    inner.store.trim(id, to).and_then(|trimmed| inner.store.make_stable_now(trimmed.lsn))
                }
                Work::Grow => inner.store.grow().map(drop),
            };
            inner.working.store(false, Ordering::SeqCst);
            reply.send(result.map_err(Errno::from));
            inner.gate.leave();
        };
        if let Err(error) = std::thread::Builder::new().name("worker".to_owned()).spawn(todo) {
            // The reply went with the thread: the transport answers for it.
            log::error!("no thread for what was asked by an attribute: {error}");
            self.inner.working.store(false, Ordering::SeqCst);
            self.inner.gate.leave();
        }
    }
}

fn text(bytes: &[u8]) -> Result<&str, Errno> {
    std::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_people_write_them() {
        let bytes = |value| setting(false, "retain_bytes", value).map(|change| change.retain_bytes);
        assert_eq!(bytes("10G"), Ok(Some(10 << 30)));
        assert_eq!((bytes("default"), bytes("none")), (Ok(Some(0)), Ok(Some(NO_LIMIT))));
        for wrong in ["0", "", "-1", "many", "18446744073709551615"] {
            assert_eq!(bytes(wrong), Err(Errno::EINVAL), "{wrong}");
        }
        let age = |value| setting(true, "retain_age", value).map(|change| change.retain_age_ns);
        assert_eq!(age("7d"), Ok(Some(7 * 86_400_000_000_000)));
        assert_eq!(age("1h 30m"), Ok(Some(5_400_000_000_000)));
        assert_eq!(age("soon"), Err(Errno::EINVAL));
    }

    #[test]
    fn only_the_root_says_what_a_full_store_does_and_figures_are_not_set() {
        assert_eq!(setting(true, "on_full", "drop-oldest").unwrap().drop_oldest, Some(true));
        assert_eq!(setting(true, "on_full", "explode").err(), Some(Errno::EINVAL));
        assert_eq!(setting(false, "on_full", "stop").err(), Some(Errno::EPERM));
        assert_eq!(setting(false, "head", "0").err(), Some(Errno::EPERM));
    }

    #[test]
    fn a_trim_says_up_to_where() {
        assert_eq!(trim_to("before:4096"), Ok(TrimTo::Before(4096)));
        assert_eq!(trim_to("since:7"), Ok(TrimTo::Since(7)));
        assert_eq!(trim_to("keep:0"), Ok(TrimTo::Keep(0)));
        for wrong in ["", "before", "before:", "until:1", "keep:-1"] {
            assert_eq!(trim_to(wrong), Err(Errno::EINVAL), "{wrong}");
        }
    }
}
