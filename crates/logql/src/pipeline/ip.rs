//! `ip()`: addresses in lines and labels.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A set of addresses: one, a range, or a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IpMatcher {
    first: IpAddr,
    last: IpAddr,
}

impl IpMatcher {
    /// Reads `10.0.0.1`, `10.0.0.1-10.0.0.9` or `10.0.0.0/8`.
    pub(crate) fn new(pattern: &str) -> Result<Self, String> {
        Self::parse(pattern)
            .ok_or_else(|| format!("ip: invalid pattern: {}", crate::units::go_quote(pattern)))
    }

    fn parse(pattern: &str) -> Option<Self> {
        if let Some((address, bits)) = pattern.split_once('/') {
            let address: IpAddr = address.parse().ok()?;
            if bits.starts_with('+') || (bits.len() > 1 && bits.starts_with('0')) {
                return None;
            }
            let bits: u32 = bits.parse().ok()?;
            return Self::network(address, bits);
        }
        if let Some((first, last)) = pattern.split_once('-') {
            let (first, last): (IpAddr, IpAddr) = (first.parse().ok()?, last.parse().ok()?);
            return (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(Self { first, last });
        }
        let address = pattern.parse().ok()?;
        Some(Self { first: address, last: address })
    }

    fn network(address: IpAddr, bits: u32) -> Option<Self> {
        match address {
            IpAddr::V4(a) if bits <= 32 => {
                let mask = u32::MAX.checked_shr(bits).unwrap_or(0);
                let a = u32::from(a);
                Some(Self { first: Ipv4Addr::from(a & !mask).into(), last: Ipv4Addr::from(a | mask).into() })
            }
            IpAddr::V6(a) if bits <= 128 => {
                let mask = u128::MAX.checked_shr(bits).unwrap_or(0);
                let a = u128::from(a);
                Some(Self { first: Ipv6Addr::from(a & !mask).into(), last: Ipv6Addr::from(a | mask).into() })
            }
            _ => None,
        }
    }

    fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && self.first <= address && address <= self.last
    }

    /// Whether `text` holds one of the addresses, as Loki finds them: by how an address may begin, and then as far as
    /// its characters go.
    pub(crate) fn find(&self, text: &[u8]) -> bool {
        let mut i = 0;
        while i < text.len() {
            let rest = &text[i..];
            let part: fn(u8) -> bool = if begins_v4(rest) {
                |b| b.is_ascii_digit() || b == b'.'
            } else if begins_v6(rest) {
                |b| b.is_ascii_hexdigit() || b == b':' || b == b'.'
            } else {
                i += 1;
                continue;
            };
            let len = rest.iter().take_while(|b| part(**b)).count();
            let address = std::str::from_utf8(&rest[..len]).ok().and_then(|t| t.parse().ok());
            if address.is_some_and(|a| self.contains(a)) {
                return true;
            }
            i += len + 1;
        }
        false
    }
}

fn begins_v4(t: &[u8]) -> bool {
    if t.len() < 4 || !t[0].is_ascii_digit() {
        return false;
    }
    t[1] == b'.' || (t[1].is_ascii_digit() && (t[2] == b'.' || (t[2].is_ascii_digit() && t[3] == b'.')))
}

fn begins_v6(t: &[u8]) -> bool {
    if t.len() >= 3 && t[0] == b':' && t[1] == b':' && t[2].is_ascii_hexdigit() {
        return true;
    }
    let digits = t.iter().take(5).take_while(|b| b.is_ascii_hexdigit()).count();
    (1..=4).contains(&digits) && t.get(digits) == Some(&b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_whole_addresses() {
        for (pattern, text, found) in [
            ("10.0.0.0/8", "peer 10.1.2.3:80", true),
            ("10.0.0.0/8", "peer 110.1.2.3:80", false),
            ("10.0.0.1-10.0.0.9", "a=10.0.0.9", true),
            ("10.0.0.1-10.0.0.9", "a=10.0.0.10", false),
            ("0.0.0.0/0", "999.1.1.1", false),
            ("::1", "from ::1 to", true),
            ("2001:db8::/32", "2001:db8::7 GET", true),
            ("1.2.3.4", "v1.2.3.4.5", false),
        ] {
            assert_eq!(IpMatcher::new(pattern).unwrap().find(text.as_bytes()), found, "{pattern} in {text}");
        }
    }

    #[test]
    fn refuses_what_is_no_set_of_addresses() {
        for bad in ["bad", "10.0.0.0/99", "", "10.0.0.9-10.0.0.1", "::1-10.0.0.1", "10.0.0.1/"] {
            assert_eq!(IpMatcher::new(bad).unwrap_err(), format!("ip: invalid pattern: \"{bad}\""));
        }
    }
}
