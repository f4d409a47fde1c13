//! The pages of `docs/worked` name commands that are there, are short, and are in the index.

use std::fs;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/worked")
}

/// Each page with the command that runs what it is about.
const PAGES: [(&str, &str); 6] = [
    ("speedup", "cargo run -p taskloom-worked --bin speedup"),
    ("fetcher", "cargo run -p taskloom-worked --bin fetcher"),
    ("scraper", "cargo run -p taskloom-worked --bin scraper"),
    ("job-queue", "cargo run -p taskloom-worked --bin job_queue"),
    ("pipeline", "cargo run -p taskloom-worked --bin json_pipeline"),
    ("tests", "cargo test -p taskloom-worked --test scraper"),
];

#[test]
fn every_page_names_its_command_and_is_in_the_index() {
    let index = fs::read_to_string(folder().join("README.md")).unwrap();
    for (name, command) in PAGES {
        let page = fs::read_to_string(folder().join(format!("{name}.md"))).unwrap();
        let title = page.lines().next().unwrap().trim_start_matches("# ");
        assert!(page.contains(&format!("\nRun it: `{command}`\n")), "{name}.md: {command}");
        assert!(page.lines().count() < 100, "{name}.md is too long for a page");
        let line = format!("- [{title}]({name}.md)");
        assert!(index.contains(&line), "docs/worked/README.md lacks the line: {line}");
    }
}

#[test]
fn every_file_is_a_page_and_every_program_has_one() {
    let files = fs::read_dir(folder()).unwrap().count();
    assert_eq!(files, PAGES.len() + 1, "the pages and the index");
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs");
    for program in fs::read_dir(programs).unwrap() {
        let program = program.unwrap().path();
        let name = program.file_stem().unwrap().to_str().unwrap();
        assert!(PAGES.iter().any(|it| it.1.ends_with(&format!("--bin {name}"))), "{name}");
    }
}

#[test]
fn links_lead_somewhere() {
    for (name, _) in PAGES.iter().chain([&("README", "")]) {
        let page = fs::read_to_string(folder().join(format!("{name}.md"))).unwrap();
        let targets = page.split("](").skip(1).filter_map(|it| it.split(')').next());
        for target in targets.filter(|it| !it.starts_with("http")) {
            assert!(folder().join(target).exists(), "{name}.md leads to {target}");
        }
    }
}
