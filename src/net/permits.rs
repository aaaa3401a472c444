//! How many connections may be open: in all, and from one address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The bounds and what is open under them.
#[derive(Debug)]
pub struct Permits {
    max: usize,
    max_per_address: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    /// Only addresses with an open connection, so that `max` bounds this too.
    addresses: HashMap<IpAddr, usize>,
}

/// One open connection. Dropped when it is closed.
#[derive(Debug)]
pub struct Permit {
    permits: Arc<Permits>,
    address: Option<IpAddr>,
}

/// Which bound a connection met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// All connections together.
    Everywhere,
    /// Those from its address.
    FromItsAddress,
}

impl Permits {
    /// Nothing open yet.
    pub fn new(max: usize, max_per_address: usize) -> Arc<Permits> {
        Arc::new(Permits {
            max,
            max_per_address,
            open: Mutex::default(),
        })
    }

    /// Lets one more in, from there; a Unix socket has no address.
    pub fn take(self: &Arc<Self>, peer: Option<IpAddr>) -> Result<Permit, Full> {
        let mut open = self.open();
        if open.all >= self.max {
            return Err(Full::Everywhere);
        }
        let address = peer.and_then(counted_as);
        if let Some(address) = address {
            let from_there = open.addresses.entry(address).or_default();
            if *from_there >= self.max_per_address {
                return Err(Full::FromItsAddress);
            }
            *from_there += 1;
        }
        open.all += 1;
        Ok(Permit {
            permits: self.clone(),
            address,
        })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // Nothing panics while it is held; if something did, the numbers would still be right.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.permits.open();
        open.all -= 1;
        let Some(address) = self.address else { return };
        if let Entry::Occupied(mut from_there) = open.addresses.entry(address) {
            *from_there.get_mut() -= 1;
            if *from_there.get() == 0 {
                from_there.remove();
            }
        }
    }
}

/// Under which address a peer is counted. This machine's own programs are not: behind a proxy everybody
/// comes from here, and whoever runs programs here has easier ways to do harm. In IPv6 one machine has a
/// whole /64 to choose addresses from.
fn counted_as(peer: IpAddr) -> Option<IpAddr> {
    match peer.to_canonical() {
        peer if peer.is_loopback() => None,
        IpAddr::V6(peer) => {
            let network = peer.to_bits() & !u128::from(u64::MAX);
            Some(Ipv6Addr::from_bits(network).into())
        }
        peer => Some(peer),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(address: &str) -> Option<IpAddr> {
        Some(address.parse().unwrap())
    }

    #[test]
    fn one_address_may_have_so_many_and_others_still_come_in() {
        let permits = Permits::new(100, 2);
        let _first = permits.take(at("192.168.1.2")).unwrap();
        let second = permits.take(at("::ffff:192.168.1.2")).unwrap();
        assert_eq!(permits.take(at("192.168.1.2")).unwrap_err(), Full::FromItsAddress);
        permits.take(at("192.168.1.3")).unwrap();
        drop(second);
        permits.take(at("192.168.1.2")).unwrap();
    }

    #[test]
    fn neighbours_in_one_ipv6_network_count_as_one_machine() {
        let permits = Permits::new(100, 1);
        let _first = permits.take(at("fd00::1")).unwrap();
        assert_eq!(permits.take(at("fd00::2")).unwrap_err(), Full::FromItsAddress);
        permits.take(at("fd00:0:0:1::1")).unwrap();
    }

    #[test]
    fn this_machine_is_counted_in_all_but_not_by_address() {
        let permits = Permits::new(4, 1);
        let held: Vec<_> = [at("127.0.0.1"), at("127.0.0.1"), at("::1"), None]
            .into_iter()
            .map(|peer| permits.take(peer).unwrap())
            .collect();
        assert_eq!(permits.take(None).unwrap_err(), Full::Everywhere);
        assert_eq!(permits.take(at("10.0.0.1")).unwrap_err(), Full::Everywhere);
        drop(held);
        permits.take(at("10.0.0.1")).unwrap();
    }

    proptest! {
        #[test]
        fn what_is_counted_is_what_is_held(steps in prop::collection::vec((0u8..4, any::<bool>()), 0..200)) {
            let permits = Permits::new(6, 2);
            let mut held: Vec<(u8, Permit)> = Vec::new();
            for (machine, comes) in steps {
                let from_there = held.iter().filter(|(other, _)| *other == machine).count();
                if comes {
                    let peer = IpAddr::from([10, 0, 0, machine]);
                    match permits.take(Some(peer)) {
                        Ok(permit) => {
                            prop_assert!(held.len() < 6 && from_there < 2);
                            held.push((machine, permit));
                        }
                        Err(Full::Everywhere) => prop_assert_eq!(held.len(), 6),
                        Err(Full::FromItsAddress) => prop_assert_eq!(from_there, 2),
                    }
                } else if let Some(at) = held.iter().position(|(other, _)| *other == machine) {
                    held.remove(at);
                }
                let open = permits.open();
                prop_assert_eq!(open.all, held.len());
                prop_assert_eq!(open.addresses.values().sum::<usize>(), held.len());
                prop_assert!(open.addresses.values().all(|count| *count > 0));
            }
        }
    }
}
