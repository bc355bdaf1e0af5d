import { App } from 'aws-cdk-lib';
import { describe, expect, test } from 'vitest';
import { ConfigError, readConfig } from '../lib/config.ts';
import { featureFlags, GIVEN, Synthesised } from './synthesised.ts';

/** So many zones of a region, as the command line gives them. */
const zones = (count: number) =>
  [...'abcdefgh'].slice(0, count).map((letter) => `eu-central-1${letter}`).join(',');
const read = (context: Record<string, unknown>) => readConfig(new App({ context }).node);

describe('what is given', () => {
  test('text from the command line and values of cdk.json mean the same', () => {
    const fromCommandLine = read({ ...GIVEN, natGateways: '1', manageCoreDns: 'true' });
    const fromFile = read({
      ...GIVEN,
      allowedEmailDomains: ['example.com', 'example.org'],
      natGateways: 1,
      manageCoreDns: true,
    });
    expect(fromFile).toEqual(fromCommandLine);
    expect(fromFile.signIn.policy.allowed_domains).toEqual(['example.com', 'example.org']);
  });

  test('the stage aws is the default and bound to no account', () => {
    expect(read(GIVEN).env).toEqual({});
    expect(read(GIVEN).stage.passwordSignIn).toBe(false);
  });

  test('Slack is where Slack says it is', () => {
    expect(read(GIVEN).slack.apiUrl).toBe('https://slack.com/api');
    expect(read({ ...GIVEN, slackApiUrl: 'https://slack-gov.com/api' }).slack.apiUrl).toBe('https://slack-gov.com/api');
    expect(read({ stage: 'local', slackApiUrl: 'http://127.0.0.1:9/api' }).slack.apiUrl).toBe('http://127.0.0.1:9/api');
  });

  test('the stage local needs nothing but its name', () => {
    expect(read({ stage: 'local' })).toMatchObject({
      env: { account: '000000000000', region: 'us-east-1' },
      signIn: { policy: { allowed_domains: ['example.com'] } },
      modelGateway: { url: 'http://10.96.0.40:4000', port: 4000 },
      slack: { apiUrl: 'http://10.96.0.41/api', signUpUrl: 'https://sign-up.example.com/' },
      turnSliceSeconds: 8,
    });
  });

  test('a user may spend something unless told otherwise, and never without a limit', () => {
    expect(read(GIVEN).allowance).toEqual({
      budget_usd: 20,
      budget_days: 30,
      requests_per_minute: 60,
      tokens_per_minute: 200_000,
    });
    const allowanceUsd = '100';
    expect(read({ ...GIVEN, allowanceUsd, allowanceDays: 7 }).allowance).toMatchObject({ budget_usd: 100, budget_days: 7 });
  });

  test('a default of the stage gives way to what is given', () => {
    expect(read({ stage: 'local', ...GIVEN }).modelGateway.url).toBe(GIVEN.modelGatewayUrl);
  });

  test.each([
    ['http://models.example.com', 80],
    ['https://models.example.com/v1', 443],
    ['http://10.0.0.1:4000', 4000],
  ])('the port of %s is %i', (modelGatewayUrl, port) => {
    expect(read({ ...GIVEN, modelGatewayUrl }).modelGateway.port).toBe(port);
  });

  test('one NAT gateway per zone unless told otherwise', () => {
    expect(read(GIVEN).vpc.natGateways).toBe(3);
    expect(read({ ...GIVEN, availabilityZones: 'eu-central-1a,eu-central-1b' }).vpc.natGateways).toBe(2);
    expect(read({ ...GIVEN, natGateways: '1' }).vpc.natGateways).toBe(1);
    expect(read({ ...GIVEN, availabilityZones: zones(4) }).vpc.natGateways).toBe(4);
  });

  test.each([
    ['10.255.0.0/16', 6],
    ['172.16.0.0/16', 3],
    ['172.31.128.0/17', 3],
    ['192.168.0.0/17', 2],
    ['100.64.0.0/16', 4],
    ['100.127.128.0/17', 3],
  ])('a VPC of %s has room for %i zones', (vpcCidr, count) => {
    const context = { ...GIVEN, vpcCidr, availabilityZones: zones(count) };
    expect(read(context).vpc.cidr).toBe(vpcCidr);
    // CDK's own arithmetic agrees.
    const app = new Synthesised('aws', { ...context, account: '111122223333', region: 'eu-central-1' });
    expect(Object.keys(app.resources('CarapaceNetwork', 'AWS::EC2::Subnet'))).toHaveLength(3 * count);
  });

  test('of a cdk.json these tests take what CDK itself is told, and no value of an operator', () => {
    const flag = { '@aws-cdk/core:explicitStackTags': true };
    const operators = { modelGatewayUrl: 'http://elsewhere.example.com', vpcCidr: '10.9.0.0/16' };
    expect(featureFlags({ ...flag, ...operators })).toEqual(flag);
  });
});

