//! The template for the names of roles that subscriptions make; `immuta_internal.new_role_name()` fills it in.

/// What is wrong with a template, if anything.
pub fn fault(template: &str) -> Option<&'static str> {
    if template.chars().any(char::is_control) {
        return Some("Control characters are not allowed.");
    }
    if !template.contains("{userid}") {
        return Some("It must contain {userid}.");
    }
    let rest = template.replace("{userid}", "").replace("{iamid}", "");
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
    fn a_template_names_the_user_and_nothing_unknown() {
        for fine in ["{userid}", "user_{userid}", "{iamid}/{userid}@x"] {
            assert_eq!(fault(fine), None, "{fine}");
        }
        for bad in
            ["", "user", "{iamid}", "{userid}{x}", "{userid}}", "a\n{userid}", &format!("{{userid}}{:033}", 0)]
        {
            assert!(fault(bad).is_some(), "{bad:?}");
        }
    }
}
