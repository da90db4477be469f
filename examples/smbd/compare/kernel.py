#!/usr/bin/env python3
"""Mounts this smbd, or Debian's, with the Linux kernel's SMB client, and checks what it is good for.

A kernel with its client comes from a Debian package and runs in qemu, without hardware's help, so
that neither the machine's kernel nor its modules matter. The guest has this machine's /usr, read
only, and reaches the server on loopback. What it does there is in kernel_checks.py. Needs root, the
packages qemu-system-x86, busybox-static, kmod and cifs-utils, and for some checks git, rsync,
sqlite3 and attr; for --server debian also samba.

    compare/kernel.py                           all mounts, Debian's kernel of this release
    compare/kernel.py --quick                   a few mounts, a few checks
    compare/kernel.py --suite trixie-backports  a kernel of another release
    compare/kernel.py --mount 3.1.1 --check locks random_operations

The result is a table in Markdown: a line for each mount, and what failed there. Exit status: 1 if
anything has failed, or the kernel has complained.
"""

import argparse
import contextlib
import json
import lzma
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True
import kernel_checks
from torture import PASSWORD, ROOT, USER, Server, debian, end, free_port, ours

HERE = Path(__file__).resolve().parent
SCRATCH = ROOT / "target" / "compare" / "kernel"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# What the guest needs before it has /usr, and the kernel's modules, from here.
FIRST_MODULES = ["virtio_pci", "virtio_net", "9pnet_virtio", "9p"]
SHARES = {"usr": "/usr", "compare": HERE}

INIT = """\
#!/first/busybox sh
export PATH=/usr/sbin:/usr/bin:/first
/first/busybox --install -s /first
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs tmp /tmp
for module in $(cat /first/order); do insmod /first/$module; done
ifconfig lo 127.0.0.1
ifconfig eth0 10.0.2.15 netmask 255.255.255.0
options=ro,trans=virtio,version=9p2000.L,msize=262144
mount -t 9p -o $options,cache=loose usr /usr
mount -t 9p -o $options,cache=loose modules /modules
mount -t 9p -o $options,cache=none compare /compare
for entry in /usr/lib/*; do ln -s $entry /lib; done
rm -f /lib/modules
mkdir /lib/modules
ln -s /modules /lib/modules/$(uname -r)
modprobe cifs
exec /usr/bin/python3 -B /compare/kernel_checks.py
"""


def sh(*command, **more):
    return subprocess.run([str(part) for part in command], check=True, text=True,
                          stdout=subprocess.PIPE, **more).stdout


