import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Stack } from 'aws-cdk-lib';
import { Match } from 'aws-cdk-lib/assertions';
import { describe, expect, test } from 'vitest';
import { parsePolicy } from '../lib/identity/policy.ts';
import { type Json, Synthesised, synthesised } from './synthesised.ts';

const STACK = 'CarapaceIdentity';
const app = synthesised('aws');
const template = app.template(STACK);

describe('users', () => {
  test('sign up with an address that is judged first and proven by a code, and keep it', () => {
    const [preSignUp] = app.resource(STACK, 'AWS::Lambda::Function', /PreSignUp/);
    const [preToken] = app.resource(STACK, 'AWS::Lambda::Function', /PreToken/);
    template.hasResource('AWS::Cognito::UserPool', {
      DeletionPolicy: 'Retain',
      Properties: {
        UsernameAttributes: ['email'],
        UsernameConfiguration: { CaseSensitive: false },
        AutoVerifiedAttributes: ['email'],
        VerificationMessageTemplate: Match.objectLike({ DefaultEmailOption: 'CONFIRM_WITH_CODE' }),
        Schema: [{ Name: 'email', Required: true, Mutable: false }],
        AdminCreateUserConfig: { AllowAdminCreateUserOnly: false },
        LambdaConfig: {
          PreSignUp: { 'Fn::GetAtt': [preSignUp, 'Arn'] },
          PreTokenGenerationConfig: { LambdaArn: { 'Fn::GetAtt': [preToken, 'Arn'] }, LambdaVersion: 'V2_0' },
        },
        DeletionProtection: 'ACTIVE',
      },
    });
  });

  test.each([/PreSignUp/, /PreToken/])('only their own pool may ask %s', (trigger) => {
    const [pool] = app.resource(STACK, 'AWS::Cognito::UserPool');
    const [name] = app.resource(STACK, 'AWS::Lambda::Function', trigger);
    const permissions = Object.values(app.resources(STACK, 'AWS::Lambda::Permission'))
      .map(({ Properties }) => Properties)
      .filter(({ FunctionName }) => FunctionName['Fn::GetAtt'][0] === name);
    expect(permissions).toMatchObject([
      { Principal: 'cognito-idp.amazonaws.com', SourceArn: { 'Fn::GetAtt': [pool, 'Arn'] } },
    ]);
  });

  test('have strong passwords, and a second factor that is not a text message if they want', () => {
    template.hasResourceProperties('AWS::Cognito::UserPool', {
      MfaConfiguration: 'OPTIONAL',
      EnabledMfas: ['SOFTWARE_TOKEN_MFA'],
      Policies: {
        PasswordPolicy: {
          MinimumLength: 14,
          RequireLowercase: true,
          RequireUppercase: true,
          RequireNumbers: true,
          RequireSymbols: true,
        },
      },
      AccountRecoverySetting: { RecoveryMechanisms: [{ Name: 'verified_email', Priority: 1 }] },
    });
  });
});

describe('how users prove themselves', () => {
  test('is a password or a passkey, and a passkey that asks for a finger or a PIN counts as two factors', () => {
    template.hasResourceProperties('AWS::Cognito::UserPool', {
      UserPoolTier: 'ESSENTIALS',
      Policies: {
        SignInPolicy: { AllowedFirstAuthFactors: ['PASSWORD', 'WEB_AUTHN'] },
        PasswordPolicy: { PasswordHistorySize: 5, TemporaryPasswordValidityDays: 1 },
      },
      WebAuthnUserVerification: 'required',
      WebAuthnFactorConfiguration: 'MULTI_FACTOR_WITH_USER_VERIFICATION',
      WebAuthnRelyingPartyID: Match.absent(),
    });
    new Synthesised('aws', { passkeyDomain: 'id.example.com' })
      .template(STACK)
      .hasResourceProperties('AWS::Cognito::UserPool', { WebAuthnRelyingPartyID: 'id.example.com' });
  });

  test.each([
    ['audit', 'AUDIT'],
    ['enforced', 'ENFORCED'],
  ])('is watched by Cognito, %s, on the plan that has it', (threatProtection, AdvancedSecurityMode) => {
    new Synthesised('aws', { threatProtection })
      .template(STACK)
      .hasResourceProperties('AWS::Cognito::UserPool', {
        UserPoolTier: 'PLUS',
        UserPoolAddOns: { AdvancedSecurityMode },
      });
  });
});

