// An OAuth server that this project did not write, with its in-memory store, on 127.0.0.1 over TLS.
//
//     node server.mjs CERTIFICATE KEY     client id and secret in the environment
//
// Prints its issuer when it is ready. Tokens of users come from a grant type that it is given here (`urn:test:user`),
// as there is no browser; everything else is its own.

import { generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import Provider from 'oidc-provider';

const [certificate, key] = process.argv.slice(2);
const { OIDC_CLIENT_ID: clientId, OIDC_CLIENT_SECRET: clientSecret } = process.env;
const USER_GRANT = 'urn:test:user';
const ACCOUNT = 'account of ';
// A resource whose tokens are JWTs (RFC 9068); others are opaque.
const RESOURCE = 'urn:test:database';
const ABOUT = { scope: 'openid db:read', audience: 'db', accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } } };
const claimsOf = (username, agent) => (agent ? { username, act: { sub: agent } } : { username });
const signing = { ...generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' }), kid: 'es', alg: 'ES256', use: 'sig' };

const server = createServer({ cert: readFileSync(certificate), key: readFileSync(key) });
server.listen(0, '127.0.0.1', () => {
  const issuer = `https://localhost:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [{
      client_id: clientId,
      client_secret: clientSecret,
      grant_types: ['client_credentials', USER_GRANT],
      redirect_uris: [],
      response_types: [],
      id_token_signed_response_alg: 'ES256',
    }],
    jwks: { keys: [signing] },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      introspection: { enabled: true, allowedPolicy: () => true },
      resourceIndicators: { enabled: true, getResourceServerInfo: () => ABOUT, defaultResource: () => undefined },
      revocation: { enabled: true },
    },
    // The subject is an internal number, as it is elsewhere; the name is a claim of its own.
    extraTokenClaims: (ctx, token) => (
      token.accountId ? claimsOf(...token.accountId.slice(ACCOUNT.length).split(' by ')) : undefined),
    findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  });
  provider.registerGrantType(USER_GRANT, async (ctx, next) => {
    const { user, seconds, resource, agent } = ctx.oidc.params;
    const accountId = ACCOUNT + user + (agent ? ` by ${agent}` : '');
    const grant = new provider.Grant({ accountId, clientId: ctx.oidc.client.clientId });
    grant.addOIDCScope('openid');
    const token = new provider.AccessToken({
      accountId,
      client: ctx.oidc.client,
      expiresIn: Number(seconds),
      grantId: await grant.save(),
      gty: USER_GRANT,
      scope: 'openid',
    });
    if (resource === RESOURCE) {
      token.resourceServer = new provider.ResourceServer(resource, ABOUT);
      token.scope = 'openid db:read';
    }
    ctx.body = { access_token: await token.save(), token_type: 'Bearer', expires_in: token.expiration };
    await next();
  }, ['user', 'seconds', 'agent', 'resource']);
  provider.on('server_error', (ctx, error) => console.error(error));
  server.on('request', provider.callback());
  console.log(issuer);
});
