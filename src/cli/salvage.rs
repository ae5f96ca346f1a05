//! `llamafs salvage`: writes out all that can still be read of a store, however damaged; never writes to it.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressDrawTarget};

use crate::format::shown;
use crate::store::Gap;
use crate::store::salvage::{SalvageError, Salvaged, Sink, salvage};

use super::device;
use super::failure::{Context, FAILED, Failure, Outcome, print, say};

/// Files that are kept open, at most.
const OPEN_FILES: usize = 64;
/// Logs with a name.
const LOGS: &str = "logs";
/// Logs whose name is not known, or is that of another one: by their id.
const UNNAMED: &str = "unnamed";
/// The list of gaps.
const GAPS: &str = "gaps.json";
/// What is salvaged is for who salvaged it: owners and modes may be lost with the catalog.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Writes out all that can still be read of an unmounted store. Exit status: 0 nothing is missing, 1 something is, or may
/// be.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Block device or file, also with damaged superblocks
    device: PathBuf,
    /// A new or empty directory: `logs/NAME`, `unnamed/ID` and `gaps.json` are made in it
    directory: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let device = device::for_reading(&args.device)?;
    let mut files = Files::make(&args.directory)?;
    let hidden = args.json || !io::stderr().is_terminal();
    let bar = ProgressBar::new(0);
    bar.set_draw_target(if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() });
    let report = salvage(device, &mut files, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let report = report.map_err(|error| {
        files.take_back();
        Failure::new(error.to_string())
    })?;
    files.finish().context(args.directory.display())?;
    print(|out| {
        if args.json {
            serde_json::to_writer_pretty(&mut *out, &report)?;
            return writeln!(out);
        }
        let device = shown(&args.device.display().to_string());
        for note in &report.notes {
            writeln!(out, "{device}: note: {}", shown(note))?;
        }
        writeln!(
            out,
            "{device}: {} logs, {} records, {} bytes salvaged; {} gaps, {} bytes missing",
            report.logs, report.records, report.bytes, report.gaps, report.missing
        )
    })?;
    if report.gaps == 0 && report.unexplained == 0 && files.refused == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    if report.unexplained > 0 {
        say(&format!(
            "{} bytes of the store's log that were on stable media are damaged or gone, and nothing tells what they held",
            report.unexplained
        ));
    }
    if files.refused > 0 {
        say(&format!("{} records lie further than a file can reach here and were left out", files.refused));
    }
    if report.gaps > 0 {
        say(&format!("something is missing: {} lists where", args.directory.join(GAPS).display()));
    }
    Ok(ExitCode::from(FAILED))
}

/// A line of `gaps.json`.
#[derive(serde::Serialize)]
struct Line<'a> {
    log: u32,
    name: String,
    file: &'a Path,
    offset: u64,
    len: u64,
}

/// The directory that everything goes to. Names come from the device: nothing is opened that was there before, and a
/// name is never more than one step down.
struct Files {
    root: PathBuf,
    /// It was not there before.
    made: bool,
    gaps: BufWriter<File>,
    first_gap: bool,
    /// Most recently used last.
    open: Vec<(u32, File)>,
    /// Where each log that was begun is.
    paths: std::collections::BTreeMap<u32, PathBuf>,
    refused: u64,
}

impl Files {
    fn make(root: &Path) -> Result<Files, Failure> {
        let made = DirBuilder::new().mode(DIRECTORY_MODE).create(root);
        if let Err(error) = &made {
            let is_empty = std::fs::read_dir(root).map(|mut entries| entries.next().is_none());
            match is_empty {
                Ok(true) => {}
                Ok(false) => {
                    return Err(Failure::new(format!("{}: is not empty, name a new directory", root.display())));
                }
                Err(_) => return Err(Failure::new(format!("{}: {error}", root.display()))),
            }
        }
        for name in [LOGS, UNNAMED] {
            let path = root.join(name);
            DirBuilder::new().mode(DIRECTORY_MODE).create(&path).context(path.display())?;
        }
        let path = root.join(GAPS);
        let mut gaps = BufWriter::new(new_file(&path).context(path.display())?);
        gaps.write_all(b"[").context(path.display())?;
        let (open, paths) = (Vec::new(), std::collections::BTreeMap::new());
        Ok(Files { root: root.to_owned(), made: made.is_ok(), gaps, first_gap: true, open, paths, refused: 0 })
    }

