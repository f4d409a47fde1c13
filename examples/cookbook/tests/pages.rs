//! The pages of the cookbook are true: each shows its program as it stands, and what it prints.
//!
//! `UPDATE_PAGES=1 cargo test -p taskloom-cookbook --test pages` writes both into the pages.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// How many programs run at a time; most of them wait for timers.
const N_AT_ONCE: usize = 4;

struct Page {
    path: PathBuf,
    text: String,
}

impl Page {
    fn name(&self) -> String {
        self.path.file_stem().unwrap().to_str().unwrap().to_owned()
    }

    /// The program of the page: its name in the file system, with `_` for `-`.
    fn program(&self) -> String {
        self.name().replace('-', "_")
    }

    fn block(&self, language: &str) -> Option<&str> {
        let (_, rest) = self.text.split_once(&format!("```{language}\n"))?;
        Some(rest.split_once("```")?.0)
    }

    fn with_block(&self, language: &str, content: &str) -> String {
        let fence = format!("```{language}\n");
        let (before, rest) = self.text.split_once(&fence).expect("it has the block");
        let (_, after) = rest.split_once("```").expect("the block ends");
        format!("{before}{fence}{content}```{after}")
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn pages() -> Vec<Page> {
    let files = fs::read_dir(root().join("docs/cookbook")).unwrap();
    let mut pages: Vec<Page> = files
        .map(|it| it.unwrap().path())
        .filter(|it| it.extension().is_some_and(|it| it == "md") && !it.ends_with("README.md"))
        .map(|path| Page { text: fs::read_to_string(&path).unwrap(), path })
        .collect();
    pages.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!pages.is_empty(), "there are no pages: the test looks in the wrong place");
    pages
}

fn source(program: &str) -> String {
    let path = root().join(format!("examples/cookbook/programs/{program}.rs"));
    fs::read_to_string(&path).unwrap_or_else(|it| panic!("{}: {it}", path.display()))
}

/// What the program prints. It runs in a folder of its own.
fn output(program: &str) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    // Cargo puts all the programs of a package into one folder.
    let binary = Path::new(env!("CARGO_BIN_EXE_gather")).with_file_name(program);
    let ran = Command::new(binary).current_dir(folder.path()).output();
    let ran = ran.map_err(|it| format!("{program} can't be run: {it}"))?;
    if !ran.status.success() {
        let errors = String::from_utf8_lossy(&ran.stderr);
        return Err(format!("{program}: {}: {errors}", ran.status));
    }
    Ok(String::from_utf8(ran.stdout).unwrap())
}

fn is_update() -> bool {
    std::env::var_os("UPDATE_PAGES").is_some()
}

fn check_page(page: &mut Page) -> Result<(), String> {
    let program = page.program();
    let said = output(&program)?;
    if is_update() {
        page.text = page.with_block("rust", &source(&program));
        page.text = page.with_block("text", &said);
        fs::write(&page.path, &page.text).unwrap();
    }
    let cure = "run UPDATE_PAGES=1 cargo test -p taskloom-cookbook --test pages";
    if page.block("rust") != Some(&source(&program)) {
        return Err(format!("{}.md does not show its program as it stands: {cure}", page.name()));
    }
    let shown = page.block("text").unwrap_or_default();
    if shown != said {
        return Err(format!(
            "{}.md shows another output than its program has: {cure}\nshown:\n{shown}\nsaid:\n{said}",
            page.name()
        ));
    }
    Ok(())
}

#[test]
fn every_page_shows_its_program_and_what_it_prints() {
    let queue = Mutex::new(pages());
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..N_AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(mut page) = queue.lock().unwrap().pop() else { return };
                    if let Err(error) = check_page(&mut page) {
                        wrong.lock().unwrap().push(error);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_page_is_a_question_that_leads_to_its_program() {
    for page in pages() {
        let (name, program) = (page.name(), page.program());
        let title = page.text.lines().next().unwrap_or_default();
        assert!(title.starts_with("# ") && title.ends_with('?'), "{name}.md: {title:?}");
        let run = format!("Run it: `cargo run -p taskloom-cookbook --bin {program}`");
        assert!(page.text.contains(&run), "{name}.md must say: {run}");
        assert!(page.text.contains("In asyncio: "), "{name}.md must say how asyncio does it");
        assert!(page.text.contains("\n## The trap\n"), "{name}.md must name the trap");
        assert!(page.text.lines().count() <= 170, "{name}.md is too long for a page");
    }
}

#[test]
fn every_program_has_a_page_and_every_page_is_in_the_index() {
    let programs = fs::read_dir(root().join("examples/cookbook/programs")).unwrap();
    let programs: BTreeSet<String> = programs
        .map(|it| it.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let of_pages: BTreeSet<String> = pages().iter().map(Page::program).collect();
    assert_eq!(programs, of_pages);
    let index = fs::read_to_string(root().join("docs/cookbook/README.md")).unwrap();
    for page in pages() {
        let title = page.text.lines().next().unwrap_or_default().trim_start_matches("# ");
        let line = format!("- [{title}]({}.md)", page.name());
        assert!(index.contains(&line), "docs/cookbook/README.md lacks the line: {line}");
    }
}

#[test]
fn links_between_the_pages_lead_somewhere() {
    for page in pages() {
        let targets = page.text.split("](").skip(1).filter_map(|it| it.split(')').next());
        let references = page.text.lines().filter_map(|it| {
            let (name, target) = it.split_once("]: ")?;
            name.starts_with('[').then_some(target)
        });
        for target in targets.chain(references).filter(|it| !it.starts_with("http")) {
            let file = target.split('#').next().unwrap();
            let path = root().join("docs/cookbook").join(file);
            assert!(path.exists(), "{}.md leads to {target}, which is not there", page.name());
        }
    }
}
