//! The layers of `docs/architecture.md`: its table names every module, and imports go down.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The tables of the context hold what layer 4 puts there; see the page.
const CONTEXT_HOLDS: &[&str] = &[
    "immediate",
    "remote",
    "run",
    "signal",
    "stats",
    "timer",
    "watch",
];

/// What modules of one layer may know of each other: what belongs to the context, and who looks at the
/// loop.
const NEIGHBOURS: &[(&str, &str)] = &[
    ("builder", "context"),
    ("context", "builder"),
    ("context", "fds"),
    ("fds", "context"),
    ("slow_handler", "watch"),
    ("stats", "watch"),
    ("watch", "slow_handler"),
];

/// From this layer on, modules may import others of theirs, but not in a circle.
const TOP: u32 = 5;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files in `src`, as paths from there.
fn files(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, found);
        } else {
            let path = path.strip_prefix(root().join("src")).expect("in src");
            found.insert(path.to_owned());
        }
    }
}

/// What stands between backticks.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The layer of each file, as the table says. A folder stands for all that is in there, and a name
/// without one for a file beside the file, or in the folder, that was named before it.
fn table(files: &BTreeSet<PathBuf>) -> BTreeMap<PathBuf, u32> {
    let page = fs::read_to_string(root().join("docs/architecture.md")).expect("the page");
    let mut layers = BTreeMap::new();
    for line in page.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, layer, named, ..] = cells[..] else {
            continue;
        };
        let Ok(layer) = layer.parse::<u32>() else {
            continue;
        };
        let mut folder = PathBuf::new();
        for name in names(named) {
            if name.contains('/') {
                folder = Path::new(name.trim_end_matches('/')).to_owned();
                if !name.ends_with('/') {
                    folder.pop();
                }
            }
            let beside = folder.join(Path::new(name).file_name().expect("a name"));
            let is_meant = |file: &Path| match name.ends_with('/') {
                true => file.starts_with(&folder),
                false if files.contains(&beside) => file == beside,
                false => file == Path::new(name),
            };
            let mut meant = files.iter().filter(|file| is_meant(file)).peekable();
            assert!(meant.peek().is_some(), "the table names {name}: no file");
            for file in meant {
                let former = layers.insert(file.clone(), layer);
                let same = former.is_none_or(|former| former == layer);
                assert!(same, "{} has two layers", file.display());
            }
        }
    }
    layers
}

/// The module of the crate that a file belongs to.
fn module(file: &Path) -> String {
    let first = file.iter().next().expect("a name").to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// What a file imports from the crate, without its tests and comments.
fn imports(file: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("src").join(file)).expect("a file");
    let code = text.split("\n#[cfg(test)]\nmod ").next().expect("one");
    let lines = code.lines().map(str::trim_start);
    let code: Vec<&str> = lines.filter(|line| !line.starts_with("//")).collect();
    let is_in_name = |character: char| character.is_alphanumeric() || character == '_';
    let code = code.join("\n");
    let paths = code.split("crate::").skip(1);
    paths
        .map(|path| {
            let end = path.find(|character| !is_in_name(character));
            path[..end.unwrap_or(path.len())].to_owned()
        })
        .collect()
}

struct Layers {
    /// By module.
    layers: BTreeMap<String, u32>,
    /// Of a module: the files, and what they import.
    imports: Vec<(PathBuf, BTreeSet<String>)>,
}

fn layers() -> Layers {
    let mut found = BTreeSet::new();
    files(&root().join("src"), &mut found);
    found.remove(Path::new("lib.rs"));
    let table = table(&found);
    let missing: Vec<_> = found
        .iter()
        .filter(|file| !table.contains_key(*file))
        .collect();
    assert!(missing.is_empty(), "the table doesn't name {missing:?}");
    let mut layers = BTreeMap::new();
    for (file, &layer) in &table {
        let former = layers.insert(module(file), layer);
        let is_one = former.is_none_or(|former| former == layer);
        assert!(is_one, "{} is in two layers", module(file));
    }
    let imports = found.into_iter().map(|file| {
        let imports = imports(&file);
        (file, imports)
    });
    Layers {
        layers,
        imports: imports.collect(),
    }
}

#[test]
fn imports_go_down_the_layers() {
    let Layers { layers, imports } = layers();
    let mut count = 0;
    for (file, imported) in &imports {
        let module = module(file);
        let layer = layers[&module];
        for name in imported {
            let Some(&other) = layers.get(name) else {
                panic!("{}: crate::{name} is no module", file.display());
            };
            count += 1;
            let is_exception = module == "context" && CONTEXT_HOLDS.contains(&name.as_str());
            let is_neighbour = NEIGHBOURS.contains(&(&module, name));
            let goes_down = other < layer
                || *name == module
                || (other == layer && (layer == TOP || is_neighbour))
                || is_exception;
            assert!(
                goes_down,
                "{} of layer {layer} imports {name} of layer {other}",
                file.display()
            );
        }
    }
    assert!(count > 50, "the imports were found: {count}");
}

#[test]
fn nothing_below_the_top_knows_of_it() {
    let Layers { layers, imports } = layers();
    let mut seen = 0;
    for (file, imported) in &imports {
        if layers[&module(file)] == TOP {
            continue;
        }
        seen += 1;
        for name in imported {
            assert!(
                layers.get(name).is_none_or(|&layer| layer < TOP),
                "{} imports {name}, which is built on the public handles",
                file.display()
            );
        }
    }
    assert!(seen > 20, "the files were found: {seen}");
}

#[test]
fn modules_of_the_top_import_each_other_in_no_circle() {
    let Layers { layers, imports } = layers();
    let mut left: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, imported) in imports {
        let module = module(&file);
        if layers[&module] == TOP {
            let imported = imported.into_iter().filter(|name| layers[name] == TOP);
            let own = left.entry(module.clone()).or_default();
            own.extend(imported.filter(|name| *name != module));
        }
    }
    assert!(left.values().any(|imported| !imported.is_empty()));
    while !left.is_empty() {
        let is_free = |(_, imported): &(&String, &BTreeSet<String>)| {
            imported.iter().all(|name| !left.contains_key(name))
        };
        let Some(free) = left.iter().find(is_free).map(|(name, _)| name.clone()) else {
            panic!("these are in a circle: {left:?}");
        };
        left.remove(&free);
    }
}

#[test]
fn system_calls_know_of_plain_types_only() {
    let Layers { layers, imports } = layers();
    let mut seen = 0;
    for (file, imported) in imports {
        if module(&file) != "sys" {
            continue;
        }
        seen += 1;
        for name in imported {
            let is_plain = name == "sys" || layers[&name] == 0;
            assert!(is_plain, "{} imports {name}", file.display());
        }
    }
    assert!(seen > 10, "the files were found: {seen}");
}
