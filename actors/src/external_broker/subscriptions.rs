//! What the broker is asked to bring, and what of it it brings. The bound topics say what is wanted; here
//! it is worked out what is still to be said. One question is under way at a time, so that its answer needs
//! no number. Pure.

use std::collections::BTreeMap;

use bytestring::ByteString;
use topics::filter::{FilterError, TopicFilter};
use topics::packet::QoS;

use crate::served::{Audience, ServedFilters};

/// Filters in one question: a packet that no broker finds too large.
const MAX_FILTERS: usize = 32;

/// Bytes of filters in one question.
const MAX_BYTES: usize = 16 * 1024;

/// See the module.
pub(super) struct Subscriptions {
    /// The name under which daemons share.
    group: String,
    wanted: BTreeMap<TopicFilter, Audience>,
    /// What the broker knows of, also from connections before this one.
    known: BTreeMap<TopicFilter, Standing>,
    asked: Option<Question>,
    /// Something may be left to say.
    unsettled: bool,
}

/// How the broker stands to a filter.
enum Standing {
    /// It said yes to an earlier connection of the same session.
    Earlier,
    /// It said yes.
    Granted,
    /// It does not want to, for this reason.
    Refused(String),
}

/// What the broker is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    Subscribe(Vec<(TopicFilter, Audience)>),
    Unsubscribe(TopicFilter),
}

impl Subscriptions {
    pub(super) fn new(group: &str) -> Self {
        Self {
            group: group.to_owned(),
            wanted: BTreeMap::new(),
            known: BTreeMap::new(),
            asked: None,
            unsettled: true,
        }
    }

    /// These are the bound topics now. Gives those that cannot be asked for, which are too long.
    pub(super) fn want(&mut self, served: &ServedFilters) -> Vec<(TopicFilter, FilterError)> {
        let mut impossible = Vec::new();
        self.unsettled = true;
        self.wanted.clear();
        for (filter, audience) in served {
            match self.shared(filter, *audience) {
                Ok(wanted) => {
                    self.wanted.insert(wanted, *audience);
                }
                Err(error) => impossible.push((filter.clone(), error)),
            }
        }
        impossible
    }

    fn shared(&self, filter: &TopicFilter, audience: Audience) -> Result<TopicFilter, FilterError> {
        match audience {
            Audience::OneDaemon => {
                TopicFilter::parse(ByteString::from(format!("$share/{}/{filter}", self.group)))
            }
            Audience::EveryDaemon => Ok(filter.clone()),
        }
    }

    /// A new connection: everything is asked for again, and what is not wanted any more is still there if
    /// the session is.
    pub(super) fn connected(&mut self, session_present: bool) {
        self.asked = None;
        self.unsettled = true;
        self.known
            .retain(|_, standing| session_present && !matches!(standing, Standing::Refused(_)));
        for standing in self.known.values_mut() {
            *standing = Standing::Earlier;
        }
    }

    /// What to say next. Nothing while an answer is awaited, and when all has been said.
    pub(super) fn next(&mut self) -> Option<Question> {
        if self.asked.is_some() || !self.unsettled {
            return None;
        }
        // First what is not wanted: it may overlap with what is.
        self.known.retain(|filter, standing| {
            self.wanted.contains_key(filter) || !matches!(standing, Standing::Refused(_))
        });
        let unwanted = self
            .known
            .keys()
            .find(|filter| !self.wanted.contains_key(*filter));
        let question = match unwanted {
            Some(filter) => Question::Unsubscribe(filter.clone()),
            None => Question::Subscribe(self.unsaid()),
        };
        if matches!(&question, Question::Subscribe(filters) if filters.is_empty()) {
            self.unsettled = false;
            return None;
        }
        self.asked = Some(question.clone());
        Some(question)
    }

    /// Of those not asked for with this connection, as many as one question holds.
    fn unsaid(&self) -> Vec<(TopicFilter, Audience)> {
        let mut bytes = 0;
        let unsaid = self
            .wanted
            .iter()
            .filter(|(filter, _)| matches!(self.known.get(*filter), None | Some(Standing::Earlier)));
        let fitting = unsaid.take(MAX_FILTERS).take_while(|(filter, _)| {
            let first = bytes == 0;
            bytes += filter.as_str().len();
            first || bytes <= MAX_BYTES
        });
        fitting
            .map(|(filter, audience)| (filter.clone(), *audience))
            .collect()
    }