describe('what cannot be used', () => {
  test.each([
    ['stage', 'production'],
    ['account', '1234'],
    ['region', 'frankfurt'],
    ['vpcCidr', '10.20.0.0/24'],
    ['vpcCidr', '10.256.0.0/16'],
    ['vpcCidr', '10.20.1.0/16'],
    ['vpcCidr', '10.20.64.0/17'],
    ['vpcCidr', '11.0.0.0/16'],
    ['vpcCidr', '172.15.0.0/16'],
    ['vpcCidr', '172.32.0.0/16'],
    ['vpcCidr', '192.169.0.0/16'],
    ['vpcCidr', '100.63.0.0/16'],
    ['vpcCidr', '100.128.0.0/16'],
    ['vpcCidr', '203.0.0.0/16'],
    ['availabilityZones', 'eu-central-1'],
    ['availabilityZones', 'eu-central-1a'],
    ['availabilityZones', zones(8)],
    ['natGateways', '0'],
    ['natGateways', '4'],
    ['natGateways', 'two'],
    ['clusterAdmins', 'arn:aws:iam::111122223333:user/someone'],
    ['operatorCidrs', '203.0.113.0'],
    ['systemNodeType', 'large'],
    ['systemNodeCount', '1.5'],
    ['manageCoreDns', 'yes'],
    ['agentsNamespace', 'Agents'],
    ['warmPool', '-agents'],
    ['modelGatewayUrl', 'models.example.com:4000'],
    ['slackApiUrl', 'slack.com/api'],
    ['slackApiUrl', 'https://slack.com/api/'],
    ['slackApiUrl', 'https://slack.com:8443/api'],
    ['slackApiUrl', 'http://slack.com/api'],
    ['signUpUrl', 'http://agents.example.com/'],
    ['turnSliceSeconds', '4'],
    ['turnSliceSeconds', '841'],
    ['maxConcurrentClaims', '-1'],
    ['allowanceUsd', '0'],
    ['allowanceUsd', '19.50'],
    ['allowanceUsd', '100001'],
    ['allowanceDays', '367'],
    ['allowanceRequestsPerMinute', 'many'],
    ['allowanceRequestsPerMinute', '10001'],
    ['allowanceTokensPerMinute', '100000001'],
    ['trail', 'no'],
    ['threatProtection', 'on'],
    ['passkeyDomain', 'id'],
    ['allowedEmailDomains', 'example'],
    ['allowedEmailDomains', 'Example.com'],
    ['allowedEmailDomains', '@example.com'],
    ['allowedEmailDomains', '*.example.com'],
    ['callbackUrls', 'http://example.com/callback'],
    ['signInDomainPrefix', 'my company'],
    ['alarmEmail', 'operators'],
    ['faultDir', '/faults'],
  ])('%s=%s is named and refused', (key, value) => {
    const context = { ...GIVEN, account: '111122223333', region: 'eu-central-1', [key]: value };
    expect(() => read(context)).toThrow(
      new RegExp(`^This context cannot be deployed:\n  ${key}: .*(give|name) [^\n]+$`),
    );
  });

  test('a VPC that cannot hold its zones says how many it holds', () => {
    expect(() => read({ ...GIVEN, vpcCidr: '10.20.0.0/17', availabilityZones: zones(4) })).toThrow(
      '  availabilityZones: names 4 zones, and 10.20.0.0/17 has room for the subnets of 3: name fewer or give a larger vpcCidr',
    );
  });

  test('there are no more NAT gateways than zones', () => {
    expect(() => read({ ...GIVEN, availabilityZones: zones(2), natGateways: '3' })).toThrow(
      "  natGateways: '3' cannot be used: give a whole number from 1 to 2, the number of zones",
    );
  });

  test('everything that is wrong is told at once, with the way out', () => {
    expect(() => read({ account: '111122223333', warmPool: 'A' })).toThrowErrorMatchingInlineSnapshot(`
      [ConfigError: This context cannot be deployed:
        modelGatewayUrl: is missing: give -c modelGatewayUrl=… with the http(s) URL at which functions in the VPC find the model gateway, such as http://models.internal.example.com:4000
        region: is missing: give account and region together, or neither to deploy wherever your credentials point
        warmPool: 'A' cannot be used: give a DNS-1123 label (a-z, 0-9, -, at most 63 characters)
        signUpUrl: is missing: give -c signUpUrl=… with the https URL at which people sign up, such as https://agents.example.com/
        signUpPolicy: sign-up-policy.json:3: allowed_domains: with no allowed_addresses and no identity_providers either, nobody may sign up; name a domain there or give -c allowedEmailDomains=…]
    `);
  });

  test('a function that was not built fails the synth and says how to build it', () => {
    expect(() => new Synthesised('aws', { lambdaDir: '/nowhere' })).toThrow(ConfigError);
    expect(() => new Synthesised('aws', { lambdaDir: '/nowhere' })).toThrow(
      /\/nowhere\/pre-sign-up\/bootstrap: build the functions with `cargo xtask lambdas`/,
    );
  });
});
