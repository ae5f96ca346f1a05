//! The documents name tests that exist.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// `file::test` of every test there is.
fn tests() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    rust_files(&root.join("src"), &mut files);
    rust_files(&root.join("tests"), &mut files);
    let mut tests = BTreeSet::new();
    for path in files {
        let file = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut marked = false;
        for line in text.lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("fn ").filter(|_| marked) {
                tests.insert(format!("{file}::{}", rest.split('(').next().unwrap()));
            }
            marked = line == "#[test]" || (marked && line.starts_with("#["));
        }
    }
    tests
}

/// What a document names as `file::test`.
fn named(text: &str) -> Vec<String> {
    let words = text.split('`').skip(1).step_by(2);
    words.filter(|word| word.contains("::") && !word.contains([' ', '('])).map(str::to_owned).collect()
}

#[test]
fn every_test_that_semantics_names_exists() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/semantics.md")).unwrap();
    let (named, tests) = (named(&text), tests());
    assert!(named.len() > 30 && tests.len() > 100, "{} {}", named.len(), tests.len());
    let missing: Vec<&String> = named.iter().filter(|name| *name != "file::test" && !tests.contains(*name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(!tests.contains("docs::no_such_test"));
}