    /// The question could not be handed over; it is asked another time.
    pub(super) fn not_asked(&mut self) {
        self.asked = None;
    }

    /// The broker answered a subscription: for each filter what is granted, or why nothing is. Gives those
    /// that are not as they must be.
    pub(super) fn answered(
        &mut self,
        verdicts: impl Iterator<Item = Result<QoS, String>>,
    ) -> Vec<(TopicFilter, String)> {
        let Some(Question::Subscribe(filters)) = self.asked.take_if(|q| matches!(q, Question::Subscribe(_)))
        else {
            return Vec::new();
        };
        let verdicts = verdicts.chain(std::iter::repeat_with(|| Err("no answer".to_owned())));
        let mut refused = Vec::new();
        for ((filter, audience), verdict) in filters.into_iter().zip(verdicts) {
            let standing = match (verdict, audience) {
                (Ok(QoS::AtMostOnce), Audience::OneDaemon) => {
                    Standing::Refused("granted at QoS 0 only, by which messages could be lost".to_owned())
                }
                (Ok(_), _) => Standing::Granted,
                (Err(why), _) => Standing::Refused(why),
            };
            if let Standing::Refused(why) = &standing {
                refused.push((filter.clone(), why.clone()));
            }
            self.known.insert(filter, standing);
        }
        refused
    }

    /// The broker brings the filter's messages no more.
    pub(super) fn unsubscribed(&mut self) {
        if let Some(Question::Unsubscribe(filter)) =
            self.asked.take_if(|q| matches!(q, Question::Unsubscribe(_)))
        {
            self.known.remove(&filter);
        }
    }

    /// Refused filters are asked for again: the broker's rules may have changed.
    pub(super) fn retry_refused(&mut self) {
        self.known
            .retain(|_, standing| !matches!(standing, Standing::Refused(_)));
        self.unsettled = true;
    }

    /// One that was refused, and why.
    pub(super) fn refused(&self) -> Option<(&TopicFilter, &str)> {
        self.known.iter().find_map(|(filter, standing)| match standing {
            Standing::Refused(why) => Some((filter, why.as_str())),
            _ => None,
        })
    }

    /// Whether the broker has answered all there was to ask.
    pub(super) fn is_settled(&self) -> bool {
        self.asked.is_none() && !self.unsettled
    }