describe('the client', () => {
  const client = (of: Synthesised) => of.resource(STACK, 'AWS::Cognito::UserPoolClient')[1].Properties;

  test('has no secret, gets a code and never a token in a URL, and learns nothing of who exists', () => {
    expect(client(app)).toMatchObject({
      GenerateSecret: false,
      AllowedOAuthFlows: ['code'],
      AllowedOAuthFlowsUserPoolClient: true,
      PreventUserExistenceErrors: 'ENABLED',
      EnableTokenRevocation: true,
    });
  });

  test('hands passwords over in the local stage only', () => {
    expect(client(app).ExplicitAuthFlows).toEqual([
      'ALLOW_USER_SRP_AUTH',
      'ALLOW_USER_AUTH',
      'ALLOW_REFRESH_TOKEN_AUTH',
    ]);
    expect(client(synthesised('local')).ExplicitAuthFlows).toContain('ALLOW_USER_PASSWORD_AUTH');
  });

  test('has a sign-in page with colours and logo of its own if it is given a name', () => {
    for (const type of ['AWS::Cognito::UserPoolDomain', 'AWS::Cognito::ManagedLoginBranding']) {
      expect(app.resources(STACK, type)).toEqual({});
    }
    const named = new Synthesised('aws', { signInDomainPrefix: 'acme-carapace' });
    named.template(STACK).hasResourceProperties('AWS::Cognito::UserPoolDomain', {
      Domain: 'acme-carapace',
      ManagedLoginVersion: 2,
    });
    const { Settings, Assets } = named.resource(STACK, 'AWS::Cognito::ManagedLoginBranding')[1].Properties;
    expect(Settings.components.form).toMatchObject({
      // From the one file and from the other.
      borderRadius: 12,
      logo: { enabled: true },
    });
    const images = Assets.map(({ Category, ColorMode, Bytes }: Json) => [
      Category,
      ColorMode,
      Buffer.from(Bytes, 'base64').toString().startsWith('<svg xmlns="http://www.w3.org/2000/svg"'),
    ]);
    expect(images).toEqual([
      ['FORM_LOGO', 'LIGHT', true],
      ['FORM_LOGO', 'DARK', true],
      ['FAVICON_SVG', 'DYNAMIC', true],
    ]);
    // Cognito takes no more than this for all of it.
    expect(JSON.stringify({ Settings, Assets }).length).toBeLessThan(2_000_000);
  });

  test('has a sign-in page that looks as its files say, or none', () => {
    const page = (brandingDir: string) => () =>
      new Synthesised('aws', { signInDomainPrefix: 'acme-carapace', brandingDir });
    expect(page('/nowhere')).toThrow(/brandingDir: \/nowhere\/settings\.json cannot be read: ENOENT/);
    const dir = mkdtempSync(join(tmpdir(), 'branding-'));
    writeFileSync(join(dir, 'settings.json'), '{');
    expect(page(dir)).toThrow(/settings\.json is not JSON/);
    writeFileSync(join(dir, 'settings.json'), '{}');
    expect(page(dir)).toThrow(/theme\.css cannot be read: ENOENT/);
    writeFileSync(join(dir, 'theme.css'), 'form { margin: 0 }');
    expect(page(dir)).toThrow(/theme\.css:1: `form` has no `margin` on the sign-in page/);
  });
});

describe('the policy', () => {
  test('is in a parameter, as it was checked', () => {
    const [parameter, { Properties }] = app.resource(STACK, 'AWS::SSM::Parameter');
    expect(Properties).toMatchObject({ Name: '/carapace/sign-up-policy', Tier: 'Intelligent-Tiering' });
    expect(parsePolicy(Properties.Value)).toMatchObject({ policy: { allowed_domains: ['example.com', 'example.org'] } });
    template.hasResourceProperties('AWS::Lambda::Function', {
      FunctionName: 'carapace-pre-sign-up',
      Environment: { Variables: { SIGN_UP_POLICY_PARAMETER: { Ref: parameter }, TABLE_NAME: 'carapace' } },
    });
  });

  test('is judged with the table of the control plane, whose stack comes later', () => {
    expect(app.resource('CarapaceControlPlane', 'AWS::DynamoDB::GlobalTable')[1].Properties.TableName).toBe('carapace');
    const identity = app.app.node.findChild(STACK) as Stack;
    expect(identity.dependencies.map(({ node }) => node.id)).toEqual([]);
  });
});

