//! The rules of the house that a machine can check: arrows between crates, words that must not be
//! left in the code, sizes, headers, and generated files that must be fresh.
//!
//! Every rule prints all of its breaches at once, each with its place and the cure.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Which of our crates each of our crates may use. A new arrow is a decision: it is added here
/// first, and to `ARCHITECTURE.md`.
const ARROWS: &[(&str, &[&str])] = &[
    ("taskloom-model", &[]),
    ("taskloom-flow", &[]),
    ("taskloom-macros", &["taskloom-model"]),
    ("taskloom-store", &["taskloom-model"]),
    ("taskloom-dispatch", &["taskloom-store", "taskloom-flow", "taskloom-model"]),
    ("taskloom-tasks", &["taskloom-dispatch"]),
    (
        "taskloom",
        &[
            "taskloom-tasks",
            "taskloom-dispatch",
            "taskloom-store",
            "taskloom-model",
            "taskloom-flow",
            "taskloom-macros",
        ],
    ),
    ("taskloom-sim", &["taskloom-dispatch", "taskloom-store", "taskloom-model", "taskloom-flow"]),
    ("taskloom-cli", &["taskloom", "taskloom-flow"]),
    ("taskloom-benches", &["taskloom", "taskloom-flow"]),
    ("taskloom-examples", &["taskloom"]),
    ("taskloom-cookbook", &["taskloom-flow"]),
    ("taskloom-worked", &["taskloom-cookbook", "taskloom-flow"]),
];

/// Crates from outside that only some of ours may use.
const ABSENCES: &[(&str, &[&str])] = &[
    ("rusqlite", &["taskloom-store", "taskloom-benches"]),
    ("reqwest", &["taskloom-tasks", "taskloom-cli", "taskloom-cookbook", "taskloom-worked"]),
    ("axum", &["taskloom-cli", "taskloom-cookbook", "taskloom-worked"]),
    ("tokio-postgres", &["taskloom-store", "taskloom-benches", "taskloom-cookbook"]),
    ("deadpool-postgres", &["taskloom-cookbook"]),
    ("redis", &["taskloom-cookbook"]),
    ("tokio-tungstenite", &["taskloom-cookbook"]),
];

/// How long a file may get.
const LINES_MAX: usize = 800;

/// Files over [`LINES_MAX`], with the size they may not exceed. Numbers here only shrink.
const LONG_FILES: &[(&str, usize)] = &[];

/// Text that must not stand in code, where it may all the same, and what to do instead. Lines of
/// comments count only for the words that mark unfinished work.
struct Ban {
    text: &'static [&'static str],
    in_comments: bool,
    /// Folders or files, from the root of the repository.
    allowed: &'static [&'static str],
    cure: &'static str,
}

const BANS: &[Ban] = &[
    Ban {
        text: &["todo!(", "unimplemented!(", "dbg!(", "TODO", "FIXME", "XXX"],
        in_comments: true,
        allowed: &[],
        cure: "finish it, or open an issue",
    },
    Ban {
        text: &["#[allow(", "#![allow("],
        in_comments: false,
        // Its output lands in users' crates, where an expectation may well be unfulfilled.
        allowed: &["crates/macros/src"],
        cure: "use #[expect(…, reason = \"…\")]",
    },
    Ban {
        text: &["tokio::spawn", "task::spawn(", "Handle::current().spawn("],
        in_comments: false,
        allowed: &["crates/flow/src"],
        cure: "use taskloom_flow::TaskGroup: every routine has an owner",
    },
    Ban {
        text: &["JoinSet", "FuturesUnordered", "TaskTracker"],
        in_comments: false,
        allowed: &["crates/flow/src"],
        cure: "use taskloom_flow: TaskGroup, gather, as_completed",
    },
    Ban {
        text: &["unbounded_channel", "mpsc::unbounded", "UnboundedSender", "mpsc::channel()"],
        in_comments: false,
        allowed: &[],
        cure: "use a bounded channel, and say why the bound is what it is",
    },
    Ban {
        text: &["SystemTime::now", "Timestamp::now", "Zoned::now"],
        in_comments: false,
        allowed: &[
            "crates/taskloom/src", // the composition root
            "crates/cli/src",      // a program of its own
            // The default of a constructor that also takes a clock, for dates in Retry-After.
            "crates/tasks/src/http.rs",
        ],
        cure: "take the time as an argument",
    },
    Ban {
        text: &["rusqlite", "SELECT ", "INSERT INTO", "DELETE FROM", "CREATE TABLE", "PRAGMA "],
        in_comments: false,
        // The last one gives on the crate whose transactions it takes, and says no SQL.
        allowed: &["crates/store/src", "benches", "crates/taskloom/src/submit_in.rs"],
        cure: "only store knows SQL: give it a verb",
    },
];

