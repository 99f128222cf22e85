//! One session asks a provider about a token; the others wait for what it is told.

use crate::core::identity::{Authority, Provider, Subject};
use crate::core::provider::refusals::Refusal;
use crate::core::time::Timestamp;
use std::time::Duration;

/// How far a token has been asked about, by whichever session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Never,
    /// Since then.
    Running(Timestamp),
    Refused(Refusal, Timestamp),
    Failed {
        at: Timestamp,
        is_silence: bool,
    },
}

/// What a session does that wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It asks itself.
    Ask,
    Wait,
    Refuse(Refusal),
    /// The attempt that it waited for has failed.
    Fail {
        is_silence: bool,
    },
}

/// A session that wants to know.
pub struct Wanting {
    pub now: Timestamp,
    pub since: Timestamp,
    /// For how long an attempt may take, `bodata.api_timeout`. A second later it counts as abandoned.
    pub timeout: Duration,
    pub negative_ttl: Duration,
}

const LATE: Duration = Duration::from_secs(1);

impl Asked {
    pub fn next(self, wanting: &Wanting) -> Next {
        match self {
            Asked::Running(begun) if !wanting.now.is_past(begun, wanting.timeout + LATE) => Next::Wait,
            Asked::Refused(refusal, at) if !wanting.now.is_past(at, wanting.negative_ttl) => Next::Refuse(refusal),
            Asked::Failed { at, is_silence } if at >= wanting.since && at <= wanting.now => {
                Next::Fail { is_silence }
            }
            _ => Next::Ask,
        }
    }
}

/// A remote provider's description of a user, for other sessions. None for what only this one can know.
pub fn encode(provider: Provider, subject: &Subject) -> Option<Vec<u8>> {
    let provider = SHARED.iter().position(|shared| *shared == provider)?;
    let (is_issuer, authority) = match &subject.authority {
        Authority::Iam(iam) => (false, iam),
        Authority::Issuer(issuer) => (true, issuer),
    };
    serde_json::to_vec(&(provider, is_issuer, authority, &subject.userid, &subject.role_name)).ok()
}

pub fn decode(text: &[u8]) -> Option<(Provider, Subject)> {
    let (provider, is_issuer, authority, userid, role_name): (usize, bool, String, String, Option<String>) =
        serde_json::from_slice(text).ok()?;
    let authority = if is_issuer { Authority::Issuer(authority) } else { Authority::Iam(authority) };
    Some((*SHARED.get(provider)?, Subject { authority, userid, role_name }))
}

/// Those that are asked.
const SHARED: [Provider; 2] = [Provider::Immuta, Provider::Introspection];

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn wanting(now: i64) -> Wanting {
        let (since, seconds) = (Timestamp(10 * SECOND), Duration::from_secs);
        Wanting { now: Timestamp(now * SECOND), since, timeout: seconds(5), negative_ttl: seconds(3) }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp(second * SECOND)
    }

    #[test]
    fn one_asks_and_the_others_wait_but_not_for_ever() {
        let running = Asked::Running(at(10));
        assert_eq!(Asked::Never.next(&wanting(10)), Next::Ask);
        assert_eq!(running.next(&wanting(15)), Next::Wait);
        assert_eq!(running.next(&wanting(16)), Next::Ask, "it hangs, or died");
        assert_eq!(running.next(&wanting(9)), Next::Ask, "a clock set back");
    }

    #[test]
    fn a_refusal_is_shared_for_its_time() {
        let refused = Asked::Refused(Refusal::NotAllowed, at(10));
        assert_eq!(refused.next(&wanting(12)), Next::Refuse(Refusal::NotAllowed));
        assert_eq!(refused.next(&wanting(13)), Next::Ask);
        assert_eq!(refused.next(&wanting(9)), Next::Ask);
    }

    #[test]
    fn a_failure_is_shared_by_those_who_waited_for_it() {
        let failed = |second| Asked::Failed { at: at(second), is_silence: true };
        assert_eq!(failed(11).next(&wanting(12)), Next::Fail { is_silence: true });
        assert_eq!(failed(9).next(&wanting(12)), Next::Ask, "before this session came");
        assert_eq!(failed(13).next(&wanting(12)), Next::Ask, "a clock set back");
    }

    #[test]
    fn a_user_is_the_same_in_all_sessions() {
        for authority in [Authority::Iam("bim".into()), Authority::Issuer("https://id".into())] {
            for role_name in [None, Some("r\"ö".to_owned())] {
                let subject = Subject { authority: authority.clone(), userid: "a,\\b".into(), role_name };
                let text = encode(Provider::Introspection, &subject);
                assert_eq!(text.and_then(|text| decode(&text)), Some((Provider::Introspection, subject)));
            }
        }
        let subject = Subject { authority: Authority::Iam("bim".into()), userid: "a".into(), role_name: None };
        assert_eq!(encode(Provider::Jwt, &subject), None);
        assert_eq!(decode(b"[7,false,\"bim\",\"a\",null]"), None);
        assert_eq!(decode(b""), None);
    }
}
