//! Texts with names in braces for what is known of a user.

/// The template with values in the place of these names. What was put in is not looked at again.
pub fn fill(template: &str, known: &[(&str, &str)]) -> String {
    let mut filled = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        filled.push_str(before);
        let found = known.iter().find_map(|(name, value)| Some((value, from.strip_prefix(name)?)));
        let (value, after) = found.unwrap_or((&"{", &from[1..]));
        filled.push_str(value);
        rest = after;
    }
    filled + rest
}

/// Why a template for a user id is unacceptable. An empty one is none.
pub fn fault_of_userid(template: &str) -> Option<&'static str> {
    if !template.is_empty() && template.matches("{userid}").count() != 1 {
        Some("The template must contain {userid} once.")
    } else if template.chars().any(char::is_control) {
        Some("Control characters are not allowed.")
    } else {
        None
    }
}

/// Why a template for the names of roles that subscriptions make is unacceptable; `immuta_internal.new_role_name()` fills it
/// in, and shortens what is too long.
pub fn fault_of_role_name(template: &str) -> Option<&'static str> {
    if template.chars().any(char::is_control) {
        return Some("Control characters are not allowed.");
    }
    if !template.contains("{userid}") {
        return Some("It must contain {userid}.");
    }
    let rest = fill(template, &[("{userid}", ""), ("{iamid}", "")]);
    if rest.contains(['{', '}']) {
        return Some("Only {userid} and {iamid} may be in braces.");
    }
    // The rest of a name is for the user.
    (rest.len() > 32).then_some("It must not have more than 32 bytes besides {userid} and {iamid}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_braces_are_filled_in_once() {
        let known = [("{application_name}", "app"), ("{userid}", "{role}"), ("{iamid}", "bim"), ("{role}", "r")];
        for (template, filled) in [
            ("{application_name} as {userid}@{iamid} ({role})", "app as {role}@bim (r)"),
            ("{userid}{userid}é{", "{role}{role}é{"),
            ("{ {x} {userid", "{ {x} {userid"),
            ("", ""),
        ] {
            assert_eq!(fill(template, &known), filled);
        }
    }

    #[test]
    fn a_user_id_is_made_of_one_name() {
        for fine in ["{userid}@x", "{userid}", ""] {
            assert_eq!(fault_of_userid(fine), None, "{fine}");
        }
        for bad in ["x", "{userid}{userid}", "{userid}\n"] {
            assert!(fault_of_userid(bad).is_some(), "{bad:?}");
        }
    }

    #[test]
    fn a_role_name_names_the_user_and_nothing_unknown() {
        for fine in ["{userid}", "user_{userid}", "{iamid}/{userid}@x"] {
            assert_eq!(fault_of_role_name(fine), None, "{fine}");
        }
        for bad in
            ["", "user", "{iamid}", "{userid}{x}", "{userid}}", "a\n{userid}", &format!("{{userid}}{:033}", 0)]
        {
            assert!(fault_of_role_name(bad).is_some(), "{bad:?}");
        }
    }
}
