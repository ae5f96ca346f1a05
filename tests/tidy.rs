//! The rules of the house, checked on every file: each check also has bad snippets that it must refuse.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest file.
const MAX_LINES: usize = 600;
/// The rooms from the top down; a room imports only from rooms behind it.
const ROOMS: [&str; 8] = ["cli", "fuse", "fs", "store", "ring", "io", "format", "sync"];
/// Rooms where `unsafe` may be.
const UNSAFE_ROOMS: [&str; 3] = ["ring", "io", "fuse"];
/// Crates of which two versions are tolerated, with the reason.
const TWO_VERSIONS: [(&str, &str); 5] = [
    ("syn", "macros move to 3 one by one; it is never part of the program"),
    ("getrandom", MODEL_CHECKER),
    ("rand", MODEL_CHECKER),
    ("rand_core", MODEL_CHECKER),
    ("windows-sys", MODEL_CHECKER),
];
const MODEL_CHECKER: &str = "shuttle and its schedulers bring older ones; they are never part of the program";
/// Documents that must be there.
const DOCUMENTS: [&str; 7] = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "docs/architecture.md",
    "docs/operations.md",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below a directory whose name ends so, with its path from the root.
fn files(directory: &str, endings: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut left = vec![root().join(directory)];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name == "target" || name == ".git" {
                continue;
            }
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)) {
            let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            found.push((name, String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned()));
        }
    }
    found.sort();
    found
}

fn rust_files(directories: &[&str]) -> Vec<(String, String)> {
    directories.iter().flat_map(|directory| files(directory, &[".rs"])).collect()
}

/// A line without its comment and without what stands in quotes.
fn code(line: &str) -> String {
    let mut out = String::new();
    let mut quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '\\' if quoted => drop(characters.next()),
            '\'' if !quoted && characters.clone().nth(1) == Some('\'') => {
                // A character such as '"'.
                characters.next();
                characters.next();
            }
            '"' => {
                quoted = !quoted;
                out.push('"');
            }
            '/' if !quoted && characters.peek() == Some(&'/') => break,
            c if !quoted => out.push(c),
            _ => {}
        }
    }
    out
}

/// Lines of code with their numbers, up to the tests of the file.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, String)> + '_ {
    let lines = text.lines().take_while(|line| !line.trim_start().starts_with("#[cfg(test)]"));
    lines.enumerate().map(|(number, line)| (number + 1, code(line)))
}

/// Where a word stands by itself.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(part) && !line[at + word.len()..].chars().next().is_some_and(part)
    })
}

fn room(file: &str) -> Option<usize> {
    let name = file.strip_prefix("src/")?.split(['/', '.']).next()?;
    ROOMS.iter().position(|room| *room == name)
}

fn check_length(file: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    if lines > MAX_LINES { vec![format!("{file}: {lines} lines, more than {MAX_LINES}")] } else { Vec::new() }
}

fn check_head(file: &str, text: &str) -> Vec<String> {
    if text.starts_with("//! ") { Vec::new() } else { vec![format!("{file}: does not begin with `//!`")] }
}

