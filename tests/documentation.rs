//! What the pages say of the repository is so.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    entries
        .map(|entry| entry.expect("an entry").path())
        .collect()
}

/// The source of a test program: a file in `tests`, or a folder.
fn program(name: &str) -> String {
    let tests = root().join("tests");
    let mut files = vec![tests.join(format!("{name}.rs"))];
    if tests.join(name).is_dir() {
        files.extend(entries(&tests.join(name)));
    }
    let texts = files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok());
    let text: String = texts.collect();
    assert!(!text.is_empty(), "there is no test program {name}");
    text
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Whether a program runs a test of that name: a function that the standard harness finds, or that is
/// in a list.
fn runs(program: &str, test: &str) -> bool {
    let Some((before, _)) = program.split_once(&format!("fn {test}(")) else {
        return false;
    };
    let attributes = before.trim_end().rsplit("\n\n").next().unwrap_or_default();
    let words = program.split(|c| !is_word(c));
    attributes.contains("#[test]") || words.filter(|&word| word == test).count() > 1
}

/// The cells of the tables in a section, without what is above and below.
fn rows<'a>(page: &'a str, section: &str) -> Vec<Vec<&'a str>> {
    let (_, text) = page
        .split_once(&format!("\n{section}\n"))
        .unwrap_or_else(|| panic!("there is no section {section:?}"));
    let text = text.lines().take_while(|line| !line.starts_with('#'));
    let cells = text.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    let rows = cells.filter(|cells| cells.len() > 2 && !cells[1].starts_with("---"));
    rows.skip(1).collect()
}

/// The test programs that a cell names between backticks, each with the tests named after it.
fn named(cell: &str) -> Vec<(&str, Vec<&str>)> {
    let mut parts = cell.split('`').skip(1);
    let mut named = Vec::new();
    while let (Some(program), Some(text)) = (parts.next(), parts.next()) {
        let words = text.split(|c| !is_word(c));
        let tests = words.filter(|word| word.matches('_').count() > 1);
        named.push((program, tests.collect()));
    }
    named
}

#[test]
fn every_wish_is_shown_by_tests_that_are_there() {
    let page = read("docs/testing.md");
    let rows = rows(&page, "## What users of event loops ask for");
    for (index, row) in rows.iter().enumerate() {
        let ["", number, _, tests, ""] = row[..] else {
            panic!("not a row: {row:?}");
        };
        assert_eq!(number, (index + 1).to_string(), "in order");
        let mut count = 0;
        for (name, tests) in named(tests) {
            let program = program(name);
            for test in tests {
                assert!(
                    runs(&program, test),
                    "{number}: there is no test {test} in {name}"
                );
                count += 1;
            }
        }
        assert!(count > 0, "{number}: no test is named");
    }
    assert_eq!(rows.len(), 22);
}

#[test]
fn every_mutation_is_noticed_by_a_test_that_is_there() {
    let page = read("docs/testing.md");
    let mut count = 0;
    for row in rows(&page, "### What the tests notice") {
        let tests = row[row.len() - 2];
        // Those with colons are modules of unit tests.
        for (name, tests) in named(tests)
            .into_iter()
            .filter(|(name, _)| !name.contains(':'))
        {
            let program = program(name);
            for test in tests {
                assert!(runs(&program, test), "there is no test {test} in {name}");
                count += 1;
            }
        }
    }
    assert!(count > 30, "tests are named: {count}");
}

/// Each example in the documentation is a test, then; the gate runs them.
#[test]
fn code_in_every_page_is_compiled() {
    let lib = read("src/lib.rs");
    let mut pages = entries(&root().join("docs"));
    pages.push(root().join("README.md"));
    let mut with_code = 0;
    for page in pages
        .iter()
        .filter(|page| page.extension().is_some_and(|e| e == "md"))
    {
        let text = fs::read_to_string(page).expect("a page");
        let name = page
            .strip_prefix(root())
            .expect("in the repository")
            .display();
        let mut is_inside = false;
        let mut has_code = false;
        for line in text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("```"))
        {
            is_inside = !is_inside;
            if is_inside {
                assert!(!line.contains("ignore"), "{name}: code is left out: {line}");
                // Without a language it would be Rust.
                assert!(!line.is_empty(), "{name}: code in no language");
                has_code |= line.starts_with("rust");
            }
        }
        let include = format!("#[cfg(doctest)]\n#[doc = include_str!(\"../{name}\")]");
        assert!(
            !has_code || lib.contains(&include),
            "{name} is not in src/lib.rs"
        );
        with_code += usize::from(has_code);
    }
    assert!(with_code >= 4, "pages with code were found: {with_code}");
}

#[test]
fn the_rust_version_of_the_readme_is_that_of_the_package() {
    let manifest = read("Cargo.toml");
    let version = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = \"")?.strip_suffix('"'))
        .expect("the manifest says which");
    let readme = read("README.md");
    let said = format!("Rust {version} or newer");
    assert!(readme.contains(&said), "the README doesn't say {said:?}");
}