#[test]
fn crates_use_only_the_crates_the_table_allows() {
    let table: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let metadata = metadata();
    let ours: BTreeSet<&str> = packages(&metadata).map(|it| text(&it["name"])).collect();
    let mut breaches = Vec::new();
    for package in packages(&metadata) {
        let name = text(&package["name"]);
        let Some(allowed) = table.get(name) else {
            breaches.push(format!("{name} has no line in ARROWS"));
            continue;
        };
        for other in dependencies(package) {
            if ours.contains(other) && !allowed.contains(&other) {
                breaches
                    .push(format!("{name} -> {other} is not in ARROWS: a new arrow is a decision"));
            }
            let absence = ABSENCES.iter().find(|(it, _)| *it == other);
            if absence.is_some_and(|(_, users)| !users.contains(&name)) {
                breaches.push(format!("{name} uses {other}, which ABSENCES keeps out of it"));
            }
        }
    }
    let gone = table.keys().filter(|it| !ours.contains(**it));
    breaches.extend(gone.map(|it| format!("{it} is in ARROWS and not in the workspace")));
    check_none(&breaches);
}

#[test]
fn every_source_file_says_what_it_is_for() {
    check_lines(|file, lines| {
        let is_source = file.contains("/src/") || file.contains("/tests/");
        let has_header = lines.first().is_some_and(|it| it.starts_with("//! "));
        // The inputs of compile-time tests are shown to users with their errors, as they are.
        if is_source && !has_header && !file.contains("/tests/ui/") {
            return vec![format!("{file}: the first line must say, in `//!`, what it is for")];
        }
        Vec::new()
    });
}

#[test]
fn files_stay_short() {
    check_lines(|file, lines| {
        let listed = LONG_FILES.iter().find(|(it, _)| *it == file).map(|(_, size)| *size);
        match listed {
            Some(size) if size < lines.len() => {
                vec![format!("{file}: {} lines; it may only shrink from {size}", lines.len())]
            }
            Some(size) if lines.len() < size => {
                vec![format!("{file}: {} lines; write that in LONG_FILES", lines.len())]
            }
            None if LINES_MAX < lines.len() => {
                vec![format!("{file}: {} lines, over {LINES_MAX}: split it", lines.len())]
            }
            Some(_) | None => Vec::new(),
        }
    });
}

#[test]
fn modules_stand_beside_their_folders() {
    check_lines(|file, _| {
        if file.ends_with("/mod.rs") {
            return vec![format!("{file}: name it after its folder, beside it")];
        }
        Vec::new()
    });
}

#[test]
fn banned_words_are_nowhere() {
    check_lines(|file, lines| {
        if file == "crates/cli/tests/tidy.rs" {
            return Vec::new(); // The words stand here as data.
        }
        let bans: Vec<&Ban> = BANS
            .iter()
            .filter(|ban| !ban.allowed.iter().any(|it| file.starts_with(it)))
            .filter(|ban| ban.in_comments || file.contains("/src/"))
            .collect();
        lines.iter().enumerate().flat_map(|(n, line)| breaches_of(&bans, file, n, line)).collect()
    });
}

fn breaches_of(bans: &[&Ban], file: &str, n: usize, line: &str) -> Vec<String> {
    let is_comment = line.trim_start().starts_with("//");
    let mut breaches = Vec::new();
    for ban in bans.iter().filter(|it| it.in_comments || !is_comment) {
        for word in ban.text.iter().filter(|it| line.contains(**it)) {
            breaches.push(format!("{file}:{}: `{word}`: {}", n + 1, ban.cure));
        }
    }
    breaches
}

/// Whoever embeds the engine pays for no HTTP client, and nobody pays for two TLS providers.
#[test]
fn builds_stay_free_of_what_they_do_not_need() {
    let embedded = tree(&["--package", "taskloom"]);
    for absent in ["reqwest", "rustls", "lettre", "axum"] {
        let found = embedded.lines().find(|it| it.split(' ').next() == Some(absent));
        assert_eq!(found, None, "`taskloom` without its feature `tasks` must not build {absent}");
    }
    let all = tree(&["--workspace"]);
    let ring = all.lines().find(|it| it.starts_with("ring "));
    assert_eq!(ring, None, "the TLS provider is aws-lc-rs; two providers panic at run time");
}

