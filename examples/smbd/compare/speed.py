#!/usr/bin/env python3
"""Measures this smbd beside Debian's and the crate smb-server, and prints tables in Markdown.

All run on loopback at the same time, each with a directory of its own in memory, and are measured
in turns: A B C A B C. Debian's smbd runs as in torture.py. A program for smb-server is made and
built in a directory under target/. What isn't there is left out, with the reason. Needs root
(Debian's smbd does), and the packages samba and smbclient.

    compare/speed.py           all of it, 1 GiB files
    compare/speed.py --quick   less of it
    compare/speed.py --only connections memory
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True
from torture import PASSWORD, ROOT, UNIX_USER, USER, Server, debian, free_port, ours

SCRATCH = ROOT / "target" / "compare" / "smb-server"
MANIFEST = """\
[package]
name = "smb-server-for-comparison"
version = "0.0.0"
edition = "2024"
publish = false

[dependencies]
smb-server = "0.8"
tokio = { version = "1", features = ["rt-multi-thread"] }

[workspace]
"""
PROGRAM = """\
use smb_server::{Access, LocalFsBackend, Share, SmbServer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, path, user, password] = &arguments[..] else {
        return Err("ADDRESS PATH USER PASSWORD".into());
    };
    let share = Share::new("share", LocalFsBackend::new(path)?)
        .user(user, Access::ReadWrite)
        .leases(false)
        .durable_handles(false);
    let server = SmbServer::builder()
        .listen(address.parse()?)
        .user(user, password)
        .share(share)
        .max_read_size(8 << 20)
        .max_write_size(8 << 20)
        .build()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(server.serve())?)
}
"""
TICK = os.sysconf("SC_CLK_TCK")
MODES = {"plain": "off", "signed": "sign", "encrypted": "encrypt"}
# What is measured but once, as it is true but once.
JUST_STARTED = "of a server just started"
# The order of the columns.
OURS, DEBIAN, CRATE = "this smbd", "Debian's smbd", "smb-server"


def crate(directory):
    """The crate's server; the reason, if there is none."""
    (SCRATCH / "src").mkdir(parents=True, exist_ok=True)
    for path, text in [(SCRATCH / "Cargo.toml", MANIFEST), (SCRATCH / "src" / "main.rs", PROGRAM)]:
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    build = subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=SCRATCH,
                           capture_output=True, text=True)
    if build.returncode != 0:
        return f"it can't be built: {build.stderr.strip().splitlines()[-1]}"
    port = free_port()
    (directory / "share").mkdir()
    program = SCRATCH / "target" / "release" / "smb-server-for-comparison"
    command = [program, f"127.0.0.1:{port}", directory / "share", USER, PASSWORD]
    return Server(CRATE, directory, command, port)


def processes():
    """What /proc/PID/stat says of each process: parent, and ticks with those of reaped children."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path("/proc", entry, "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            fields = stat.rsplit(")", 1)[1].split()
            found[int(entry)] = (int(fields[1]), sum(int(field) for field in fields[11:15]))
    return found


def family(server):
    """The ticks of a server's processes, by process id."""
    everything = processes()
    members = {server.process.pid}
    while True:
        more = {pid for pid, (parent, _) in everything.items() if parent in members} - members
        if not more:
            return {pid: everything[pid][1] for pid in members if pid in everything}
        members |= more


def settle(server, before):
    """Waits until the processes of clients that have gone are reaped."""
    for _ in range(1000):
        if set(family(server)) <= before:
            return
        time.sleep(0.01)


def measured(server, command, stdin=None):
    """Runs a client; its output, the seconds it took, the seconds of CPU the server did."""
    before = family(server)
    start = time.monotonic()
    result = subprocess.run(command, stdin=stdin or subprocess.DEVNULL, capture_output=True, text=True)
    seconds = time.monotonic() - start
    settle(server, set(before))
    used = (sum(family(server).values()) - sum(before.values())) / TICK
    if result.returncode != 0:
        lines = (result.stdout + result.stderr).strip().splitlines()
        lines = [line for line in lines if not line.startswith("note: ")]
        raise Failed(lines[-1] if lines else f"exit status {result.returncode}")
    return result.stdout, seconds, used


