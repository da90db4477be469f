//! `docs/porting.md` has every function of the C library, and what it says of this crate is so.
//!
//! The library itself, Debian's `libtevent.so.0`, is asked for its functions if it is installed. It
//! has to be if `CI` is `true`.

mod common;

use common::{context, settle};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use tevent::{BackendKind, EventKind, TracedEvent, Tracer};

on_every_backend!(an_entry_of_a_queue_is_traced_as_an_immediate);

/// What the library exports as of 0.14.1, without the underscores of what is behind a macro.
const FUNCTIONS: &[&str] = &[
    "tevent_abort",
    "tevent_add_fd",
    "tevent_add_signal",
    "tevent_add_timer",
    "tevent_backend_list",
    "tevent_cached_getpid",
    "tevent_cleanup_pending_signal_handlers",
    "tevent_common_add_fd",
    "tevent_common_add_signal",
    "tevent_common_add_timer",
    "tevent_common_add_timer_v2",
    "tevent_common_check_double_free",
    "tevent_common_check_signal",
    "tevent_common_context_destructor",
    "tevent_common_fd_destructor",
    "tevent_common_fd_get_flags",
    "tevent_common_fd_set_close_fn",
    "tevent_common_fd_set_flags",
    "tevent_common_have_events",
    "tevent_common_invoke_fd_handler",
    "tevent_common_invoke_immediate_handler",
    "tevent_common_invoke_signal_handler",
    "tevent_common_invoke_timer_handler",
    "tevent_common_loop_immediate",
    "tevent_common_loop_timer_delay",
    "tevent_common_loop_wait",
    "tevent_common_schedule_immediate",
    "tevent_common_threaded_activate_immediate",
    "tevent_common_wakeup",
    "tevent_common_wakeup_fd",
    "tevent_common_wakeup_init",
    "tevent_context_init",
    "tevent_context_init_byname",
    "tevent_context_init_ops",
    "tevent_context_is_wrapper",
    "tevent_context_pop_use",
    "tevent_context_push_use",
    "tevent_context_same_loop",
    "tevent_context_wrapper_create",
    "tevent_create_immediate",
    "tevent_debug",
    "tevent_fd_get_flags",
    "tevent_fd_get_tag",
    "tevent_fd_set_auto_close",
    "tevent_fd_set_close_fn",
    "tevent_fd_set_flags",
    "tevent_fd_set_tag",
    "tevent_find_ops_byname",
    "tevent_get_trace_callback",
    "tevent_get_trace_fd_callback",
    "tevent_get_trace_immediate_callback",
    "tevent_get_trace_queue_callback",
    "tevent_get_trace_signal_callback",
    "tevent_get_trace_timer_callback",
    "tevent_immediate_get_tag",
    "tevent_immediate_set_tag",
    "tevent_loop_allow_nesting",
    "tevent_loop_once",
    "tevent_loop_set_nesting_hook",
    "tevent_loop_until",
    "tevent_loop_wait",
    "tevent_num_signals",
    "tevent_queue_add",
    "tevent_queue_add_entry",
    "tevent_queue_add_optimize_empty",
    "tevent_queue_create",
    "tevent_queue_entry_get_tag",
    "tevent_queue_entry_set_tag",
    "tevent_queue_entry_untrigger",
    "tevent_queue_length",
    "tevent_queue_running",
    "tevent_queue_start",
    "tevent_queue_stop",
    "tevent_queue_wait_recv",
    "tevent_queue_wait_send",
    "tevent_re_initialise",
    "tevent_register_backend",
    "tevent_req_callback_data",
    "tevent_req_cancel",
    "tevent_req_create",
    "tevent_req_data",
    "tevent_req_default_print",
    "tevent_req_defer_callback",
    "tevent_req_done",
    "tevent_req_error",
    "tevent_req_get_profile",
    "tevent_req_is_error",
    "tevent_req_is_in_progress",
    "tevent_req_move_profile",
    "tevent_req_nomem",
    "tevent_req_notify_callback",
    "tevent_req_oom",
    "tevent_req_poll",
    "tevent_req_post",
    "tevent_req_print",
    "tevent_req_profile_append_sub",
    "tevent_req_profile_create",
    "tevent_req_profile_get_name",
    "tevent_req_profile_get_start",
    "tevent_req_profile_get_status",
    "tevent_req_profile_get_stop",
    "tevent_req_profile_get_subprofiles",
    "tevent_req_profile_next",
    "tevent_req_profile_set_name",
    "tevent_req_profile_set_start",
    "tevent_req_profile_set_status",
    "tevent_req_profile_set_stop",
    "tevent_req_received",
    "tevent_req_reset_endtime",
    "tevent_req_set_callback",
    "tevent_req_set_cancel_fn",
    "tevent_req_set_cleanup_fn",
    "tevent_req_set_endtime",
    "tevent_req_set_print_fn",
    "tevent_req_set_profile",
    "tevent_sa_info_queue_count",
    "tevent_schedule_immediate",
    "tevent_set_abort_fn",
    "tevent_set_debug",
    "tevent_set_debug_stderr",
    "tevent_set_default_backend",
    "tevent_set_trace_callback",
    "tevent_set_trace_fd_callback",
    "tevent_set_trace_immediate_callback",
    "tevent_set_trace_queue_callback",
    "tevent_set_trace_signal_callback",
    "tevent_set_trace_timer_callback",
    "tevent_signal_get_tag",
    "tevent_signal_set_tag",
    "tevent_signal_support",
    "tevent_thread_call_depth_activate",
    "tevent_thread_call_depth_deactivate",
    "tevent_thread_call_depth_reset_from_req",
    "tevent_thread_call_depth_start",
    "tevent_thread_proxy_create",
    "tevent_thread_proxy_schedule",
    "tevent_threaded_context_create",
    "tevent_threaded_schedule_immediate",
    "tevent_timer_get_tag",
    "tevent_timer_set_tag",
    "tevent_timeval_add",
    "tevent_timeval_compare",
    "tevent_timeval_current",
    "tevent_timeval_current_ofs",
    "tevent_timeval_is_zero",
    "tevent_timeval_set",
    "tevent_timeval_until",
    "tevent_timeval_zero",
    "tevent_trace_fd_callback",
    "tevent_trace_immediate_callback",
    "tevent_trace_point_callback",
    "tevent_trace_queue_callback",
    "tevent_trace_signal_callback",
    "tevent_trace_timer_callback",
    "tevent_update_timer",
    "tevent_wakeup_recv",
    "tevent_wakeup_send",
];

