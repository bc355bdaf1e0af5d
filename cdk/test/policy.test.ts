import { writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { App } from 'aws-cdk-lib';
import { describe, expect, test } from 'vitest';
import addresses from '../../crates/core/tests/corpus/addresses.json' with { type: 'json' };
import policies from '../../crates/core/tests/corpus/policies.json' with { type: 'json' };
import { ConfigError, readConfig } from '../lib/config.ts';
import { isAddress, parsePolicy } from '../lib/identity/policy.ts';
import { GIVEN } from './synthesised.ts';

/** Of the corpus of crates/core, which judges sign-ups: what is deployed is what it accepts. */
interface Document {
  readonly name: string;
  readonly text: string;
  readonly accepted: boolean;
  readonly names?: string;
  readonly line?: number;
}

describe('a policy is judged as the function that reads it judges it', () => {
  test.each((policies as Document[]).map((document) => [document.name, document] as const))('%s', (_, document) => {
    const parsed = parsePolicy(document.text);
    const problems = 'problems' in parsed ? parsed.problems : [];
    expect(problems.map(({ what }) => what).join('\n')).toContain(document.names ?? '');
    expect('policy' in parsed, JSON.stringify(problems)).toBe(document.accepted);
    if (document.line !== undefined) expect(problems.map(({ line }) => line)).toContain(document.line);
  });

  test('so is an address', () => {
    expect(addresses.accepted.filter((address) => !isAddress(address))).toEqual([]);
    expect(addresses.hostile.filter(({ address }) => isAddress(address))).toEqual([]);
  });

  test('what is deployed is accepted again', () => {
    for (const { text, accepted } of policies as Document[]) {
      const parsed = parsePolicy(text);
      if (!accepted || !('policy' in parsed)) continue;
      expect(parsePolicy(JSON.stringify(parsed.policy))).toEqual(parsed);
    }
  });
});

describe('the key signUpPolicy', () => {
  const read = (context: Record<string, unknown>) => readConfig(new App({ context: { ...GIVEN, ...context } }).node);
  const file = (text: string) => {
    const path = join(tmpdir(), 'policy.json');
    writeFileSync(path, text);
    return path;
  };

  test('names a file, whose every fault fails the synth with its line', () => {
    const signUpPolicy = file(
      '{\n  "version": 1,\n  "allowed_domains": [\n    "example.com",\n    "*"\n  ],\n  "plus_tags": "maybe",\n  "sign_ups_per_domain_per_hour": 10\n}\n',
    );
    expect(() => read({ signUpPolicy, allowedEmailDomains: '' })).toThrow(ConfigError);
    expect(() => read({ signUpPolicy, allowedEmailDomains: '' })).toThrow(
      `This context cannot be deployed:
  signUpPolicy: ${signUpPolicy}:5: allowed_domains[1]: "*" is neither a domain, example.com, nor all sub-domains of one, *.example.com
  signUpPolicy: ${signUpPolicy}:7: plus_tags: it must be one of same_identity, distinct, refused`,
    );
  });

  test('names a file that is there', () => {
    expect(() => read({ signUpPolicy: '/nowhere.json' })).toThrow(/\/nowhere\.json:1: the file cannot be read: ENOENT/);
  });

  test('need not be given where allowedEmailDomains names the domains, which stand for those of the file', () => {
    expect(read({}).signIn.policy).toEqual({
      version: 1,
      allowed_domains: ['example.com', 'example.org'],
      allowed_addresses: [],
      blocked_addresses: [],
      identity_providers: [],
      plus_tags: 'same_identity',
      sign_ups_per_domain_per_hour: 200,
    });
    const signUpPolicy = file(
      '{"version":1,"allowed_domains":["*.example.net"],"blocked_addresses":["eve@example.com"],"plus_tags":"distinct","sign_ups_per_domain_per_hour":10}',
    );
    expect(read({ signUpPolicy, allowedEmailDomains: '' }).signIn.policy.allowed_domains).toEqual(['*.example.net']);
    expect(read({ signUpPolicy }).signIn.policy).toMatchObject({
      allowed_domains: ['example.com', 'example.org'],
      blocked_addresses: ['eve@example.com'],
      plus_tags: 'distinct',
    });
  });

  test('is refused if the function would refuse it with the domains of allowedEmailDomains', () => {
    expect(() => read({ allowedEmailDomains: 'example.com,example.com' })).toThrow(
      /as it is deployed, allowed_domains\[1\]: example\.com is listed twice/,
    );
    const many = Array.from({ length: 101 }, (_, at) => `d${at}.example`);
    expect(() => read({ allowedEmailDomains: many.join(',') })).toThrow(/it has 101 entries; at most 100 are allowed/);
    const long = many.slice(0, 50).map((domain) => `${'d'.repeat(63)}.${'e'.repeat(63)}.${'f'.repeat(63)}.${domain}`);
    expect(() => read({ allowedEmailDomains: long.join(',') })).toThrow(/bytes; at most 8192 are allowed/);
  });

  test('lets nobody in unless somebody is named', () => {
    expect(() => read({ allowedEmailDomains: '' })).toThrow(
      /sign-up-policy\.json:3: allowed_domains: with no allowed_addresses and no identity_providers either, nobody may sign up; name a domain there or give -c allowedEmailDomains=…/,
    );
  });
});
