//! What a daemon that is a service says to those who watch over it: when it is ready, how its model is, that it still answers,
//! and that it stops. One thread of its own does all of it, which no hanging actor holds up: a sign of life is sent on only if
//! the parts that everything passes through have given one. Where nobody would end a daemon that hangs, it ends itself, to be
//! started anew. A person's own daemon at a terminal has none of this.

use std::ffi::OsString;
use std::io::{self, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use actix::{Actor, Addr};
use actors::policy::hanging::{Hanging, Verdict};
use actors::pulse::{PARTS, Pulse, PulseTaker};
use actors::scheduler::{Scheduler, SchedulerStatus};
use actors::topic_router::TopicRouter;
use sd_notify::NotifyState;

use super::LABEL;

/// The longest time between two looks.
const LOOK: Duration = Duration::from_secs(5);
/// A look may miss a sign by a hair's breadth; a second one in a row does not.
const SILENT_LOOKS: u32 = 2;
/// Without a sign for so long a daemon ends itself.
const ENDS_AFTER: Duration = Duration::from_secs(60);
/// What a last line has to be written in; whoever hangs may hold the lock on where it goes.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Who started this daemon, as far as its environment tells.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Keeper {
    /// Within which time systemd wants signs of life.
    wants_signs_within: Option<Duration>,
}

impl Keeper {
    /// None where it is no service.
    fn of(
        variable: impl Fn(&str) -> Option<OsString>,
        wants_signs_within: Option<Duration>,
    ) -> Option<Keeper> {
        let is_told = variable("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty());
        // Programs that somebody starts on macOS have the variable as well, with another name in it.
        let is_launchds = variable("XPC_SERVICE_NAME").is_some_and(|name| name == LABEL);
        (is_told || is_launchds).then(|| Keeper {
            wants_signs_within: wants_signs_within.filter(|within| is_told && !within.is_zero()),
        })
    }

    /// Three looks within the time that is granted, so that one may come late.
    fn look_every(&self) -> Duration {
        self.wants_signs_within
            .map_or(LOOK, |within| (within / 3).min(LOOK))
    }
}

/// A daemon that is watched over. When this is dropped, nobody watches any more.
pub(crate) struct Watch {
    stop: mpsc::Sender<()>,
}

impl Watch {
    /// Says that the daemon is ready, and watches from now on; does nothing where it is no service. To be called on the
    /// arbiter that is watched.
    pub(crate) fn begin(router: Addr<TopicRouter>, scheduler: Addr<Scheduler>) -> io::Result<Option<Watch>> {
        let keeper = Keeper::of(|name| std::env::var_os(name), sd_notify::watchdog_enabled());
        let Some(keeper) = keeper else { return Ok(None) };
        let pulse = Arc::<Pulse>::default();
        let words = Arc::<Mutex<String>>::default();
        let said = words.clone();
        let told = move |status: &SchedulerStatus| {
            *said.lock().unwrap_or_else(PoisonError::into_inner) = in_words(status);
        };
        let ask_every = keeper.look_every() / 2;
        PulseTaker::new(pulse.clone(), ask_every, router, scheduler, told).start();
        tell(&[NotifyState::Ready]);
        let (stop, stopped) = mpsc::channel();
        thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || watch(&keeper, &pulse, &words, &stopped))?;
        Ok(Some(Watch { stop }))
    }

    /// Says that the daemon stops. Whoever waits for its end has a time of their own for that.
    pub(crate) fn stops(self) {
        tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
        // One that has ended watches no more either.
        let _ended = self.stop.send(());
    }
}

/// The longest that may take for which [`takes_long`] asks.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Asks whoever waits until the daemon is ready for an hour from now on: something is under way that takes as long as its disk takes.
pub(crate) fn takes_long() {
    let most = u32::try_from(PATIENCE.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::ExtendTimeoutUsec(most)]);
}

fn watch(keeper: &Keeper, pulse: &Pulse, words: &Mutex<String>, stopped: &mpsc::Receiver<()>) {
    let every = keeper.look_every();
    let (mut hanging, mut told) = (Hanging::default(), String::new());
    while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
        let words = words.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if words != told {
            tell(&[NotifyState::Status(&words)]);
            told = words;
        }
        match next(hanging.look(pulse.signs()), every) {
            Next::PassOn => {
                if keeper.wants_signs_within.is_some() {
                    tell(&[NotifyState::Watchdog]);
                }
            }
            Next::Warn(part) => log(move || tracing::warn!(part, "a part of the daemon does not answer")),
            Next::Wait => {}
            Next::End(part) => {
                log(move || {
                    // The log may not come to it any more. Nobody is left whom a failure could be told.
                    let _unsaid = writeln!(
                        io::stderr(),
                        "clawdbot: the {part} hangs; the daemon ends itself, to be started anew"
                    );
                    tracing::error!(
                        part,
                        after_s = ENDS_AFTER.as_secs(),
                        "a part of the daemon hangs; the daemon ends itself, to be started anew; please report this"
                    );
                });
                thread::sleep(LAST_WORDS);
                std::process::abort();
            }
        }
    }
}

