//! The parts of `smbd`, an SMB2/3 file server, that know the protocol and
//! nothing of sockets or event loops.
//!
//! * [`transport`] cuts a byte stream into messages, [`outgoing`] is what goes back,
//! * [`server`] answers messages, with [`wire`] for their format, [`auth`] for
//!   who a client is, [`rpc`] for the list of shares and [`share`] for files,
//! * [`args`], [`config`] and [`demo`] set a server up.

#![forbid(unsafe_code)]

pub mod args;
pub mod auth;
pub mod config;
pub mod crypto;
pub mod demo;
pub mod outgoing;
pub mod rpc;
pub mod server;
pub mod share;
pub mod sharing;
pub mod transport;
pub mod wire;