def apt(suite):
    """The options by which apt-get and apt-cache use that suite alone, and only our directories."""
    if suite is None:
        return []
    directory = SCRATCH / "apt" / suite
    (directory / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (directory / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    sources = directory / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] http://deb.debian.org/debian {suite} main\n")
    options = {"Dir::Etc::SourceList": sources, "Dir::Etc::SourceParts": "-",
               "Dir::State::Lists": directory / "lists", "Dir::Cache": directory / "cache"}
    return [part for key, value in options.items() for part in ("-o", f"{key}={value}")]


def packages(suite):
    """The packages that make up the kernel: newer ones are in several."""
    options = apt(suite)
    if suite is not None:
        sh("apt-get", *options, "-qq", "update")
    image = re.search(r"Depends: (linux-image-\S+)",
                      sh("apt-cache", *options, "depends", "linux-image-amd64"))[1]
    version = image.removeprefix("linux-image-")
    parts = re.findall(r"Depends: (linux-(?:base|binary|modules)-\d\S+)",
                       sh("apt-cache", *options, "depends", image))
    return version, options, [image, *parts]


def fetch(suite):
    """A directory with a kernel and its modules, unpacked: what it is called, and where."""
    version, options, names = packages(suite)
    directory = SCRATCH / version
    if not (directory / "complete").exists():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        sh("apt-get", *options, "-o", "APT::Sandbox::User=root", "-qq", "download", *names,
           cwd=directory)
        for package in directory.glob("*.deb"):
            sh("dpkg-deb", "-x", package, directory)
            package.unlink()
        if not (directory / "lib").exists():
            (directory / "lib").symlink_to("usr/lib")
        sh("depmod", "-b", directory, version)
        (directory / "complete").touch()
    return version, directory


def first_modules(modules):
    """The files of the modules that are needed at once, each after those that it needs."""
    needs = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, dependencies = line.split(":")
        needs[path] = dependencies.split()
    named = {Path(path).name.split(".")[0].replace("-", "_"): path for path in needs}
    order = []

    def add(path):
        for dependency in needs[path]:
            add(dependency)
        if path not in order:
            order.append(path)

    for name in FIRST_MODULES:
        # Else it is built into the kernel.
        if name in named:
            add(named[name])
    return [modules / path for path in order]


def archive(entries):
    """A cpio archive, as the kernel unpacks it: (path, mode, content or device)."""
    out = bytearray()

    def put(number, name, mode, content, device=(0, 0)):
        name = name.encode() + b"\0"
        fields = [number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name), 0]
        out.extend(b"070701" + b"".join(b"%08X" % field for field in fields) + name)
        out.extend(bytes(-len(out) % 4))
        out.extend(content)
        out.extend(bytes(-len(out) % 4))

    for number, (name, mode, content) in enumerate(entries, 1):
        if stat.S_ISCHR(mode):
            put(number, name, mode, b"", content)
        else:
            put(number, name, mode, content)
    put(0, "TRAILER!!!", 0, b"")
    return bytes(out)


def initramfs(directory, version, path):
    modules = directory / "lib" / "modules" / version
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in
               ["dev", "proc", "sys", "tmp", "usr", "modules", "compare", "etc",
                "first", "mnt", "run", "lib"]]
    entries += [(name, stat.S_IFLNK | 0o777, f"usr/{name}".encode())
                for name in ["bin", "sbin", "lib64"]]
    entries += [
        ("dev/console", stat.S_IFCHR | 0o600, (5, 1)),
        ("first/busybox", stat.S_IFREG | 0o755, Path("/bin/busybox").read_bytes()),
        ("init", stat.S_IFREG | 0o755, INIT.encode()),
        ("etc/passwd", stat.S_IFREG | 0o644,
         b"root:x:0:0:root:/tmp:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\n"),
        ("etc/group", stat.S_IFREG | 0o644, b"root:x:0:\nuser:x:1000:\n"),
    ]
    order = []
    for module in first_modules(modules):
        content = module.read_bytes()
        name = module.name
        if name.endswith(".xz"):
            content, name = lzma.decompress(content), name.removesuffix(".xz")
        order.append(name)
        entries.append((f"first/{name}", stat.S_IFREG | 0o644, content))
    entries.append(("first/order", stat.S_IFREG | 0o644, "\n".join(order).encode()))
    path.write_bytes(archive(entries))