/// Names of rooms behind `crate::`, also in `use crate::{a, b::c}` over several lines.
fn imported(text: &str) -> Vec<String> {
    // Tests within a file may use whatever they need.
    let joined = code_lines(text).map(|(_, line)| line + " ").collect::<String>();
    let mut names = Vec::new();
    for (at, path) in joined.match_indices("crate::") {
        let before = joined[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = joined[at + path.len()..].trim_start();
        let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        let Some(group) = rest.strip_prefix('{') else {
            names.push(word(rest));
            continue;
        };
        let (mut depth, mut item) = (0, String::new());
        for c in group.chars() {
            match c {
                '}' if depth == 0 => break,
                ',' if depth == 0 => names.push(word(std::mem::take(&mut item).trim())),
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => item.push(c),
            }
        }
        names.push(word(item.trim()));
    }
    names
}

fn check_imports(file: &str, text: &str) -> Vec<String> {
    let Some(own) = room(file) else { return Vec::new() };
    let upward = |name: &String| ROOMS.iter().position(|room| room == name).is_some_and(|other| other < own);
    let names = imported(text).into_iter().filter(upward);
    names.map(|name| format!("{file}: imports upwards, from `{name}`")).collect()
}

fn check_unsafe(file: &str, text: &str) -> Vec<String> {
    if room(file).is_some_and(|own| UNSAFE_ROOMS.contains(&ROOMS[own])) {
        return Vec::new();
    }
    let lines = text.lines().enumerate().filter(|(_, line)| has_word(&code(line), "unsafe"));
    lines.map(|(number, _)| format!("{file}:{}: `unsafe` outside {UNSAFE_ROOMS:?}", number + 1)).collect()
}

fn check_calls(file: &str, text: &str) -> Vec<String> {
    let in_cli = file.starts_with("src/cli/") || file == "src/main.rs";
    let in_src = file.starts_with("src/");
    let mut banned = vec!["todo!", "unimplemented!", "dbg!", "#[ignore"];
    if in_src && !in_cli {
        banned.extend(["println!", "eprintln!", "process::exit"]);
    }
    // Opening waits a moment for udev's lock, when nothing is being served yet; the other two are bounded pauses
    // before a broken ring, or a kernel without memory, is asked again.
    if in_src
        && !file.ends_with("/tests.rs")
        && !["src/io/open.rs", "src/io/quikio.rs", "src/io/request_ring.rs"].contains(&file)
    {
        banned.extend(["thread::sleep"]);
    }
    // What a file's own tests do is not the product.
    let text = if in_src { text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text) } else { text };
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = code(line);
        let hits = banned.iter().filter(|call| {
            line.match_indices(**call)
                .any(|(at, _)| !line[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_'))
        });
        found.extend(hits.map(|call| format!("{file}:{}: {call}", number + 1)));
    }
    found
}

/// Every dependency has a comment above it; a block of lines may share one.
fn check_reasons(manifest: &str) -> Vec<String> {
    let (mut wanted, mut reason, mut found) = (false, false, Vec::new());
    for line in manifest.lines() {
        if line.starts_with('[') {
            wanted = line.ends_with("dependencies]") && !line.contains("dev-dependencies");
            reason = false;
        } else if line.starts_with('#') {
            reason = true;
        } else if line.trim().is_empty() {
            reason = false;
        } else if wanted && !reason {
            found.push(format!("Cargo.toml: no reason for `{line}`"));
        }
    }
    found
}

fn check_versions(lock: &str) -> Vec<String> {
    let mut count = BTreeMap::<&str, usize>::new();
    for name in lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')) {
        *count.entry(name).or_default() += 1;
    }
    let twice = count.into_iter().filter(|(name, count)| *count > 1 && !TWO_VERSIONS.iter().any(|two| two.0 == *name));
    twice.map(|(name, count)| format!("Cargo.lock: {count} versions of {name}")).collect()
}

/// Places that exist on one machine only.
fn check_places(file: &str, text: &str) -> Vec<String> {
    let places = [["/wo", "rk/"], ["/ho", "me/"], ["/ro", "ot/"], ["/Us", "ers/"]].map(|parts| parts.concat());
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for place in &places {
            let part = |c: char| c.is_alphanumeric() || "._-$}~".contains(c);
            if line.match_indices(place).any(|(at, _)| !line[..at].chars().next_back().is_some_and(part)) {
                found.push(format!("{file}:{}: a path of one machine, {place}", number + 1));
            }
        }
    }
    found
}

