//! One session asks a provider about a token; the others wait for what it is told.

use crate::core::identity::{Authority, Provider, Subject};
use crate::core::provider::refusals::Refusal;
use crate::core::time::Timestamp;
use std::time::Duration;

/// How far a token has been asked about, by whichever session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub now: AskedNow,
    /// When the last attempt failed, whatever came after it.
    pub failed: Option<Failed>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AskedNow {
    #[default]
    Never,
    /// Since then.
    Running(Timestamp),
    Refused(Refusal, Timestamp),
    /// Its answer cannot be shared.
    Unshared,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    pub at: Timestamp,
    pub is_silence: bool,
    /// For how long that session would have waited.
    pub timeout: Duration,
}

/// What a session does that wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It asks itself, for all.
    Ask,
    /// It asks itself, for itself.
    AskAlone,
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
        let Wanting { now, since, timeout, negative_ttl } = *wanting;
        // Whoever would wait longer than the one that failed did tries for themselves.
        let waited_for = |failed: &Failed| failed.at >= since && failed.at <= now && failed.timeout >= timeout;
        match (self.now, self.failed.filter(waited_for)) {
            (AskedNow::Refused(refusal, at), _) if !now.is_past(at, negative_ttl) => Next::Refuse(refusal),
            (_, Some(Failed { is_silence, .. })) => Next::Fail { is_silence },
            (AskedNow::Unshared, _) => Next::AskAlone,
            (AskedNow::Running(begun), _) if now.is_past(begun, timeout + LATE) => Next::Ask,
            // Others may have had turns before this session, which waits no longer for that.
            (AskedNow::Running(_), _) if now.is_past(since, timeout + LATE) => Next::Fail { is_silence: true },
            (AskedNow::Running(_), _) => Next::Wait,
            _ => Next::Ask,
        }
    }
}

/// A remote provider's description of a user, for other sessions: the provider, the kind of authority, and each text after its
/// length. None for what only this session can know.
pub fn encode(provider: Provider, subject: &Subject) -> Option<Vec<u8>> {
    let provider = SHARED.iter().position(|shared| *shared == provider)?;
    let (is_issuer, authority) = match &subject.authority {
        Authority::Iam(iam) => (false, iam),
        Authority::Issuer(issuer) => (true, issuer),
    };
    let mut text = vec![u8::try_from(provider).ok()?, is_issuer.into(), subject.role_name.is_some().into()];
    for part in [authority, &subject.userid, subject.role_name.as_ref().unwrap_or(&String::new())] {
        text.extend(u16::try_from(part.len()).ok()?.to_le_bytes());
        text.extend(part.as_bytes());
    }
    Some(text)
}

pub fn decode(text: &[u8]) -> Option<(Provider, Subject)> {
    let (&[provider, is_issuer, has_role], mut rest) = text.split_first_chunk()?;
    let mut part = || {
        let (length, after) = rest.split_first_chunk()?;
        let (part, after) = after.split_at_checked(u16::from_le_bytes(*length).into())?;
        rest = after;
        String::from_utf8(part.to_vec()).ok()
    };
    let (authority, userid, role_name) = (part()?, part()?, part()?);
    let authority = if is_issuer == 1 { Authority::Issuer(authority) } else { Authority::Iam(authority) };
    let subject = Subject { authority, userid, role_name: (has_role == 1).then_some(role_name) };
    Some((*SHARED.get(usize::from(provider))?, subject))
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

    fn asked(now: AskedNow) -> Asked {
        Asked { now, failed: None }
    }

    #[test]
    fn one_asks_and_the_others_wait_but_not_for_ever() {
        let running = |second| asked(AskedNow::Running(at(second)));
        assert_eq!(Asked::default().next(&wanting(10)), Next::Ask);
        assert_eq!(running(10).next(&wanting(15)), Next::Wait);
        assert_eq!(running(10).next(&wanting(16)), Next::Ask, "it hangs, or died");
        assert_eq!(running(10).next(&wanting(9)), Next::Ask, "a clock set back");
        assert_eq!(running(14).next(&wanting(16)), Next::Fail { is_silence: true }, "others had turns before");
        assert_eq!(asked(AskedNow::Unshared).next(&wanting(10)), Next::AskAlone);
    }

    #[test]
    fn a_refusal_is_shared_for_its_time() {
        let refused = asked(AskedNow::Refused(Refusal::NotAllowed, at(10)));
        assert_eq!(refused.next(&wanting(12)), Next::Refuse(Refusal::NotAllowed));
        assert_eq!(refused.next(&wanting(13)), Next::Ask);
        assert_eq!(refused.next(&wanting(9)), Next::Ask);
    }

    #[test]
    fn a_failure_is_shared_by_those_who_waited_for_it() {
        let failed = |second, timeout| {
            let timeout = Duration::from_secs(timeout);
            Some(Failed { at: at(second), is_silence: true, timeout })
        };
        let after = |failed| Asked { now: AskedNow::Never, failed };
        let again = |failed| Asked { now: AskedNow::Running(at(12)), failed };
        assert_eq!(after(failed(11, 5)).next(&wanting(12)), Next::Fail { is_silence: true });
        assert_eq!(
            again(failed(11, 5)).next(&wanting(12)),
            Next::Fail { is_silence: true },
            "another asks already"
        );
        assert_eq!(after(failed(9, 5)).next(&wanting(12)), Next::Ask, "before this session came");
        assert_eq!(after(failed(13, 5)).next(&wanting(12)), Next::Ask, "a clock set back");
        assert_eq!(after(failed(11, 1)).next(&wanting(12)), Next::Ask, "of one with less patience");
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
        for broken in
            [&b""[..], &[7, 0, 0, 0, 0, 0, 0, 0, 0], &[0, 0, 0, 9, 0, b'a'], &[0, 0, 0, 1, 0, 0xff, 0, 0, 0, 0]]
        {
            assert_eq!(decode(broken), None);
        }
    }
}
