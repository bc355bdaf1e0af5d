import { dirname, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Environment } from 'aws-cdk-lib';
import type { Node } from 'constructs';
import { readPolicy, type SignUpPolicy } from './identity/policy.ts';
import { undeployable } from './identity/providers.ts';
import { SUBNET_MASKS } from './network/subnets.ts';
import { type Stage, STAGES, type StageName } from './stage.ts';

const CDK_ROOT = resolve(dirname(fileURLToPath(import.meta.url)), '..');

/** What a user may spend on models, as functions are told: see crates/core/src/allowance.rs. */
export interface Allowance {
  /** Whole US dollars. */
  readonly budget_usd: number;
  /** After so many days the budget begins anew. */
  readonly budget_days: number;
  readonly requests_per_minute: number;
  /** In and out. */
  readonly tokens_per_minute: number;
}

export type ThreatProtection = 'off' | 'audit' | 'enforced';

/** What stands for a policy that cannot be used, until the synth fails for it. */
const NOBODY: SignUpPolicy = {
  version: 1,
  allowed_domains: [],
  allowed_addresses: [],
  blocked_addresses: [],
  identity_providers: [],
  plus_tags: 'refused',
  sign_ups_per_domain_per_hour: 1,
};

/** What this deployment is: the CDK context, read once and checked as a whole. */
export interface Config {
  readonly stage: Stage;
  /** Empty: the templates fit any account and region. */
  readonly env: Environment;
  /** Holds one folder per Lambda binary, each with its `bootstrap`. */
  readonly lambdaDir: string;
  /** Where functions look for the faults to die of. Undefined: nowhere. */
  readonly faultDir: string | undefined;
  readonly vpc: {
    readonly cidr: string;
    /** Empty: the region's first three zones. */
    readonly availabilityZones: readonly string[];
    readonly natGateways: number;
  };
  readonly cluster: {
    /** ARNs of the IAM roles that administer the cluster. */
    readonly admins: readonly string[];
    /** Networks that may reach the API server's public endpoint. Empty: there is no public endpoint. */
    readonly operatorCidrs: readonly string[];
    readonly systemNodes: { readonly instanceType: string; readonly count: number };
    /** Hand CoreDNS over to EKS as an add-on: see lib/cluster/addons.ts for when. */
    readonly manageCoreDns: boolean;
  };
  readonly agents: { readonly namespace: string; readonly warmPool: string };
  readonly modelGateway: { readonly url: string; readonly port: number };
  /** What a user gets who signs in for the first time. */
  readonly allowance: Allowance;
  readonly slack: {
    /** Where Slack's methods are: `<apiUrl>/chat.postMessage`. */
    readonly apiUrl: string;
    /** Where somebody who has no agent gets one. */
    readonly signUpUrl: string;
  };
  /** How long conversation-turn serves a conversation before it is invoked anew. */
  readonly turnSliceSeconds: number;
  /** Most invocations of sandbox-claim at any one time. 0: no limit of its own. */
  readonly maxConcurrentClaims: number;
  readonly signIn: {
    readonly policy: SignUpPolicy;
    /** Let people in through the policy's identity providers: settled when the user pool is made. */
    readonly federated: boolean;
    readonly callbackUrls: readonly string[];
    /** Undefined: no sign-in page. */
    readonly domainPrefix: string | undefined;
    /** Holds `settings.json` and the images of the sign-in page. */
    readonly brandingDir: string;
    /** The name of its own that passkeys are for. Undefined: the sign-in page's. */
    readonly passkeyDomain: string | undefined;
    /** What Cognito does about sign-ins that look like an attack. Anything but `off` is the Plus plan. */
    readonly threatProtection: ThreatProtection;
    /** Undefined: Cognito's own sender, which is good for 50 mails a day. */
    readonly mail: { readonly from: string; readonly sesRegion: string } | undefined;
  };
  /**
   * Keep a trail of calls that change something. EventBridge hears of a deleted or disabled account through
   * one: without, only if the account has another.
   */
  readonly trail: boolean;
  /** Undefined: nobody hears of an alarm until somebody subscribes to the topic. */
  readonly alarmEmail: string | undefined;
}

/** Names every context value that cannot be used, and the way out of each. */
export class ConfigError extends Error {
  constructor(problems: readonly string[]) {
    super(`This context cannot be deployed:\n${problems.map((problem) => `  ${problem}`).join('\n')}`);
    this.name = 'ConfigError';
  }
}

