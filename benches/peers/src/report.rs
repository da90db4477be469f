//! The page `docs/performance.md`: tables between its markers, and pictures beside it.

use crate::contestants::CONTESTANTS;
use crate::record::Timed;
use crate::workload::Work;
use plotters::prelude::*;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Replaces what stands between `<!-- begin NAME -->` and `<!-- end NAME -->`.
pub fn fill_in(page: &Path, sections: &[(&str, String)]) -> Result<(), String> {
    let failed = |error| format!("{}: {error}", page.display());
    let mut text = fs::read_to_string(page).map_err(failed)?;
    for (name, content) in sections {
        let (begin, end) = (
            format!("<!-- begin {name} -->\n"),
            format!("<!-- end {name} -->"),
        );
        let place = text.find(&begin).map(|place| place + begin.len());
        let place = place
            .zip(text.find(&end))
            .filter(|(begin, end)| begin <= end);
        let (begin, end) = place.ok_or_else(|| format!("the page has no place for {name}"))?;
        text.replace_range(begin..end, &format!("\n{}\n\n", content.trim_end()));
    }
    fs::write(page, text).map_err(failed)
}

/// On what the figures were taken, and of which versions.
pub fn machine() -> String {
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok();
        output.map_or(String::new(), |output| {
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    };
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<&str> = processors
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map(|(_, model)| model.trim())
        .collect();
    let mut versions = Vec::new();
    let mut package = "";
    for line in include_str!("../Cargo.lock").lines() {
        if let Some(name) = line.strip_prefix("name = ") {
            package = name.trim_matches('"');
        } else if let Some(version) = line.strip_prefix("version = ")
            && CONTESTANTS
                .iter()
                .any(|contestant| contestant.name == package)
        {
            versions.push(format!("{package} {}", version.trim_matches('"')));
        }
    }
    let packages = ["libev4", "libuv1", "libevent-core-2.1-7", "libtevent0"];
    let query = [
        &["--show", "--showformat=${Package} ${Version}\\n"],
        &packages[..],
    ]
    .concat();
    versions.extend(said("dpkg-query", &query).lines().map(str::to_owned));
    format!(
        "- processors: {} × {}\n- kernel: Linux {}\n- versions: {}\n",
        models.len(),
        models.first().copied().unwrap_or("unknown"),
        said("uname", &["-r"]).trim(),
        versions.join(", ")
    )
}

/// Points of one contestant: how many there are, and the nanoseconds of an operation.
type Line = Vec<(f64, f64)>;

/// The two pictures.
pub fn draw(folder: &Path, races: &[Timed]) -> Result<(), String> {
    draw_one(
        &folder.join("descriptors.svg"),
        "One ready descriptor among many: time for its event",
        "registered descriptors",
        races,
        |work| match work {
            Work::Ready {
                ready: 1,
                registered,
            } => Some(registered),
            _ => None,
        },
    )?;
    draw_one(
        &folder.join("timers.svg"),
        "A timer added and dropped among many: time for both",
        "outstanding timers",
        races,
        |work| match work {
            Work::Churn { outstanding } if outstanding > 0 => Some(outstanding),
            _ => None,
        },
    )
}

fn draw_one(
    file: &Path,
    title: &str,
    of_what: &str,
    races: &[Timed],
    size: impl Fn(Work) -> Option<usize>,
) -> Result<(), String> {
    let lines: Vec<(&str, Line)> = CONTESTANTS
        .iter()
        .map(|contestant| {
            let point = |(workload, race): &Timed| {
                Some((size(workload.work)? as f64, race.median(contestant.name)?))
            };
            (contestant.name, races.iter().filter_map(point).collect())
        })
        .filter(|(_, line): &(&str, Line)| !line.is_empty())
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    plot(file, title, of_what, &lines).map_err(|error| format!("{}: {error}", file.display()))
}

/// Told apart also by those who see few colours, together with the marks.
const COLOURS: [RGBColor; 10] = [
    RGBColor(120, 120, 120),
    RGBColor(213, 0, 0),
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(100, 60, 20),
    RGBColor(130, 80, 220),
    RGBColor(0, 0, 0),
];

fn plot(
    file: &Path,
    title: &str,
    of_what: &str,
    lines: &[(&str, Line)],
) -> Result<(), Box<dyn std::error::Error>> {
    let points = || lines.iter().flat_map(|(_, line)| line.iter().copied());
    let range = |values: &mut dyn Iterator<Item = f64>, margin: f64| {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        (low / margin..high * margin).log_scale()
    };
    let (across, up) = (
        range(&mut points().map(|(size, _)| size), 1.2),
        range(&mut points().map(|(_, time)| time), 1.5),
    );
    let area = SVGBackend::new(file, (900, 540)).into_drawing_area();
    area.fill(&WHITE)?;
    let area = area.titled(title, ("sans-serif", 20))?;
    let (chart, legend) = area.split_horizontally(760);
    let mut chart = ChartBuilder::on(&chart)
        .margin(12)
        .x_label_area_size(48)
        .y_label_area_size(84)
        .build_cartesian_2d(across, up)?;
    chart
        .configure_mesh()
        .x_desc(of_what)
        .y_desc("time for an operation")
        .label_style(("sans-serif", 14))
        .light_line_style(RGBColor(240, 240, 240))
        .x_label_formatter(&|size| thousands(*size))
        .y_label_formatter(&|time| crate::table::time(*time))
        .draw()?;
    for (index, (name, line)) in lines.iter().enumerate() {
        let place = CONTESTANTS
            .iter()
            .position(|contestant| contestant.name == *name);
        let colour = COLOURS[place.unwrap_or(0) % COLOURS.len()];
        // The floor and this crate stand out.
        let width = if place.is_some_and(|place| place < 2) {
            3
        } else {
            1
        };
        let style = colour.stroke_width(width);
        chart.draw_series(LineSeries::new(line.iter().copied(), style))?;
        let marks = line
            .iter()
            .map(|&point| Circle::new(point, 3, colour.filled()));
        chart.draw_series(marks)?;
        let y = 40 + 24 * index as i32;
        legend.draw(&PathElement::new(vec![(4, y), (34, y)], style))?;
        legend.draw(&Circle::new((19, y), 3, colour.filled()))?;
        legend.draw(&Text::new(*name, (42, y - 8), ("sans-serif", 15)))?;
    }
    area.present()?;
    Ok(())
}

fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
