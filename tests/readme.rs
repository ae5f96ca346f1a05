//! The session in README.md is replayed word for word.
//!
//! In the fenced block marked `console`, a line `$ command` is run by bash in one shell, in an empty directory; what
//! follows is its output, stderr included. `...` stands for any text within a line, and alone on a line for any lines.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, also in its helpers")]

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Behind each command's output; nothing that a command prints.
const END: &str = "--end-of-command--";

struct Step {
    command: String,
    expected: Vec<String>,
}

fn session(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let lines = text.lines().skip_while(|line| *line != "```console").skip(1);
    for line in lines.take_while(|line| *line != "```") {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step { command: command.to_owned(), expected: Vec::new() }),
            (None, Some(step)) => step.expected.push(line.to_owned()),
            (None, None) => panic!("the session begins with output: {line}"),
        }
    }
    steps
}

/// `...` matches any text, the rest itself.
fn line_matches(pattern: &str, line: &str) -> bool {
    match pattern.split_once("...") {
        None => pattern == line,
        Some((before, after)) => line.strip_prefix(before).is_some_and(|rest| {
            after.is_empty() || (0..=rest.len()).any(|at| rest.is_char_boundary(at) && line_matches(after, &rest[at..]))
        }),
    }
}

fn matches(patterns: &[String], lines: &[&str]) -> bool {
    match (patterns.split_first(), lines.split_first()) {
        (None, None) => true,
        (None, Some(_)) => false,
        (Some((pattern, left)), _) if pattern.trim() == "..." => {
            (0..=lines.len()).any(|skip| matches(left, &lines[skip..]))
        }
        (Some((pattern, left)), Some((line, rest))) => line_matches(pattern, line) && matches(left, rest),
        (Some(_), None) => false,
    }
}

#[test]
fn the_session_in_the_readme_is_what_happens() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let steps = session(&readme);
    assert!(steps.len() >= 8, "the session has lost its steps");
    let mut script = String::from("exec 2>&1\n");
    for step in &steps {
        writeln!(script, "{}\necho '{END}'", step.command).unwrap();
    }
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_llamafs"));
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(directory.path())
        .env("PATH", path)
        .env("XDG_STATE_HOME", directory.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    // Whatever became of the session, nothing stays mounted.
    let _ = Command::new(program).arg("umount").arg(directory.path().join("mnt")).output();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let end = format!("{END}\n");
    let mut outputs = said.split(&end);
    for step in &steps {
        let lines: Vec<&str> = outputs.next().unwrap_or_default().lines().map(str::trim_end).collect();
        let expected: Vec<String> = step.expected.iter().map(|line| line.trim_end().to_owned()).collect();
        assert!(
            matches(&expected, &lines),
            "$ {}\nsaid:\n{}\nthe README says:\n{}\nthe whole session:\n{said}",
            step.command,
            lines.join("\n"),
            expected.join("\n")
        );
    }
}

#[test]
fn wildcards_match_what_they_should_and_nothing_else() {
    assert!(line_matches("a ... c", "a b b c") && line_matches("a...", "a") && line_matches("...", ""));
    assert!(!line_matches("a ... c", "a b") && !line_matches("a", "ab") && !line_matches("ab", "a"));
    let patterns = ["one", "...", "four"].map(String::from);
    assert!(matches(&patterns, &["one", "two", "three", "four"]) && matches(&patterns, &["one", "four"]));
    assert!(
        !matches(&patterns, &["one", "two"]) && !matches(&patterns[..1], &["one", "two"]) && !matches(&patterns, &[])
    );
}