class Failed(Exception):
    pass


def smbclient(server, mode, commands):
    return measured(server, [
        "smbclient", "//127.0.0.1/share", "-p", str(server.port), "-U", f"{USER}%{PASSWORD}",
        "-m", "SMB3_11", f"--client-protection={MODES[mode]}", "-c", commands])


def driver(options, server, what, *arguments):
    return measured(server, [options.driver, what, f"127.0.0.1:{server.port}", USER, PASSWORD,
                             "share", *map(str, arguments)])


def transfer(mode, direction, options, server):
    command = {"get": "get big /dev/null", "put": f"put {options.big} big"}[direction]
    _, seconds, used = smbclient(server, mode, command)
    gib = options.size / 2**30
    return {"MiB/s": options.size / 2**20 / seconds, "CPU s/GiB": used / gib}


def small(mode, options, server):
    output, _, used = driver(options, server, "files", options.files, mode)
    write, read = map(float, output.split())
    return {"made/s": options.files / write, "read/s": options.files / read,
            "CPU µs/file": used / options.files * 1e6}


def connect(parallel, options, server):
    count = options.connections
    output, _, used = driver(options, server, "connections", count, parallel)
    return {"/s": count / float(output), "CPU µs each": used / count * 1e6}


def crowd(options, server):
    output, _, used = driver(options, server, "clients", options.clients)
    answered, seconds = output.split()
    return {"answered": int(answered), "seconds": float(seconds), "CPU s": used}


def rollup(pid):
    """A process's smaps_rollup, in KiB."""
    lines = Path("/proc", str(pid), "smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) for line in lines}


def memory(sessions, options, server):
    before = family(server)
    resting = sum(rollup(pid)["Pss"] for pid in before)
    command = [options.driver, "idle", f"127.0.0.1:{server.port}", USER, PASSWORD, "share",
               str(sessions)]
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                              stderr=subprocess.DEVNULL)
    try:
        if client.stdout.readline() != "ready\n":
            raise Failed("not all sessions were let in")
        own = set(family(server)) - set(before)
        children = [rollup(pid) for pid in own]
        parent = sum(rollup(pid)["Pss"] for pid in before)
        if not children:
            # All in one process.
            each = (parent - resting) / sessions
            return {"KiB/session": each, "parent KiB": resting}
        total = {key: sum(child[key] for child in children) / sessions
                 for key in ["Pss", "Pss_Anon", "Pss_File", "Private_Dirty"] if key in children[0]}
        return {"KiB/session": total["Pss"], "of it anonymous": total["Pss_Anon"],
                "files": total["Pss_File"], "parent KiB": parent}
    finally:
        client.stdin.close()
        client.wait()
        settle(server, set(before))


def benchmarks(options):
    """What is measured: its kind, its name, and what measures a server."""
    def idle(sessions, when):
        name = f"PSS of {sessions} idle sessions, {when}"
        return "memory", name, lambda s: memory(sessions, options, s)

    yield idle(options.sessions, JUST_STARTED)
    for mode in MODES:
        for direction in ["put", "get"]:
            name = f"{direction} {options.size // 2**20} MiB, {mode}"
            yield "transfer", name, lambda s, m=mode, d=direction: transfer(m, d, options, s)
    for mode in MODES:
        yield "files", f"4 KiB files, {mode}", lambda s, m=mode: small(m, options, s)
    for parallel in [1, 8]:
        how = "in order" if parallel == 1 else f"{parallel} at once"
        yield "connections", f"connections, {how}", lambda s, p=parallel: connect(p, options, s)
    yield idle(options.sessions, "of one that has had others")
    yield idle(options.many, "of one that has had others")
    # They have left holes.
    yield idle(options.sessions, "of one that has had more")
    yield "clients", f"{options.clients} clients at once", lambda s: crowd(options, s)


