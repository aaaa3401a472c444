//! How many files, and so connections, this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What macOS always grants. Its hard limit says "unlimited", but it refuses more than the system's
/// own bound for a process, which is higher than this and not told here.
const MACOS_OPEN_MAX: u64 = 10_240;

/// Raises the limit as far as this process may, and to `wanted` at least where that can be had. Returns
/// what holds now; nothing where there is no limit.
pub fn raise_limit(wanted: u64) -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let candidates = [limit.maximum, Some(wanted), Some(MACOS_OPEN_MAX)];
    for candidate in candidates {
        if limit.current.is_none() || (candidate.is_some() && candidate <= limit.current) {
            continue;
        }
        let wanted = Rlimit {
            current: candidate,
            maximum: limit.maximum,
        };
        // Refused, the next candidate is tried; after the last one the old limit holds.
        if setrlimit(Resource::Nofile, wanted).is_ok() {
            break;
        }
    }
    getrlimit(Resource::Nofile).current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one_and_stays_there() {
        let hard = getrlimit(Resource::Nofile).maximum;
        let raised = raise_limit(1);
        assert!(
            raised == hard || cfg!(target_os = "macos"),
            "{raised:?} of {hard:?}"
        );
        assert_eq!(raise_limit(1), raised);
    }
}
