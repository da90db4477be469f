//! `smbd`: an SMB2/3 file server on the `tevent` event loop, one process for each client.
//!
//! The flow is that of Samba's server of the same name: `main` makes the context and the listening
//! sockets and runs the loop; a connection makes the accept handler fork; the child re-initialises
//! the context, adds the one client, and goes on with the loop until the client is gone. See
//! [`daemon`] for the parent and [`client`] for the child.

#![forbid(unsafe_code)]

mod client;
mod daemon;
mod gate;
mod hub;
mod isolation;
mod passwd;
mod send_queue;
mod sockets;
mod uplink;
mod waiting;

use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;

use smbd::args::{self, Invocation, Options, Passwd, ShareArg};
use smbd::auth::users::Users;
use smbd::config::{Access, Config, Security, SharePoint, ShareRules, host_name};
use smbd::demo::{DemoShare, demo_share};
use tevent::Context;

use crate::daemon::Daemon;

fn main() -> ExitCode {
    let options = match args::parse(std::env::args_os().skip(1)) {
        Ok(Invocation::Run(options)) => options,
        Ok(Invocation::Passwd(options)) => return change_password(&options),
        Ok(Invocation::Help) => return print(args::HELP),
        Ok(Invocation::Version) => return print(concat!("smbd ", env!("CARGO_PKG_VERSION"), "\n")),
        Err(e) => {
            eprintln!("smbd: {e}");
            return ExitCode::from(2);
        }
    };
    let level = match options.verbosity {
        0 => log::LevelFilter::Info,
        1 => log::LevelFilter::Debug,
        _ => log::LevelFilter::Trace,
    };
    env_logger::Builder::new().filter_level(level).init();
    match run(*options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("smbd: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until told to stop; in a child, until its client is gone.
fn run(options: Options) -> Result<(), Box<dyn Error>> {
    let demo = match options.shares.is_empty() {
        true => Some(Rc::new(demo_share()?)),
        false => None,
    };
    isolation::check(options.run_as.as_deref()).map_err(|e| format!("--run-as: {e}"))?;
    if let Some(demo) = &demo {
        isolation::give_to_guests(demo, options.run_as.as_deref())?;
    }
    sockets::raise_descriptor_limit();
    smbd::crypto::prepare();
    let context = Context::new()?;
    let config = configure(&options, demo.as_deref())?;
    let guid = config.server_guid();
    let is_demo = demo.is_some();
    let reload = move || {
        let options = match args::parse(std::env::args_os().skip(1))? {
            Invocation::Run(options) => options,
            // The arguments are the same, and so is what they ask for.
            _ => return Err("these arguments don't start a server".into()),
        };
        Ok(configure(&options, demo.as_deref())?.with_guid(guid))
    };
    isolation::report();
    let daemon = Daemon::new(&context, options, config, Box::new(reload))?;
    daemon.handle_signals(&context)?;
    let addresses = daemon
        .listen(&context)
        .map_err(|e| format!("there is nothing to listen on: {e}"))?;
    announce(&addresses, is_demo)?;
    context.run()?;
    if let Some(peer) = daemon.served() {
        log::info!("{peer}: disconnected");
    }
    if daemon.is_child() {
        // The kernel takes everything back at once; to do that one by one takes time and memory.
        // Nor are there destructors to be run: nothing waits to be written, and all else is the
        // parent's.
        tevent::exit_at_once(0);
    }
    Ok(())
}

/// Reads and opens all that the options name. Without a share among them there is one to try.
fn configure(options: &Options, demo: Option<&DemoShare>) -> Result<Config, Box<dyn Error>> {
    let mut shares = Vec::new();
    for ShareArg { name, path, rules } in &options.shares {
        let point = SharePoint::open(name, path, rules.clone())
            .map_err(|e| format!("share {name}: {path:?}: {e}"))?;
        shares.push(point);
    }
    if let Some(demo) = demo.filter(|_| shares.is_empty()) {
        let rules = ShareRules {
            guest: Some(Some(Access::ReadWrite)),
            ..ShareRules::default()
        };
        shares.push(SharePoint::open("demo", demo.path(), rules)?);
    }
    let users = match &options.users {
        None => Users::new(),
        Some(path) => {
            let users = Users::read(path)?;
            log::info!("{}: {} users", path.display(), users.len());
            users
        }
    };
    Ok(Config::new(&host_name(), shares)?.with_security(Security {
        users,
        guest: options.guest,
        require_signing: options.require_signing,
        require_encryption: options.require_encryption,
    }))
}

fn change_password(options: &Passwd) -> ExitCode {
    match passwd::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("smbd: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Says where the server listens, and for the demo share what to try.
fn announce(addresses: &[SocketAddr], is_demo: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for address in addresses {
        writeln!(out, "listening on {address}")?;
    }
    if let Some(address) = addresses.first().filter(|_| is_demo) {
        let (host, port) = (address.ip(), address.port());
        writeln!(out, "try: smbclient //{host}/demo -p {port} -N")?;
    }
    // Flushed before any fork, else each child would print it again.
    out.flush()
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
