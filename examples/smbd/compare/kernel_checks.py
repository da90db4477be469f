"""What kernel.py does in its guest: mounts, and a function for each check of a mounted directory."""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import mmap
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import time
import traceback

MIB = 1 << 20
LIBC = ctypes.CDLL(None, use_errno=True)
KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE = 1, 2, 8, 16, 32


def alive():
    return "yes"


def shell(command):
    done = subprocess.run(["bash", "-c", command], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return [done.returncode, done.stdout.decode(errors="replace")]


def run(*command, cwd=None):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, cwd=cwd, text=True, errors="replace")
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}: {done.stdout}"
    return done.stdout


def write(path, content):
    with open(path, "wb") as file:
        file.write(content)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def noise(length, seed=1):
    return random.Random(seed).randbytes(length)


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha1").hexdigest()


def fallocate(fd, mode, offset, length):
    """0, or the error."""
    done = LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length))
    return 0 if done == 0 else ctypes.get_errno()


@contextlib.contextmanager
def opened(path, flags, mode=0o666):
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def fails(*numbers):
    """What is done inside fails with one of these errors."""
    try:
        yield
    except OSError as error:
        assert error.errno in numbers, f"{error}, not {[errno.errorcode[n] for n in numbers]}"
    else:
        raise AssertionError(f"succeeds, not {[errno.errorcode[n] for n in numbers]}")


def same(found, expected, what="content"):
    if found == expected:
        return
    if isinstance(found, bytes) and isinstance(expected, bytes):
        at = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b),
                  min(len(found), len(expected)))
        raise AssertionError(f"{what}: {len(found)} bytes, not {len(expected)}; differ at {at}: "
                             f"{found[at:at + 16]!r}, not {expected[at:at + 16]!r}")
    raise AssertionError(f"{what}: {found!r:.300}, not {expected!r:.300}")


def soon(what, find, expected):
    """What a client keeps for a second (actimeo) is true after that."""
    deadline = time.monotonic() + 60
    while (found := find()) != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    same(found, expected, what)


# The checks: each has a new directory of the mount, and the same directory through another mount,
# over a connection of its own, and knows what the mount is called.


def at_once(count, work):
    """Calls work(0), work(1) … in a process each; none may fail."""
    children = []
    for number in range(count):
        child = os.fork()
        if not child:
            try:
                work(number)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    ends = [os.waitpid(child, 0)[1] for child in children]
    same(ends, [0] * count, "how the writers ended")


