import { CfnOutput, Duration, RemovalPolicy, Stack, Validations } from 'aws-cdk-lib';
import * as cognito from 'aws-cdk-lib/aws-cognito';
import type { Construct } from 'constructs';
import type { Config } from '../config.ts';
import { RustFunction } from '../rust-function.ts';

/** Who is a user: sign-up by e-mail, judged by the function pre-sign-up. */
export class IdentityStack extends Stack {
  constructor(scope: Construct, id: string, props: { readonly config: Config }) {
    const { env, lambdaDir, signIn, stage } = props.config;
    super(scope, id, { env, description: 'Carapace: sign-up and sign-in' });

    const preSignUp = new RustFunction(this, 'PreSignUp', {
      binary: 'pre-sign-up',
      description: 'Lets only addresses of the allowed domains sign up',
      lambdaDir,
      // Cognito waits five seconds and not longer.
      timeout: Duration.seconds(5),
      environment: { ALLOWED_EMAIL_DOMAINS: signIn.allowedEmailDomains.join(',') },
    });
    const pool = userPool(this, preSignUp);
    if (signIn.domainPrefix !== undefined) {
      pool.addDomain('SignInPage', { cognitoDomain: { domainPrefix: signIn.domainPrefix } });
    }
    const client = pool.addClient('Client', {
      // A program on the user's own machine or in the browser keeps no secret: the code it receives
      // is worth nothing without the verifier it made (PKCE).
      generateSecret: false,
      oAuth: {
        flows: { authorizationCodeGrant: true, implicitCodeGrant: false },
        scopes: [cognito.OAuthScope.OPENID, cognito.OAuthScope.EMAIL],
        callbackUrls: [...signIn.callbackUrls],
      },
      authFlows: { userSrp: true, ...(stage.passwordSignIn && { userPassword: true }) },
      preventUserExistenceErrors: true,
      enableTokenRevocation: true,
      accessTokenValidity: Duration.hours(1),
      idTokenValidity: Duration.hours(1),
      refreshTokenValidity: Duration.days(7),
    });

    new CfnOutput(this, 'UserPoolId', { value: pool.userPoolId });
    new CfnOutput(this, 'UserPoolClientId', { value: client.userPoolClientId });
    new CfnOutput(this, 'PreSignUpFunctionName', { value: preSignUp.fn.functionName });
  }
}

function userPool(scope: Construct, preSignUp: RustFunction): cognito.UserPool {
  const pool = new cognito.UserPool(scope, 'Users', {
    selfSignUpEnabled: true,
    signInAliases: { email: true },
    signInCaseSensitive: false,
    // Cognito mails a code: nobody is confirmed who cannot read that mailbox.
    autoVerify: { email: true },
    userVerification: { emailStyle: cognito.VerificationEmailStyle.CODE, emailSubject: 'Your Carapace code' },
    // For good: pre-sign-up judges the address once, so it must not change afterwards.
    standardAttributes: { email: { required: true, mutable: false } },
    accountRecovery: cognito.AccountRecovery.EMAIL_ONLY,
    mfa: cognito.Mfa.OPTIONAL,
    mfaSecondFactor: { otp: true, sms: false },
    passwordPolicy: {
      minLength: 14,
      requireLowercase: true,
      requireUppercase: true,
      requireDigits: true,
      requireSymbols: true,
      tempPasswordValidity: Duration.days(1),
    },
    lambdaTriggers: { preSignUp: preSignUp.fn },
    deletionProtection: true,
    removalPolicy: RemovalPolicy.RETAIN,
  });
  Validations.of(pool).acknowledge({
    id: 'AwsSolutions-COG2',
    reason:
      'A second factor is offered and not forced: people of the allowed domains sign up by themselves, and an agent holds no power beyond its own sandbox.',
  });
  Validations.of(pool).acknowledge({
    id: 'AwsSolutions-COG8',
    reason: 'The Plus plan is paid for per user; what it guards against is narrowed by the allowed domains already.',
  });
  return pool;
}