class Guest:
    """A running kernel, which does what it is told over a connection."""

    def __init__(self, suite, directory):
        self.version, kernel = fetch(suite)
        image = directory / "initramfs"
        initramfs(kernel, self.version, image)
        self.port = free_port()
        self.console = directory / "console"
        shares = dict(SHARES, modules=kernel / "lib" / "modules" / self.version)
        binary = next(iter(kernel.glob("boot/vmlinuz*")), None) or next(kernel.rglob("vmlinuz"))
        command = [
            "chrt", "-i", "0", "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max",
            "-smp", "2", "-m", "1024", "-nographic", "-no-reboot", "-kernel", binary,
            "-initrd", image, "-append", "console=ttyS0 panic=-1 quiet loglevel=5",
            "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{self.port}-:7000",
            "-device", "virtio-net-pci,netdev=net,romfile=",
        ]
        for tag, path in shares.items():
            command += ["-virtfs", f"local,path={path},mount_tag={tag},security_model=none,"
                                   f"readonly=on,multidevs=remap"]
        self.process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.DEVNULL,
            stdout=open(self.console, "wb"), stderr=subprocess.STDOUT, start_new_session=True)
        # qemu accepts connections before there is anybody in the guest who does.
        for _ in range(600):
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError, ValueError):
                if self.call("alive", timeout=5) == "yes":
                    return
            time.sleep(0.5)
        self.stop()
        sys.exit(f"the guest doesn't start:\n{self.console.read_text(errors='replace')}")

    def call(self, function, *arguments, timeout=900, **keywords):
        """What a function of kernel_checks.py returns in the guest, in a process of its own."""
        with socket.create_connection(("127.0.0.1", self.port), timeout) as connection:
            stream = connection.makefile("rw")
            json.dump([function, arguments, keywords], stream)
            stream.write("\n")
            stream.flush()
            kind, value = json.loads(stream.readline() or '["error", "the guest says nothing"]')
        if kind == "error":
            raise CheckFailed(value)
        return value

    def shell(self, command, timeout=300):
        return self.call("shell", command, timeout=timeout)

    def stop(self):
        end(self.process)


class CheckFailed(Exception):
    pass


USUAL = f"user={USER},pass={PASSWORD}"
# What a user without a password has to say: the option guest alone makes an anonymous session.
GUEST = "user=guest,pass="
# The mounts: what they are called, and the options.
MOUNTS = {
    "3.1.1": "vers=3.1.1,mfsymlinks",
    "3.1.1, signed": "vers=3.1.1,sign",
    "3.1.1, encrypted": "vers=3.1.1,seal",
    "3.1.1, guest": "vers=3.1.1",
    "3.1.1, cache=none": "vers=3.1.1,cache=none",
    "3.1.1, cache=loose": "vers=3.1.1,cache=loose",
    "3.1.1, nobrl, actimeo=0": "vers=3.1.1,nobrl,actimeo=0",
    "3.1.1, noserverino, noperm": "vers=3.1.1,noserverino,noperm",
    "3.1.1, 8 MiB, hard": "vers=3.1.1,rsize=8388608,wsize=8388608,hard",
    "3.0.2": "vers=3.02",
    "3.0, encrypted": "vers=3.0,seal",
    "2.1, signed": "vers=2.1,sign",
    "2.0": "vers=2.0",
}
# For all but the first mount, which gets all checks: the rest takes long and differs little.
FEW = ["basics", "copies", "renames", "links", "metadata", "ranges", "mapped", "direct", "locks",
       "server_copies", "names", "sqlite", "random_operations", "watched"]
QUICK_MOUNTS = ["3.1.1", "3.1.1, encrypted", "2.1, signed"]
QUICK_CHECKS = ["basics", "renames", "links", "metadata", "ranges", "names"]
# What fails with Debian's smbd as well: by the kernel's version, the client's own faults.
CLIENTS_FAULTS = {"6.1.": ["replaced", "unlinked", "appended"]}
# Lines of the kernel's that aren't about an answer of the server's.
HARMLESS = re.compile(r"Attempting to mount|Use of the less secure dialect|"
                      r"has not responded|reconnect|due to actimeo|umount")


def children(server):
    path = f"/proc/{server.process.pid}/task/{server.process.pid}/children"
    return [int(pid) for pid in Path(path).read_text().split()]


def reconnects(guest, server):
    """The server's processes are killed under a mount, which goes on with the next."""
    guest.call("survives", "/mnt/first")
    for pid in children(server):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 120
    while True:
        try:
            return guest.call("goes_on", "/mnt/first")
        except CheckFailed:
            # A request that was on its way fails on a soft mount.
            if time.monotonic() > deadline:
                raise


def quiet(said):
    return [line for line in said.splitlines() if not HARMLESS.search(line)]