export function readConfig(node: Node): Config {
  const stage = STAGES[readStage(node)];
  const context = new Context(node, stage.defaults);

  const modelGateway = context.text('modelGatewayUrl', MODEL_GATEWAY_URL);
  const zones = context.list('availabilityZones', ZONE, []);
  const config: Config = {
    stage,
    env: readEnvironment(context),
    lambdaDir: resolve(CDK_ROOT, context.text('lambdaDir', ANY, '../dist/lambda')),
    faultDir: context.optional('faultDir', ABSOLUTE),
    vpc: {
      cidr: context.text('vpcCidr', VPC_CIDR, '10.20.0.0/16'),
      availabilityZones: zones,
      // One per zone: the loss of a zone must not cut the others off from AWS.
      natGateways: context.integer('natGateways', 1, zones.length || 3, zones.length || 3, 'the number of zones'),
    },
    cluster: {
      admins: context.list('clusterAdmins', ROLE_ARN, []),
      operatorCidrs: context.list('operatorCidrs', CIDR, []),
      systemNodes: {
        instanceType: context.text('systemNodeType', INSTANCE_TYPE, 'm7i.large'),
        count: context.integer('systemNodeCount', 1, 10, 2),
      },
      manageCoreDns: context.flag('manageCoreDns', false),
    },
    agents: {
      namespace: context.text('agentsNamespace', LABEL, 'agents'),
      warmPool: context.text('warmPool', LABEL, 'agents'),
    },
    modelGateway: { url: modelGateway, port: portOf(modelGateway) },
    // The bounds of crates/core/src/allowance.rs: what is let through here is refused there.
    allowance: {
      budget_usd: context.integer('allowanceUsd', 1, 100_000, 20),
      budget_days: context.integer('allowanceDays', 1, 366, 30),
      requests_per_minute: context.integer('allowanceRequestsPerMinute', 1, 10_000, 60),
      tokens_per_minute: context.integer('allowanceTokensPerMinute', 1, 100_000_000, 200_000),
    },
    slack: {
      apiUrl: context.text('slackApiUrl', SLACK_API_URL, 'https://slack.com/api'),
      signUpUrl: context.text('signUpUrl', SIGN_UP_URL),
    },
    // Lambda ends a function after 900 seconds, and it needs some of them to stop in good order.
    turnSliceSeconds: context.integer('turnSliceSeconds', 5, 840, 240),
    maxConcurrentClaims: context.integer('maxConcurrentClaims', 0, 1000, 50),
    signIn: {
      policy: readSignUpPolicy(context),
      federated: context.flag('federatedSignIn', false),
      callbackUrls: context.list('callbackUrls', CALLBACK_URL, ['http://localhost:8400/callback']),
      domainPrefix: context.optional('signInDomainPrefix', LABEL),
      brandingDir: resolve(CDK_ROOT, context.text('brandingDir', ANY, 'branding')),
      passkeyDomain: context.optional('passkeyDomain', HOST),
      threatProtection: context.text('threatProtection', THREAT_PROTECTION, 'off') as ThreatProtection,
      mail: readMail(context),
    },
    trail: context.flag('trail', true),
    alarmEmail: context.optional('alarmEmail', EMAIL),
  };
  for (const { key, problem } of undeployable(config.signIn.policy, config.signIn.federated)) {
    context.reject(key, problem);
  }
  if (zones.length === 1 && zones.every(ZONE.test)) {
    context.reject('availabilityZones', 'names one zone, and EKS wants two at least: name another or drop the key');
  }
  if (VPC_CIDR.test(config.vpc.cidr) && zones.length > zonesIn(config.vpc.cidr)) {
    context.reject(
      'availabilityZones',
      `names ${zones.length} zones, and ${config.vpc.cidr} has room for the subnets of ${zonesIn(config.vpc.cidr)}: name fewer or give a larger vpcCidr`,
    );
  }
  if (config.faultDir !== undefined && !stage.faultInjection) {
    context.reject(
      'faultDir',
      'kills functions, which only the stage local allows: drop the key or give -c stage=local',
    );
  }
  const slackApi = parseUrl(config.slack.apiUrl);
  // The functions' security group lets out to the internet on 443 alone.
  if (slackApi !== undefined && (slackApi.protocol !== 'https:' || slackApi.port !== '') && !stage.plainSlack) {
    context.reject(
      'slackApiUrl',
      `'${config.slack.apiUrl}' is not https on port 443, which only the stage local allows: give such a URL or drop the key`,
    );
  }
  context.throwIfUnusable();
  return config;
}

