//! `smbd`: an SMB2/3 file server on the `tevent` event loop, one process for each client.
//!
//! The flow is that of Samba's server of the same name: `main` makes the context and the listening
//! sockets and runs the loop; a connection makes the accept handler fork; the child re-initialises
//! the context, adds the one client, and goes on with the loop until the client is gone. See
//! [`daemon`] for the parent and [`client`] for the child.

#![forbid(unsafe_code)]

mod client;
mod daemon;
mod hub;
mod send_queue;
mod sockets;
mod uplink;

use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use smbd::args::{self, Invocation, Options, ShareArg};
use smbd::config::{Config, host_name};
use smbd::demo::{DemoShare, demo_share};
use smbd::share::Share;
use tevent::Context;

use crate::daemon::Daemon;

fn main() -> ExitCode {
    let options = match args::parse(std::env::args_os().skip(1)) {
        Ok(Invocation::Run(options)) => options,
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
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("smbd: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until told to stop; in a child, until its client is gone.
fn run(mut options: Options) -> Result<(), Box<dyn Error>> {
    let demo = add_demo_share(&mut options)?;
    let context = Context::new()?;
    let shares = options.shares.clone();
    let reload = move || configure(&shares);
    let daemon = Daemon::new(&context, options, reload()?, Box::new(reload));
    daemon.handle_signals(&context)?;
    let addresses = daemon
        .listen(&context)
        .map_err(|e| format!("there is nothing to listen on: {e}"))?;
    announce(&addresses, demo.is_some())?;
    context.run()?;
    Ok(())
}

/// Without a share on the command line there is one to try, for as long as the result lives.
fn add_demo_share(options: &mut Options) -> std::io::Result<Option<DemoShare>> {
    if !options.shares.is_empty() {
        return Ok(None);
    }
    let demo = demo_share()?;
    options.shares.push(ShareArg {
        name: String::from("demo"),
        path: demo.path().to_owned(),
        read_only: true,
    });
    Ok(Some(demo))
}

fn configure(shares: &[ShareArg]) -> Result<Config, Box<dyn Error>> {
    let shares = shares.iter().map(|share| {
        Share::open(&share.name, &share.path, share.read_only)
            .map_err(|e| format!("share {}: {:?}: {e}", share.name, share.path))
    });
    Ok(Config::new(
        &host_name(),
        shares.collect::<Result<_, _>>()?,
    )?)
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