/// Macros of its header that take more than an underscore away.
const MACROS: &[&str] = &["tevent_req_callback_data_void"];

/// What has come from 0.15 to 0.17.
const NEWER: &[&str] = &[
    "tevent_context_set_wait_timeout",
    "tevent_reset_immediate",
    "tevent_thread_call_depth_set_callback",
];

/// Its types: the other names that the page may use.
const TYPES: &[&str] = &[
    "tevent_context",
    "tevent_debug_level",
    "tevent_fd",
    "tevent_immediate",
    "tevent_ops",
    "tevent_queue",
    "tevent_queue_entry",
    "tevent_req",
    "tevent_req_profile",
    "tevent_req_state",
    "tevent_signal",
    "tevent_thread_proxy",
    "tevent_threaded_context",
    "tevent_timer",
];

/// What the page names that isn't this crate's.
const FOREIGN: &[&str] = &[
    "AsFd",
    "Clone",
    "Display",
    "Drop",
    "Duration",
    "ErrorKind::Interrupted",
    "ExitStatus",
    "Instant",
    "Option",
    "Rc",
    "Result",
    "Send",
    "Sync",
    "BorrowedFd",
    "async",
    "fork",
    "match",
    "std::process::id",
];

fn functions() -> BTreeSet<&'static str> {
    [FUNCTIONS, MACROS, NEWER].concat().into_iter().collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page() -> String {
    fs::read_to_string(root().join("docs/porting.md")).expect("the page")
}

/// The words of a text that could be names in C.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}

/// What stands between backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

struct Row {
    tevent: String,
    here: String,
    /// Whether it says that there is nothing like it here.
    is_none: bool,
}