describe('identity providers', () => {
  const ACME = { name: 'Acme', issuer: 'https://acme.example/oauth2', domains: ['acme.example'], auto_confirm: false };
  const listing = (...providers: Json[]) => {
    const signUpPolicy = join(mkdtempSync(join(tmpdir(), 'policy-')), 'policy.json');
    const policy = {
      version: 1,
      identity_providers: providers,
      plus_tags: 'same_identity',
      sign_ups_per_domain_per_hour: 200,
    };
    writeFileSync(signUpPolicy, JSON.stringify(policy));
    return { signUpPolicy, federatedSignIn: 'true' };
  };
  const client = (app: Synthesised) => app.resource(STACK, 'AWS::Cognito::UserPoolClient')[1].Properties;

  test('with a client id are in the pool with the issuer that the policy names, and the secret is in no template', () => {
    const federated = new Synthesised('aws', listing({ ...ACME, client_id: 'carapace' }));
    const [pool] = federated.resource(STACK, 'AWS::Cognito::UserPool');
    const [acme, { Properties }] = federated.resource(STACK, 'AWS::Cognito::UserPoolIdentityProvider');
    expect(Properties).toEqual({
      UserPoolId: { Ref: pool },
      ProviderName: 'Acme',
      ProviderType: 'OIDC',
      ProviderDetails: {
        oidc_issuer: 'https://acme.example/oauth2',
        client_id: 'carapace',
        client_secret: '{{resolve:secretsmanager:carapace/identity-provider/Acme:SecretString:client_secret::}}',
        authorize_scopes: 'openid email',
        attributes_request_method: 'GET',
      },
      AttributeMapping: { email: 'email', email_verified: 'email_verified' },
    });
    expect(client(federated).SupportedIdentityProviders).toEqual([{ Ref: acme }, 'COGNITO']);
    // The function judges by the very same.
    const { Value } = federated.resource(STACK, 'AWS::SSM::Parameter')[1].Properties;
    expect(JSON.parse(Value).identity_providers).toEqual([{ ...ACME, client_id: 'carapace' }]);
  });

  test('without one are added by the operator', () => {
    const federated = new Synthesised('aws', listing(ACME));
    expect(federated.resources(STACK, 'AWS::Cognito::UserPoolIdentityProvider')).toEqual({});
    expect(client(app).SupportedIdentityProviders).toEqual(['COGNITO']);
  });

  test('write the address at each sign-in, so the pool has to be made for them', () => {
    const schema = (of: Synthesised) => of.resource(STACK, 'AWS::Cognito::UserPool')[1].Properties.Schema;
    expect(schema(app)).toEqual([{ Name: 'email', Required: true, Mutable: false }]);
    const context = listing(ACME);
    expect(schema(new Synthesised('aws', context))).toEqual([{ Name: 'email', Required: true, Mutable: true }]);
    expect(() => new Synthesised('aws', { ...context, federatedSignIn: 'false' })).toThrow(
      /federatedSignIn: the policy lists Acme, .*: give -c federatedSignIn=true/,
    );
  });

  test('do not have the name of one that Cognito knows as a type', () => {
    expect(() => new Synthesised('aws', listing({ ...ACME, name: 'Google', client_id: 'carapace' }))).toThrow(
      /signUpPolicy: Cognito keeps the name Google/,
    );
  });
});

describe('mail', () => {
  test('needs both a sender and the region whose SES knows it', () => {
    expect(() => new Synthesised('aws', { mailFrom: 'no-reply@example.com' })).toThrow(/sesRegion: is missing/);
    expect(() => new Synthesised('aws', { sesRegion: 'eu-west-1' })).toThrow(/mailFrom: is missing/);
  });

  test('is sent through SES if it is told from whom', () => {
    expect(app.resource(STACK, 'AWS::Cognito::UserPool')[1].Properties.EmailConfiguration).toBeUndefined();
    new Synthesised('aws', { mailFrom: 'no-reply@example.com', sesRegion: 'eu-west-1' })
      .template(STACK)
      .hasResourceProperties('AWS::Cognito::UserPool', {
        EmailConfiguration: {
          EmailSendingAccount: 'DEVELOPER',
          From: 'Carapace <no-reply@example.com>',
          SourceArn: { 'Fn::Join': ['', Match.arrayWith([Match.stringLikeRegexp('ses:eu-west-1'), Match.stringLikeRegexp('identity/example.com')])] },
        },
      });
  });
});
