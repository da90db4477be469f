//! Socket options spelled as in `smb.conf`: names, some with `=value`,
//! separated by spaces.

use std::time::Duration;

/// One option to set on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketOption {
    /// `SO_KEEPALIVE`
    KeepAlive(bool),
    /// `SO_REUSEADDR`
    ReuseAddr(bool),
    /// `SO_REUSEPORT`
    ReusePort(bool),
    /// `SO_BROADCAST`
    Broadcast(bool),
    /// `TCP_NODELAY`
    TcpNoDelay(bool),
    /// `TCP_QUICKACK`
    TcpQuickAck(bool),
    /// `SO_SNDBUF`, in bytes
    SendBuffer(u32),
    /// `SO_RCVBUF`, in bytes
    ReceiveBuffer(u32),
    /// `TCP_KEEPIDLE`: silence before the first probe
    TcpKeepIdle(Duration),
    /// `TCP_KEEPINTVL`: time between probes
    TcpKeepInterval(Duration),
    /// `TCP_KEEPCNT`: probes unanswered until the connection is given up
    TcpKeepCount(u32),
    /// `TCP_USER_TIMEOUT`: how long data may stay unacknowledged
    TcpUserTimeout(Duration),
    /// `IPTOS_LOWDELAY`
    IpTosLowDelay,
    /// `IPTOS_THROUGHPUT`
    IpTosThroughput,
}

/// Parses a string such as `TCP_NODELAY SO_RCVBUF=65536`.
///
/// A switch without a value is on; `=0` turns it off.
///
/// # Errors
///
/// A message naming the option that is unknown, lacks its value, or has a
/// wrong one.
pub fn parse(options: &str) -> Result<Vec<SocketOption>, String> {
    options.split_ascii_whitespace().map(parse_one).collect()
}

fn parse_one(option: &str) -> Result<SocketOption, String> {
    use SocketOption as S;
    let (name, value) = match option.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (option, None),
    };
    let number = || -> Result<u32, String> {
        let value = value.ok_or_else(|| format!("{name} takes a value: {name}=NUMBER"))?;
        // The kernel takes a C int for all of these.
        match value.parse::<i32>().map(u32::try_from) {
            Ok(Ok(number)) => Ok(number),
            _ => Err(format!("{value:?} is no value for {name}")),
        }
    };
    let switch = || match value {
        None => Ok(true),
        Some(_) => number().map(|number| number != 0),
    };
    let seconds = || number().map(|n| Duration::from_secs(n.into()));
    let bare = |option| match value {
        None => Ok(option),
        Some(_) => Err(format!("{name} takes no value")),
    };
    // Names are compared without case, as smb.conf does.
    match name.to_ascii_uppercase().as_str() {
        "SO_KEEPALIVE" => switch().map(S::KeepAlive),
        "SO_REUSEADDR" => switch().map(S::ReuseAddr),
        "SO_REUSEPORT" => switch().map(S::ReusePort),
        "SO_BROADCAST" => switch().map(S::Broadcast),
        "TCP_NODELAY" => switch().map(S::TcpNoDelay),
        "TCP_QUICKACK" => switch().map(S::TcpQuickAck),
        "SO_SNDBUF" => number().map(S::SendBuffer),
        "SO_RCVBUF" => number().map(S::ReceiveBuffer),
        "TCP_KEEPIDLE" => seconds().map(S::TcpKeepIdle),
        "TCP_KEEPINTVL" => seconds().map(S::TcpKeepInterval),
        "TCP_KEEPCNT" => number().map(S::TcpKeepCount),
        "TCP_USER_TIMEOUT" => number().map(|n| S::TcpUserTimeout(Duration::from_millis(n.into()))),
        "IPTOS_LOWDELAY" => bare(S::IpTosLowDelay),
        "IPTOS_THROUGHPUT" => bare(S::IpTosThroughput),
        "SO_SNDTIMEO" | "SO_RCVTIMEO" => Err(format!(
            "{name} has no effect on the non-blocking sockets used here"
        )),
        "SO_SNDLOWAT" => Err(format!("{name} can't be changed on this system")),
        "SO_RCVLOWAT" => Err(format!("{name} would keep complete requests waiting")),
        "TCP_DEFER_ACCEPT" => Err(format!("{name} is not supported")),
        _ => Err(format!("unknown option {name:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spelling_of_smb_conf_is_understood() {
        assert_eq!(
            parse(" TCP_NODELAY  SO_RCVBUF=65536 so_keepalive=0 IPTOS_LOWDELAY TCP_KEEPIDLE=30 "),
            Ok(vec![
                SocketOption::TcpNoDelay(true),
                SocketOption::ReceiveBuffer(65536),
                SocketOption::KeepAlive(false),
                SocketOption::IpTosLowDelay,
                SocketOption::TcpKeepIdle(Duration::from_secs(30)),
            ])
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (options, part) in [
            ("SO_RCVBUF", "SO_RCVBUF takes a value"),
            ("SO_RCVBUF=", "no value for SO_RCVBUF"),
            ("SO_SNDBUF=-1", "no value for SO_SNDBUF"),
            ("SO_SNDBUF=4294967296", "no value for SO_SNDBUF"),
            ("TCP_NODELAY=x", "no value for TCP_NODELAY"),
            ("IPTOS_LOWDELAY=1", "takes no value"),
            ("TCP_NODELAY,SO_KEEPALIVE", "unknown option"),
        ] {
            let message = parse(options).unwrap_err();
            assert!(message.contains(part), "{options}: {message}");
        }
    }
}
