//! Who may reach the doors, judged by where a connection comes from.

use std::net::IpAddr;

/// Which peers are answered at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Those of private ranges: this machine and the networks behind the same router.
    PrivateNetworks,
    /// All, wherever they are.
    Everybody,
}

impl Reach {
    /// Whether this peer is answered.
    pub fn includes(self, peer: IpAddr) -> bool {
        self == Reach::Everybody || is_private(peer)
    }
}

/// Loopback, RFC 1918, link-local and unique local addresses. An IPv4 address that came to an IPv6
/// socket is judged as what it is.
fn is_private(peer: IpAddr) -> bool {
    match peer.to_canonical() {
        IpAddr::V4(peer) => peer.is_loopback() || peer.is_private() || peer.is_link_local(),
        IpAddr::V6(peer) => peer.is_loopback() || peer.is_unicast_link_local() || peer.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_last_of_each_private_range_are_private_and_their_neighbours_are_not() {
        let inside = [
            "127.0.0.0",
            "127.255.255.255",
            "10.0.0.0",
            "10.255.255.255",
            "172.16.0.0",
            "172.31.255.255",
            "192.168.0.0",
            "192.168.255.255",
            "169.254.0.0",
            "169.254.255.255",
            "::1",
            "fe80::",
            "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "fc00::",
            "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "::ffff:192.168.1.2",
            "::ffff:127.0.0.1",
        ];
        let outside = [
            "126.255.255.255",
            "128.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "0.0.0.0",
            "100.64.0.1",
            "192.0.2.1",
            "255.255.255.255",
            "::",
            "::2",
            "fe7f:ffff::1",
            "fec0::",
            "fbff::1",
            "fe00::1",
            "2001:db8::1",
            "ff02::1",
            "::ffff:8.8.8.8",
            "::ffff:172.32.0.0",
        ];
        for (addresses, expected) in [(&inside[..], true), (&outside[..], false)] {
            for address in addresses {
                let address: IpAddr = address.parse().unwrap();
                assert_eq!(Reach::PrivateNetworks.includes(address), expected, "{address}");
                assert!(Reach::Everybody.includes(address));
            }
        }
    }
}
