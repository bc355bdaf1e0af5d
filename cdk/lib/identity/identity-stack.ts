import { CfnOutput, Duration, RemovalPolicy, Stack, Validations } from 'aws-cdk-lib';
import * as cognito from 'aws-cdk-lib/aws-cognito';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as ssm from 'aws-cdk-lib/aws-ssm';
import type { Construct } from 'constructs';
import type { Config } from '../config.ts';
import { itemsOf } from '../control-plane/agents-table.ts';
import { outputFunction } from '../control-plane/capability.ts';
import { BUS_NAME, TABLE_NAME } from '../control-plane/names.ts';
import { RustFunction } from '../rust-function.ts';
import { branding } from './branding.ts';
import { identityProviders } from './providers.ts';

/** Who is a user: who signs up is judged by the function pre-sign-up, by the policy in a parameter. */
export class IdentityStack extends Stack {
  /** The one pool: whoever is not in it is nobody. */
  readonly users: cognito.IUserPool;
  /** By it, also whose mailbox an address is. */
  readonly signUpPolicy: ssm.IStringParameter;

  constructor(scope: Construct, id: string, props: { readonly config: Config }) {
    const { env, lambdaDir, signIn, stage } = props.config;
    super(scope, id, { env, description: 'Carapace: sign-up and sign-in' });

    const policy = new ssm.StringParameter(this, 'SignUpPolicy', {
      parameterName: '/carapace/sign-up-policy',
      description: 'Who may sign up. Checked and written by the CDK app; read within a minute',
      stringValue: JSON.stringify(signIn.policy),
      // A long one needs the advanced tier, which costs something.
      tier: ssm.ParameterTier.INTELLIGENT_TIERING,
    });
    // By name: the control plane's functions ask this stack's user pool, so its stack comes later. Until
    // the table is there, nobody can sign up.
    const table = this.formatArn({ service: 'dynamodb', resource: 'table', resourceName: TABLE_NAME });

    const preSignUp = new RustFunction(this, 'PreSignUp', {
      binary: 'pre-sign-up',
      description: 'Lets only those sign up whom the policy names, once for each mailbox',
      lambdaDir,
      // Cognito waits five seconds and not longer.
      timeout: Duration.seconds(5),
      environment: { SIGN_UP_POLICY_PARAMETER: policy.parameterName, TABLE_NAME },
    });
    preSignUp.grant(['ssm:GetParameter'], policy.parameterArn);
    preSignUp.grant(['dynamodb:GetItem', 'dynamodb:PutItem'], table, itemsOf('IDENTITY#'));
    preSignUp.grant(['dynamodb:UpdateItem'], table, itemsOf('RATE#'));

    const preToken = new RustFunction(this, 'PreToken', {
      binary: 'pre-token',
      description: "Puts the user's key into every token, and says on the bus who signed in",
      lambdaDir,
      timeout: Duration.seconds(5),
      environment: { BUS_NAME },
    });
    const bus = this.formatArn({ service: 'events', resource: 'event-bus', resourceName: BUS_NAME });
    preToken.grant(['events:PutEvents'], bus, {
      // What asks for a sandbox is told by its detail-type: whoever took the function over could not say it.
      'ForAllValues:StringEquals': { 'events:source': 'carapace.signup', 'events:detail-type': 'User Signed In' },
    });

    const pool = userPool(this, props.config, preSignUp);
    // Version 2 knows the access token, which is what other parts of the platform are shown.
    pool.addTrigger(
      cognito.UserPoolOperation.PRE_TOKEN_GENERATION_CONFIG,
      preToken.fn,
      cognito.LambdaVersion.V2_0,
    );
    // A policy of its own: the function's other one is made before the function, which is made before
    // the pool that it is a trigger of.
    new iam.Policy(this, 'PreSignUpAsksThePool', {
      roles: [preSignUp.role],
      statements: [
        new iam.PolicyStatement({
          // Deletes accounts that nobody confirmed, so that the mailbox's owner is not kept out.
          actions: ['cognito-idp:AdminDeleteUser', 'cognito-idp:AdminGetUser'],
          resources: [pool.userPoolArn],
        }),
      ],
    });

    // Before the client, which takes every provider that the pool has then.
    identityProviders(this, { pool, policy: signIn.policy });
    const client = pool.addClient('Client', {
      // A program on the user's own machine or in the browser keeps no secret: the code it receives
      // is worth nothing without the verifier it made (PKCE).
      generateSecret: false,
      oAuth: {
        flows: { authorizationCodeGrant: true, implicitCodeGrant: false },
        scopes: [cognito.OAuthScope.OPENID, cognito.OAuthScope.EMAIL],
        callbackUrls: [...signIn.callbackUrls],
      },
      // `user` lets a user choose how to prove themselves, a passkey among it.
      authFlows: { user: true, userSrp: true, ...(stage.passwordSignIn && { userPassword: true }) },
      preventUserExistenceErrors: true,
      enableTokenRevocation: true,
      accessTokenValidity: Duration.hours(1),
      idTokenValidity: Duration.hours(1),
      refreshTokenValidity: Duration.days(7),
    });
    if (signIn.domainPrefix !== undefined) {
      pool.addDomain('SignInPage', {
        cognitoDomain: { domainPrefix: signIn.domainPrefix },
        managedLoginVersion: cognito.ManagedLoginVersion.NEWER_MANAGED_LOGIN,
      });
      branding(this, { dir: signIn.brandingDir, pool, client });
    }

    this.users = pool;
    this.signUpPolicy = policy;
    new CfnOutput(this, 'UserPoolId', { value: pool.userPoolId });
    new CfnOutput(this, 'UserPoolClientId', { value: client.userPoolClientId });
    outputFunction(this, 'PreSignUp', preSignUp);
    outputFunction(this, 'PreToken', preToken);
    new CfnOutput(this, 'SignUpPolicyParameterName', { value: policy.parameterName });
  }
}

