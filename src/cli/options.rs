//! The `-o` options of a mount: our own, and the general ones that mount(8) and fstab hand through.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use crate::store::types::{OnError, StoreOptions, Tail};

use super::failure::Failure;
use super::limits;
use crate::fs::{Limits, size};

/// Longest flush interval that may be asked for: a minute.
const FLUSH_MS: RangeInclusive<u64> = 1..=60_000;
/// Buffers in the ring.
const RING_SIZE: RangeInclusive<usize> = 2..=64;
/// Bytes in one buffer of the ring.
const BUFFER_SIZE: RangeInclusive<u64> = 64 << 10..=256 << 20;

/// General options that say something to mount(8), to init or to the kernel's defaults, and nothing to us.
const IGNORED: &[&str] = &[
    "defaults",
    // A mount is always `nodev,nosuid`: what fstab says of it is taken and changes nothing.
    "dev",
    "nodev",
    "suid",
    "nosuid",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "nofail",
    "_netdev",
    "atime",
    "noatime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "diratime",
    "nodiratime",
    "lazytime",
    "nolazytime",
    "silent",
    "loud",
    "default_permissions",
];
/// General options with a value that say nothing to us.
const IGNORED_WITH_VALUE: &[&str] = &["comment=", "x-", "X-", "uhelper=", "helper=", "fsname=", "subtype="];
/// What the message on an unknown option lists, and `mount --help` too.
const KNOWN: &str = "rw, ro, sync, dirsync, async, parallel, noparallel, uring, nouring, exec, noexec, flush_ms=N, \
                     tail=rewrite|pad, errors=remount-ro|shutdown, allow_other, ring_size=N, buffer_size=SIZE, log=FILE, max_logs=N, max_dirs=N, name_max=N, \
                     max_handles=N, user_handles=N, control_files=N, read_memory=SIZE, append_memory=SIZE";

/// What a mount was asked to be.
#[derive(Debug, Clone, Default)]
pub struct MountOptions {
    /// Settings of the store.
    pub store: StoreOptions,
    /// What nobody may exhaust.
    pub limits: Limits,
    /// Every append is durable before its write returns.
    pub sync: bool,
    /// Each opener of a log appends by itself.
    pub parallel: bool,
    /// Requests come over io_uring, or not; none: as the kernel is set.
    pub uring: Option<bool>,
    /// Other users may use a mount that is not root's.
    pub allow_other: bool,
    /// No programs are run from it.
    pub noexec: bool,
    /// The daemon's log goes here.
    pub log: Option<PathBuf>,
    /// As they were given, for `status`.
    pub text: String,
}

impl MountOptions {
    /// Reads every `-o` of the command line; later options win. With `sloppy` unknown ones are passed over.
    pub fn parse(groups: &[String], sloppy: bool) -> Result<Self, Failure> {
        let mut options = Self { text: groups.join(","), ..Self::default() };
        let mut unknown = Vec::new();
        for option in groups.iter().flat_map(|group| group.split(',')).map(str::trim) {
            if !option.is_empty() && !options.take(option)? && !sloppy {
                unknown.push(format!("`{option}`"));
            }
        }
        if unknown.is_empty() {
            return Ok(options);
        }
        let plural = if unknown.len() == 1 { "" } else { "s" };
        Err(Failure::usage(format!("unknown mount option{plural} {}: known are {KNOWN}", unknown.join(", "))))
    }

    /// Takes one option; false when it is not known.
    fn take(&mut self, option: &str) -> Result<bool, Failure> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        match (name, value) {
            ("rw", None) => self.store.read_only = false,
            ("ro", None) => self.store.read_only = true,
            ("sync" | "dirsync", None) => self.sync = true,
            ("async", None) => self.sync = false,
            ("parallel", None) => self.parallel = true,
            ("noparallel", None) => self.parallel = false,
            ("uring", None) => self.uring = Some(true),
            ("nouring", None) => self.uring = Some(false),
            ("allow_other", None) => self.allow_other = true,
            ("exec", None) => self.noexec = false,
            ("noexec", None) => self.noexec = true,
            ("flush_ms", Some(value)) => self.store.flush_ms = number(name, value, FLUSH_MS)?,
            ("ring_size", Some(value)) => self.store.ring_size = number(name, value, RING_SIZE)?,
            ("buffer_size", Some(value)) => self.store.buffer_size = buffer_size(value)?,
            ("tail", Some("pad")) => self.store.tail = Tail::Pad,
            ("tail", Some("rewrite")) => self.store.tail = Tail::Rewrite,
            ("tail", _) => return Err(choice(option, "tail=rewrite or tail=pad")),
            ("errors", Some("remount-ro")) => self.store.errors = OnError::RemountRo,
            ("errors", Some("shutdown")) => self.store.errors = OnError::Shutdown,
            ("errors", _) => return Err(choice(option, "errors=remount-ro or errors=shutdown")),
            ("log", Some(value)) if !value.is_empty() => self.log = Some(PathBuf::from(value)),
            ("flush_ms" | "ring_size" | "buffer_size" | "log", _) => {
                return Err(Failure::usage(format!("mount option `{option}` needs a value: `{name}=...`")));
            }
            _ if limits::take(self, name, value)? => {}
            _ => {
                return Ok(
                    IGNORED.contains(&option) || IGNORED_WITH_VALUE.iter().any(|prefix| option.starts_with(prefix))
                );
            }
        }
        Ok(true)
    }
}

