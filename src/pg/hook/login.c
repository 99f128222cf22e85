/* Logins with OAuth (PostgreSQL 18): the structures of the server, which change between its versions. What is decided, is in
 * login.rs. */

#include "postgres.h"

/* Their headers need not be there: the structures have the same layout without them, for extensions. */
#undef ENABLE_GSS
#undef USE_OPENSSL

#include "libpq/hba.h"
#include "libpq/libpq-be.h"
#include "libpq/oauth.h"
#include "miscadmin.h"

extern bool immuta_accepts_login(const char *token, const char *role, const char *issuer, const char *scope,
								 bool delegates, char **authn_id);

/* false would mean that this module is broken. A login that is refused is an ordinary one to PostgreSQL. */
static bool
validate(const ValidatorModuleState *state, const char *token, const char *role, ValidatorModuleResult *result)
{
	HbaLine    *line = MyProcPort->hba;

	result->authn_id = NULL;
	result->authorized = immuta_accepts_login(token, role, line->oauth_issuer, line->oauth_scope,
											  line->oauth_skip_usermap, &result->authn_id);
	return true;
}

static const OAuthValidatorCallbacks callbacks = {
	.magic = PG_OAUTH_VALIDATOR_MAGIC,
	.validate_cb = validate,
};

const OAuthValidatorCallbacks *
immuta_login_callbacks(void)
{
	return &callbacks;
}