function readStage(node: Node): StageName {
  const value: unknown = node.tryGetContext('stage') ?? 'aws';
  if (typeof value === 'string' && Object.hasOwn(STAGES, value)) return value as StageName;
  throw new ConfigError([
    `stage: '${String(value)}' is not a stage: give -c stage=${Object.keys(STAGES).join(' or -c stage=')}`,
  ]);
}

function readEnvironment(context: Context): Environment {
  const account = context.optional('account', ACCOUNT);
  const region = context.optional('region', REGION);
  if (account !== undefined && region !== undefined) return { account, region };
  if (account !== undefined || region !== undefined) {
    context.reject(
      account === undefined ? 'account' : 'region',
      'is missing: give account and region together, or neither to deploy wherever your credentials point',
    );
  }
  return {};
}

/** The sign-up policy: a file, in which `allowedEmailDomains` stands for the domains, if it is given. */
function readSignUpPolicy(context: Context): SignUpPolicy {
  const file = resolve(CDK_ROOT, context.text('signUpPolicy', ANY, 'sign-up-policy.json'));
  const parsed = readPolicy(file, context.list('allowedEmailDomains', DOMAIN, []));
  if ('policy' in parsed) return parsed.policy;
  const inside = relative(CDK_ROOT, file);
  const shown = inside.startsWith('..') ? file : inside;
  for (const { line, what } of parsed.problems) context.reject('signUpPolicy', `${shown}:${line}: ${what}`);
  return NOBODY;
}

function readMail(context: Context): Config['signIn']['mail'] {
  const from = context.optional('mailFrom', EMAIL);
  const sesRegion = context.optional('sesRegion', REGION);
  if (from !== undefined && sesRegion !== undefined) return { from, sesRegion };
  if (from !== undefined || sesRegion !== undefined) {
    context.reject(
      from === undefined ? 'mailFrom' : 'sesRegion',
      'is missing: give mailFrom and sesRegion together, or neither to send with what Cognito has',
    );
  }
  return undefined;
}

/** What a value must look like, and how to say so. */
interface Form {
  readonly test: (value: string) => boolean;
  readonly wants: string;
}

const form = (pattern: RegExp, wants: string): Form => ({ test: (value) => pattern.test(value), wants });

