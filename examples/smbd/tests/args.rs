//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use smbd::args::socket_options::SocketOption;
use smbd::args::{Invocation, Options, parse};

fn run(args: &[&str]) -> Result<Invocation, String> {
    parse(args.iter().map(OsString::from)).map_err(|e| e.to_string())
}

#[track_caller]
fn options(args: &[&str]) -> Options {
    match run(args) {
        Ok(Invocation::Run(options)) => *options,
        other => panic!("{args:?}: {other:?}"),
    }
}

#[test]
fn defaults_need_no_arguments() {
    let options = options(&[]);
    assert!(options.shares.is_empty() && !options.interactive);
    let listen = ["127.0.0.1:4450", "[::1]:4450"].map(|address| address.parse().unwrap());
    assert_eq!(options.listen, listen);
    assert_eq!(options.max_clients, 1000);
    assert_eq!(options.idle_timeout, Some(Duration::from_secs(900)));
}

#[test]
fn everything_can_be_given() {
    let options = options(&[
        "--share=a=/tmp,ro",
        "--share",
        "Grüße=/",
        "--listen",
        "0.0.0.0:445",
        "--listen=[::1]:0",
        "--max-clients=7",
        "--idle-timeout",
        "0",
        "--interactive",
        "--socket-options",
        "TCP_NODELAY IPTOS_LOWDELAY",
        "-vv",
    ]);
    assert_eq!(options.shares[0].path, PathBuf::from("/tmp"));
    assert!(options.shares[0].rules.read_only && !options.shares[1].rules.read_only);
    assert_eq!(options.shares[1].name, "Grüße");
    assert_eq!(options.listen.len(), 2);
    assert!(options.listen[1].is_ipv6());
    assert_eq!((options.max_clients, options.idle_timeout), (7, None));
    assert_eq!((options.interactive, options.verbosity), (true, 2));
    assert_eq!(
        options.socket_options,
        [SocketOption::TcpNoDelay(true), SocketOption::IpTosLowDelay]
    );
    let timed = self::options(&["--idle-timeout=5"]);
    assert_eq!(timed.idle_timeout, Some(Duration::from_secs(5)));
}

#[test]
fn help_and_version_win() {
    assert_eq!(run(&["--help"]), Ok(Invocation::Help));
    assert_eq!(run(&["-V"]), Ok(Invocation::Version));
}

#[test]
fn mistakes_are_told_in_one_line() {
    for (args, part) in [
        (&["--share", "x"][..], "not NAME=PATH"),
        (&["--share", "=/tmp"], "name is empty"),
        (&["--share", "a:b=/tmp"], "must not contain ':'"),
        (&["--share", "a\\b=/tmp"], "must not contain"),
        (&["--share", "ipc$=/tmp"], "server's own"),
        (&["--share", "a=/tmp", "--share", "A=/"], "given twice"),
        (&["--share", "a=/does/not/exist"], "No such file"),
        (&["--share", "a=/dev/null"], "not a directory"),
        (&["--share", "a="], "No such file"),
        (&["--listen", "127.0.0.1:70000"], "no ADDRESS:PORT"),
        (&["--listen", "127.0.0.1"], "no ADDRESS:PORT"),
        (&["--listen", "::1:445"], "no ADDRESS:PORT"),
        (&["--max-clients", "0"], "at least 1"),
        (&["--max-clients", "many"], "is no number"),
        (&["--idle-timeout", "-1"], "is no number"),
        (&["--socket-options", "SO_WHAT"], "unknown option"),
        (&["--socket-options", "SO_SNDLOWAT=1"], "can't be changed"),
        (&["--socket-options", "SO_RCVLOWAT=9"], "keep complete"),
        (&["--socket-options", "TCP_DEFER_ACCEPT=1"], "not supported"),
        (&["--socket-options", "SO_SNDTIMEO=1"], "no effect"),
        (&["--share"], "missing argument"),
        (&["--unknown"], "--unknown"),
        (&["stray"], "stray"),
    ] {
        let message = run(args).expect_err(&format!("{args:?} accepted"));
        assert!(message.contains(part), "{args:?}: {message}");
        assert!(!message.contains('\n'), "{args:?}: {message}");
    }
}

#[test]
fn the_program_exits_with_2() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_smbd"))
        .args(["--listen", "nowhere"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}
