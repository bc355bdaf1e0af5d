import { SecretValue } from 'aws-cdk-lib';
import * as cognito from 'aws-cdk-lib/aws-cognito';
import type { Construct } from 'constructs';
import type { SignUpPolicy } from './policy.ts';

/** What Cognito has a type of its own for, and so refuses as the name of another. */
const SOCIAL = ['Facebook', 'Google', 'LoginWithAmazon', 'SignInWithApple'];

/** The secret whose `client_secret` is what an identity provider gave this platform with its client id. */
export const secretName = (provider: string) => `carapace/identity-provider/${provider}`;

/**
 * The identity providers of the policy that have a `client_id`. Whose assertions the pool takes is
 * settled here and nowhere else: Cognito holds the `iss` and the signature of an ID token against the
 * issuer, and does not tell pre-sign-up of it. So it comes from the policy that pre-sign-up judges by.
 *
 * The others are the operator's own, SAML ones for example: added to the pool by hand, known to the
 * policy by their name.
 */
export function identityProviders(
  scope: Construct,
  props: { readonly pool: cognito.IUserPool; readonly policy: SignUpPolicy },
): void {
  for (const { name, issuer, client_id: clientId } of props.policy.identity_providers) {
    if (clientId === undefined) continue;
    new cognito.UserPoolIdentityProviderOidc(scope, `IdentityProvider${name}`, {
      userPool: props.pool,
      name,
      issuerUrl: issuer,
      clientId,
      // A reference that CloudFormation resolves: the secret itself is in no template.
      clientSecret: SecretValue.secretsManager(secretName(name), { jsonField: 'client_secret' }).unsafeUnwrap(),
      scopes: ['openid', 'email'],
      attributeMapping: {
        email: cognito.ProviderAttribute.other('email'),
        // pre-sign-up denies an address that the provider has not verified, and Slack's users are
        // linked by verified ones only.
        emailVerified: cognito.ProviderAttribute.other('email_verified'),
      },
    });
  }
}

/** What of the policy's providers cannot be deployed, each with the context key and the way out. */
export function undeployable(policy: SignUpPolicy, federated: boolean): { key: string; problem: string }[] {
  const names = policy.identity_providers.map(({ name }) => name);
  if (names.length > 0 && !federated) {
    const problem = `the policy lists ${names.join(', ')}, and addresses do not change in this user pool, which Cognito does at each sign-in through an identity provider: give -c federatedSignIn=true, with which a pool has to be made, or list none`;
    return [{ key: 'federatedSignIn', problem }];
  }
  return policy.identity_providers
    .filter(({ name, client_id: clientId }) => clientId !== undefined && SOCIAL.includes(name))
    .map(({ name }) => ({
      key: 'signUpPolicy',
      problem: `Cognito keeps the name ${name} for a type of its own: give this identity provider another`,
    }));
}