/// Needs Python, which computes the golden values apart from the program.
#[test]
fn golden_values_are_fresh() {
    let script = root().join("data/expected.py");
    let output = Command::new("python3").arg(&script).arg("--check").output();
    let output = output.expect("python3 must be installed (Debian: apt-get install python3)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A page without a code is as wrong as a code without a page: somebody would look for it.
#[test]
fn every_error_code_has_its_page() {
    let used = codes_in_sources();
    assert!(20 < used.len(), "only {} codes found: the test looks in the wrong place", used.len());
    let told = codes_in_pages();
    let mut breaches = Vec::new();
    for (code, place) in &used {
        if !told.contains_key(code) {
            let page = page_of(code);
            breaches.push(format!("{place}: `{code}` has no heading \"## `{code}`\" in {page}"));
        }
    }
    for (code, page) in &told {
        if !used.contains_key(code) {
            breaches.push(format!("{page}: `{code}` is in no source: remove the heading"));
        }
        if page_of(code) != *page {
            breaches.push(format!("{page}: `{code}` belongs in {}", page_of(code)));
        }
    }
    check_none(&breaches);
}

/// The first words of error codes, each with a page.
const CODE_FAMILIES: [&str; 10] =
    ["store", "start", "submit", "job", "task", "http", "data", "email", "cli", "health"];
/// Codes that end in the number another server gave.
const NUMBERED_CODES: [&str; 2] = ["http.status.", "email.smtp."];
/// Texts that look like codes and are names of files.
const FILES_LIKE_CODES: [&str; 4] = ["data.csv", "data.json", "data.ndjson", "submit.sql"];

fn page_of(code: &str) -> String {
    format!("docs/errors/{}.md", code.split('.').next().unwrap_or(code))
}

/// Every code that a source file outside of tests has as a text, with the first place of it.
fn codes_in_sources() -> BTreeMap<String, String> {
    let mut codes = BTreeMap::new();
    for path in files(&root().join("crates")) {
        let file = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
        if !file.contains("/src/") || file.ends_with("/tests.rs") {
            continue;
        }
        let content = fs::read_to_string(&path).unwrap();
        // Tests stand at the end of a file.
        let lines = content.lines().take_while(|it| it.trim() != "#[cfg(test)]");
        for (n, line) in lines.enumerate() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            for code in line.split('"').filter_map(as_code) {
                codes.entry(code).or_insert_with(|| format!("{file}:{}", n + 1));
            }
        }
    }
    codes
}

/// Every code that has a heading, with its page.
fn codes_in_pages() -> BTreeMap<String, String> {
    let mut codes = BTreeMap::new();
    for family in CODE_FAMILIES {
        let page = page_of(family);
        let content = fs::read_to_string(root().join(&page)).unwrap_or_default();
        let headings = content.lines().filter_map(|it| it.strip_prefix("## `"));
        for heading in headings.filter_map(|it| it.strip_suffix('`')) {
            codes.insert(heading.to_owned(), page.clone());
        }
    }
    codes
}

/// The code that a text is, with `NNN` for a number of another server; `None` when it is no code.
fn as_code(text: &str) -> Option<String> {
    let (family, rest) = text.split_once('.')?;
    if !CODE_FAMILIES.contains(&family) {
        return None;
    }
    if let Some(numbered) = NUMBERED_CODES.iter().find(|it| text.starts_with(**it)) {
        return Some(format!("{numbered}NNN"));
    }
    let is_letter = |it: u8| it.is_ascii_lowercase() || it == b'_';
    let is_word = rest.split('.').all(|it| !it.is_empty() && it.bytes().all(is_letter));
    (is_word && !FILES_LIKE_CODES.contains(&text)).then(|| text.to_owned())
}

#[track_caller]
fn check_none(breaches: &[String]) {
    assert!(breaches.is_empty(), "{} breaches:\n{}", breaches.len(), breaches.join("\n"));
}

/// Calls `rule` with the path (from the root, with `/`) and the lines of every Rust file of ours.
#[track_caller]
fn check_lines(rule: impl Fn(&str, &[&str]) -> Vec<String>) {
    let mut n_files = 0;
    let mut breaches = Vec::new();
    for path in ["crates", "benches", "examples"].iter().flat_map(|it| files(&root().join(it))) {
        let content = fs::read_to_string(&path).unwrap();
        let file = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
        breaches.extend(rule(&file, &content.lines().collect::<Vec<_>>()));
        n_files += 1;
    }
    assert!(10 < n_files, "only {n_files} files found: the test looks in the wrong place");
    check_none(&breaches);
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_none_or(|it| it != "target") {
                found.extend(files(&path));
            }
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}

fn cargo(args: &[&str]) -> String {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program).args(args).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn metadata() -> Value {
    serde_json::from_str(&cargo(&["metadata", "--no-deps", "--format-version", "1"])).unwrap()
}

/// The crates that a build takes in, one a line.
fn tree(selection: &[&str]) -> String {
    let mut args = vec!["tree", "--edges", "normal,build", "--prefix", "none", "--no-dedupe"];
    args.extend(selection);
    cargo(&args)
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().unwrap().iter()
}

/// What a crate uses, tests aside.
fn dependencies(package: &Value) -> impl Iterator<Item = &str> {
    let all = package["dependencies"].as_array().unwrap().iter();
    all.filter(|it| it["kind"] != "dev").map(|it| text(&it["name"]))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}
