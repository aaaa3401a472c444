//! What a process listens on, by what Linux tells of it under /proc.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// The state of a socket that listens, among those of TCP.
const LISTENS: &str = "0A";

/// The addresses and ports that a process listens on.
pub(super) fn listening(proc: &Path, pid: u32) -> io::Result<Vec<SocketAddr>> {
    let process = proc.join(pid.to_string());
    let mut own = HashSet::new();
    for entry in fs::read_dir(process.join("fd"))? {
        // What is closed since is not listened on.
        let Ok(target) = fs::read_link(entry?.path()) else {
            continue;
        };
        let name = target.to_string_lossy();
        let number = name
            .strip_prefix("socket:[")
            .and_then(|name| name.strip_suffix(']'));
        own.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    let mut found = Vec::new();
    for table in ["net/tcp", "net/tcp6"] {
        // Where IPv6 is switched off there is no second table.
        let text = fs::read_to_string(process.join(table)).unwrap_or_default();
        let listeners = text.lines().filter_map(listener);
        found.extend(
            listeners
                .filter(|(_, inode)| own.contains(inode))
                .map(|(address, _)| address),
        );
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// `0: 0100007F:075B 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 2304752 …`, see proc_pid_net(5).
fn listener(line: &str) -> Option<(SocketAddr, u64)> {
    let mut words = line.split_whitespace().skip(1);
    let local = words.next()?;
    if words.nth(1)? != LISTENS {
        return None;
    }
    let inode = words.nth(5)?.parse().ok()?;
    let (ip, port) = local.split_once(':')?;
    Some((
        SocketAddr::new(ip_of(ip)?, u16::from_str_radix(port, 16).ok()?),
        inode,
    ))
}

/// Words of 32 bits, each as this processor has it in memory.
fn ip_of(digits: &str) -> Option<IpAddr> {
    let mut bytes = Vec::with_capacity(16);
    for at in (0..digits.len()).step_by(8) {
        let word = u32::from_str_radix(digits.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(bytes) => Some(Ipv4Addr::from(bytes).into()),
        Err(_) => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn a_line_of_the_table_is_read() {
        let read = |line: &str| listener(line).map(|(address, inode)| (address.to_string(), inode));
        let line = "   0: 0100007F:075B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 23 1 0 100 0 0 10 0";
        assert_eq!(read(line), Some(("127.0.0.1:1883".to_owned(), 23)));
        let line = "   1: 00000000000000000000000001000000:22B3 00000000000000000000000000000000:0000 0A 00000000:00000000 \
            00:00000000 00000000  1000        0 42 1 0 100 0 0 10 0";
        assert_eq!(read(line), Some(("[::1]:8883".to_owned(), 42)));
        let established = "  43: 0100007F:AD4B 0100007F:B34E 01 00000000:00000000 00:00000000 00000000 0 0 2091179 1 0 20 0 0 18 -1";
        assert_eq!(read(established), None);
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        assert_eq!(read(head), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_listens_on_what_it_opens() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let found = listening(Path::new("/proc"), std::process::id()).unwrap();
        assert!(found.contains(&address), "{found:?}");
        drop(socket);
        let found = listening(Path::new("/proc"), std::process::id()).unwrap();
        assert!(!found.contains(&address), "{found:?}");
        assert!(listening(Path::new("/proc"), u32::MAX).is_err());
    }
}