/// The rows of the tables of calls.
fn rows() -> Vec<Row> {
    let page = page();
    let (_, calls) = page.split_once("\n## Calls\n").expect("the calls");
    let (calls, _) = calls.split_once("\n## Known differences\n").expect("these");
    let mut section = "";
    let mut rows = Vec::new();
    for line in calls.lines() {
        if let Some(title) = line.strip_prefix("### ") {
            section = title;
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let ["", tevent, here, ""] = cells[..] {
            if tevent.starts_with("---") || tevent == "tevent" {
                continue;
            }
            rows.push(Row {
                tevent: tevent.to_owned(),
                here: here.to_owned(),
                is_none: section == "Left out" || here.starts_with("none"),
            });
        }
    }
    assert!(rows.len() > 100, "the tables were found: {}", rows.len());
    rows
}

#[test]
fn every_function_of_the_library_is_on_the_page() {
    let rows = rows();
    let named: BTreeSet<&str> = rows
        .iter()
        .flat_map(|row| code(&row.tevent))
        .flat_map(words)
        .collect();
    let missing: Vec<_> = functions()
        .into_iter()
        .filter(|f| !named.contains(f))
        .collect();
    assert!(missing.is_empty(), "not on the page: {missing:?}");
}

#[test]
fn the_page_names_nothing_that_the_library_does_not_have() {
    let known = functions();
    let page = page();
    for word in words(&page).filter(|word| word.starts_with("tevent_")) {
        let is_known = known.contains(word) || TYPES.contains(&word);
        assert!(is_known, "the library has no {word}");
    }
}

fn library() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = ["/usr/lib64", "/usr/lib", "/lib", "/usr/local/lib"]
        .map(PathBuf::from)
        .to_vec();
    for folder in ["/usr/lib", "/lib"] {
        let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
        folders.push(Path::new(folder).join(multiarch));
    }
    let files = folders.iter().map(|folder| folder.join("libtevent.so.0"));
    files.filter_map(|file| file.canonicalize().ok()).next()
}

/// What a library exports, by the linker's own tool.
fn exported(library: &Path) -> Result<BTreeSet<String>, String> {
    let output = Command::new("nm")
        .args(["--dynamic", "--defined-only"])
        .arg(library)
        .output()
        .map_err(|error| format!("nm: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let names = text.lines().filter_map(|line| {
        let [_, "T", symbol] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return None;
        };
        let (name, _version) = symbol.split_once('@').unwrap_or((symbol, ""));
        Some(name.trim_start_matches('_').to_owned())
    });
    Ok(names.filter(|name| name.starts_with("tevent_")).collect())
}

#[test]
fn what_the_library_exports_is_known() {
    let found = match library() {
        Some(file) => exported(&file).map(|names| (file, names)),
        None => Err("there is no libtevent.so.0".to_owned()),
    };
    let (file, exported) = match found {
        Ok(found) => found,
        Err(why) => {
            let is_gate = std::env::var("CI").is_ok_and(|value| value == "true");
            assert!(!is_gate, "{why}");
            println!("NOT COMPARED: {why}");
            return;
        }
    };
    let known = functions();
    let unknown: Vec<_> = exported
        .iter()
        .filter(|name| !known.contains(&***name))
        .collect();
    assert!(unknown.is_empty(), "{} has {unknown:?}", file.display());
    // Others may have lost some.
    if file.ends_with("libtevent.so.0.14.1") {
        let invented: Vec<_> = FUNCTIONS
            .iter()
            .filter(|&&f| !exported.contains(f))
            .collect();
        assert!(invented.is_empty(), "it doesn't have {invented:?}");
    }
}

fn sources(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(fs::read_to_string(path).expect("source"));
        }
    }
}

fn all_sources() -> Vec<String> {
    let mut found = Vec::new();
    sources(&root().join("src"), &mut found);
    found
}

fn aliases() -> BTreeSet<String> {
    let sources = all_sources();
    let lines = sources.iter().flat_map(|text| text.lines());
    let aliases = lines.filter_map(|line| {
        let rest = line.trim().strip_prefix("#[doc(alias = \"")?;
        rest.strip_suffix("\")]").map(str::to_owned)
    });
    aliases.collect()
}

#[test]
fn the_documentation_can_be_searched_for_every_function_that_has_a_counterpart() {
    let aliases = aliases();
    let functions = functions();
    let mut counterparts = BTreeSet::new();
    let rows = rows();
    for row in rows.iter().filter(|row| !row.is_none) {
        let names = code(&row.tevent).flat_map(words);
        let is_searched = |name: &&str| functions.contains(name) || name.starts_with("TEVENT_");
        counterparts.extend(names.filter(is_searched));
    }
    assert!(counterparts.len() > 80, "they were found: {counterparts:?}");
    let missing: Vec<_> = counterparts
        .into_iter()
        .filter(|&name| !aliases.contains(name))
        .collect();
    assert!(missing.is_empty(), "no doc(alias = …) for {missing:?}");
    for alias in aliases.iter().filter(|alias| alias.starts_with("tevent_")) {
        let is_known = functions.contains(&**alias) || TYPES.contains(&&**alias);
        assert!(is_known, "an alias for nothing: {alias}");
    }
}

/// The members of each public type: methods, variants, fields and constants.
type Api = BTreeMap<String, BTreeSet<String>>;

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}

/// The text behind generic parameters, if it begins with some.
fn behind_generics(text: &str) -> &str {
    if !text.starts_with('<') {
        return text;
    }
    let mut depth = 0;
    for (index, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' if !text[..index].ends_with('-') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[index + 1..];
        }
    }
    ""
}

