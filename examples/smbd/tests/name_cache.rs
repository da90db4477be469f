//! Names in large directories, which are kept, are found like those in others, whoever changes them.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use common::TempDir;
use proptest::prelude::*;
use smbd::share::Share;
use smbd::share::metadata::Metadata;
use smbd::share::name_cache::{Known, NameCache};
use smbd::wire::status::Status;

const NAMES: usize = 200;

struct Setup {
    root: PathBuf,
    _dir: TempDir,
    share: Share,
}

impl Setup {
    fn new() -> Setup {
        let dir = TempDir::new();
        for n in 0..NAMES {
            dir.write(&format!("root/many/Name {n}.dat"), b"");
        }
        let root = dir.path().join("root");
        let share = Share::open("data", &root, false).unwrap();
        let setup = Setup {
            root,
            _dir: dir,
            share,
        };
        // The second scan is the last one.
        assert_eq!(setup.find("none"), None);
        assert_eq!(setup.find("none"), None);
        setup
    }

    /// The name on disk of what a client calls `many\name`.
    #[track_caller]
    fn find(&self, name: &str) -> Option<String> {
        let components = [b"many".to_vec(), name.as_bytes().to_vec()];
        match self.share.find(&components) {
            Ok(node) => Some(String::from_utf8(node.name().to_vec()).unwrap()),
            Err(status) => {
                assert_eq!(status, Status::OBJECT_NAME_NOT_FOUND);
                None
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join("many").join(name)
    }
}

#[test]
fn what_others_change_is_seen_at_once() {
    let setup = Setup::new();
    fs::write(setup.path("New.Txt"), b"").unwrap();
    assert_eq!(setup.find("NEW.TXT").as_deref(), Some("New.Txt"));
    fs::rename(setup.path("New.Txt"), setup.path("Other")).unwrap();
    assert_eq!(setup.find("NEW.TXT"), None);
    assert_eq!(setup.find("OTHER").as_deref(), Some("Other"));
    fs::remove_file(setup.path("Other")).unwrap();
    assert_eq!(setup.find("OTHER"), None);
    fs::create_dir(setup.path("Sub")).unwrap();
    assert_eq!(setup.find("sUB").as_deref(), Some("Sub"));
    fs::rename(setup.path("Sub"), setup.root.join("Sub")).unwrap();
    assert_eq!(setup.find("sUB"), None);
    // The directory makes way for another one.
    fs::rename(setup.root.join("many"), setup.root.join("old")).unwrap();
    fs::create_dir(setup.root.join("many")).unwrap();
    assert_eq!(setup.find("NAME 1.DAT"), None);
    fs::remove_dir(setup.root.join("many")).unwrap();
    fs::rename(setup.root.join("old"), setup.root.join("many")).unwrap();
    assert_eq!(setup.find("NAME 1.DAT").as_deref(), Some("Name 1.dat"));
}

#[test]
fn more_changes_than_the_kernel_remembers_make_nothing_wrong() {
    let setup = Setup::new();
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    for _ in 0..limit.min(100_000) / 2 {
        fs::rename(setup.path("Name 1.dat"), setup.path("a")).unwrap();
        fs::rename(setup.path("a"), setup.path("Name 1.dat")).unwrap();
    }
    fs::rename(setup.path("Name 1.dat"), setup.path("Late")).unwrap();
    assert_eq!(setup.find("LATE").as_deref(), Some("Late"));
    assert_eq!(setup.find("NAME 1.DAT"), None);
}

#[test]
fn a_large_directory_is_known_after_two_scans() {
    let dir = TempDir::new();
    for n in 0..NAMES {
        dir.write(&format!("Name {n}"), b"");
    }
    let directory = fs::File::open(dir.path()).unwrap();
    let key = Metadata::key_of(&directory).unwrap();
    let mut cache = NameCache::default();
    cache.scanned(key, &directory, NAMES);
    assert_eq!(cache.look_up(key, b"none"), Known::Nothing);
    cache.scanned(key, &directory, NAMES);
    assert_eq!(cache.look_up(key, b"none"), Known::Absent);
    assert_eq!(cache.look_up(key, b"nAME 7"), Known::As(b"Name 7".to_vec()));
    // Two of a kind have to be told apart by looking.
    dir.write("NAME 7", b"");
    assert_eq!(cache.look_up(key, b"nAME 7"), Known::Nothing);
    // A small one isn't worth it.
    let small = TempDir::new();
    let directory = fs::File::open(small.path()).unwrap();
    let key = Metadata::key_of(&directory).unwrap();
    for _ in 0..3 {
        cache.scanned(key, &directory, 3);
    }
    assert_eq!(cache.look_up(key, b"none"), Known::Nothing);
}

#[derive(Debug, Clone)]
enum Step {
    Make(String),
    Remove(String),
    Rename(String, String),
    Find(String),
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[abAB]{1,2}", "[äÄßſk\u{212A}K]{1,2}"]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        name().prop_map(Step::Make),
        name().prop_map(Step::Remove),
        (name(), name()).prop_map(|(from, to)| Step::Rename(from, to)),
        name().prop_map(Step::Find),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn kept_names_are_those_of_a_scan(steps in proptest::collection::vec(step(), 1..60)) {
        let setup = Setup::new();
        let mut there = BTreeSet::new();
        for step in steps {
            match step {
                Step::Make(name) => {
                    fs::write(setup.path(&name), b"").unwrap();
                    there.insert(name);
                }
                Step::Remove(name) => {
                    let _ = fs::remove_file(setup.path(&name));
                    there.remove(&name);
                }
                Step::Rename(from, to) => {
                    if from != to && there.remove(&from) {
                        fs::rename(setup.path(&from), setup.path(&to)).unwrap();
                        there.insert(to);
                    }
                }
                Step::Find(name) => {
                    let found = setup.find(&name);
                    let mut alike = there
                        .iter()
                        .filter(|known| smbd::wire::text::same_name(known, &name));
                    match &found {
                        Some(found) if there.contains(&name) => prop_assert_eq!(found, &name),
                        Some(found) => prop_assert!(alike.any(|known| known == found)),
                        None => prop_assert_eq!(alike.next(), None),
                    }
                }
            }
        }
    }
}