def number(value):
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def report(name, servers, absent, results):
    keys = []
    for rounds in results.values():
        for key in (key for one in rounds for key in one if key not in keys):
            keys.append(key)
    names = [server.name for server in servers] + list(absent)
    others = [other for other in names if other != OURS]
    lines = [f"| {name} | " + " | ".join(names) + " | "
             + " | ".join(f"times {other}" for other in others) + " |",
             "|---" * (1 + len(names) + len(others)) + "|"]
    for key in keys:
        cells, ratios = [], []
        for other in names:
            values = [one[key] for one in results.get(other, []) if key in one]
            cells.append(number(statistics.median(values)) if values else "–")
        for other in others:
            pairs = [(mine[key], theirs[key])
                     for mine, theirs in zip(results.get(OURS, []), results.get(other, []))
                     if key in mine and key in theirs]
            usable = [(mine, theirs) for mine, theirs in pairs if mine and theirs]
            # More is better of what is per second, less of the rest.
            more = key.endswith("/s") or key == "answered"
            ratios.append(number(statistics.median(
                mine / theirs if more else theirs / mine for mine, theirs in usable)) if usable else "–")
        lines.append(f"| {key} | " + " | ".join(cells) + " | " + " | ".join(ratios) + " |")
    return "\n".join(lines) + "\n"


def build_driver():
    build = subprocess.run(
        ["cargo", "build", "--release", "-p", "smbd", "--bins", "--example", "driver", "--quiet"],
        cwd=ROOT)
    if build.returncode != 0:
        sys.exit("the programs can't be built")
    return ROOT / "target" / "release" / "examples" / "driver"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller sizes, one round")
    parser.add_argument("--rounds", type=int, help="how often each is measured [3]")
    parser.add_argument("--only", nargs="+",
                        choices=["transfer", "files", "connections", "memory", "clients"])
    parser.add_argument("--program", default=ROOT / "target" / "release" / "smbd", type=Path)
    options = parser.parse_args()
    quick = options.quick
    options.rounds = options.rounds or (1 if quick else 3)
    options.size = (64 if quick else 1024) * 2**20
    options.files = 200 if quick else 1000
    options.connections = 100 if quick else 400
    options.sessions = 20 if quick else 100
    options.many = 3 * options.sessions
    options.clients = 50 if quick else 500
    options.driver = build_driver()
    in_memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="speed-", dir=in_memory) as temporary:
        os.chmod(temporary, 0o755)
        options.big = Path(temporary) / "big"
        with open(options.big, "wb") as big:
            for _ in range(options.size // 2**20):
                big.write(os.urandom(2**20))
        servers, absent = [], {}
        try:
            for name, start in [(OURS, lambda d: ours(d, options.program)), (DEBIAN, debian), (CRATE, crate)]:
                directory = Path(temporary) / name.split()[0].rstrip("'s")
                directory.mkdir()
                try:
                    server = start(directory)
                except (OSError, SystemExit, subprocess.CalledProcessError) as e:
                    server = str(e)
                if isinstance(server, str):
                    absent[name] = server
                else:
                    servers.append(server)
            for kind, name, run in benchmarks(options):
                if options.only and kind not in options.only:
                    continue
                results, failures = {}, {}
                for _ in range(1 if name.endswith(JUST_STARTED) else options.rounds):
                    for server in servers:
                        if server.name in failures:
                            continue
                        try:
                            results.setdefault(server.name, []).append(run(server))
                        except Failed as e:
                            failures[server.name] = str(e)
                print(report(name, servers, absent, results))
                for other, why in failures.items():
                    print(f"{other}: {why}\n")
                sys.stdout.flush()
        finally:
            for server in servers:
                server.stop()
    for name, why in absent.items():
        print(f"{name} is absent: {why}")


if __name__ == "__main__":
    main()