def run_mount(guest, server, options, label, names):
    """The line of the table: what passed, remarks and failures."""
    credentials = GUEST if "guest" in label else USUAL
    mounted = MOUNTS[label]
    passed, remarks, failures = 0, [], []

    def note(name, result, remark="", said=""):
        nonlocal passed
        if result and not quiet(said):
            passed += 1
        else:
            failures.append(f"{name}: {remark} {'; '.join(quiet(said))}".strip())
        if result and remark:
            remarks.append(f"{name}: {remark}")
        if options.verbose:
            print(f"{'passes' if result else 'fails':7} {label}: {name} {remark}",
                  file=sys.stderr, flush=True)
            if quiet(said):
                print(said, file=sys.stderr, flush=True)

    for version, faults in CLIENTS_FAULTS.items():
        if guest.version.startswith(version):
            remarks += [f"{name}: left out, fails with any server"
                        for name in names if name in faults]
            names = [name for name in names if name not in faults]
    for where, more in [("/mnt/first", ""), ("/mnt/second", ",nosharesock,cache=none")]:
        refused = guest.call("mount", server.port, where, f"{credentials},{mounted}{more}")
        if refused:
            note("mount", False, refused)
            return passed, remarks, failures
    for name in names:
        try:
            result, remark, said, _ = guest.call(
                "check", name, "/mnt/first", "/mnt/second", mounted)
        except (CheckFailed, TimeoutError) as error:
            result, remark, said = False, str(error).strip(), ""
        note(name, result, remark, said)
    last = [("busy", lambda: guest.call("busy", "/mnt/first"))]
    if label == "3.1.1":
        last.append(("reconnects", lambda: reconnects(guest, server)))
    for name, check in last:
        try:
            check()
        except CheckFailed as error:
            note(name, False, str(error).strip().splitlines()[-1])
        else:
            note(name, True)
    for where in ["/mnt/first", "/mnt/second"]:
        refused = guest.call("unmount", where)
        if refused:
            note("umount", False, refused)
    return passed, remarks, failures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", help="Debian's release to take the kernel of; default: this one")
    parser.add_argument("--server", choices=["ours", "debian"], default="ours")
    parser.add_argument("--program", default=str(ROOT / "target" / "release" / "smbd"))
    parser.add_argument("--mount", nargs="+", choices=MOUNTS, metavar="MOUNT", default=list(MOUNTS))
    parser.add_argument("--check", nargs="+", choices=kernel_checks.CHECKS, metavar="CHECK")
    parser.add_argument("--quick", action="store_true", help="few mounts, few checks")
    parser.add_argument("--shell", metavar="COMMAND", help="run a command in the guest instead")
    parser.add_argument("-v", "--verbose", action="store_true")
    options = parser.parse_args()
    labels = QUICK_MOUNTS if options.quick else options.mount
    failed = False
    with tempfile.TemporaryDirectory(prefix="kernel-") as temporary, contextlib.ExitStack() as stack:
        os.chmod(temporary, 0o755)
        guest = Guest(options.suite, Path(temporary))
        stack.callback(guest.stop)
        if options.shell:
            code, text = guest.shell(options.shell)
            print(text, end="")
            sys.exit(code)
        directory = Path(temporary) / "server"
        directory.mkdir()
        server = debian(directory) if options.server == "debian" else ours(
            directory, options.program, "--guest", "rw")
        stack.callback(server.stop)
        print(f"Linux {guest.version}, {server.name}\n")
        print("| mount | passed | failed | remarks |\n|---|---|---|---|")
        for number, label in enumerate(labels):
            names = options.check or (
                QUICK_CHECKS if options.quick else FEW if number else list(kernel_checks.CHECKS))
            if "guest" in label and options.server == "debian":
                continue  # it has no guests
            passed, remarks, failures = run_mount(guest, server, options, label, names)
            failed |= bool(failures)
            cells = [" / ".join(cell).replace("|", "\\|").replace("\n", " ")
                     for cell in (failures, remarks)]
            print(f"| {label} | {passed} | {cells[0]} | {cells[1]} |", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
