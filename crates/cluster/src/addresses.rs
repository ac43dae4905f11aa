//! Addresses: which members to join, and where others find this process.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How long a name may take to be resolved.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// An entry of `memberlist.join_members` as `host:port`.
///
/// # Errors
/// When it is not understood, in words for the operator.
pub(crate) fn parse_member(text: &str, default_port: u16) -> Result<String, String> {
    let text = text.trim();
    if let Some((kind @ ("dnssrv" | "dnssrvnoa"), _)) = text.split_once('+') {
        return Err(format!(
            "{text:?}: {kind}+ is not supported; name the host that stands for all members (dns+host:port)"
        ));
    }
    let host = text.strip_prefix("dns+").unwrap_or(text);
    if host.is_empty() || host.contains(['/', ' ']) {
        return Err(format!("{text:?} is not host:port"));
    }
    if let Ok(ip) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, default_port).to_string());
    }
    match host.rsplit_once(':') {
        None => Ok(format!("{host}:{default_port}")),
        Some((_, port)) if port.parse::<u16>().is_ok() => Ok(host.to_owned()),
        Some((_, port)) => Err(format!("{text:?}: {port:?} is not a port")),
    }
}

/// The addresses that `members` (`host:port`) stand for now, and the names that stand for none.
pub(crate) async fn resolve(members: &[String]) -> (BTreeSet<SocketAddr>, Vec<String>) {
    let mut found = BTreeSet::new();
    let mut failed = Vec::new();
    for member in members {
        match tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host(member)).await {
            Ok(Ok(addresses)) => found.extend(addresses),
            Ok(Err(error)) => failed.push(format!("{member}: {error}")),
            Err(_) => failed.push(format!("{member}: no answer within {RESOLVE_TIMEOUT:?}")),
        }
    }
    (found, failed)
}

/// The address of `host`, which may be a name.
///
/// # Errors
/// When it has none, in words for the operator.
pub(crate) async fn ip_of(host: &str) -> Result<IpAddr, String> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse() {
        return Ok(ip);
    }
    let looked_up = tokio::net::lookup_host((bare, 0)).await.map_err(|e| format!("{host}: {e}"))?;
    looked_up.map(|a| a.ip()).next().ok_or_else(|| format!("{host} has no address"))
}

/// The address that packets to `peers`, or else to anywhere, leave from. Nothing is sent.
pub(crate) async fn outgoing_ip(peers: &BTreeSet<SocketAddr>) -> Option<IpAddr> {
    // An address that nobody has (RFC 5737); the routing table is all that is asked.
    let anywhere = SocketAddr::from(([192, 0, 2, 1], 9));
    for peer in peers.iter().chain([&anywhere]) {
        let any: SocketAddr = if peer.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
        let Ok(socket) = tokio::net::UdpSocket::bind(any).await else { continue };
        if socket.connect(peer).await.is_ok()
            && let Ok(own) = socket.local_addr()
            && !own.ip().is_unspecified()
        {
            return Some(own.ip());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_hosts_with_or_without_a_port() {
        let check = |text: &str, expected: &str| {
            assert_eq!(parse_member(text, 7946).as_deref(), Ok(expected), "{text}");
        };
        check("10.0.0.7", "10.0.0.7:7946");
        check("10.0.0.7:1", "10.0.0.7:1");
        check("loki-memberlist", "loki-memberlist:7946");
        check("dns+loki.default.svc:7947", "loki.default.svc:7947");
        check("::1", "[::1]:7946");
        check("[::1]:5", "[::1]:5");
        for wrong in ["", "dns+", "host:port", "dnssrv+_gossip._tcp.loki", "http://a:1"] {
            assert!(parse_member(wrong, 7946).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn the_own_address_is_the_one_that_reaches_the_peer() {
        let peer = BTreeSet::from([SocketAddr::from(([127, 0, 0, 1], 7946))]);
        assert_eq!(outgoing_ip(&peer).await, Some(IpAddr::from([127, 0, 0, 1])));
    }
}