function userPool(scope: Construct, { signIn }: Config, preSignUp: RustFunction): cognito.UserPool {
  const protect = signIn.threatProtection !== 'off';
  const pool = new cognito.UserPool(scope, 'Users', {
    featurePlan: protect ? cognito.FeaturePlan.PLUS : cognito.FeaturePlan.ESSENTIALS,
    ...(protect && {
      standardThreatProtectionMode:
        signIn.threatProtection === 'audit'
          ? cognito.StandardThreatProtectionMode.AUDIT_ONLY
          : cognito.StandardThreatProtectionMode.FULL_FUNCTION,
    }),
    selfSignUpEnabled: true,
    signInAliases: { email: true },
    signInCaseSensitive: false,
    // Cognito mails a code: nobody is confirmed who cannot read that mailbox.
    autoVerify: { email: true },
    userVerification: { emailStyle: cognito.VerificationEmailStyle.CODE, emailSubject: 'Your Carapace code' },
    ...(signIn.mail && {
      email: cognito.UserPoolEmail.withSES({
        fromEmail: signIn.mail.from,
        fromName: 'Carapace',
        sesRegion: signIn.mail.sesRegion,
        sesVerifiedDomain: signIn.mail.from.split('@')[1],
      }),
    }),
    // For good: pre-sign-up judges the address once, so it must not change afterwards. Unless people come
    // through identity providers: Cognito writes what they assert at each sign-in, and where it may not,
    // the second one fails. docs/security.md says what a changed address is worth. It is settled when the
    // pool is made; CloudFormation cannot change it.
    standardAttributes: { email: { required: true, mutable: signIn.federated } },
    accountRecovery: cognito.AccountRecovery.EMAIL_ONLY,
    mfa: cognito.Mfa.OPTIONAL,
    mfaSecondFactor: { otp: true, sms: false },
    signInPolicy: { allowedFirstAuthFactors: { password: true, passkey: true } },
    // A passkey counts as two factors, so it has to be one that asks for a finger or a PIN.
    passkeyUserVerification: cognito.PasskeyUserVerification.REQUIRED,
    ...(signIn.passkeyDomain !== undefined && { passkeyRelyingPartyId: signIn.passkeyDomain }),
    passwordPolicy: {
      minLength: 14,
      requireLowercase: true,
      requireUppercase: true,
      requireDigits: true,
      requireSymbols: true,
      passwordHistorySize: 5,
      tempPasswordValidity: Duration.days(1),
    },
    lambdaTriggers: { preSignUp: preSignUp.fn },
    deletionProtection: true,
    removalPolicy: RemovalPolicy.RETAIN,
  });
  // Else a user with a second factor could not use a passkey at all. The L2 has no such property yet.
  (pool.node.defaultChild as cognito.CfnUserPool).webAuthnFactorConfiguration = 'MULTI_FACTOR_WITH_USER_VERIFICATION';
  Validations.of(pool).acknowledge({
    id: 'AwsSolutions-COG2',
    reason:
      'A second factor is offered and not forced: people whom the policy names sign up by themselves, and an agent holds no power beyond its own sandbox.',
  });
  if (!protect) {
    Validations.of(pool).acknowledge({
      id: 'AwsSolutions-COG8',
      reason: 'The Plus plan is paid for per user: threatProtection=audit or =enforced is for whoever wants it.',
    });
  }
  return pool;
}
