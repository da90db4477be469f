#!/usr/bin/env python3
"""Runs smbtorture against this smbd and Debian's, each test on its own, and writes a table of both.

Both servers listen on loopback, each with a temporary directory of its own. Debian's smbd runs
without what this one doesn't have: leases, durable handles, streams, extended attributes, DFS,
multichannel. Needs root (Debian's smbd does) and the packages samba and samba-testsuite.

    compare/torture.py                        all suites; the table goes to docs/smbd.md
    compare/torture.py smb2.rename smb2.dir   these only; the table goes to standard output
"""

import argparse
import concurrent.futures
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
DOCUMENT = ROOT / "docs" / "smbd.md"
BEGIN = "<!-- torture: begin -->"
END = "<!-- torture: end -->"

SUITES = [
    "read", "rw", "dir", "create", "rename", "mkdir", "delete-on-close-perms", "timestamps",
    "getinfo", "compound", "lock", "oplock", "notify", "ioctl", "session",
    # Beside those that are about what is there: what else needs no other configuration.
    "async_dosmode", "charset", "check-sharemode", "compound_async", "compound_find", "connect",
    "create_no_streams", "credits", "deny", "dosmode", "fileid", "mangle", "maxfid",
    "maximum_allowed", "notify-inotify", "openattr", "samba3misc", "scan", "sdread", "secleak",
    "session-id", "session-require-signing", "set-sparse-ioctl", "setinfo", "sharemode", "tcon",
    "timestamp_resolution", "winattr", "zero-data-ioctl",
]
USER, PASSWORD = "torture", "torture-secret"
# The system user whose files the tests make, on Debian's smbd. Every Debian has it.
UNIX_USER = "games"
# These measure; they judge nothing.
BENCHMARKS = re.compile(r"bench")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end(process):
    """Tells a process to end, and waits until it has."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Server:
    """A server process that is told to end at the end."""

    def __init__(self, name, directory, command, port, environment=None):
        self.name, self.directory, self.port = name, directory, port
        self.log = open(directory / "output", "wb")
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
            start_new_session=True, env=environment)
        for _ in range(200):
            if self.process.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        self.stop()
        sys.exit(f"{name} doesn't listen:\n{(directory / 'output').read_text()}")

    def stop(self):
        end(self.process)
        self.log.close()


def debian(directory):
    port = free_port()
    for name in ["share", "private", "lock", "state", "cache", "pid", "ncalrpc"]:
        (directory / name).mkdir()
    shutil.chown(directory / "share", UNIX_USER)
    (directory / "users").write_text(f"{UNIX_USER} = {USER}\n")
    config = directory / "smb.conf"
    config.write_text(f"""\
[global]
  server role = standalone server
  netbios name = TORTURE
  interfaces = lo
  bind interfaces only = yes
  smb ports = {port}
  disable netbios = yes
  private dir = {directory}/private
  lock directory = {directory}/lock
  state directory = {directory}/state
  cache directory = {directory}/cache
  pid directory = {directory}/pid
  ncalrpc dir = {directory}/ncalrpc
  log file = {directory}/log
  passdb backend = smbpasswd:{directory}/private/smbpasswd
  username map = {directory}/users
  load printers = no
  printcap name = /dev/null
  kernel oplocks = no
  smb2 leases = no
  durable handles = no
  host msdfs = no
  server multi channel support = no
[share]
  path = {directory}/share
  read only = no
  ea support = no
