//! The `-o` options that bound what users can make the daemon hold.

use std::ops::RangeInclusive;

use super::failure::Failure;
use super::options::{MountOptions, number};
use crate::fs::{Limits, size};

/// Logs, directories and open files that may be asked for.
const COUNTS: RangeInclusive<u64> = 1..=1 << 32;
/// Bytes of a name.
const NAMES: RangeInclusive<usize> = 1..=Limits::NAME_MAX;
/// Control files of one user.
const CONTROL_FILES: RangeInclusive<usize> = 1..=1 << 16;
/// Bytes of reads, or of appends that wait.
const MEMORY: RangeInclusive<u64> = Limits::LEAST_MEMORY as u64..=64 << 30;

/// Takes one option; false when it is none of these.
pub fn take(options: &mut MountOptions, name: &str, value: Option<&str>) -> Result<bool, Failure> {
    let names = [
        "max_logs",
        "max_dirs",
        "name_max",
        "max_handles",
        "user_handles",
        "control_files",
        "read_memory",
        "append_memory",
    ];
    if !names.contains(&name) {
        return Ok(false);
    }
    let Some(value) = value else {
        return Err(Failure::usage(format!("mount option `{name}` needs a value: `{name}=...`")));
    };
    let limits = &mut options.limits;
    match name {
        "max_logs" => options.store.max_logs = number(name, value, COUNTS)?,
        "max_dirs" => options.store.max_dirs = number(name, value, COUNTS)?,
        "name_max" => limits.name_max = number(name, value, NAMES)?,
        "max_handles" => limits.max_handles = number(name, value, COUNTS)?,
        "user_handles" => limits.user_handles = number(name, value, COUNTS)?,
        "control_files" => limits.control_files = number(name, value, CONTROL_FILES)?,
        "read_memory" => limits.read_memory = memory(name, value)?,
        _ => limits.append_memory = memory(name, value)?,
    }
    Ok(true)
}

fn memory(name: &str, value: &str) -> Result<usize, Failure> {
    let bytes = size::parse(value).ok().filter(|bytes| MEMORY.contains(bytes));
    bytes.and_then(|bytes| usize::try_from(bytes).ok()).ok_or_else(|| {
        let (from, to) = (size::show(*MEMORY.start()), size::show(*MEMORY.end()));
        Failure::usage(format!("mount option `{name}={value}` is out of range: use {from} to {to}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MountOptions, Failure> {
        MountOptions::parse(&[text.to_owned()], false)
    }

    #[test]
    fn each_limit_is_a_setting() {
        let text = "max_logs=7,max_dirs=3,name_max=64,max_handles=1000,user_handles=100,control_files=5,read_memory=2M,\
                    append_memory=64M";
        let options = parse(text).unwrap();
        assert_eq!((options.store.max_logs, options.store.max_dirs), (7, 3));
        let limits = Limits {
            name_max: 64,
            user_handles: 100,
            max_handles: 1000,
            control_files: 5,
            read_memory: 2 << 20,
            append_memory: 64 << 20,
        };
        assert_eq!(options.limits, limits);
        assert_eq!(parse("rw").unwrap().limits, Limits::default());
    }

    #[test]
    fn what_is_no_limit_is_refused() {
        for text in [
            "max_logs",
            "max_logs=0",
            "max_dirs=-1",
            "name_max=256",
            "name_max=0",
            "max_handles=many",
            "user_handles=",
            "control_files=0",
            "read_memory=1K",
            "append_memory=1T",
        ] {
            let error = parse(text).unwrap_err().text();
            assert!(error.contains(text.split('=').next().unwrap()) && error.lines().count() == 1, "{error}");
        }
    }
}