    /// Nothing was salvaged: what was made for it goes, so that the next try finds an empty directory too. What somebody
    /// else has put there stays.
    fn take_back(&mut self) {
        if !self.paths.is_empty() {
            return;
        }
        let _ = std::fs::remove_file(self.root.join(GAPS));
        for name in [LOGS, UNNAMED] {
            let _ = std::fs::remove_dir(self.root.join(name));
        }
        if self.made {
            let _ = std::fs::remove_dir(&self.root);
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        self.gaps.write_all(if self.first_gap { b"]\n" } else { b"\n]\n" })?;
        self.gaps.flush()
    }

    /// The file of a log, made at the first call.
    fn file(&mut self, log: &Salvaged) -> Result<&File, SalvageError> {
        match self.open.iter().position(|(id, _)| *id == log.id) {
            Some(at) => {
                let entry = self.open.remove(at);
                self.open.push(entry);
            }
            None => {
                let file = match self.paths.get(&log.id) {
                    Some(path) => OpenOptions::new().write(true).open(path).map_err(|error| told(path, &error))?,
                    None => self.begin(log)?,
                };
                if self.open.len() >= OPEN_FILES {
                    self.open.remove(0);
                }
                self.open.push((log.id, file));
            }
        }
        match self.open.last() {
            Some((_, file)) => Ok(file),
            None => Err(SalvageError::Output("no file is open".to_owned())),
        }
    }

    fn begin(&mut self, log: &Salvaged) -> Result<File, SalvageError> {
        if let Some(path) = self.named(log)
            && let Ok(file) = new_file(&path)
        {
            self.paths.insert(log.id, path);
            return Ok(file);
        }
        let path = self.root.join(UNNAMED).join(log.id.to_string());
        let file = new_file(&path).map_err(|error| told(&path, &error))?;
        self.paths.insert(log.id, path);
        Ok(file)
    }

    /// Where a log with this path goes, with the directories above it; `None` if a part is none.
    fn named(&self, log: &Salvaged) -> Option<PathBuf> {
        let (name, above) = log.path.split_last()?;
        let mut path = self.root.join(LOGS);
        for part in above {
            path.push(component(part)?);
            // There already, or it can't be: then the file below it can't be either.
            let _ = DirBuilder::new().mode(DIRECTORY_MODE).create(&path);
        }
        path.push(component(name)?);
        Some(path)
    }
}

/// One step down, and nothing else.
fn component(name: &[u8]) -> Option<&OsStr> {
    let is_one = !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0);
    is_one.then(|| OsStr::from_bytes(name))
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)
}

fn told(path: &Path, error: &io::Error) -> SalvageError {
    SalvageError::Output(format!("{}: {error}", path.display()))
}

impl Sink for Files {
    fn bytes(&mut self, log: &Salvaged, offset: u64, data: &[u8]) -> Result<(), SalvageError> {
        match self.file(log)?.write_all_at(data, offset) {
            Ok(()) => Ok(()),
            // A hostile offset, or a file system with small files: the others can still be written.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EFBIG | libc::EINVAL)) => {
                self.refused += 1;
                Ok(())
            }
            Err(error) => {
                let path = self.paths.get(&log.id).cloned().unwrap_or_default();
                Err(told(&path, &error))
            }
        }
    }

    fn gap(&mut self, log: &Salvaged, gap: Gap) -> Result<(), SalvageError> {
        self.file(log)?;
        let path = self.paths.get(&log.id).cloned().unwrap_or_default();
        let file = path.strip_prefix(&self.root).unwrap_or(&path);
        let parts: Vec<_> = log.path.iter().map(|part| String::from_utf8_lossy(part)).collect();
        let line = Line { log: log.id, name: parts.join("/"), file, offset: gap.offset, len: gap.len };
        let text = serde_json::to_string(&line).unwrap_or_else(|_| {
            // A name that is no text: the id has to do.
            format!("{{\"log\":{},\"offset\":{},\"len\":{}}}", log.id, gap.offset, gap.len)
        });
        let separator = if std::mem::take(&mut self.first_gap) { "\n" } else { ",\n" };
        let written = self.gaps.write_all(separator.as_bytes()).and_then(|()| self.gaps.write_all(text.as_bytes()));
        written.map_err(|error| told(&self.root.join(GAPS), &error))
    }

    fn end(&mut self, log: &Salvaged, size: u64) -> Result<(), SalvageError> {
        // A hole up to the end; a size that no file can have stays in the list of gaps alone.
        let file = self.file(log)?;
        let _ = file.set_len(size);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(id: u32, path: &[&[u8]]) -> Salvaged {
        Salvaged { id, path: path.iter().map(|part| part.to_vec()).collect(), head: 0, size: 0 }
    }

    /// Every file below a directory, from it.
    fn files(root: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut left = vec![root.to_owned()];
        while let Some(path) = left.pop() {
            if path.is_dir() {
                left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else {
                found.push(path.strip_prefix(root).unwrap().to_string_lossy().into_owned());
            }
        }
        found.sort();
        found
    }

    #[test]
    fn no_name_leads_out_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("out");
        let mut to = Files::make(&root).unwrap();
        let logs = [
            log(1, &[b".."]),
            log(2, &[b"..", b"..", b"escaped"]),
            log(3, &[b"/etc/passwd"]),
            log(4, &[b"a\0b"]),
            log(5, &[b""]),
            log(6, &[]),
            log(7, &[b"same"]),
            log(8, &[b"same"]),
            log(9, &[b"below", b"one"]),
            log(10, &[b"gaps.json"]),
        ];
        for log in &logs {
            to.bytes(log, 3, b"x").unwrap();
            to.gap(log, Gap { offset: 0, len: 3 }).unwrap();
            to.end(log, 4).unwrap();
        }
        to.finish().unwrap();
        let mut expected: Vec<String> = [1, 2, 3, 4, 5, 6, 8].iter().map(|id| format!("out/unnamed/{id}")).collect();
        expected
            .extend(["out/logs/same", "out/logs/below/one", "out/logs/gaps.json", "out/gaps.json"].map(String::from));
        expected.sort();
        assert_eq!(files(dir.path()), expected);
        let gaps: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(root.join(GAPS)).unwrap()).unwrap();
        assert_eq!(gaps.len(), logs.len());
        assert_eq!(std::fs::read(root.join("logs/same")).unwrap(), b"\0\0\0x");
    }

    #[test]
    fn a_directory_that_holds_something_is_refused_and_a_far_offset_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("there"), b"x").unwrap();
        assert!(Files::make(dir.path()).is_err());
        let mut to = Files::make(&dir.path().join("out")).unwrap();
        to.bytes(&log(1, &[b"log"]), u64::MAX - 1, b"xyz").unwrap();
        assert_eq!(to.refused, 1);
    }
}