def basics(d, other, mounted):
    """statfs, files of no and few bytes, directories, find, stat"""
    disk = os.statvfs(d)
    assert disk.f_blocks > disk.f_bfree >= 0 and disk.f_namemax == 255, disk
    write(f"{d}/empty", b"")
    write(f"{d}/small", b"hello\n")
    os.makedirs(f"{d}/a/b/c")
    write(f"{d}/a/b/c/deep", b"x" * 5000)
    same(sorted(os.listdir(d)), ["a", "empty", "small"], "names")
    same(read(f"{d}/empty"), b"")
    same(read(f"{d}/small"), b"hello\n")
    same(os.stat(f"{d}/a/b/c/deep").st_size, 5000, "size")
    same(os.stat(f"{d}/a/b/c/deep").st_blocks > 0, True, "blocks")
    same(len(run("find", d, "-ls").splitlines()), 7, "find")
    same(int(run("find", d, "-type", "d", "-printf", "x").count("x")), 4, "directories")
    run("ls", "-laR", d)
    run("df", d)
    with fails(errno.ENOTEMPTY):
        os.rmdir(f"{d}/a")
    with fails(errno.EEXIST):
        os.mkdir(f"{d}/a")
    with fails(errno.ENOENT):
        open(f"{d}/nothing")
    with fails(errno.ENOTDIR):
        open(f"{d}/small/nothing")
    with fails(errno.EISDIR):
        open(f"{d}/a", "w")
    with fails(errno.EISDIR, errno.EPERM):
        os.unlink(f"{d}/a")
    with fails(errno.ENOTDIR):
        os.rmdir(f"{d}/small")
    with fails(errno.EEXIST):
        os.open(f"{d}/small", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    shutil.rmtree(f"{d}/a")
    same(sorted(os.listdir(other)), ["empty", "small"], "names through another mount")


def copies(d, other, mounted, size=16 * MIB):
    """cp there and back"""
    write("/tmp/from", noise(size))
    run("cp", "/tmp/from", f"{d}/to")
    same(digest(f"{other}/to"), digest("/tmp/from"))
    run("cp", f"{d}/to", "/tmp/back")
    same(digest("/tmp/back"), digest("/tmp/from"))
    run("cp", f"{d}/to", f"{d}/again")
    same(digest(f"{other}/again"), digest("/tmp/from"))
    with opened(f"{d}/sparse", os.O_CREAT | os.O_RDWR) as fd:
        os.pwrite(fd, b"end", 3 * MIB)
    run("cp", "--sparse=always", f"{d}/sparse", f"{d}/sparser")
    same(read(f"{other}/sparser"), bytes(3 * MIB) + b"end")
    os.unlink("/tmp/from")
    os.unlink("/tmp/back")


def renames(d, other, mounted):
    """rename: over another file, of open files, of directories"""
    write(f"{d}/a", b"a")
    write(f"{d}/b", b"b")
    os.rename(f"{d}/a", f"{d}/b")
    same(os.listdir(d), ["b"], "names")
    same(read(f"{d}/b"), b"a")
    write(f"{d}/c", b"c")
    with open(f"{d}/c", "rb") as source:
        os.rename(f"{d}/c", f"{d}/b")
        same(source.read(), b"c")
    same(read(f"{d}/b"), b"c")
    same(read(f"{other}/b"), b"c")
    os.mkdir(f"{d}/x")
    write(f"{d}/x/inside", b"1")
    os.rename(f"{d}/x", f"{d}/y")
    same(read(f"{d}/y/inside"), b"1")
    os.mkdir(f"{d}/empty")
    os.rename(f"{d}/empty", f"{d}/z")
    with fails(errno.ENOTEMPTY, errno.EEXIST, errno.EACCES):
        os.rename(f"{d}/z", f"{d}/y")
    with fails(errno.EISDIR, errno.EEXIST, errno.EACCES):
        os.rename(f"{d}/b", f"{d}/z")
    with fails(errno.ENOENT):
        os.rename(f"{d}/nothing", f"{d}/w")
    os.rename(f"{d}/b", f"{d}/y/b")
    same(sorted(os.listdir(f"{other}/y")), ["b", "inside"], "names")
    # To the client that is one file, and nothing to be done.
    os.rename(f"{d}/y/b", f"{d}/y/B")
    same(os.path.exists(f"{d}/y/B"), True, "the file by its new name")


def replaced(d, other, mounted):
    """rename over an open file: that can still be read"""
    write(f"{d}/new", b"new")
    write(f"{d}/old", b"old")
    with open(f"{d}/old", "rb") as old:
        os.rename(f"{d}/new", f"{d}/old")
        same(old.read(), b"old", "the file that was replaced")
    same(read(f"{other}/old"), b"new")


def unlinked(d, other, mounted):
    """unlink of an open file: it can still be read and written"""
    write(f"{d}/file", b"content")
    with open(f"{d}/file", "r+b") as file:
        os.unlink(f"{d}/file")
        with fails(errno.ENOENT):
            os.stat(f"{d}/file")
        write(f"{d}/file", b"another")
        same(file.read(), b"content")
        file.write(b" more")
        file.flush()
        file.seek(0)
        same(file.read(), b"content more")
    same(read(f"{d}/file"), b"another")
    os.unlink(f"{d}/file")
    same(os.listdir(d), [], "names")


def links(d, other, mounted):
    """hard links"""
    write(f"{d}/a", b"one")
    os.link(f"{d}/a", f"{d}/b")
    with open(f"{d}/b", "ab") as file:
        file.write(b" two")
    same(read(f"{other}/a"), b"one two")
    soon("links", lambda: os.stat(f"{other}/a").st_nlink, 2)
    with fails(errno.EEXIST):
        os.link(f"{d}/a", f"{d}/b")
    os.unlink(f"{d}/a")
    same(read(f"{d}/b"), b"one two")
    soon("links", lambda: os.stat(f"{other}/b").st_nlink, 1)
    write(f"{d}/c", b"held")
    with open(f"{d}/c"):
        os.link(f"{d}/c", f"{d}/d")
    same(read(f"{d}/d"), b"held")


def symlinks(d, other, mounted):
    """symbolic links, with mfsymlinks"""
    write(f"{d}/target", b"there")
    try:
        os.symlink("target", f"{d}/link")
    except OSError as error:
        assert "mfsymlinks" not in mounted, error
        return f"without mfsymlinks: {errno.errorcode[error.errno]}"
    same(os.readlink(f"{d}/link"), "target", "the link")
    same(read(f"{d}/link"), b"there")
    same(os.readlink(f"{other}/link"), "target", "the link")
    os.symlink("nowhere/at/all", f"{d}/dangling")
    with fails(errno.ENOENT):
        open(f"{d}/dangling")
    os.unlink(f"{d}/link")
    same(read(f"{d}/target"), b"there")


def metadata(d, other, mounted):
    """times to 100 ns, chmod, truncate"""
    path = f"{d}/file"
    write(path, b"0123456789")
    moment = 1577882096_123456700
    os.utime(path, ns=(moment + 100, moment))
    same(os.stat(path).st_atime_ns, moment + 100, "atime")
    same(os.stat(path).st_mtime_ns, moment, "mtime")
    same(os.stat(f"{other}/file").st_mtime_ns, moment, "mtime through another mount")
    same(os.stat(f"{other}/file").st_atime_ns, moment + 100, "atime through another mount")
    os.utime(path)
    assert abs(os.stat(path).st_mtime - time.time()) < 3600
    for size in [4, 0, 100_000, 5]:
        os.truncate(path, size)
        same(os.stat(path).st_size, size, "size")
        soon("size through another mount", lambda: os.stat(f"{other}/file").st_size, size)
    same(read(path), bytes(5))
    os.mkdir(f"{d}/dir")
    os.utime(f"{d}/dir", ns=(moment, moment))
    same(os.stat(f"{other}/dir").st_mtime_ns, moment, "a directory's mtime")
    # What is written counts as soon as the file is closed.
    os.utime(path, ns=(moment, moment))
    with open(path, "ab") as file:
        file.write(b"!")
    assert os.stat(f"{other}/file").st_mtime_ns > moment
    os.chmod(path, 0o444)
    same(os.stat(path).st_mode & 0o222, 0, "a file that can't be written")


def ranges(d, other, mounted):
    """fallocate: reserve, make holes, zeros, collapse and insert; SEEK_HOLE and SEEK_DATA"""
    seen = []
    content = bytearray(noise(MIB))
    path = f"{d}/file"
    write(path, content)
    with opened(path, os.O_RDWR) as fd:
        for name, mode, at, length in [
                ("reserve", 0, 0, 2 * MIB), ("keep", KEEP_SIZE, 0, 3 * MIB),
                ("punch", KEEP_SIZE | PUNCH_HOLE, 65536, 131072),
                ("zero", ZERO_RANGE, 512 * 1024, 65536),
                ("zero, keep", ZERO_RANGE | KEEP_SIZE, 700 * 1024 + 17, 999),
                ("collapse", COLLAPSE_RANGE, 256 * 1024, 65536),
                ("insert", INSERT_RANGE, 128 * 1024, 65536)]:
            error = fallocate(fd, mode, at, length)
            if error:
                seen.append(f"{name}: {errno.errorcode[error]}")
                continue
            if name == "reserve":
                content += bytes(at + length - len(content))
            elif name in ("punch", "zero", "zero, keep"):
                content[at:at + length] = bytes(length)
            elif name == "collapse":
                del content[at:at + length]
            elif name == "insert":
                content[at:at] = bytes(length)
            same(os.fstat(fd).st_size, len(content), f"size after {name}")
            os.fsync(fd)
            same(os.pread(fd, 4 * MIB, 0), bytes(content), name)
            same(read(f"{other}/file"), bytes(content), f"{name}, through another mount")
    with opened(f"{d}/holes", os.O_RDWR | os.O_CREAT) as fd:
        os.ftruncate(fd, 4 * MIB)
        os.pwrite(fd, b"x" * 65536, MIB)
        os.fsync(fd)
        same(os.lseek(fd, MIB, os.SEEK_DATA), MIB, "data")
        hole = os.lseek(fd, MIB, os.SEEK_HOLE)
        seen.append("holes are seen" if hole == MIB + 65536 else "holes are not seen")
        assert hole in (MIB + 65536, 4 * MIB), hole
        same(os.lseek(fd, 4 * MIB - 1, os.SEEK_HOLE) in (4 * MIB - 1, 4 * MIB), True, "the last hole")
        with fails(errno.ENXIO):
            os.lseek(fd, 4 * MIB, os.SEEK_DATA)
        if fallocate(fd, KEEP_SIZE | PUNCH_HOLE, 0, 4 * MIB) == 0:
            same(read(f"{other}/holes"), bytes(4 * MIB))
    return "; ".join(seen)


def mapped(d, other, mounted):
    """mmap, read and written"""
    path = f"{d}/file"
    content = bytearray(noise(300_000))
    write(path, content)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        same(memory[:], bytes(content))
        memory[1000:1010] = content[1000:1010] = b"0123456789"
        memory[-5:] = content[-5:] = b"final"
        memory.flush()
        same(read(f"{other}/file"), bytes(content), "through another mount")
    same(read(path), bytes(content))


def direct(d, other, mounted):
    """O_DIRECT and O_SYNC"""
    path = f"{d}/file"
    content = noise(MIB)
    buffer = mmap.mmap(-1, MIB)
    buffer[:] = content
    with opened(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT) as fd:
        same(os.write(fd, buffer), MIB, "written")
        same(read(f"{other}/file"), content)
        same(os.preadv(fd, [buffer], 0), MIB, "read")
        same(buffer[:], content)
    run("dd", "if=/dev/zero", f"of={path}", "bs=64k", "count=4", "oflag=direct", "conv=notrunc")
    same(read(f"{other}/file"), bytes(262144) + content[262144:])
    run("dd", f"if={path}", "of=/dev/null", "bs=64k", "iflag=direct")
    with opened(path, os.O_WRONLY | os.O_SYNC) as fd:
        os.write(fd, b"synced")
        same(read(f"{other}/file")[:6], b"synced")
    with opened(path, os.O_WRONLY | os.O_DSYNC) as fd:
        os.write(fd, b"again!")
    same(read(f"{other}/file")[:6], b"again!")


LOCK_PROGRAM = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
kind, start, length = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
try:
    if kind == "flock":
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        mode = fcntl.LOCK_SH if kind == "shared" else fcntl.LOCK_EX
        fcntl.lockf(file, mode | fcntl.LOCK_NB, length, start)
except OSError as error:
    print("busy")
else:
    print("locked")
"""


def locks(d, other, mounted):
    """fcntl and flock, between processes"""
    write(f"{d}/file", bytes(1000))

    def attempt(where, *arguments):
        return run(sys.executable, "-c", LOCK_PROGRAM, f"{where}/file",
                   *(str(a) for a in arguments)).strip()

    with open(f"{d}/file", "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 100, 100)
        same(attempt(d, "exclusive", 150, 10), "busy", "the same mount, overlapping")
        same(attempt(d, "exclusive", 300, 10), "locked", "the same mount, elsewhere")
        # Not judged: two mounts of one kernel don't see each other's locks, with any server.
        seen = attempt(other, "exclusive", 150, 10)
        same(attempt(other, "exclusive", 300, 10), "locked", "another mount, elsewhere")
        fcntl.lockf(file, fcntl.LOCK_UN, 100, 100)
        same(attempt(other, "exclusive", 150, 10), "locked", "another mount, unlocked")
        fcntl.lockf(file, fcntl.LOCK_SH, 10, 0)
        same(attempt(other, "shared", 0, 10), "locked", "another mount, both shared")
        fcntl.lockf(file, fcntl.LOCK_UN)
        fcntl.flock(file, fcntl.LOCK_EX)
        same(attempt(d, "flock", 0, 0), "busy", "flock, the same mount")
        fcntl.flock(file, fcntl.LOCK_UN)
        same(attempt(other, "flock", 0, 0), "locked", "flock, unlocked")
        # Who waits for a lock gets it when it is free.
        fcntl.lockf(file, fcntl.LOCK_EX, 10, 0)
        ready, told = os.pipe()
        child = os.fork()
        if not child:
            with open(f"{d}/file", "r+b") as mine:
                os.write(told, b"x")
                fcntl.lockf(mine, fcntl.LOCK_EX, 10, 0)
                mine.write(b"mine")
            os._exit(0)
        os.read(ready, 1)
        time.sleep(1)
        same(os.waitpid(child, os.WNOHANG), (0, 0), "who waits")
        fcntl.lockf(file, fcntl.LOCK_UN)
        same(os.waitpid(child, 0)[1], 0, "who has waited")
    same(read(f"{d}/file")[:4], b"mine")
    return f"a lock of another mount's file: {seen}"


def server_copies(d, other, mounted):
    """copy_file_range, cp --reflink"""
    content = noise(3 * MIB + 123)
    write(f"{d}/from", content)
    with open(f"{d}/from", "rb") as source, open(f"{d}/to", "wb") as target:
        done = 0
        while done < len(content):
            count = os.copy_file_range(source.fileno(), target.fileno(), len(content) - done)
            assert count > 0, count
            done += count
    same(read(f"{other}/to"), content)
    run("cp", "--reflink=auto", f"{d}/from", f"{d}/auto")
    same(read(f"{other}/auto"), content)
    code, text = shell(f"cp --reflink=always {d}/from {d}/always")
    if code == 0:
        same(read(f"{other}/always"), content)
    with opened(f"{d}/from", os.O_RDWR) as fd:
        os.copy_file_range(fd, fd, 4096, offset_src=0, offset_dst=8192)
    same(read(f"{other}/from"), content[:8192] + content[:4096] + content[12288:])
    return "reflinks" if code == 0 else "no reflinks"


def appended(d, other, mounted):
    """O_APPEND by several processes, fsync"""
    def append(number):
        with opened(f"{d}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND) as fd:
            for line in range(50):
                os.write(fd, b"%d %04d\n" % (number, line))
            os.fsync(fd)

    at_once(4, append)
    lines = read(f"{other}/log").splitlines()
    same(sorted(lines), sorted(b"%d %04d" % (n, l) for n in range(4) for l in range(50)))
    with opened(d, os.O_RDONLY | os.O_DIRECTORY) as fd, contextlib.suppress(OSError):
        os.fsync(fd)


def attributes(d, other, mounted):
    """extended attributes: those of the client, none of users"""
    write(f"{d}/file", b"x")
    with fails(errno.EOPNOTSUPP):
        os.setxattr(f"{d}/file", "user.colour", b"red")
    with contextlib.suppress(OSError):
        same(os.listxattr(f"{d}/file"), [], "extended attributes")
    same(len(os.getxattr(f"{d}/file", "user.cifs.dosattrib")), 4, "user.cifs.dosattrib")
    same(len(os.getxattr(f"{d}/file", "user.cifs.creationtime")), 8, "user.cifs.creationtime")
    descriptor = os.getxattr(f"{d}/file", "system.cifs_acl")
    assert len(descriptor) > 20 and descriptor[0] == 1, descriptor
    os.setxattr(f"{d}/file", "user.cifs.dosattrib", struct.pack("<I", 2))
    same(os.getxattr(f"{other}/file", "user.cifs.dosattrib"), struct.pack("<I", 2), "hidden")
    same(read(f"{other}/file"), b"x")


NAMES = ["ä", "日本語", "a b", "'", "€uro", "é", "e\u0301", "𝄞 clef", "-", "a.b.c", ".hidden",
         "#", "$x", "~", "%41", "`", "Aa", "[x]", "{y}", ";", "&", "!", "=,+", "x" * 255,
         "ü" * 127, "\x7f", "\xa0"]
RESERVED = ["a:b", "a*b", 'a"b', "a?b", "a<b", "a>b", "a|b", "a\\b", "end.", "end ", "CON",
            "aux.c", "\x01\x1f", "a\nb"]


def names(d, other, mounted):
    """names: beyond ASCII, long, reserved by Windows, with other case"""
    for name in NAMES:
        write(f"{d}/{name}", name.encode())
    same(sorted(os.listdir(d)), sorted(NAMES), "names")
    same(sorted(os.listdir(other)), sorted(NAMES), "names through another mount")
    for name in NAMES:
        same(read(f"{other}/{name}"), name.encode(), name)
        os.unlink(f"{d}/{name}")
    same(os.listdir(d), [], "names")
    refused = []
    for name in RESERVED:
        try:
            os.mkdir(f"{d}/{name}")
        except OSError as error:
            refused.append(f"{name!r}: {errno.errorcode[error.errno]}")
            continue
        same(os.listdir(d), [name], "name")
        same(os.listdir(other), [name], "name through another mount")
        os.rename(f"{d}/{name}", f"{d}/x")
        os.rename(f"{d}/x", f"{d}/{name}")
        os.rmdir(f"{d}/{name}")
    with fails(errno.ENAMETOOLONG):
        write(f"{d}/{'x' * 256}", b"")
    with fails(errno.ENAMETOOLONG, errno.EINVAL, errno.ENOENT):
        write(f"{d}/{'ü' * 255}", b"")
    write(f"{d}/Readme", b"1")
    insensitive = os.path.exists(f"{d}/README")
    os.makedirs(d + "/long" + "/directory" * 20)
    same(run("find", f"{other}/long").count("\n"), 21, "long paths")
    shutil.rmtree(f"{d}/long")
    return (f"refused: {', '.join(refused) or 'none'}; "
            f"{'without' if insensitive else 'with'} case")


def many(d, other, mounted, count=1000):
    """a directory of many files"""
    for number in range(count):
        os.close(os.open(f"{d}/file-{number:05}", os.O_CREAT | os.O_WRONLY | os.O_EXCL))
    expected = [f"file-{number:05}" for number in range(count)]
    same(sorted(os.listdir(d)), expected, "names")
    same(sorted(os.listdir(other)), expected, "names through another mount")
    with os.scandir(other) as entries:
        same(sum(entry.stat().st_size == 0 for entry in entries), count, "empty files")
    # What is removed while the directory is read does no harm to the rest.
    seen = []
    with os.scandir(d) as entries:
        for entry in entries:
            seen.append(entry.name)
            os.unlink(entry.path)
    same(sorted(seen), expected, "names seen")
    same(os.listdir(other), [], "names left")


def git(d, other, mounted):
    """git: init, commit, clone, fsck"""
    def call(*arguments, cwd):
        return run("git", "-c", "safe.directory=*", "-c", "user.name=x", "-c", "user.email=x@x",
                   "-c", "gc.auto=0", *arguments, cwd=cwd)
    os.mkdir(f"{d}/one")
    call("init", "-q", ".", cwd=f"{d}/one")
    for number in range(20):
        write(f"{d}/one/{number}.txt", b"%d\n" % number * 100)
    call("add", ".", cwd=f"{d}/one")
    call("commit", "-qm", "first", cwd=f"{d}/one")
    write(f"{d}/one/3.txt", b"changed\n")
    call("commit", "-qam", "second", cwd=f"{d}/one")
    call("clone", "-q", f"{d}/one", f"{d}/two", cwd=d)
    same(call("rev-parse", "HEAD", cwd=f"{d}/two"), call("rev-parse", "HEAD", cwd=f"{d}/one"),
         "the clone's commit")
    call("gc", "-q", cwd=f"{d}/two")
    call("fsck", "--strict", cwd=f"{d}/two")
    same(call("status", "--porcelain", cwd=f"{d}/two"), "", "changes")


def trees(d, other, mounted, source="/usr/share/perl/5.36.0/Unicode"):
    """tar x, rsync -a, diff -r, rm -r"""
    if not os.path.isdir(source):
        source = "/usr/share/doc/base-files"
    run("tar", "cf", "/tmp/tree.tar", "-h", "-C", source, ".")
    os.mkdir("/tmp/tree")
    os.mkdir(f"{d}/tar")
    try:
        run("tar", "xf", "/tmp/tree.tar", "-C", "/tmp/tree", "--no-same-owner")
        run("tar", "xf", "/tmp/tree.tar", "-C", f"{d}/tar", "--no-same-owner")
        run("diff", "-r", "/tmp/tree", f"{other}/tar")
        run("rsync", "-a", "--no-owner", "--no-group", "--no-perms", "/tmp/tree/", f"{d}/rsync/")
        run("diff", "-r", "/tmp/tree", f"{other}/rsync")
        # Nothing is left to do: the times are what they should be.
        again = run("rsync", "-a", "-i", "--no-owner", "--no-group", "--no-perms", "/tmp/tree/",
                    f"{d}/rsync/")
        same(again, "", "what rsync does again")
    finally:
        shutil.rmtree("/tmp/tree")
        os.unlink("/tmp/tree.tar")
    run("rm", "-r", f"{d}/tar", f"{d}/rsync")


def sqlite(d, other, mounted):
    """sqlite: two writers"""
    import sqlite3
    path = f"{d}/base"
    try:
        with contextlib.closing(sqlite3.connect(path)) as base, base:
            base.execute("create table t (who, number)")
    except sqlite3.OperationalError as error:
        # As with Debian's smbd.
        assert "nobrl" not in mounted, error
        return f"without nobrl: {error}"

    def insert(who):
        # A transaction that begins by reading may fail at once, wherever the file is.
        with contextlib.closing(sqlite3.connect(
                path, timeout=300, isolation_level="IMMEDIATE")) as base:
            for number in range(15):
                with base:
                    base.execute("insert into t values (?, ?)", (who, number))

    at_once(2, insert)
    with contextlib.closing(sqlite3.connect(path)) as base:
        same(base.execute("pragma integrity_check").fetchone(), ("ok",), "integrity")
        same(base.execute("select count(*) from t").fetchone(), (30,), "rows")


def random_operations(d, other, mounted, steps=300, seed=None):
    """a few hundred random changes of one file, each compared with what it should be"""
    seed = random.randrange(1 << 32) if seed is None else seed
    chance = random.Random(seed)
    limit = 600_000
    path = f"{d}/file"
    shadow = bytearray()
    history = []
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        for step in range(steps):
            kind = chance.choice(["write"] * 5 + ["read"] * 5 + [
                "truncate", "append", "punch", "zero", "reserve", "map", "reopen", "other",
                "fsync", "copy", "rename", "collapse", "insert"])
            at = chance.randrange(limit)
            length = chance.choice([1, 100, 4096, 10_000, 100_000])
            history.append((step, kind, at, length, len(shadow)))
            if kind in ("write", "append"):
                data = chance.randbytes(length)
                if kind == "append":
                    at = len(shadow)
                if len(shadow) < at:
                    shadow += bytes(at - len(shadow))
                shadow[at:at + length] = data
                same(os.pwrite(fd, data, at), length, "written")
            elif kind == "read":
                same(os.pread(fd, length, at), bytes(shadow[at:at + length]), "read")
            elif kind == "truncate":
                shadow = shadow[:at] + bytes(at - len(shadow[:at]))
                os.ftruncate(fd, at)
            elif kind in ("punch", "zero"):
                mode = KEEP_SIZE | (PUNCH_HOLE if kind == "punch" else ZERO_RANGE)
                if fallocate(fd, mode, at, length) == 0:
                    end = min(at + length, len(shadow))
                    if at < end:
                        shadow[at:end] = bytes(end - at)
            elif kind == "reserve":
                if fallocate(fd, 0, at, length) == 0 and len(shadow) < at + length:
                    shadow += bytes(at + length - len(shadow))
            elif kind in ("collapse", "insert"):
                at, length = at & ~4095, (length + 4095) & ~4095
                if at + length < len(shadow):
                    mode = COLLAPSE_RANGE if kind == "collapse" else INSERT_RANGE
                    if fallocate(fd, mode, at, length) == 0:
                        shadow[at:at + (length if kind == "collapse" else 0)] = (
                            b"" if kind == "collapse" else bytes(length))
            elif kind == "map" and shadow:
                with mmap.mmap(fd, len(shadow)) as memory:
                    at %= len(shadow)
                    length = min(length, len(shadow) - at)
                    data = chance.randbytes(length)
                    memory[at:at + length] = shadow[at:at + length] = data
                    memory.flush()
            elif kind == "copy" and shadow:
                at %= len(shadow)
                length = min(length, len(shadow) - at)
                to = at + length + chance.randrange(1000)
                with contextlib.suppress(OSError):
                    count = os.copy_file_range(fd, fd, length, at, to)
                    if len(shadow) < to + count:
                        shadow += bytes(to + count - len(shadow))
                    shadow[to:to + count] = shadow[at:at + count]
            elif kind == "reopen":
                os.close(fd)
                fd = os.open(path, os.O_RDWR)
            elif kind == "fsync":
                os.fsync(fd)
            elif kind == "rename":
                os.rename(path, path + "x")
                path += "x" if len(path) < 200 else ""
            elif kind == "other":
                os.fsync(fd)
                there = f"{other}/{os.path.basename(path)}"
                soon("a new name", lambda: os.path.exists(there), True)
                same(read(there), bytes(shadow), "through another mount")
            same(os.fstat(fd).st_size, len(shadow), "size")
        same(os.pread(fd, 2 * limit, 0), bytes(shadow), "in the end")
    except BaseException as error:
        raise AssertionError(f"seed {seed}, after {history[-6:]}: {error!r}") from error
    finally:
        os.close(fd)
    same(read(f"{other}/{os.path.basename(path)}"), bytes(shadow), "through another mount")


def parallel(d, other, mounted):
    """several writers, on both mounts, of files of their own and of parts of one file"""
    size = 512 * 1024
    write(f"{d}/common", bytes(4 * size))

    def fill(number):
        where = other if number % 2 else d
        data = noise(size, number)
        write(f"{where}/own-{number}", data)
        with opened(f"{where}/common", os.O_RDWR) as fd:
            for at in range(0, size, 65536):
                os.pwrite(fd, data[at:at + 65536], number * size + at)

    at_once(4, fill)
    for number in range(4):
        same(read(f"{d}/own-{number}"), noise(size, number), "a writer's own")
    same(read(f"{d}/common"), b"".join(noise(size, n) for n in range(4)), "in common")


def watched(d, other, mounted):
    """changes that others make are seen without remounting"""
    same(os.listdir(d), [], "names")
    write(f"{other}/new", b"1")
    soon("names", lambda: os.listdir(d), ["new"])
    same(read(f"{d}/new"), b"1")
    write(f"{other}/new", b"second")
    soon("content", lambda: read(f"{d}/new"), b"second")
    os.unlink(f"{other}/new")
    soon("a removed name is there", lambda: os.path.exists(f"{d}/new"), False)


CHECKS = {check.__name__: check for check in [
    basics, copies, renames, replaced, unlinked, links, symlinks, metadata, ranges, mapped, direct,
    locks, server_copies, appended, attributes, names, many, git, trees, sqlite, random_operations,
    parallel, watched]}


def check(name, first, second, mounted, **more):
    """What a check says: [passed, remark, what the kernel has said of it]."""
    shell("dmesg -C")
    d, other = f"{first}/{name}", f"{second}/{name}"
    os.mkdir(d)
    started = time.monotonic()
    try:
        remark, passed = CHECKS[name](d, other, mounted, **more) or "", True
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)
        where = next((frame.lineno for frame in line if frame.name == name), 0)
        remark, passed = f"line {where}: {type(error).__name__}: {error}", False
    shutil.rmtree(d, ignore_errors=True)
    return [passed, remark, shell("dmesg")[1], time.monotonic() - started]


def mount(port, where, options):
    """What the kernel has said, if it can't be mounted; else nothing."""
    os.makedirs(where, exist_ok=True)
    shell("dmesg -C")
    code, text = shell(f"mount -t cifs //10.0.2.2/share {where} -o port={port},{options}")
    return "" if code == 0 else text + shell("dmesg")[1]


def unmount(where):
    code, text = shell(f"umount {where}")
    return "" if code == 0 else text


def busy(where):
    """umount while a file is open fails, and works when it is closed."""
    with open(f"{where}/busy", "w"):
        code, text = shell(f"umount {where}")
        assert code != 0 and "busy" in text, (code, text)
    os.unlink(f"{where}/busy")


def survives(where):
    """Writes what has to be there after the connection was lost."""
    path = f"{where}/survivor"
    write(path, b"before\n")
    same(read(path), b"before\n")


def goes_on(where):
    path = f"{where}/survivor"
    same(read(path), b"before\n", "content after the connection was lost")
    with open(path, "ab") as file:
        file.write(b"after\n")
    same(read(path), b"before\nafter\n")
    os.unlink(path)


def serve():
    """Calls functions of this file, as it is then, each in a process of its own."""
    listener = socket.create_server(("0.0.0.0", 7000))
    while True:
        connection, _ = listener.accept()
        # The grandchild is nobody's to wait for.
        child = os.fork()
        if child:
            connection.close()
            os.waitpid(child, 0)
            continue
        if os.fork():
            os._exit(0)
        listener.close()
        stream = connection.makefile("rw")
        function, arguments, keywords = json.loads(stream.readline())
        try:
            with open(__file__) as source:
                namespace = {"__name__": "checks", "__file__": __file__}
                exec(compile(source.read(), __file__, "exec"), namespace)
            answer = ["value", namespace[function](*arguments, **keywords)]
        except BaseException:
            answer = ["error", traceback.format_exc()]
        stream.write(json.dumps(answer) + "\n")
        stream.flush()
        os._exit(0)


if __name__ == "__main__":
    serve()
