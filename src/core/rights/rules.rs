//! Who may impersonate whom: ordered rules, the first that matches decides.
//!
//! Patterns are names in which `*` stands for any text, as in Trino's impersonation rules: what the `*` of the
//! impersonator's pattern stood for can be used in that of the users, as `$1` to `$9`. Addresses restrict from where,
//! as the proxy hosts of Hadoop do.

use crate::core::identity::Identity;
use std::net::IpAddr;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub id: i32,
    pub impersonator: String,
    pub iamid: String,
    pub users: String,
    pub allow: bool,
    /// `None`: from anywhere.
    pub networks: Option<Vec<Network>>,
    /// Pattern for who acts for the user; nobody is the empty name.
    pub actors: String,
}

/// An address and the number of its leading bits that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    /// From the text of PostgreSQL's type `inet`.
    pub fn parse(text: &str) -> Option<Network> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(longest);
        (bits <= longest).then_some(Network { address, bits })
    }

    fn contains(&self, client: IpAddr) -> bool {
        match (self.address, client.to_canonical()) {
            (IpAddr::V4(mine), IpAddr::V4(other)) => {
                same(mine.to_bits().into(), other.to_bits().into(), 32 - self.bits)
            }
            (IpAddr::V6(mine), IpAddr::V6(other)) => same(mine.to_bits(), other.to_bits(), 128 - self.bits),
            _ => false,
        }
    }
}

fn same(one: u128, other: u128, ignored: u32) -> bool {
    (one ^ other).checked_shr(ignored).unwrap_or(0) == 0
}

/// Whether `impersonator`, connected from `client` (`None`: by a local socket), may impersonate the user for whom
/// `actor` acts (empty: nobody but the user). Without any
/// rule everybody may; with rules, nobody whom none matches.
pub fn allow(
    rules: &[Rule],
    impersonator: &str,
    identity: &Identity,
    actor: &str,
    client: Option<IpAddr>,
) -> bool {
    let matching = |rule: &&Rule| {
        matched(&parts(&rule.actors, &[]), actor).is_some() && rule.matches(impersonator, identity, client)
    };
    rules.is_empty() || rules.iter().find(matching).is_some_and(|rule| rule.allow)
}

impl Rule {
    fn matches(&self, impersonator: &str, identity: &Identity, client: Option<IpAddr>) -> bool {
        let is_near = match (&self.networks, client) {
            (None, _) => true,
            (Some(networks), Some(client)) => networks.iter().any(|network| network.contains(client)),
            (Some(_), None) => false,
        };
        is_near && self.names(impersonator, identity)
    }

    /// Whether it is about this login and this user, from wherever.
    pub fn names(&self, impersonator: &str, identity: &Identity) -> bool {
        matched(&parts(&self.iamid, &[]), &identity.iamid).is_some()
            && matched(&parts(&self.impersonator, &[]), impersonator)
                .is_some_and(|captures| matched(&parts(&self.users, &captures), &identity.userid).is_some())
    }
}

/// A pattern, taken apart: literal texts between stars. `$n` is the n-th capture; what was captured is literal. One
/// that was not captured matches nothing that a name could be.
fn parts(pattern: &str, captures: &[&str]) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = pattern.chars().peekable();
    while let Some(character) = characters.next() {
        let number = characters.peek().and_then(|next| next.to_digit(10)).filter(|&digit| digit > 0);
        let text = match (character, number) {
            ('*', _) => {
                parts.push(String::new());
                continue;
            }
            ('$', Some(number)) => {
                characters.next();
                captures.get(number as usize - 1).copied().unwrap_or("\0").to_owned()
            }
            _ => character.to_string(),
        };
        if let Some(last) = parts.last_mut() {
            last.push_str(&text);
        }
    }
    parts
}

