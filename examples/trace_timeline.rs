//! Shows what a loop does, when, and for how long: a timeline in the trace format of Chrome, which
//! <https://ui.perfetto.dev> draws, or as a picture.
//!
//!     cargo run --example trace_timeline -- timeline.json
//!     cargo run --example trace_timeline -- timeline.svg
//!
//! The program that is watched serves eight clients of its own over loopback: each sends a request
//! when it has got the answer to the one before. Some requests are checked later, by an immediate; a
//! timer flushes a log, slowly. The [`Recorder`] fits any other program as well.

use std::cell::{Cell, RefCell};
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tevent::{Context, Disarmed, EventKind, FdFlags, Severity, TracedEvent, Tracer};

const CLIENTS: usize = 8;
const REQUESTS: usize = 200;

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let (Some(path), None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: trace_timeline FILE.json|FILE.svg");
        return ExitCode::from(2);
    };
    match run(Path::new(&path)) {
        Ok(spans) => {
            println!("{spans} spans in {}", path.to_string_lossy());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("trace_timeline: {}: {error}", path.to_string_lossy());
            ExitCode::FAILURE
        }
    }
}

fn run(path: &Path) -> io::Result<usize> {
    let write: fn(&[Span]) -> String = match path.extension().and_then(|ending| ending.to_str()) {
        Some("json") => chrome_trace,
        Some("svg") => picture,
        _ => return Err(io::Error::other("the name has to end in .json or .svg")),
    };
    let context = Context::new()?;
    let timeline = Timeline::default();
    context.set_tracer(Recorder::new(Rc::clone(&timeline)));
    serve(&context)?;
    context.clear_tracer();
    let spans = timeline.take();
    fs::write(path, write(&spans))?;
    eprintln!("{}", context.stats());
    Ok(spans.len())
}

// The recorder.

/// Something that took time. (Or none: a note.)
struct Span {
    row: Row,
    name: String,
    /// Where the event was added.
    place: String,
    /// Since the recorder was made.
    start: Duration,
    took: Duration,
}

#[derive(Clone, Copy, PartialEq)]
enum Row {
    Handler(EventKind),
    Wait,
    Note,
}

impl Row {
    const ALL: [Row; 6] = [
        Row::Handler(EventKind::Signal),
        Row::Handler(EventKind::Immediate),
        Row::Handler(EventKind::Timer),
        Row::Handler(EventKind::Fd),
        Row::Wait,
        Row::Note,
    ];

    fn title(self) -> String {
        match self {
            Row::Handler(kind) => format!("{kind} handlers"),
            Row::Wait => "waiting".to_owned(),
            Row::Note => "notes".to_owned(),
        }
    }
}

type Timeline = Rc<RefCell<Vec<Span>>>;

/// Keeps what it is told until the program wants it.
struct Recorder {
    start: Instant,
    timeline: Timeline,
    /// What has begun and not ended, the innermost last.
    open: Vec<Duration>,
}

impl Recorder {
    fn new(timeline: Timeline) -> Recorder {
        Recorder {
            start: Instant::now(),
            timeline,
            open: Vec::new(),
        }
    }

    fn begin(&mut self) {
        self.open.push(self.start.elapsed());
    }

    fn end(&mut self, row: Row, name: String, place: String) {
        if let Some(start) = self.open.pop() {
            let took = self.start.elapsed() - start;
            self.timeline.borrow_mut().push(Span {
                row,
                name,
                place,
                start,
                took,
            });
        }
    }

    fn note(&mut self, name: String) {
        self.begin();
        self.end(Row::Note, name, String::new());
    }
}

fn name_of(event: &TracedEvent) -> String {
    event.name().unwrap_or("unnamed").to_owned()
}

impl Tracer for Recorder {
    fn turn_begin(&mut self) {
        // What a handler that has panicked left open is over. (In a loop inside a handler more would
        // have to be kept; this program has none.)
        self.open.clear();
    }

    fn wait_begin(&mut self, _timeout: Option<Duration>) {
        self.begin();
    }

    fn wait_end(&mut self) {
        self.end(Row::Wait, "wait".to_owned(), String::new());
    }

    fn handler_begin(&mut self, _event: &TracedEvent) {
        self.begin();
    }

    fn handler_end(&mut self, event: &TracedEvent) {
        let row = Row::Handler(event.kind());
        self.end(row, name_of(event), event.location().to_string());
    }

    fn event_disarmed(&mut self, event: &TracedEvent, reason: Disarmed) {
        self.note(format!("{} disarmed: {reason}", name_of(event)));
    }

    fn message(&mut self, severity: Severity, message: &str) {
        self.note(format!("{severity}: {message}"));
    }
}

// The program that is watched.

fn serve(context: &Context) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let accept = context.add_fd(
        listener,
        FdFlags::READ,
        move |context, event, _| match event.get_ref().accept() {
            Ok((stream, _)) => {
                if let Err(error) = add_connection(context, stream) {
                    eprintln!("trace_timeline: {error}");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => eprintln!("trace_timeline: {error}"),
        },
    )?;
    accept.set_name("accept");

    let period = Duration::from_millis(2);
    let flush = context.add_timer_after(period, move |_, timer| {
        // As a write to a slow disk would.
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(300) {
            std::hint::spin_loop();
        }
        timer.set_after(period);
    });
    flush.set_name("flush the log");

    let clients_left = Rc::new(Cell::new(CLIENTS));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nonblocking(true)?;
        stream.write_all(b"request.")?;
        let left = Rc::clone(&clients_left);
        let mut answers = 0;
        let client = context.add_fd(stream, FdFlags::READ, move |context, event, _| {
            let mut answer = [0; 64];
            let mut stream = event.get_ref();
            let is_over = match stream.read(&mut answer) {
                Ok(0) => true,
                Ok(_) => {
                    answers += 1;
                    answers == REQUESTS || stream.write_all(b"request.").is_err()
                }
                Err(error) => error.kind() != io::ErrorKind::WouldBlock,
            };
            if is_over {
                event.remove();
                left.set(left.get() - 1);
                if left.get() == 0 {
                    context.stop();
                }
            }
        })?;
        client.set_name("client");
        clients.push(client);
    }
    context.run()
}