fn api() -> Api {
    let mut api = Api::new();
    let lib = fs::read_to_string(root().join("src/lib.rs")).expect("lib.rs");
    let uses = lib.split("pub use ").skip(1);
    for list in uses.map(|text| text.split_once(';').expect("an end").0) {
        let (_, names) = list.rsplit_once("::").expect("from a module");
        for name in words(names) {
            api.insert(name.to_owned(), BTreeSet::new());
        }
    }
    for text in all_sources() {
        let mut current = "";
        let mut kind = "";
        for line in text.lines() {
            let item = line.trim_start();
            let is_top = item.len() == line.len();
            if let Some(rest) = item.strip_prefix("impl").filter(|_| is_top) {
                let rest = behind_generics(rest).trim_start();
                let target = rest.split_once(" for ").map_or(rest, |(_, target)| target);
                (current, kind) = (identifier(target), "impl");
                continue;
            }
            let start = ["struct", "enum", "trait"].into_iter().find_map(|kind| {
                let rest = item.strip_prefix("pub ")?.strip_prefix(kind)?;
                Some((identifier(rest.trim_start()), kind))
            });
            if let Some(start) = start {
                (current, kind) = start;
                continue;
            }
            let Some(members) = api.get_mut(current) else {
                continue;
            };
            let words: Vec<&str> = item.split(' ').collect();
            let member = match words[..] {
                ["pub", "async" | "const", "fn", name, ..] | ["pub", "fn" | "const", name, ..] => {
                    name
                }
                ["const", name, ..] => name,
                ["fn", name, ..] if kind == "trait" => name,
                ["pub", name, ..] if kind == "struct" => name,
                [name, ..] if kind == "enum" && name.starts_with(char::is_uppercase) => name,
                _ => continue,
            };
            members.insert(identifier(member).to_owned());
        }
    }
    api
}

/// A piece of code without what is in parentheses.
fn without_arguments(code: &str) -> String {
    let mut depth = 0;
    let mut rest = String::new();
    for c in code.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ if depth == 0 => rest.push(c),
            _ => {}
        }
    }
    rest
}

#[test]
fn what_the_page_names_here_exists() {
    let api = api();
    let is_member = |name: &str| api.values().any(|members| members.contains(name));
    let exists = |path: &str| match path.split_once("::") {
        _ if FOREIGN.contains(&path) => true,
        Some((name, member)) => api
            .get(name)
            .is_some_and(|members| members.contains(member)),
        // A type's parameter.
        None => api.contains_key(path) || is_member(path) || path.len() == 1,
    };
    let mut seen = 0;
    for row in rows() {
        for code in code(&row.here) {
            // What is foreign in C too, as it stands there.
            if row.tevent.contains(code) || code == "INIT" || code == "RECEIVED" {
                continue;
            }
            let code = without_arguments(code).replace("'static", "");
            let is_end = |c: char| !c.is_alphanumeric() && c != '_' && c != ':';
            for path in code.split(is_end).filter(|path| !path.is_empty()) {
                seen += 1;
                assert!(exists(path), "there is no {path}: {}", row.here);
            }
        }
    }
    assert!(seen > 150, "they were found: {seen}");
}

#[derive(Default)]
struct Log(Rc<RefCell<Vec<(&'static str, u32)>>>);

impl Log {
    fn note(&self, what: &'static str, event: &TracedEvent) {
        assert_eq!(event.kind(), EventKind::Immediate);
        assert_eq!(event.location().file(), file!());
        self.0.borrow_mut().push((what, event.location().line()));
    }
}

impl Tracer for Log {
    fn event_added(&mut self, event: &TracedEvent) {
        self.note("attach", event);
    }

    fn handler_begin(&mut self, event: &TracedEvent) {
        self.note("before handler", event);
    }

    fn event_removed(&mut self, event: &TracedEvent) {
        self.note("detach", event);
    }
}

fn an_entry_of_a_queue_is_traced_as_an_immediate(kind: BackendKind) {
    let context = context(kind);
    let queue = context.queue("writes");
    let (_request, completer) = context.request::<(), ()>("write");
    let log = Rc::default();
    context.set_tracer(Log(Rc::clone(&log)));
    queue.add(&completer, |_, completer| _ = completer.done(()));
    let line = line!() - 1;
    settle(&context);
    let told: Vec<_> = log
        .borrow()
        .iter()
        .filter(|(_, at)| *at == line)
        .copied()
        .collect();
    let expected = ["attach", "before handler", "detach"].map(|what| (what, line));
    assert_eq!(told, expected);
    assert!(queue.is_empty());
}
