//! What all connections share.

use std::sync::Arc;

use crate::rpc::srvsvc;
use crate::share::Share;
use crate::wire::text;

/// The name of the share that leads to named pipes.
pub const IPC_SHARE: &str = "IPC$";

/// The server's identity and its shares. It does not change while the server runs.
#[derive(Debug)]
pub struct Config {
    server_name: String,
    server_guid: [u8; 16],
    shares: Vec<Arc<Share>>,
}

impl Config {
    /// A server called `server_name` with a fresh GUID.
    ///
    /// # Errors
    ///
    /// When the system has no random bytes.
    pub fn new(server_name: &str, shares: Vec<Share>) -> Result<Config, getrandom::Error> {
        let mut server_guid = [0; 16];
        getrandom::fill(&mut server_guid)?;
        Ok(Config {
            server_name: server_name.to_owned(),
            server_guid,
            shares: shares.into_iter().map(Arc::new).collect(),
        })
    }

    /// What the server calls itself.
    pub fn server_name(&self) -> &str {
        &self.server_name
    }

    /// Identifies the server to its clients.
    pub fn server_guid(&self) -> [u8; 16] {
        self.server_guid
    }

    /// The share a client means by `name`.
    pub fn share(&self, name: &str) -> Option<&Arc<Share>> {
        self.shares
            .iter()
            .find(|share| text::same_name(share.name(), name))
    }

    /// What `srvsvc` tells of the server.
    pub fn rpc_server(&self) -> srvsvc::Server<'_> {
        let mut shares: Vec<_> = self
            .shares
            .iter()
            .map(|share| srvsvc::ShareEntry {
                name: share.name(),
                kind: srvsvc::STYPE_DISKTREE,
                remark: "",
            })
            .collect();
        shares.push(srvsvc::ShareEntry {
            name: IPC_SHARE,
            kind: srvsvc::STYPE_IPC_SPECIAL,
            remark: "Named pipes",
        });
        srvsvc::Server {
            name: &self.server_name,
            shares,
        }
    }
}

/// The host's name up to the first period, for [`Config::new`].
pub fn host_name() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    // NetBIOS, whose rules still bind NTLM's target name, allows 15 characters.
    let name: String = name.chars().take_while(|&c| c != '.').take(15).collect();
    if name.is_empty() {
        String::from("smbd")
    } else {
        name
    }
}
