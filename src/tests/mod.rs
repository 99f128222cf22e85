//! SQL functions inside the server, on every version (`cargo pgrx test`). What concerns sessions, transactions or
//! attacks is tested by real clients (`tests/`): these here run as superuser, inside one transaction.

#[cfg(feature = "pg_test")]
#[pgrx::pg_schema]
mod tests {
    use crate::core::guard;
    use pgrx::prelude::*;

    fn text(sql: &str) -> String {
        Spi::get_one::<String>(sql).ok().flatten().unwrap_or_default()
    }

    fn truth(sql: &str) -> bool {
        Spi::get_one::<bool>(sql).ok().flatten() == Some(true)
    }

    fn run(sql: &str) {
        if let Err(error) = Spi::run(sql) {
            pgrx::error!("{error}");
        }
    }

    #[pg_test]
    fn new_secrets_differ_and_have_256_bits() {
        assert!(truth("SELECT immuta_internal.new_secret() <> immuta_internal.new_secret()"));
        assert!(truth("SELECT immuta_internal.new_secret() ~ '^[A-Za-z0-9_-]{43}$'"));
    }

    #[pg_test]
    fn a_token_resolves_to_its_user() {
        run("SELECT immuta.create_user('u', 'Okta')");
        run("CREATE TEMP TABLE t AS SELECT immuta.issue_token('u', 'Okta') AS token");
        assert!(truth("SELECT immuta.check_token(token)->>'userid' = 'u' FROM t"));
        assert!(truth("SELECT immuta.check_token(token)->>'iamid' = 'Okta' FROM t"));
        assert!(truth("SELECT immuta.revoke_token(token) FROM t"));
        assert!(truth("SELECT immuta.check_token(token) = '{\"active\": false}' FROM t"));
        assert!(truth("SELECT NOT immuta.revoke_token(token) FROM t"));
    }

    #[pg_test]
    fn a_disabled_users_tokens_are_inactive() {
        run("SELECT immuta.create_user('u')");
        run("CREATE TEMP TABLE t AS SELECT immuta.issue_token('u') AS token");
        run("SELECT immuta.disable_user('u')");
        assert!(truth("SELECT immuta.check_token(token) = '{\"active\": false}' FROM t"));
        run("SELECT immuta.disable_user('u', disabled => false)");
        assert!(truth("SELECT (immuta.check_token(token)->>'active')::bool FROM t"));
        assert!(truth("SELECT immuta.revoke_user_tokens('u') = 1"));
    }

    #[pg_test]
    fn passwords_are_argon2id_and_match() {
        run("SELECT immuta.create_user('u')");
        run("SELECT immuta.set_password('u', 'right')");
        assert!(
            text("SELECT password_hash FROM immuta.user_account WHERE userid = 'u'")
                .starts_with("$argon2id$v=19$")
        );
        assert!(truth("SELECT (immuta.authenticate('u', 'right')->>'authenticated')::bool"));
        assert!(truth("SELECT immuta.check_token(immuta.authenticate('u', 'right')->>'token')->>'userid' = 'u'"));
        run("SELECT immuta.set_password('u', NULL)");
        assert!(truth("SELECT immuta.authenticate('u', '') = '{\"authenticated\": false}'"));
    }

    #[pg_test]
    fn api_keys_are_exchanged_for_tokens() {
        run("SELECT immuta.create_user('u')");
        run("CREATE TEMP TABLE k AS SELECT immuta.create_api_key('u') AS apikey");
        assert!(truth("SELECT (immuta.authenticate_api_key(apikey)->>'authenticated')::bool FROM k"));
        assert!(truth("SELECT last_used_at IS NOT NULL FROM immuta.api_keys('u')"));
        assert!(truth("SELECT immuta.revoke_api_key(id) FROM immuta.api_keys('u')"));
        assert!(truth("SELECT immuta.authenticate_api_key(apikey) = '{\"authenticated\": false}' FROM k"));
    }

    #[pg_test]
    fn without_impersonation_whoami_names_the_session_only() {
        assert!(truth(
            "SELECT impersonator = session_user AND effective_role = current_user FROM immuta.whoami()"
        ));
        assert!(truth("SELECT userid IS NULL AND mapped_role IS NULL AND scope IS NULL FROM immuta.whoami()"));
    }

    #[pg_test(error = "user \"nobody\" of identity manager \"bim\" does not exist")]
    fn an_unknown_user_gets_no_token() {
        run("SELECT immuta.issue_token('nobody')");
    }

    #[pg_test(error = "the mapped role may not be impersonated: it is a superuser")]
    fn a_superuser_is_no_target() {
        run("SELECT immuta.create_user('u', postgres_role => current_user)");
    }

    #[pg_test(
        error = "the mapped role may not be impersonated: it is a member of \"pg_execute_server_program\", which reaches beyond the database"
    )]
    fn nor_is_a_member_of_a_member_of_a_dangerous_role() {
        run("CREATE ROLE mid IN ROLE pg_execute_server_program; CREATE ROLE leaf IN ROLE mid");
        run("SELECT immuta.create_user('u', postgres_role => 'leaf')");
    }

    #[pg_test]
    fn object_ids_are_what_the_guard_thinks() {
        let by_name = text(
            "SELECT string_agg(oid::text, ',' ORDER BY oid) FROM pg_proc \
             WHERE pronamespace = 'pg_catalog'::regnamespace \
             AND proname ~ '^pg_((try_)?advisory_(un)?lock.*|prepared_statement|cursor)$'",
        );
        let by_oid: Vec<String> = (1..10_000)
            .filter(|&oid| guard::function_refused_while_impersonating(oid).is_some())
            .map(|oid| oid.to_string())
            .collect();
        assert_eq!(by_name, by_oid.join(","));
    }

    #[pg_test]
    fn session_settings_is_a_list_of_existing_settings() {
        let unknown = "SELECT count(*) = 0 FROM regexp_split_to_table(current_setting('bodata.session_settings'), ', *') n \
                       WHERE NOT EXISTS (SELECT FROM pg_settings WHERE lower(name) LIKE replace(lower(n), '*', '%'))";
        assert!(truth(unknown));
    }
}

/// Settings of the test server.
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec!["shared_preload_libraries = 'immuta_ext'"]
    }
}
