//! No name leads out of a share.

mod common;

use std::os::unix::fs::symlink;

use common::client::*;
use common::smbclient::{DIALECTS, have_smbclient, smbclient};
use common::wire::Wire;
use common::{Server, TempDir};
use smbd::wire::status::Status;

/// Links that lead out of the share, or nowhere.
const LINKS: [(&str, &str); 10] = [
    ("passwd", "/etc/passwd"),
    ("root", "/"),
    ("up", ".."),
    ("secret", "../secret"),
    ("inside/secret", "../../secret"),
    ("proc", "/proc/self/root"),
    ("loop", "loop"),
    ("ping", "pong"),
    ("pong", "ping"),
    ("dangling", "nowhere"),
];

/// A share in a directory with something beside it.
fn serve() -> (TempDir, Server) {
    let dir = TempDir::new();
    dir.write("secret", b"SECRET");
    dir.write("share/inside/file", b"harmless");
    dir.write("share2/file", b"SECRET");
    let share = dir.path().join("share");
    for (name, target) in LINKS {
        symlink(target, share.join(name)).unwrap();
    }
    symlink(dir.path().join("secret"), share.join("absolute")).unwrap();
    symlink(&share, share.join("home")).unwrap();
    let server = Server::start(&[("data", &share)]);
    (dir, server)
}

fn try_to_open(client: &mut Client<Wire>, name: &str) -> Status {
    let create = request(CREATE, create(name, READ_ACCESS, 1, 0));
    client.send(&[create]).expect(name)[0].status
}

/// Whether a status says that there is no such thing, the last component or one before it.
fn is_not_found(status: Status) -> bool {
    status == Status::OBJECT_NAME_NOT_FOUND || status == Status::OBJECT_PATH_NOT_FOUND
}

#[test]
fn names_with_dots_or_roots_are_invalid() {
    let (dir, server) = serve();
    let mut client = Client::at(server.address(), 0x0311, "data");
    for name in [
        "..",
        "..\\secret",
        "..\\share2\\file",
        "inside\\..\\..\\secret",
        "inside\\..\\..\\file",
        "inside\\.\\file",
        ".\\inside\\file",
        "../secret",
        "inside/../../secret",
        "/etc/passwd",
        "C:\\secret",
        "inside\\\\file",
        "..::$DATA",
        "..\0",
        // Periods in disguise.
        "\u{F029}\u{F029}\\secret",
        "\u{F029}.\\secret",
        "..\u{F02F}secret",
    ] {
        let status = try_to_open(&mut client, name);
        assert_ne!(status, Status::SUCCESS, "{name:?}");
    }
    for (name, status) in [
        ("..\\secret", Status::OBJECT_PATH_SYNTAX_BAD),
        ("\\etc\\passwd", Status::INVALID_PARAMETER),
        ("\\..\\secret", Status::INVALID_PARAMETER),
    ] {
        assert_eq!(try_to_open(&mut client, name), status, "{name:?}");
    }
    // Nor do absolute names of this system lead anywhere.
    let path = dir.path().join("secret");
    for name in [
        path.display().to_string(),
        path.display().to_string().replace('/', "\\"),
    ] {
        assert_ne!(try_to_open(&mut client, &name), Status::SUCCESS, "{name:?}");
    }
    assert_eq!(try_to_open(&mut client, "inside\\file"), Status::SUCCESS);
}

#[test]
fn links_out_of_the_share_and_in_circles_are_not_there() {
    let (_dir, server) = serve();
    let mut client = Client::at(server.address(), 0x0302, "data");
    let links = LINKS.iter().map(|(name, _)| name.replace('/', "\\"));
    for name in links.chain(["absolute".into(), "home".into()]) {
        let status = try_to_open(&mut client, &name);
        assert_eq!(status, Status::OBJECT_NAME_NOT_FOUND, "{name}");
        for below in [
            "secret",
            "etc\\passwd",
            "share\\inside\\file",
            "inside\\file",
        ] {
            let name = format!("{name}\\{below}");
            let status = try_to_open(&mut client, &name);
            assert!(is_not_found(status), "{name}: {status:?}");
        }
    }
    let root = client.expect(
        request(CREATE, create("", READ_ACCESS, 1, 0)),
        Status::SUCCESS,
    );
    let list = query_directory(root.file_id(), 12, 0, "*", 65536);
    let listing = client.expect(request(QUERY_DIRECTORY, list), Status::SUCCESS);
    let mut names = file_names(&listing);
    names.sort();
    assert_eq!(names, [".", "..", "inside"]);
}