    /// Filters whose messages the broker brings.
    pub(super) fn len(&self) -> usize {
        let granted = |standing: &&Standing| !matches!(standing, Standing::Refused(_));
        self.known.values().filter(granted).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(filters: &[(&str, Audience)]) -> ServedFilters {
        let parsed = filters
            .iter()
            .map(|(text, audience)| (text.parse().unwrap(), *audience));
        parsed.collect()
    }

    fn one(filters: &[&str]) -> ServedFilters {
        served(
            &filters
                .iter()
                .map(|text| (*text, Audience::OneDaemon))
                .collect::<Vec<_>>(),
        )
    }

    fn texts(question: Option<Question>) -> Vec<String> {
        match question {
            Some(Question::Subscribe(filters)) => {
                filters.iter().map(|(filter, _)| filter.to_string()).collect()
            }
            Some(Question::Unsubscribe(filter)) => vec![format!("not {filter}")],
            None => Vec::new(),
        }
    }

    /// Asks for all there is to ask; everything is granted.
    fn settle(subscriptions: &mut Subscriptions) -> Vec<String> {
        let mut asked = Vec::new();
        while let Some(question) = subscriptions.next() {
            asked.extend(texts(Some(question.clone())));
            match question {
                Question::Subscribe(filters) => {
                    subscriptions.answered(filters.iter().map(|_| Ok(QoS::AtLeastOnce)));
                }
                Question::Unsubscribe(_) => subscriptions.unsubscribed(),
            }
        }
        assert!(subscriptions.is_settled());
        asked
    }

    #[test]
    fn what_is_shared_is_asked_for_as_a_group_and_the_rest_by_itself() {
        let mut subscriptions = Subscriptions::new("g");
        subscriptions.want(&served(&[
            ("clawdbot/+/command", Audience::OneDaemon),
            ("clawdbot/+/cancel", Audience::EveryDaemon),
        ]));
        subscriptions.connected(false);
        assert!(!subscriptions.is_settled());
        let asked = settle(&mut subscriptions);
        assert_eq!(asked, ["$share/g/clawdbot/+/command", "clawdbot/+/cancel"]);
        assert_eq!(subscriptions.len(), 2);
    }

    #[test]
    fn what_is_bound_later_is_asked_for_and_what_has_ended_is_not_wanted_any_more() {
        let mut subscriptions = Subscriptions::new("g");
        subscriptions.want(&one(&["a", "b"]));
        subscriptions.connected(false);
        settle(&mut subscriptions);
        subscriptions.want(&one(&["b", "c"]));
        assert_eq!(settle(&mut subscriptions), ["not $share/g/a", "$share/g/c"]);
    }

    #[test]
    fn one_question_is_under_way_at_a_time() {
        let mut subscriptions = Subscriptions::new("g");
        subscriptions.want(&one(&["a"]));
        subscriptions.connected(false);
        assert_eq!(texts(subscriptions.next()), ["$share/g/a"]);
        subscriptions.want(&one(&["b"]));
        assert_eq!(subscriptions.next(), None);
        subscriptions.answered([Ok(QoS::AtLeastOnce)].into_iter());
        assert_eq!(settle(&mut subscriptions), ["not $share/g/a", "$share/g/b"]);
    }

    #[test]
    fn another_connection_is_asked_for_everything_and_told_what_ended_meanwhile() {
        let mut subscriptions = Subscriptions::new("g");
        subscriptions.want(&one(&["a", "b"]));
        subscriptions.connected(false);
        settle(&mut subscriptions);
        subscriptions.want(&one(&["b"]));
        subscriptions.connected(true);
        assert_eq!(settle(&mut subscriptions), ["not $share/g/a", "$share/g/b"]);
        subscriptions.want(&one(&["c"]));
        subscriptions.connected(false);
        assert_eq!(
            settle(&mut subscriptions),
            ["$share/g/c"],
            "the session is another"
        );
    }

    #[test]
    fn a_refused_filter_holds_up_no_other_and_is_asked_for_again() {
        let mut subscriptions = Subscriptions::new("g");
        subscriptions.want(&one(&["a", "b"]));
        subscriptions.connected(false);
        subscriptions.next().unwrap();
        let refused = subscriptions.answered([Err("no".to_owned()), Ok(QoS::AtLeastOnce)].into_iter());
        assert_eq!(refused, [("$share/g/a".parse().unwrap(), "no".to_owned())]);
        assert_eq!(subscriptions.len(), 1);
        assert!(subscriptions.next().is_none() && subscriptions.is_settled());
        assert!(subscriptions.refused().is_some());
        subscriptions.retry_refused();
        assert_eq!(settle(&mut subscriptions), ["$share/g/a"]);
        assert!(subscriptions.refused().is_none());
    }

    #[test]
    fn work_that_is_granted_at_qos_0_is_as_good_as_refused() {
        let mut subscriptions = Subscriptions::new("g");
        subscriptions.want(&served(&[
            ("clawdbot/+/command", Audience::OneDaemon),
            ("clawdbot/+/cancel", Audience::EveryDaemon),
        ]));
        subscriptions.connected(false);
        subscriptions.next().unwrap();
        let refused = subscriptions.answered(std::iter::repeat_n(Ok(QoS::AtMostOnce), 2));
        assert_eq!(refused.len(), 1);
        assert!(refused[0].1.contains("QoS 0"), "{refused:?}");
    }

    #[test]
    fn many_filters_are_asked_for_by_several_questions() {
        let long = |number: usize| format!("{number:03}{}", "x".repeat(1000));
        for (names, most) in [
            ((0..100).map(|n| n.to_string()).collect::<Vec<_>>(), MAX_FILTERS),
            ((0..100).map(long).collect(), MAX_BYTES / 1000),
            (vec!["y".repeat(60_000)], 1),
        ] {
            let mut subscriptions = Subscriptions::new("g");
            subscriptions.want(&one(&names.iter().map(String::as_str).collect::<Vec<_>>()));
            subscriptions.connected(false);
            let first = texts(subscriptions.next());
            assert!((1..=most).contains(&first.len()), "{}", first.len());
            subscriptions.not_asked();
            assert_eq!(settle(&mut subscriptions).len(), names.len());
        }
    }

    #[test]
    fn a_topic_too_long_to_be_shared_is_said() {
        let mut subscriptions = Subscriptions::new("g");
        let impossible = subscriptions.want(&one(&["a", &"z".repeat(65_530)]));
        assert_eq!(impossible.len(), 1);
        subscriptions.connected(false);
        assert_eq!(settle(&mut subscriptions), ["$share/g/a"]);
    }
}