""")
    subprocess.run(
        ["smbpasswd", "-c", config, "-s", "-a", UNIX_USER], check=True,
        input=f"{PASSWORD}\n{PASSWORD}\n".encode(), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
    command = ["smbd", "--foreground", "--no-process-group", "-s", config]
    return Server("Debian's smbd", directory, command, port)


def ours(directory, program, *more):
    port = free_port()
    (directory / "share").mkdir()
    users = directory / "users"
    command = [program, "--share", f"share={directory}/share", "--listen", f"127.0.0.1:{port}",
               *more]
    options = subprocess.run([program, "--help"], capture_output=True, text=True).stdout
    if "passwd" in options:
        subprocess.run(
            [program, "passwd", "--users", users, USER], check=True,
            input=f"{PASSWORD}\n{PASSWORD}\n".encode(), stdout=subprocess.DEVNULL)
        command += ["--users", users]
    if "--run-as" in options:
        shutil.chown(directory / "share", UNIX_USER)
        command += ["--run-as", UNIX_USER]
    return Server("this smbd", directory, command, port)


def tests(suites):
    listing = subprocess.run(["smbtorture", "--list"], capture_output=True, text=True).stdout
    found = []
    for line in listing.splitlines():
        path = line.strip()
        parts = path.split(".")
        # A test is listed as suite.test.test.
        if len(parts) > 2 and parts[-1] == parts[-2]:
            path = ".".join(parts[:-1])
        if BENCHMARKS.search(path):
            continue
        if any(path == suite or path.startswith(suite + ".") for suite in suites):
            found.append(path)
    return found


def run(server, test, seconds):
    """What smbtorture says of one test, and its output."""
    command = [
        "timeout", "--kill-after=5", str(seconds), "smbtorture", f"//127.0.0.1/share",
        "-p", str(server.port), "-U", f"{USER}%{PASSWORD}", "--configfile=/dev/null",
        "--option=torture:progress=no", test]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                            errors="replace", cwd=server.directory)
    output = result.stdout + result.stderr
    if result.returncode in (124, 137):
        return "hangs", output
    verdicts = re.findall(r"^(success|failure|error|skip): ", output, re.MULTILINE)
    for verdict, name in [("error", "fails"), ("failure", "fails"), ("skip", "skipped"),
                          ("success", "passes")]:
        if verdict in verdicts:
            return name, output
    return "fails", output


def run_all(server, names, options):
    results = {}
    for name in names:
        # What a failed test has left behind must not fail the next.
        for entry in (server.directory / "share").iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        results[name], output = run(server, name, options.timeout)
        if options.verbose:
            print(f"{results[name]:8} {server.name:14} {name}", file=sys.stderr, flush=True)
        if options.keep:
            path = Path(options.keep) / server.name.replace(" ", "-")
            path.mkdir(parents=True, exist_ok=True)
            (path / name.replace(" ", "-")).write_text(output)
    return results


def table(names, results):
    theirs, own = results["Debian's smbd"], results["this smbd"]
    lines = ["| suite | tests | Debian's smbd passes | this smbd passes | of Debian's |",
             "|---|---|---|---|---|"]
    suites = {}
    for name in names:
        suites.setdefault(".".join(name.split(".")[:2]), []).append(name)
    for suite, members in suites.items():
        passes = [name for name in members if theirs[name] == "passes"]
        both = [name for name in passes if own[name] == "passes"]
        lines.append(
            f"| `{suite}` | {len(members)} | {len(passes)} "
            f"| {sum(own[name] == 'passes' for name in members)} | {len(both)} |")
    differing = [name for name in names if theirs[name] != own[name]]
    if differing:
        lines += ["", "Where the two differ:", "", "| test | Debian's smbd | this smbd |", "|---|---|---|"]
        lines += [f"| `{name}` | {theirs[name]} | {own[name]} |" for name in differing]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suites", nargs="*", help="suites or single tests; default: all, into docs/smbd.md")
    parser.add_argument("--program", default=str(ROOT / "target" / "release" / "smbd"))
    parser.add_argument("--only", choices=["ours", "debian"], help="run one server, print its results")
    parser.add_argument("--timeout", type=int, default=120, help="seconds for a test")
    parser.add_argument("--keep", metavar="DIRECTORY", help="keep what smbtorture prints there")
    parser.add_argument("-v", "--verbose", action="store_true")
    options = parser.parse_args()
    names = tests(options.suites or [f"smb2.{suite}" for suite in SUITES])
    if not names:
        sys.exit("no such tests")
    with tempfile.TemporaryDirectory(prefix="torture-") as temporary:
        os.chmod(temporary, 0o755)
        servers = []
        try:
            for key in ["debian", "ours"]:
                if options.only in (None, key):
                    directory = Path(temporary) / key
                    directory.mkdir()
                    servers.append(debian(directory) if key == "debian" else ours(directory, options.program))
            with concurrent.futures.ThreadPoolExecutor() as pool:
                runs = {s.name: pool.submit(run_all, s, names, options) for s in servers}
                results = {name: run.result() for name, run in runs.items()}
        finally:
            for server in servers:
                server.stop()
    if options.only:
        for result in results.values():
            for name in names:
                print(f"{result[name]:8} {name}")
        return
    text = table(names, results)
    if options.suites:
        print(text)
        return
    document = DOCUMENT.read_text()
    before, rest = document.split(BEGIN)
    after = rest.split(END)[1]
    DOCUMENT.write_text(f"{before}{BEGIN}\n{text}{END}{after}")


if __name__ == "__main__":
    main()
