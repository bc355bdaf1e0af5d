import { Match } from 'aws-cdk-lib/assertions';
import { describe, expect, test } from 'vitest';
import { Synthesised, synthesised } from './synthesised.ts';

const STACK = 'CarapaceIdentity';
const app = synthesised('aws');
const template = app.template(STACK);

describe('users', () => {
  test('sign up with an address that is judged first and proven by a code, and keep it', () => {
    const [preSignUp] = app.resource(STACK, 'AWS::Lambda::Function');
    template.hasResource('AWS::Cognito::UserPool', {
      DeletionPolicy: 'Retain',
      Properties: {
        UsernameAttributes: ['email'],
        UsernameConfiguration: { CaseSensitive: false },
        AutoVerifiedAttributes: ['email'],
        VerificationMessageTemplate: Match.objectLike({ DefaultEmailOption: 'CONFIRM_WITH_CODE' }),
        Schema: [{ Name: 'email', Required: true, Mutable: false }],
        AdminCreateUserConfig: { AllowAdminCreateUserOnly: false },
        LambdaConfig: { PreSignUp: { 'Fn::GetAtt': [preSignUp, 'Arn'] } },
        DeletionProtection: 'ACTIVE',
      },
    });
  });

  test('only their own pool may ask pre-sign-up', () => {
    const [pool] = app.resource(STACK, 'AWS::Cognito::UserPool');
    template.hasResourceProperties('AWS::Lambda::Permission', {
      Principal: 'cognito-idp.amazonaws.com',
      SourceArn: { 'Fn::GetAtt': [pool, 'Arn'] },
    });
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
    expect(client(app).ExplicitAuthFlows).toEqual(['ALLOW_USER_SRP_AUTH', 'ALLOW_REFRESH_TOKEN_AUTH']);
    expect(client(synthesised('local')).ExplicitAuthFlows).toContain('ALLOW_USER_PASSWORD_AUTH');
  });

  test('has a sign-in page if it is given a name', () => {
    expect(app.resources(STACK, 'AWS::Cognito::UserPoolDomain')).toEqual({});
    new Synthesised('aws', { signInDomainPrefix: 'acme-carapace' })
      .template(STACK)
      .hasResourceProperties('AWS::Cognito::UserPoolDomain', { Domain: 'acme-carapace' });
  });
});