const OCTET = '(25[0-5]|2[0-4]\\d|1?\\d?\\d)';
const ANY = form(/./, 'a text');
const ABSOLUTE = form(/^\//, 'an absolute path');
const ACCOUNT = form(/^\d{12}$/, 'an account id of 12 digits');
const REGION = form(/^[a-z]{2}(-[a-z]+)+-\d$/, 'a region such as eu-central-1');
const ZONE = form(/^[a-z]{2}(-[a-z]+)+-\d[a-z]$/, 'availability zones such as eu-central-1a,eu-central-1b');
const CIDR = form(new RegExp(`^${OCTET}(\\.${OCTET}){3}/(3[0-2]|[12]?\\d)$`), 'IPv4 networks such as 203.0.113.0/24');
// Smaller ones do not hold three zones of nodes whose every pod takes an address. Only these ranges
// are kept from agents on their way to the internet: in any other they could reach nodes and functions.
const VPC_CIDR = form(
  /^(10\.(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)|172\.(1[6-9]|2\d|3[01])|192\.168|100\.(6[4-9]|[7-9]\d|1[01]\d|12[0-7]))\.(0\.0\/16|(0|128)\.0\/17)$/,
  'a private network of /16 or /17 by its first address, in 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10, such as 10.20.0.0/16',
);
const LABEL = form(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, 'a DNS-1123 label (a-z, 0-9, -, at most 63 characters)');
const DOMAIN = form(
  /^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}$/,
  'the lower-case domains whose addresses may sign up, such as example.com,example.org',
);
const HOST = form(/^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}$/, 'a host name such as id.example.com');
const THREAT_PROTECTION = form(/^(off|audit|enforced)$/, 'off, audit or enforced');
const EMAIL = form(/^[^\s@]+@[^\s@]+\.[^\s@]+$/, 'an e-mail address');
const ROLE_ARN = form(
  /^arn:aws[a-z-]*:iam::\d{12}:role\/.+$/,
  'ARNs of IAM roles such as arn:aws:iam::111122223333:role/Operators',
);
const INSTANCE_TYPE = form(/^[a-z0-9-]+\.[a-z0-9-]+$/, 'an x86_64 instance type such as m7i.large');
const MODEL_GATEWAY_URL: Form = {
  test: (value) => ['http:', 'https:'].includes(parseUrl(value)?.protocol ?? ''),
  wants:
    'the http(s) URL at which functions in the VPC find the model gateway, such as http://models.internal.example.com:4000',
};
const SLACK_API_URL: Form = {
  test: (value) => /^https?:\/\/[^/?#@]+(\/[^/?#]+)*$/.test(value) && parseUrl(value) !== undefined,
  wants: "the URL of Slack's API without a slash at its end, such as https://slack.com/api",
};
const SIGN_UP_URL: Form = {
  test: (value) => parseUrl(value)?.protocol === 'https:',
  wants: 'the https URL at which people sign up, such as https://agents.example.com/',
};
const CALLBACK_URL: Form = {
  // Cognito's own rule.
  test: (value) => parseUrl(value)?.protocol === 'https:' || parseUrl(value)?.hostname === 'localhost',
  wants: 'https URLs, or http://localhost ones',
};

/** How many zones a VPC has room for: each takes a subnet of every kind. */
function zonesIn(vpcCidr: string): number {
  const addresses = (mask: number) => 2 ** (32 - mask);
  const perZone = Object.values(SUBNET_MASKS).reduce((sum, mask) => sum + addresses(mask), 0);
  return Math.floor(addresses(Number(vpcCidr.split('/')[1])) / perZone);
}

function parseUrl(value: string): URL | undefined {
  return URL.canParse(value) ? new URL(value) : undefined;
}

function portOf(value: string): number {
  const url = parseUrl(value);
  return Number(url?.port) || (url?.protocol === 'https:' ? 443 : 80);
}

/**
 * Reads values as the CLI hands them over (text from `-c key=value`, any JSON from cdk.json) and
 * collects what is wrong, so that one run tells all of it.
 */
class Context {
  private readonly node: Node;
  private readonly defaults: Readonly<Record<string, string>>;
  private readonly problems: string[] = [];

  constructor(node: Node, defaults: Readonly<Record<string, string>>) {
    this.node = node;
    this.defaults = defaults;
  }

  optional(key: string, form: Form): string | undefined {
    const value = this.value(key);
    if (value !== undefined && !form.test(value)) this.refuse(key, value, form.wants);
    return value;
  }

  /** Without a fallback the key must be given. */
  text(key: string, form: Form, fallback?: string): string {
    const value = this.optional(key, form) ?? fallback;
    if (value === undefined) this.reject(key, `is missing: give -c ${key}=… with ${form.wants}`);
    return value ?? '';
  }

  /** Without a fallback at least one must be given. */
  list(key: string, form: Form, fallback?: readonly string[]): readonly string[] {
    const values = this.value(key)
      ?.split(',')
      .map((value) => value.trim())
      .filter((value) => value !== '');
    for (const value of values ?? []) if (!form.test(value)) this.refuse(key, value, form.wants);
    if (!values?.length && !fallback) this.reject(key, `is missing: give -c ${key}=… with ${form.wants}`);
    return values?.length ? values : (fallback ?? []);
  }

  /** `limit` says why there is an upper end, if that is not plain. */
  integer(key: string, least: number, most: number, fallback: number, limit?: string): number {
    const value = this.value(key);
    if (value === undefined) return fallback;
    const number = Number(value);
    if (!Number.isInteger(number) || number < least || number > most) {
      this.refuse(key, value, `a whole number from ${least} to ${most}${limit === undefined ? '' : `, ${limit}`}`);
    }
    return number;
  }

  flag(key: string, fallback: boolean): boolean {
    const value = this.value(key);
    if (value !== undefined && value !== 'true' && value !== 'false') this.refuse(key, value, 'true or false');
    return value === undefined ? fallback : value === 'true';
  }

  reject(key: string, problem: string): void {
    this.problems.push(`${key}: ${problem}`);
  }

  throwIfUnusable(): void {
    if (this.problems.length > 0) throw new ConfigError(this.problems);
  }

  private refuse(key: string, value: string, wants: string): void {
    this.reject(key, `'${value}' cannot be used: give ${wants}`);
  }

  private value(key: string): string | undefined {
    const value: unknown = this.node.tryGetContext(key) ?? this.defaults[key];
    return value === undefined || value === '' ? undefined : String(value);
  }
}
