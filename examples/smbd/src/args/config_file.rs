//! The configuration file: a small relative of `smb.conf`.
//!
//! Sections `[global]` and one for each share, with lines `KEY = VALUE` in them; empty lines and
//! those that begin with `#` or `;` say nothing. Keys are those of the command line, with spaces.
//! Nothing that can't be understood is passed over.

use std::path::Path;

use super::{
    ArgsError, Settings, address, guest, idle_timeout, max_clients, share_of, socket_options,
};
use crate::config::ShareRules;

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Settings, ArgsError> {
    let text =
        std::fs::read_to_string(path).map_err(|e| ArgsError(e.to_string()).of(path.display()))?;
    // What is relative counts from the file.
    let base = path.parent().unwrap_or(Path::new(""));
    parse(&text, base).map_err(|(line, e)| e.of(format_args!("{}:{line}", path.display())))
}

/// A share whose section is not at its end.
struct Section {
    /// Where it begins.
    line: usize,
    name: String,
    path: Option<String>,
    rules: ShareRules,
}

/// Where the reading is.
enum Place {
    Start,
    Global,
    Share(Section),
}

/// The line, counted from 1, and what is wrong with it.
type Fault = (usize, ArgsError);

fn parse(text: &str, base: &Path) -> Result<Settings, Fault> {
    let mut settings = Settings::default();
    let mut place = Place::Start;
    // The keys of the section, each of which may stand there once.
    let mut seen: Vec<String> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let at = |e: ArgsError| (index + 1, e);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(rest) = line.strip_prefix('[') {
            let name = rest
                .strip_suffix(']')
                .ok_or_else(|| at(ArgsError(String::from("a section is [NAME]"))))?
                .trim();
            end_section(&mut settings, place, base)?;
            seen.clear();
            place = if name.eq_ignore_ascii_case("global") {
                Place::Global
            } else {
                settings.check_unused(name).map_err(at)?;
                Place::Share(Section {
                    line: index + 1,
                    name: name.to_owned(),
                    path: None,
                    rules: ShareRules::default(),
                })
            };
            continue;
        }
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| at(ArgsError(String::from("a line is KEY = VALUE"))))?;
        let key = key.split_whitespace().collect::<Vec<_>>().join(" ");
        let key = key.to_ascii_lowercase();
        if seen.contains(&key) {
            return Err(at(ArgsError(format!(
                "{key} stands here for the second time"
            ))));
        }
        let value = value.trim();
        match &mut place {
            Place::Start => Err(ArgsError(format!("{key} stands before the first section"))),
            Place::Global => global(&mut settings, &key, value, base),
            Place::Share(section) => section.set(&key, value),
        }
        .map_err(at)?;
        seen.push(key);
    }
    end_section(&mut settings, place, base)?;
    Ok(settings)
}

fn global(settings: &mut Settings, key: &str, value: &str, base: &Path) -> Result<(), ArgsError> {
    let of = |e: ArgsError| e.of(key);
    match key {
        "listen" => {
            for one in value.split_whitespace() {
                settings.listen.push(address(one).map_err(of)?);
            }
        }
        "users" => settings.users = Some(base.join(value)),
        "guest" => settings.guest = Some(guest(value).map_err(of)?),
        "require signing" => settings.require_signing = Some(switch(value).map_err(of)?),
        "require encryption" => settings.require_encryption = Some(switch(value).map_err(of)?),
        "run as" => settings.run_as = Some(value.to_owned()),
        "max clients" => settings.max_clients = Some(max_clients(value).map_err(of)?),
        "idle timeout" => settings.idle_timeout = Some(idle_timeout(value).map_err(of)?),
        "socket options" => {
            let parsed =
                socket_options::parse(value).map_err(|e| ArgsError(format!("{key}: {e}")))?;
            settings.socket_options.extend(parsed);
        }
        _ => return Err(ArgsError(format!("{key:?} is nothing that [global] knows"))),
    }
    Ok(())
}

impl Section {
    fn set(&mut self, key: &str, value: &str) -> Result<(), ArgsError> {
        let of = |e: ArgsError| e.of(key);
        match key {
            "path" => self.path = Some(value.to_owned()),
            "read only" => self.rules.read_only = switch(value).map_err(of)?,
            "users" => {
                self.rules.users = Some(value.split_whitespace().map(str::to_owned).collect());
            }
            "guest" => self.rules.guest = Some(guest(value).map_err(of)?),
            "encrypt" => self.rules.encrypt = switch(value).map_err(of)?,
            _ => return Err(ArgsError(format!("{key:?} is nothing that a share knows"))),
        }
        Ok(())
    }
}

/// Adds the share whose section ends.
fn end_section(settings: &mut Settings, place: Place, base: &Path) -> Result<(), Fault> {
    let Place::Share(section) = place else {
        return Ok(());
    };
    let at = |e: ArgsError| (section.line, e);
    let path = section
        .path
        .as_ref()
        .ok_or_else(|| at(ArgsError(format!("[{}] has no path", section.name))))?;
    let share = share_of(&section.name, &base.join(path), section.rules.clone()).map_err(at)?;
    settings.shares.push(share);
    Ok(())
}

fn switch(value: &str) -> Result<bool, ArgsError> {
    match value {
        "yes" | "true" | "1" => Ok(true),
        "no" | "false" | "0" => Ok(false),
        _ => Err(ArgsError(format!("{value:?} is neither yes nor no"))),
    }
}
