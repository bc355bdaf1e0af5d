/**
 * Everything in which a stage differs from the other, with its reason. Nothing else in this app may
 * ask which stage it is: test/stage.test.ts compares the templates of both and fails on a difference
 * that is not listed here.
 *
 * `aws` is the product. `local` is the same app on a developer's machine, deployed with the same CLI
 * to an emulator of AWS that lives no longer than the test run.
 */
export type StageName = 'aws' | 'local';

export interface Stage {
  /**
   * Let a client trade e-mail address and password for tokens (USER_PASSWORD_AUTH).
   * Scenarios sign users in without a browser. On AWS a password is typed into Cognito's own page or
   * proven by SRP, so that no client of ours ever handles it.
   */
  readonly passwordSignIn: boolean;
  /**
   * Let functions die on demand (context `faultDir`).
   * Scenarios kill a function at each of its side effects and check that nothing is lost or done
   * twice. Binaries that were not built for that do not look.
   */
  readonly faultInjection: boolean;
  /**
   * Let Slack's API be called over plain HTTP (context `slackApiUrl`).
   * The stand-in for Slack is a pod of the local cluster and has no certificate. On AWS the bot's
   * token never travels unencrypted.
   */
  readonly plainSlack: boolean;
  /**
   * How long the purge of a user's data stays behind the lock on their agent, in seconds.
   * On AWS conversation-accept may have asked before the lock and write until its timeout of 30 seconds;
   * 10 more are for the index. Locally no function stands still in between, and each of thirty
   * removals would wait.
   */
  readonly purgeDelaySeconds: number;
  /** Context that need not be given in this stage. What is given wins. */
  readonly defaults: Readonly<Record<string, string>>;
}

export const STAGES: Readonly<Record<StageName, Stage>> = {
  aws: {
    passwordSignIn: false,
    faultInjection: false,
    plainSlack: false,
    purgeDelaySeconds: 40,
    // No account and no region: the stacks go wherever the CLI's credentials point.
    defaults: {},
  },
  local: {
    passwordSignIn: true,
    faultInjection: true,
    plainSlack: true,
    purgeDelaySeconds: 10,
    defaults: {
      // The emulator's one account.
      account: '000000000000',
      region: 'us-east-1',
      // Reserved for examples (RFC 2606): nobody's real address is in a scenario.
      allowedEmailDomains: 'example.com',
      // The model gateway's ClusterIP, which functions reach there because they run on the cluster's host.
      modelGatewayUrl: 'http://10.96.0.40:4000',
      // Likewise the stand-in for Slack.
      slackApiUrl: 'http://10.96.0.41/api',
      signUpUrl: 'https://sign-up.example.com/',
      // Short, so that a turn of a scenario takes more than one.
      turnSliceSeconds: '8',
    },
  },
};

/** Where a field of `Stage` shows in the templates: `<stack>/<resource type>/<path>`. */
export const DIFFERENCES: Readonly<Record<Exclude<keyof Stage, 'defaults'>, readonly RegExp[]>> = {
  passwordSignIn: [/^CarapaceIdentity\/AWS::Cognito::UserPoolClient\/ExplicitAuthFlows$/],
  faultInjection: [/^CarapaceControlPlane\/AWS::Lambda::Function\/Environment\.Variables\.CARAPACE_FAULT_DIR$/],
  plainSlack: [/^CarapaceControlPlane\/AWS::Lambda::Function\/Environment\.Variables\.SLACK_API_URL$/],
  purgeDelaySeconds: [
    /^CarapaceControlPlane\/AWS::StepFunctions::StateMachine\/DefinitionSubstitutions\.PurgeDelaySeconds$/,
  ],
};