fn none(found: Vec<String>) {
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// Runs a check over files.
fn all(files: &[(String, String)], check: fn(&str, &str) -> Vec<String>) -> Vec<String> {
    files.iter().flat_map(|(file, text)| check(file, text)).collect()
}

#[test]
fn files_are_short_enough_to_read() {
    none(all(&rust_files(&["src", "tests", "benches", "fuzz"]), check_length));
    let long: String = "\n".repeat(MAX_LINES + 1);
    assert_eq!(check_length("x", &long).len(), 1);
    assert_eq!(check_length("x", &long[1..]).len(), 0);
}

#[test]
fn every_file_says_its_one_idea() {
    none(all(&rust_files(&["src"]), check_head));
    assert_eq!(check_head("x", "use std::fs;\n").len(), 1);
    assert_eq!(check_head("x", "//! Reads.\n").len(), 0);
}

#[test]
fn rooms_import_only_downwards() {
    none(all(&rust_files(&["src"]), check_imports));
    for bad in [
        "use crate::fs::Inode;",
        "use crate::{io, fs::Inode};",
        "use crate::{\n    io::{a, b},\n    cli,\n};",
        "fn f() { crate::fuse::serve() }",
        "pub(crate) use crate::cli;",
    ] {
        assert_eq!(check_imports("src/store/append.rs", bad).len(), 1, "{bad}");
    }
    for good in [
        "use crate::io::Buffer;",
        "use crate::store::types;",
        "use crate::{io::{cli, fs}, format};",
        "// crate::cli\n",
        "use my_crate::fs;",
        "use super::fs;",
        "#[cfg(test)]\nuse crate::fs;",
    ] {
        assert_eq!(check_imports("src/store/append.rs", good), Vec::<String>::new(), "{good}");
    }
}

#[test]
fn unsafe_has_its_rooms() {
    none(all(&rust_files(&["src"]), check_unsafe));
    assert_eq!(check_unsafe("src/store/x.rs", "let a = unsafe { b() };").len(), 1);
    assert_eq!(check_unsafe("src/lib.rs", "unsafe impl Send for X {}").len(), 1);
    assert_eq!(check_unsafe("src/io/x.rs", "unsafe {}").len(), 0);
    assert_eq!(check_unsafe("src/store/x.rs", "// unsafe\n#![deny(unsafe_code)]\nlet s = \"unsafe\";").len(), 0);
}

#[test]
fn banned_calls_are_not_made() {
    none(all(&rust_files(&["src", "tests", "benches", "fuzz"]), check_calls));
    for bad in ["todo!()", "x(unimplemented!())", "dbg!(x)", "#[ignore]", "#[ignore = \"slow\"]"] {
        assert_eq!(check_calls("tests/x.rs", bad).len(), 1, "{bad}");
    }
    for bad in ["println!(\"x\")", "std::process::exit(1)", "std::thread::sleep(t)"] {
        assert_eq!(check_calls("src/store/x.rs", bad).len(), 1, "{bad}");
        assert_eq!(check_calls("tests/x.rs", bad).len(), 0, "{bad}");
    }
    assert_eq!(check_calls("src/cli/x.rs", "thread::sleep(t)").len(), 1);
    assert_eq!(check_calls("src/store/x.rs", "// todo!()\nlet a = \"dbg!\"; let b = '\"'; // println!").len(), 0);
}

#[test]
fn dependencies_have_reasons_and_one_version() {
    none(check_reasons(&fs::read_to_string(root().join("Cargo.toml")).unwrap()));
    none(check_versions(&fs::read_to_string(root().join("Cargo.lock")).unwrap()));
    assert_eq!(check_reasons("[dependencies]\n# Why.\na = \"1\"\n\nb = \"1\"\n").len(), 1);
    assert_eq!(check_reasons("[target.'cfg(x)'.dependencies]\na = \"1\"\n").len(), 1);
    assert_eq!(check_reasons("[lints]\na = \"1\"\n").len(), 0);
    assert_eq!(check_versions("name = \"a\"\nname = \"b\"\nname = \"a\"\n").len(), 1);
}

#[test]
fn nothing_names_one_machine() {
    let endings = [".rs", ".md", ".sh", ".toml", ".llamafs", ".example", "Makefile", "run", "install"];
    let kept = files("src", &endings).into_iter();
    let kept = kept
        .chain(["tests", "benches", "fuzz", "docs", "mount-scripts", ".ci"].iter().flat_map(|d| files(d, &endings)));
    let top = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Cargo.toml", "Makefile"];
    let top = top.iter().map(|name| ((*name).to_owned(), fs::read_to_string(root().join(name)).unwrap_or_default()));
    none(all(&kept.chain(top).collect::<Vec<_>>(), check_places));
    assert_eq!(check_places("x", &["see /wo", "rk/plan"].concat()).len(), 1);
    assert_eq!(check_places("x", "`$HOME/x`, target/work/x, net/work/x").len(), 0);
}

#[test]
fn the_documents_are_there() {
    let missing: Vec<_> = DOCUMENTS.iter().filter(|name| !Path::new(&root().join(name)).is_file()).collect();
    assert!(missing.is_empty(), "missing: {missing:?}");
}

/// What is wrong with a deliberate bug: it has to say what it breaks and which promise, and to fit today's code.
fn check_mutant(file: &str, text: &str) -> Vec<String> {
    let says =
        |what: &str| text.lines().any(|line| line.strip_prefix(what).is_some_and(|words| !words.trim().is_empty()));
    let missing = ["# broken: ", "# promise: "].into_iter().filter(|what| !says(what));
    let mut found: Vec<String> = missing.map(|what| format!("{file}: no line `{what}`")).collect();
    let mut git = std::process::Command::new("git");
    git.args(["apply", "--check", "-"]).current_dir(root());
    git.stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut applying = git.spawn().unwrap();
    std::io::Write::write_all(&mut applying.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let applied = applying.wait_with_output().unwrap();
    if !applied.status.success() {
        found.push(format!("{file}: {}", String::from_utf8_lossy(&applied.stderr).trim_end()));
    }
    found
}

#[test]
fn every_deliberate_bug_fits_the_code() {
    let mutants = files("tests/mutants", &[".patch"]);
    assert!(mutants.len() >= 12, "{} deliberate bugs", mutants.len());
    none(all(&mutants, check_mutant));
    let (_, good) = &mutants[0];
    assert_eq!(check_mutant("x", &good.replace("# broken: ", "# ")).len(), 1);
    assert_eq!(check_mutant("x", &good.replacen("\n-", "\n-// never there", 1)).len(), 1);
}