fn add_connection(context: &Context, stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let check = context.add_immediate(|_, _| {
        std::hint::black_box((0..2_000_u32).sum::<u32>());
    });
    check.set_name("check");
    let mut requests = 0;
    let connection = context.add_fd(stream, FdFlags::READ, move |_, event, _| {
        let mut request = [0; 64];
        let mut stream = event.get_ref();
        match stream.read(&mut request) {
            Ok(count) if count > 0 && stream.write_all(&request[..count]).is_ok() => {
                requests += 1;
                if requests % 8 == 0 {
                    check.schedule();
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => event.remove(),
        }
    })?;
    connection.set_name("connection");
    connection.detach();
    Ok(())
}

// The files.

/// The "JSON Array Format" of Chrome's trace viewer, with complete events ("X"), instants ("i") and
/// names of rows ("M"). Times are in microseconds.
fn chrome_trace(spans: &[Span]) -> String {
    let mut text = String::from("{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n");
    for (row, title) in Row::ALL.iter().map(|row| row.title()).enumerate() {
        let _ = writeln!(
            text,
            "{{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":1,\"tid\":{row},\"args\":{{\"name\":{}}}}},",
            quoted(&title)
        );
    }
    let mut separator = "";
    for span in spans {
        let row = Row::ALL
            .iter()
            .position(|&row| row == span.row)
            .unwrap_or(0);
        let (kind, extra) = match span.row {
            Row::Note => ("i", ",\"s\":\"p\"".to_owned()),
            _ => ("X", format!(",\"dur\":{}", microseconds(span.took))),
        };
        let _ = write!(
            text,
            "{separator}{{\"ph\":\"{kind}\",\"name\":{},\"pid\":1,\"tid\":{row},\"ts\":{}{extra},\"args\":{{\"added at\":{}}}}}",
            quoted(&span.name),
            microseconds(span.start),
            quoted(&span.place),
        );
        separator = ",\n";
    }
    text.push_str("\n]}\n");
    text
}

fn microseconds(time: Duration) -> String {
    format!("{}.{:03}", time.as_micros(), time.subsec_nanos() % 1_000)
}

/// A string as JSON has it.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if character.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(character));
            }
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// The part of the timeline that is drawn: where the loop has warmed up.
const WINDOW: (Duration, Duration) = (Duration::from_millis(6), Duration::from_millis(8));
const WIDTH: f64 = 1_000.0;
const MARGIN: f64 = 130.0;
const ROW_HEIGHT: f64 = 34.0;

fn picture(spans: &[Span]) -> String {
    let rows: Vec<Row> = Row::ALL
        .into_iter()
        .filter(|&row| spans.iter().any(|span| span.row == row))
        .collect();
    let (from, to) = WINDOW;
    let scale = WIDTH / (to - from).as_secs_f64();
    let x = |time: Duration| MARGIN + (time.as_secs_f64() - from.as_secs_f64()) * scale;
    let height = ROW_HEIGHT * (rows.len() as f64 + 1.2);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        MARGIN + WIDTH + 30.0
    );
    for (number, row) in rows.iter().enumerate() {
        let top = ROW_HEIGHT * number as f64 + 8.0;
        let _ = writeln!(
            svg,
            "<text x=\"8\" y=\"{}\">{}</text>",
            top + 16.0,
            escaped(&row.title())
        );
        for span in spans.iter().filter(|span| span.row == *row) {
            let (start, end) = (span.start.max(from), (span.start + span.took).min(to));
            if start >= end {
                continue;
            }
            let _ = writeln!(
                svg,
                "<rect x=\"{:.2}\" y=\"{top}\" width=\"{:.2}\" height=\"24\" fill=\"{}\"><title>{} {:?}</title></rect>",
                x(start),
                (x(end) - x(start)).max(0.4),
                colour(span),
                escaped(&span.name),
                span.took,
            );
        }
    }
    let bottom = ROW_HEIGHT * rows.len() as f64 + 12.0;
    for step in 0..=8_u32 {
        let time = from + (to - from) * step / 8;
        let _ = writeln!(
            svg,
            "<line x1=\"{0:.1}\" y1=\"4\" x2=\"{0:.1}\" y2=\"{bottom}\" stroke=\"#0003\"/>\
             <text x=\"{0:.1}\" y=\"{1}\" text-anchor=\"middle\">{2} µs</text>",
            x(time),
            bottom + 16.0,
            time.as_micros(),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn colour(span: &Span) -> &'static str {
    match (span.row, span.name.as_str()) {
        (Row::Wait, _) => "#c8c8c8",
        (Row::Handler(EventKind::Timer), _) => "#d62728",
        (Row::Handler(EventKind::Immediate), _) => "#2ca02c",
        (_, "connection") => "#1f77b4",
        _ => "#ff7f0e",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
