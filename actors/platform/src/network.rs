//! What this machine is called in its network, and at which addresses it is there.

use std::io;
use std::net::IpAddr;

/// Its name. Not necessarily one that another machine could find it by.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The name under which it announces itself by mDNS, without `.local`, where the system keeps one that
/// may differ from the host name.
pub fn local_host_name() -> Option<String> {
    system::local_host_name()
}

/// The addresses of all its interfaces, each once.
///
/// # Errors
/// When the system does not say.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let mut addresses: Vec<_> = if_addrs::get_if_addrs()?
        .into_iter()
        .map(|interface| interface.ip())
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

#[cfg(target_os = "macos")]
mod system {
    /// Asks the `scutil` program: a process, but no foreign calls, and this is asked once a certificate.
    pub(super) fn local_host_name() -> Option<String> {
        let output = std::process::Command::new("/usr/sbin/scutil")
            .args(["--get", "LocalHostName"])
            .output()
            .ok()?;
        let name = String::from_utf8(output.stdout).ok()?;
        Some(name.trim().to_owned()).filter(|name| output.status.success() && !name.is_empty())
    }
}

#[cfg(not(target_os = "macos"))]
mod system {
    /// Elsewhere mDNS announces the host name.
    pub(super) fn local_host_name() -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_a_name_and_its_loopback_address() {
        assert!(!host_name().is_empty());
        let addresses = addresses().unwrap();
        assert!(addresses.iter().any(IpAddr::is_loopback), "{addresses:?}");
    }
}