#[test]
fn a_directory_that_becomes_a_link_while_it_is_used_leads_nowhere() {
    let (dir, server) = serve();
    let mut client = Client::at(server.address(), 0x0311, "data");
    assert_eq!(try_to_open(&mut client, "inside\\file"), Status::SUCCESS);
    let inside = dir.path().join("share/inside");
    std::fs::rename(&inside, dir.path().join("away")).unwrap();
    symlink("../share2", &inside).unwrap();
    let status = try_to_open(&mut client, "inside\\file");
    assert!(is_not_found(status), "{status:?}");
}

#[test]
fn nothing_is_changed_outside() {
    let (dir, server) = serve();
    let mut client = Client::at(server.address(), 0x0311, "data");
    let listing = |path: &str| {
        let entries = std::fs::read_dir(dir.path().join(path)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = (listing(""), listing("share"), listing("share2"));
    let links: Vec<String> = LINKS
        .iter()
        .map(|(name, _)| name.replace('/', "\\"))
        .chain(["absolute".into(), "home".into()])
        .collect();
    let mut targets = vec![
        "..\\new".to_owned(),
        "inside\\..\\..\\new".to_owned(),
        "..\\share2\\new".to_owned(),
        "../new".to_owned(),
        format!("{}/new", dir.path().display()),
        "\u{F029}\u{F029}\\new".to_owned(),
    ];
    targets.extend(links.iter().cloned());
    targets.extend(links.iter().map(|link| format!("{link}\\new")));

    for target in &targets {
        for disposition in [SUPERSEDE, CREATE_NEW, OPEN_IF, OVERWRITE, OVERWRITE_IF] {
            for options in [0, DIRECTORY_FILE, DELETE_ON_CLOSE] {
                let status = client.try_create(target, ALL_ACCESS, disposition, options);
                assert!(
                    status.is_error(),
                    "{target} {disposition} {options}: {status}"
                );
            }
        }
    }
    let file = client.open_if("inside\\file", 0);
    for target in &targets {
        for class in [10, 11, 65, 72] {
            for replace in [false, true] {
                let set = set_info(file, 1, class, &new_name(target, replace));
                let status = client.send(&[request(SET_INFO, set)]).unwrap()[0].status;
                let what = format!("class {class} to {target}, replace {replace}: {status}");
                assert!(status.is_error(), "{what}");
            }
        }
    }
    client.close(file);
    assert_eq!((listing(""), listing("share"), listing("share2")), before);
    let secret = std::fs::read(dir.path().join("secret")).unwrap();
    assert!(secret.starts_with(b"SECRET"), "{secret:?}");
}

#[test]
fn a_directory_that_becomes_a_link_leads_no_write_outside() {
    let (dir, server) = serve();
    let mut client = Client::at(server.address(), 0x0311, "data");
    let file = client.open_if("inside\\file", 0);
    let create = create("inside\\doomed", ALL_ACCESS, OPEN_IF, DELETE_ON_CLOSE);
    let doomed = client
        .expect(request(CREATE, create), Status::SUCCESS)
        .file_id();
    std::fs::write(dir.path().join("share2/doomed"), b"not this one").unwrap();
    let inside = dir.path().join("share/inside");
    std::fs::rename(&inside, dir.path().join("away")).unwrap();
    symlink("../share2", &inside).unwrap();
    let status = client.try_create("inside\\new", ALL_ACCESS, OPEN_IF, 0);
    assert!(status.is_error(), "{status}");
    for target in ["inside\\new", "new"] {
        let set = set_info(file, 1, 10, &new_name(target, true));
        let status = client.send(&[request(SET_INFO, set)]).unwrap()[0].status;
        assert!(status.is_error(), "{target}: {status}");
    }
    client.close(doomed);
    assert!(dir.path().join("share2/doomed").exists());
    assert!(!dir.path().join("share2/new").exists());
}

#[test]
fn smbclient_does_not_get_out() {
    if !have_smbclient() {
        return;
    }
    let (_dir, server) = serve();
    for dialect in DIALECTS {
        for command in [
            "get ..\\secret -",
            "get ../secret -",
            "get /etc/passwd -",
            "get passwd -",
            "get secret -",
            "get absolute -",
            "get inside\\secret -",
            "get up\\secret -",
            "get root\\etc\\passwd -",
            "get proc\\etc\\passwd -",
            "get home\\inside\\file -",
            "get loop -",
            "get ping -",
            "cd up; get secret -",
            "cd root; ls",
            "cd ping; ls",
        ] {
            let args = ["//127.0.0.1/data", "-N", "-c", command];
            let output = smbclient(&server, dialect, &args);
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text);
            assert!(text.contains("NT_STATUS_"), "{dialect} {command}: {text}");
            for gift in ["SECRET", "root:", "harmless", "share2"] {
                assert!(!text.contains(gift), "{dialect} {command}: {text}");
            }
        }
    }
}