/// What the stars between the parts stand for in `name`, each as short as possible, if the pattern matches.
fn matched<'a>(parts: &[String], name: &'a str) -> Option<Vec<&'a str>> {
    let [first, rest @ ..] = parts else { return None };
    let mut left = name.strip_prefix(first.as_str())?;
    let Some((last, middle)) = rest.split_last() else { return left.is_empty().then(Vec::new) };
    let mut captures = Vec::with_capacity(rest.len());
    for part in middle {
        let (captured, after) = left.split_once(part.as_str())?;
        captures.push(captured);
        left = after;
    }
    captures.push(left.strip_suffix(last.as_str())?);
    Some(captures)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(impersonator: &str, users: &str, allow: bool) -> Rule {
        Rule {
            id: 0,
            impersonator: impersonator.into(),
            iamid: "*".into(),
            users: users.into(),
            allow,
            networks: None,
            actors: "*".into(),
        }
    }

    fn user(userid: &str) -> Identity {
        Identity { iamid: "bim".into(), userid: userid.into() }
    }

    fn may(rules: &[Rule], impersonator: &str, userid: &str) -> bool {
        allow(rules, impersonator, &user(userid), "", None)
    }

    #[test]
    fn without_rules_everybody_may_with_rules_nobody_unmatched() {
        assert!(may(&[], "svc", "alice"));
        let rules = [rule("svc", "alice", true)];
        assert!(may(&rules, "svc", "alice"));
        assert!(!may(&rules, "svc", "bob") && !may(&rules, "other", "alice"));
    }

    #[test]
    fn the_first_match_decides() {
        let rules = [rule("*", "admin*", false), rule("svc", "*", true)];
        assert!(may(&rules, "svc", "alice"));
        assert!(!may(&rules, "svc", "admin") && !may(&rules, "svc", "administrator"));
        let rules = [rule("svc", "*", true), rule("*", "admin*", false)];
        assert!(may(&rules, "svc", "admin"));
    }

    #[test]
    fn stars_match_any_text() {
        for (pattern, name, is_match) in [
            ("*", "", true),
            ("*", "anything", true),
            ("a*", "a", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "a", false),
            ("aa*a", "aa", false),
            ("*@example.com", "jdoe@example.com", true),
            ("*@example.com", "jdoe@example.com.evil", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("abc", "abcd", false),
            ("Alice", "alice", false),
            ("a.c", "abc", false),
            ("é*", "écrit", true),
        ] {
            assert_eq!(matched(&parts(pattern, &[]), name).is_some(), is_match, "{pattern} {name}");
        }
    }

    #[test]
    fn what_a_star_stood_for_can_be_named() {
        let rules = [rule("app_*_*", "$1-*@$2.example", true)];
        assert!(may(&rules, "app_sales_eu", "sales-jdoe@eu.example"));
        assert!(!may(&rules, "app_sales_eu", "hr-jdoe@eu.example"));
        assert!(!may(&rules, "app_*_eu", "x-jdoe@eu.example"), "a captured star is a star no more");
        assert!(!may(&[rule("svc", "$1", true)], "svc", "") && !may(&[rule("svc", "$1", true)], "svc", "$1"));
        assert!(may(&[rule("svc", "a$b$0", true)], "svc", "a$b$0"));
    }

    #[test]
    fn the_identity_manager_counts() {
        let rules = [Rule { iamid: "okta".into(), ..rule("*", "*", true) }];
        assert!(!may(&rules, "svc", "alice"));
        assert!(allow(&rules, "svc", &Identity { iamid: "okta".into(), userid: "alice".into() }, "", None));
    }

    #[test]
    fn rules_can_be_about_who_acts_for_the_user() {
        let by = |actors: &str, actor: &str| {
            allow(&[Rule { actors: actors.into(), ..rule("svc", "*", true) }], "svc", &user("alice"), actor, None)
        };
        assert!(by("*", "") && by("*", "agent") && by("", "") && by("agent-*", "agent-7"));
        assert!(!by("", "agent") && !by("agent-*", "") && !by("agent-*", "other"));
        let rules = [Rule { actors: "evil".into(), ..rule("*", "*", false) }, rule("svc", "*", true)];
        assert!(
            !allow(&rules, "svc", &user("alice"), "evil", None) && allow(&rules, "svc", &user("alice"), "", None)
        );
    }

    #[test]
    fn addresses_restrict_from_where() {
        let network = |text: &str| Network::parse(text);
        let networks = ["10.1.0.0/16", "::1", "192.168.7.9"].iter().filter_map(|text| network(text)).collect();
        let rules = [Rule { networks: Some(networks), ..rule("*", "*", true) }];
        let from = |client: &str| allow(&rules, "svc", &user("alice"), "", client.parse().ok());
        assert!(from("10.1.255.3") && from("::1") && from("192.168.7.9") && from("::ffff:10.1.2.3"));
        assert!(!from("10.2.0.1") && !from("::2") && !from("192.168.7.10") && !from("no address"));
        assert!(network("0.0.0.0/0").is_some_and(|all| all.contains(IpAddr::from([1, 2, 3, 4]))));
        assert!(network("::/0").is_some_and(|all| !all.contains(IpAddr::from([1, 2, 3, 4]))));
        for bad in ["", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0", "::/129", "x"] {
            assert_eq!(network(bad), None, "{bad}");
        }
    }
}
