//! What can be reached in a share, and what cannot.

mod common;

use std::os::unix::fs::symlink;

use common::TempDir;
use smbd::share::metadata::Kind;
use smbd::share::{DataMode, Share, names};
use smbd::wire::status::Status;

fn share(dir: &TempDir) -> Share {
    Share::open("data", &dir.path().join("root"), false).unwrap()
}

fn find(share: &Share, path: &str) -> Result<Vec<u8>, Status> {
    let components = names::parse_path(path)?;
    share.find(&components).map(|node| node.path)
}

#[test]
fn links_are_followed_as_long_as_they_stay_inside() {
    let dir = TempDir::new();
    dir.write("secret", b"outside");
    dir.write("root/sub/file", b"inside");
    let root = dir.path().join("root");
    for (name, target) in [
        ("sub/up", "../sub/file"),
        ("direct", "sub"),
        ("sub/out", "../../secret"),
        ("absolute", dir.path().join("secret").to_str().unwrap()),
        ("home", root.to_str().unwrap()),
        ("proc", "/proc/self/root"),
        ("loop", "loop"),
        ("dangling", "nowhere"),
    ] {
        symlink(target, root.join(name)).unwrap();
    }
    let share = share(&dir);
    for inside in ["sub\\up", "direct\\file", "DIRECT\\FILE", "direct\\up"] {
        assert!(find(&share, inside).is_ok(), "{inside}");
    }
    for outside in [
        "sub\\out",
        "absolute",
        "home",
        "home\\sub",
        "proc\\etc",
        "loop",
        "dangling",
    ] {
        let found = find(&share, outside);
        assert_eq!(found, Err(Status::OBJECT_NAME_NOT_FOUND), "{outside}");
    }
}

#[test]
fn the_exact_name_goes_before_one_in_another_case() {
    let dir = TempDir::new();
    for name in ["a", "A", "Ä", "mixed/Case"] {
        dir.write(&format!("root/{name}"), b"");
    }
    let share = share(&dir);
    for (path, found) in [
        ("a", "a"),
        ("A", "A"),
        ("ä", "Ä"),
        ("MIXED\\CASE", "mixed/Case"),
        ("mixed\\case", "mixed/Case"),
        ("", ""),
    ] {
        assert_eq!(find(&share, path), Ok(found.as_bytes().to_vec()), "{path}");
    }
}

#[test]
fn names_that_are_no_utf8_can_be_opened_by_what_is_listed() {
    use std::os::unix::ffi::OsStrExt;
    let dir = TempDir::new();
    let name = b"bad\xFF\xFE: \"name\".";
    dir.write("root/dir/x", b"");
    let path = dir
        .path()
        .join("root/dir")
        .join(std::ffi::OsStr::from_bytes(name));
    std::fs::write(path, b"").unwrap();
    let share = share(&dir);
    let wire = format!("DIR\\{}", names::to_wire(name));
    assert_eq!(find(&share, &wire), Ok([b"dir/", &name[..]].concat()));
}

#[test]
fn a_file_that_changes_hands_between_lookup_and_open_is_not_opened() {
    let dir = TempDir::new();
    dir.write("root/file", b"first");
    let share = share(&dir);
    let mut node = share.find(&[b"file".to_vec()]).unwrap();
    assert_eq!(node.metadata.kind, Kind::File);
    dir.write("root/other", b"second");
    std::fs::rename(dir.path().join("root/other"), dir.path().join("root/file")).unwrap();
    assert_eq!(
        share.open_data(&mut node, DataMode::Read),
        Err(Status::OBJECT_NAME_NOT_FOUND)
    );
    std::fs::remove_file(dir.path().join("root/file")).unwrap();
    let fifo = dir.path().join("root/file");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    // Must return, not wait for somebody to open the other end.
    assert_eq!(
        share.open_data(&mut node, DataMode::Read),
        Err(Status::OBJECT_NAME_NOT_FOUND)
    );
}
