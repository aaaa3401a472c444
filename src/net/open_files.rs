//! Room for connections in the system's limit on open files.

/// What the daemon itself has open at most, beside connections: listeners, reactors, the status socket
/// and the HTTP server with their clients, the inference process, the log.
const OWN_FILES: u64 = 128;

/// Raises the limit, and says how many connections can be open under it. More would not be refused but
/// left waiting, since a connection that finds no descriptor is not even accepted.
pub fn make_room(max_connections: usize) -> usize {
    let limit = platform::open_files::raise_limit(max_connections as u64 + OWN_FILES);
    let possible = connections_within(limit, max_connections);
    if possible < max_connections {
        tracing::warn!(
            mqtt.max_connections = max_connections,
            possible,
            open_files = limit,
            "the system lets this process have too few open files for mqtt.max_connections; raise the system's \
             limit (`ulimit -Hn`, LimitNOFILE of a systemd unit, HardResourceLimits of a LaunchDaemon), or lower the \
             setting"
        );
    }
    possible
}

fn connections_within(limit: Option<u64>, max_connections: usize) -> usize {
    let Some(limit) = limit else {
        return max_connections;
    };
    let possible = usize::try_from(limit.saturating_sub(OWN_FILES)).unwrap_or(usize::MAX);
    // One at least: whoever starts it with next to nothing is to hear of it from the daemon.
    max_connections.min(possible).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_get_what_the_daemon_leaves_of_the_limit() {
        assert_eq!(connections_within(None, 15_000), 15_000);
        assert_eq!(connections_within(Some(20_000), 15_000), 15_000);
        assert_eq!(connections_within(Some(1_024), 15_000), 896);
        assert_eq!(connections_within(Some(10), 15_000), 1);
    }
}