fn choice(option: &str, known: &str) -> Failure {
    Failure::usage(format!("mount option `{option}` has no such value: use {known}"))
}

/// A whole number within its limits.
pub fn number<T>(name: &str, value: &str, range: RangeInclusive<T>) -> Result<T, Failure>
where
    T: FromStr + PartialOrd + std::fmt::Display,
{
    value.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
        Failure::usage(format!(
            "mount option `{name}={value}` is out of range: use {} to {}",
            range.start(),
            range.end()
        ))
    })
}

fn buffer_size(value: &str) -> Result<usize, Failure> {
    size::parse(value)
        .ok()
        .filter(|bytes| BUFFER_SIZE.contains(bytes) && bytes.is_multiple_of(4096))
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| {
            Failure::usage(format!(
                "mount option `buffer_size={value}` is out of range: use a multiple of 4K from 64K to 256M"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MountOptions, Failure> {
        MountOptions::parse(&[text.to_owned()], false)
    }

    #[test]
    fn our_own_options_are_taken() {
        let options = parse(
            "rw,flush_ms=20,tail=pad,errors=shutdown,sync,allow_other,ring_size=8,buffer_size=4M,log=/tmp/l,noexec",
        )
        .unwrap();
        assert!(!options.store.read_only && options.sync && options.allow_other && options.noexec);
        assert_eq!(options.store.flush_ms, 20);
        assert_eq!(options.store.tail, Tail::Pad);
        assert_eq!(options.store.errors, OnError::Shutdown);
        assert_eq!((options.store.ring_size, options.store.buffer_size), (8, 4 << 20));
        assert_eq!(options.log, Some(PathBuf::from("/tmp/l")));
    }

    #[test]
    fn parallel_is_off_until_it_is_asked_for() {
        assert!(!parse("rw").unwrap().parallel && parse("parallel").unwrap().parallel);
        assert!(!parse("parallel,noparallel").unwrap().parallel);
    }

    #[test]
    fn what_fstab_and_mount_pass_through_is_understood() {
        let line = "defaults,noauto,user,nofail,_netdev,x-systemd.automount,comment=a b,noatime,nodev,nosuid,ro";
        assert!(parse(line).unwrap().store.read_only);
    }

    #[test]
    fn the_last_of_two_that_contradict_wins() {
        let groups = ["ro,sync".to_owned(), "rw".to_owned()];
        assert!(!MountOptions::parse(&groups, false).unwrap().store.read_only);
        assert!(!parse("sync,async").unwrap().sync && parse("async,dirsync").unwrap().sync);
    }

    #[test]
    fn the_help_lists_every_option_that_the_message_on_unknown_ones_does() {
        use clap::CommandFactory;
        #[derive(clap::Parser)]
        struct Mount {
            #[command(flatten)]
            _args: crate::cli::mount::Args,
        }
        let help = Mount::command().term_width(10_000).render_long_help().to_string();
        let table = include_str!("../../docs/operations.md");
        for option in KNOWN.split(", ").map(str::trim) {
            let name = option.split('=').next().unwrap();
            let word = |text: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name);
            assert!(word(&help), "`{name}` is missing in {help}");
            assert!(
                table.lines().any(|line| line.starts_with("| `") && word(line)),
                "`{name}` is missing in the table"
            );
        }
    }

    #[test]
    fn every_unknown_option_is_named_in_one_line() {
        let text = parse("rw,bogus,flush=3").unwrap_err().text();
        assert!(text.contains("`bogus`, `flush=3`") && text.contains("flush_ms=N"), "{text}");
        assert!(MountOptions::parse(&["bogus".to_owned()], true).is_ok(), "sloppy passes over it");
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for text in [
            "flush_ms=0",
            "flush_ms=x",
            "flush_ms",
            "ring_size=1",
            "ring_size=65",
            "buffer_size=1K",
            "buffer_size=65537",
            "tail=x",
            "tail",
            "errors=panic",
            "log=",
            "sync=1",
            "parallel=2",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