/// What follows from a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// All is well, and whoever wants to know is told.
    PassOn,
    /// A part is silent; nobody is told that all is well.
    Warn(&'static str),
    /// It still is.
    Wait,
    /// It hangs.
    End(&'static str),
}

fn next(verdict: Verdict, looked_every: Duration) -> Next {
    let Verdict::Silent { part, looks } = verdict else {
        return Next::PassOn;
    };
    let name = PARTS.get(part).copied().unwrap_or("unknown");
    if looked_every.saturating_mul(looks) >= ENDS_AFTER {
        Next::End(name)
    } else if looks < SILENT_LOOKS {
        Next::PassOn
    } else if looks == SILENT_LOOKS {
        Next::Warn(name)
    } else {
        Next::Wait
    }
}

/// On another thread: this one must not wait for a lock that a hanging one holds.
fn log(line: impl FnOnce() + Send + 'static) {
    // Where no thread can be had, there is no line.
    let _unsaid = thread::Builder::new().spawn(line);
}

fn tell(words: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(words) {
        log(move || tracing::debug!(%error, "systemd could not be told"));
    }
}

fn in_words(status: &SchedulerStatus) -> String {
    match (status.worker, &status.model, status.packed_percent) {
        ("ready", Some(model), _) => format!("ready, with {}", model.name),
        ("starting", _, Some(percent)) => format!("packing the model's weights, {percent} % done"),
        ("starting", _, None) => "loading the model".to_owned(),
        ("no_model", _, _) => "ready, without a model".to_owned(),
        _ => "no model answers, see the log".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeper(variables: &[(&str, &str)], wants: Option<Duration>) -> Option<Keeper> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name)?;
            Some(OsString::from(found.1))
        };
        Keeper::of(variable, wants)
    }

    #[test]
    fn only_a_service_is_watched_over() {
        let within = Some(Duration::from_secs(30));
        assert_eq!(keeper(&[], within), None);
        assert_eq!(keeper(&[("NOTIFY_SOCKET", "")], None), None);
        // A terminal's on macOS.
        assert_eq!(keeper(&[("XPC_SERVICE_NAME", "0")], None), None);
        let systemds = keeper(&[("NOTIFY_SOCKET", "/run/s")], within);
        let systemds = systemds.unwrap();
        assert_eq!(systemds.wants_signs_within, within);
        let launchds = keeper(&[("XPC_SERVICE_NAME", LABEL)], None);
        assert_eq!(launchds.unwrap().wants_signs_within, None);
        let zero = keeper(&[("NOTIFY_SOCKET", "/run/s")], Some(Duration::ZERO)).unwrap();
        assert_eq!(zero.look_every(), LOOK);
    }

    #[test]
    fn there_are_three_looks_in_the_time_that_is_granted_and_no_more_than_needed() {
        let every = |within_s| {
            let within = Some(Duration::from_secs(within_s));
            keeper(&[("NOTIFY_SOCKET", "/run/s")], within)
                .unwrap()
                .look_every()
        };
        assert_eq!(every(3), Duration::from_secs(1));
        assert_eq!(every(30), LOOK);
        assert_eq!(
            keeper(&[("NOTIFY_SOCKET", "/run/s")], None).unwrap().look_every(),
            LOOK
        );
    }

    #[test]
    fn a_part_that_is_silent_is_waited_for_a_minute_and_ends_the_daemon_then() {
        let silent = |looks| next(Verdict::Silent { part: 1, looks }, LOOK);
        assert_eq!(next(Verdict::Answers, LOOK), Next::PassOn);
        assert_eq!(silent(1), Next::PassOn);
        assert_eq!(silent(2), Next::Warn("topic router"));
        for looks in 3..12 {
            assert_eq!(silent(looks), Next::Wait, "{looks}");
        }
        assert_eq!(silent(12), Next::End("topic router"));
    }

    #[test]
    fn systemd_would_end_one_that_hangs_before_it_does_so_itself() {
        // The last sign is passed on at the first silent look; systemd's time begins then.
        let within = Duration::from_secs(30);
        let every = keeper(&[("NOTIFY_SOCKET", "/run/s")], Some(within))
            .unwrap()
            .look_every();
        let mut last_sign = Duration::ZERO;
        let mut looks = 0;
        loop {
            looks += 1;
            let now = every * looks;
            match next(Verdict::Silent { part: 0, looks }, every) {
                Next::PassOn => last_sign = now,
                Next::End(_) => break assert!(now > last_sign + within),
                _ => {}
            }
        }
    }
}
