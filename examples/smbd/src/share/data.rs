//! What is in a file: writing, sizes, holes, copies.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};
use rustix::process::{Resource, getrlimit};

/// What `st_blocks` counts in.
const BLOCK: u64 = 512;

/// How much is copied or cleared in one step where the kernel can't do it alone.
const STEP: usize = 64 * 1024;

/// How much is cleared before others have their turn, where the kernel can't do it alone.
const TURN: u64 = 16 * 1024 * 1024;

/// Writes all of `data` at `offset`; with `durable` it is on the disk when this returns.
///
/// # Errors
///
/// What the file system refuses; a part may have been written.
pub fn write_at(
    fd: impl AsFd,
    mut data: &[u8],
    mut offset: u64,
    durable: bool,
) -> Result<(), Errno> {
    while !data.is_empty() {
        let result = if durable {
            let slices = [std::io::IoSlice::new(data)];
            rustix::io::pwritev2(&fd, &slices, offset, ReadWriteFlags::DSYNC)
        } else {
            rustix::io::pwrite(&fd, data, offset)
        };
        match result {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(count) => {
                data = &data[count..];
                offset += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The length of a file.
///
/// # Errors
///
/// What `fstat` fails with.
pub fn size(fd: impl AsFd) -> Result<u64, Errno> {
    Ok(u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(0))
}

/// Reserves room for the first `size` bytes, the length of the file staying as it is.
///
/// # Errors
///
/// `ENOSPC` if there isn't as much, and then nothing is reserved; a file system that runs out of room
/// on the way keeps what it has reserved until then. `EFBIG` beyond the process's limit. What else the
/// file system refuses; one that can't reserve is content.
pub fn reserve(fd: impl AsFd, size: u64) -> Result<(), Errno> {
    if size == 0 {
        return Ok(());
    }
    // The kernel doesn't look at it for what is beyond the end.
    if getrlimit(Resource::Fsize)
        .current
        .is_some_and(|limit| size > limit)
    {
        return Err(Errno::FBIG);
    }
    let blocks = u64::try_from(rustix::fs::fstat(&fd)?.st_blocks).unwrap_or(0);
    let volume = rustix::fs::fstatvfs(&fd)?;
    let room = volume.f_bavail.saturating_mul(volume.f_frsize);
    if size.saturating_sub(blocks * BLOCK) > room {
        return Err(Errno::NOSPC);
    }
    match rustix::fs::fallocate(&fd, FallocateFlags::KEEP_SIZE, 0, size) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        result => result,
    }
}

/// Makes `from..to` zeros, or a first part of it, the length of the file staying as it is. Returns
/// where that part ends. With `punch` it is given back to the file system.
///
/// # Errors
///
/// What the file system refuses.
pub fn zero(fd: impl AsFd, from: u64, to: u64, punch: bool) -> Result<u64, Errno> {
    if from >= to {
        return Ok(to);
    }
    let how = if punch {
        FallocateFlags::PUNCH_HOLE
    } else {
        FallocateFlags::ZERO_RANGE
    };
    match rustix::fs::fallocate(&fd, how | FallocateFlags::KEEP_SIZE, from, to - from) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => overwrite_with_zeros(&fd, from, to),
        result => result.map(|()| to),
    }
}

/// The same by writing zeros over the data that there is: holes are zeros, and stay holes.
fn overwrite_with_zeros(fd: impl AsFd, from: u64, to: u64) -> Result<u64, Errno> {
    let zeros = [0; STEP];
    let mut at = from;
    let mut left = TURN;
    while left > 0 {
        let Some((start, end)) = next_data(&fd, at, to)? else {
            return Ok(to);
        };
        let count = (end - start).min(STEP as u64);
        write_at(&fd, &zeros[..count as usize], start, false)?;
        at = start + count;
        // A small piece costs as much as a large one.
        left -= STEP as u64;
    }
    Ok(at)
}

/// The next range with data in `from..to`, `None` if there is no more.
///
/// # Errors
///
/// What the file system refuses.
pub fn next_data(fd: impl AsFd, from: u64, to: u64) -> Result<Option<(u64, u64)>, Errno> {
    let start = match rustix::fs::seek(&fd, SeekFrom::Data(from)) {
        Ok(start) if start < to => start,
        Ok(_) | Err(Errno::NXIO) => return Ok(None),
        // Without holes everything is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((from, to))),
        Err(errno) => return Err(errno),
    };
    let end = match rustix::fs::seek(&fd, SeekFrom::Hole(start)) {
        Ok(end) => end.min(to),
        Err(Errno::NXIO) => to,
        Err(errno) => return Err(errno),
    };
    Ok(Some((start, end)))
}

/// Copies `length` bytes from one file to another or within one, and returns how many there were to
/// copy.
///
/// The kernel does it where it can, some file systems without copying anything.
///
/// # Errors
///
/// What the file system refuses; a part may have been copied.
pub fn copy(
    source: impl AsFd,
    mut from: u64,
    target: impl AsFd,
    mut to: u64,
    length: u64,
) -> Result<u64, Errno> {
    let (source, target) = (source.as_fd(), target.as_fd());
    let mut left = length;
    while left > 0 {
        let (mut source_at, mut target_at) = (from, to);
        let step = usize::try_from(left).unwrap_or(usize::MAX);
        let copied = rustix::fs::copy_file_range(
            source,
            Some(&mut source_at),
            target,
            Some(&mut target_at),
            step,
        );
        match copied {
            Ok(0) => break,
            Ok(count) => {
                from += count as u64;
                to += count as u64;
                left -= count as u64;
            }
            Err(Errno::INTR) => {}
            // Ranges of one file that overlap, or file systems that can't.
            Err(Errno::INVAL | Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::TXTBSY) => {
                left -= copy_through_memory(source, from, target, to, left)?;
                break;
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(length - left)
}

/// Copies from the end that keeps what has yet to be copied where the ranges overlap.
fn copy_through_memory(
    source: BorrowedFd<'_>,
    from: u64,
    target: BorrowedFd<'_>,
    to: u64,
    length: u64,
) -> Result<u64, Errno> {
    let length = length.min(size(source)?.saturating_sub(from));
    let mut buffer = vec![0; STEP];
    let mut done = 0;
    while done < length {
        let count = (length - done).min(STEP as u64);
        let at = if to > from {
            length - done - count
        } else {
            done
        };
        let part = &mut buffer[..count as usize];
        let mut filled = 0;
        while filled < part.len() {
            match rustix::io::pread(source, &mut part[filled..], from + at + filled as u64) {
                // Cut short meanwhile: what is gone reads as zeros.
                Ok(0) => {
                    part[filled..].fill(0);
                    break;
                }
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        write_at(target, part, to + at, false)?;
        done += count;
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_written_over_data_alone_and_in_turns() {
        const HOLE: u64 = 1 << 30;
        const DATA: u64 = TURN + 3 * STEP as u64;
        let file = std::env::temp_dir().join(format!("smbd-zero-{}", std::process::id()));
        let fd = std::fs::File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&file);
        let fd = fd.expect("a file");
        std::fs::remove_file(&file).expect("it is there");
        fd.set_len(HOLE).expect("a long file");
        let blocks = || rustix::fs::fstat(&fd).expect("a file").st_blocks;
        assert_eq!(overwrite_with_zeros(&fd, 0, HOLE), Ok(HOLE));
        assert_eq!(blocks(), 0, "nothing is written to a hole");
        write_at(&fd, &vec![1; DATA as usize], HOLE / 2, false).expect("there is room");
        let before = blocks();
        let first = overwrite_with_zeros(&fd, 0, HOLE);
        assert_eq!(
            first,
            Ok(HOLE / 2 + TURN),
            "what is done in one turn is bounded"
        );
        assert_eq!(overwrite_with_zeros(&fd, HOLE / 2 + TURN, HOLE), Ok(HOLE));
        assert_eq!(blocks(), before);
        let mut bytes = vec![1; DATA as usize + 2];
        let count = rustix::io::pread(&fd, &mut bytes[..], HOLE / 2 - 1);
        assert_eq!(count, Ok(bytes.len()));
        assert!(bytes.iter().all(|&byte| byte == 0));
        assert_eq!(size(&fd), Ok(HOLE));
    }

    #[test]
    fn what_does_not_fit_reserves_nothing() {
        let file = std::env::temp_dir().join(format!("smbd-reserve-{}", std::process::id()));
        let fd = std::fs::File::create_new(&file).expect("a file");
        std::fs::remove_file(&file).expect("it is there");
        let volume = rustix::fs::fstatvfs(&fd).expect("a file system");
        // More than all there is, and as much as there can be.
        let all = volume.f_blocks * volume.f_frsize;
        for size in [all + 1, 1 << 62] {
            let refused = reserve(&fd, size);
            assert!(
                matches!(refused, Err(Errno::NOSPC | Errno::FBIG)),
                "{size}: {refused:?}"
            );
            assert_eq!(rustix::fs::fstat(&fd).expect("a file").st_blocks, 0);
        }
        assert_eq!(reserve(&fd, 100_000), Ok(()));
        assert_eq!(size(&fd), Ok(0));
    }
}
