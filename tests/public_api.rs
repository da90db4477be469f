//! What the public interface promises about itself.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use tevent::{
    Accept, AsyncFd, AsyncListener, BackendKind, Child, Completer, Connection, Context, Fd,
    FdFlags, Immediate, Listener, Permit, Queue, QueueEntry, QueueTurn, Remote, Request,
    SignalStream, Sleep, Task, Timer, WeakContext,
};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The public signatures in a file, each up to its body.
fn signatures(text: &str) -> Vec<String> {
    let starts = text.match_indices("pub ").map(|(start, _)| start);
    let item = |start: usize| {
        let rest = &text[start..];
        // A struct's fields are private, or have a `pub` of their own.
        let ends: &[char] = match rest {
            _ if rest.starts_with("pub struct") => &['{', ';', '('],
            _ if rest.starts_with("pub const") => &['{', ';', '='],
            _ => &['{', ';'],
        };
        let end = rest.find(ends).unwrap_or(rest.len());
        rest[..end].to_owned()
    };
    starts.map(item).collect()
}

/// Their next major version would otherwise force one on this crate.
#[test]
fn no_public_signature_names_a_third_partys_type() {
    let mut files = Vec::new();
    sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut files,
    );
    let mut count = 0;
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for signature in signatures(&text) {
            count += 1;
            for foreign in ["libc::", "slab::", "Slab<", "bitflags::"] {
                let is_clean = !signature.contains(foreign);
                assert!(is_clean, "{}: {signature}", file.display());
            }
        }
    }
    assert!(count > 100, "the signatures were found: {count}");
}

/// Either `impl` applies to a type that is `Send`, so that naming the trait's function for it is
/// ambiguous and doesn't compile.
trait AmbiguousIfSend<Marker> {
    fn is_not_send() {}
}

impl<T: ?Sized> AmbiguousIfSend<()> for T {}
impl<T: ?Sized + Send> AmbiguousIfSend<u8> for T {}

#[test]
fn contexts_and_handles_stay_on_their_thread() {
    <Context as AmbiguousIfSend<_>>::is_not_send();
    <WeakContext as AmbiguousIfSend<_>>::is_not_send();
    <Fd<std::os::fd::OwnedFd> as AmbiguousIfSend<_>>::is_not_send();
    <Timer as AmbiguousIfSend<_>>::is_not_send();
    <Immediate as AmbiguousIfSend<_>>::is_not_send();
    <Child as AmbiguousIfSend<_>>::is_not_send();
    <Task<()> as AmbiguousIfSend<_>>::is_not_send();
    <AsyncFd<std::os::fd::OwnedFd> as AmbiguousIfSend<_>>::is_not_send();
    <Listener<TcpListener> as AmbiguousIfSend<_>>::is_not_send();
    <AsyncListener<TcpListener> as AmbiguousIfSend<_>>::is_not_send();
    <Accept<'_, TcpListener> as AmbiguousIfSend<_>>::is_not_send();
    <Connection<TcpStream> as AmbiguousIfSend<_>>::is_not_send();
    <Permit as AmbiguousIfSend<_>>::is_not_send();
    <SignalStream as AmbiguousIfSend<_>>::is_not_send();
    <Sleep as AmbiguousIfSend<_>>::is_not_send();
    <Request<(), ()> as AmbiguousIfSend<_>>::is_not_send();
    <Completer<(), ()> as AmbiguousIfSend<_>>::is_not_send();
    <Queue as AmbiguousIfSend<_>>::is_not_send();
    <QueueEntry as AmbiguousIfSend<_>>::is_not_send();
    <QueueTurn as AmbiguousIfSend<_>>::is_not_send();
}

#[test]
fn remote_handles_go_anywhere() {
    fn anywhere<T: Send + Sync + Clone + 'static>() {}
    anywhere::<Remote>();
}

#[test]
fn handlers_get_what_they_need_as_parameters() {
    // Nothing is captured, so nothing can leak in a cycle.
    let context = Context::builder()
        .backend(BackendKind::Poll)
        .build()
        .unwrap();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    drop(theirs);
    let on_fd: fn(&Context, &Fd<_>, FdFlags) = |context, fd, _| {
        context.defer(|context| context.stop());
        fd.remove();
    };
    let on_timer: fn(&Context, &Timer) = |_, timer| timer.remove();
    let on_immediate: fn(&Context, &Immediate) = |_, immediate| immediate.remove();
    context.add_fd(ours, FdFlags::READ, on_fd).unwrap().detach();
    context.add_timer(context.now(), on_timer).detach();
    let immediate = context.add_immediate(on_immediate);
    immediate.schedule();
    context.run_until(|| false).unwrap();
    assert!(!immediate.is_registered());
}

/// What ends with its handle isn't to be dropped by oversight.
#[test]
fn handles_must_be_used() {
    let mut files = Vec::new();
    sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut files,
    );
    let texts = files.iter().map(|file| fs::read_to_string(file).unwrap());
    let text: String = texts.collect();
    let lines: Vec<&str> = text.lines().collect();
    for handle in [
        "Fd",
        "Timer",
        "Immediate",
        "Signal",
        "Child",
        "Listener",
        "AsyncFd",
        "AsyncListener",
        "SignalStream",
        "Permit",
        "Task",
        "Request",
        "QueueTurn",
        "Sleep",
    ] {
        let is_declared = |line: &&str| {
            let name = line.strip_prefix("pub struct ");
            let rest = name.and_then(|name| name.strip_prefix(handle));
            rest.is_some_and(|rest| rest.starts_with([' ', '<', '(']))
        };
        let place = lines.iter().position(is_declared).expect(handle);
        let attributes = lines[..place].iter().rev();
        let must_be_used = attributes
            .take_while(|line| line.starts_with("#["))
            .any(|line| line.starts_with("#[must_use = "));
        assert!(must_be_used, "{handle}");
    }
}
