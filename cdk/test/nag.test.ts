import { Validations } from 'aws-cdk-lib';
import { AwsSolutionsChecks } from 'cdk-nag';
import { describe, expect, test, vi } from 'vitest';
import { Synthesised } from './synthesised.ts';

/** All that can be switched on, so that it is checked too. */
const EVERYTHING = {
  operatorCidrs: '203.0.113.0/24',
  clusterAdmins: 'arn:aws:iam::111122223333:role/Operators',
  manageCoreDns: 'true',
  signInDomainPrefix: 'acme-carapace',
  alarmEmail: 'operators@example.com',
};
const { app } = new Synthesised('aws', EVERYTHING);

interface Acknowledgement {
  readonly at: string;
  readonly rule: string;
  readonly reason: string;
}

const acknowledgements: Acknowledgement[] = app.node.findAll().flatMap((construct) =>
  construct.node.metadata
    .filter(({ type }) => type === Validations.ACKNOWLEDGED_RULES_METADATA_KEY)
    .flatMap(({ data }) => Object.entries(data as Record<string, string>))
    .map(([rule, reason]) => ({ at: construct.node.path, rule: rule.replace(/^annotation::/i, ''), reason }))
    .filter(({ rule }) => rule.startsWith('AwsSolutions-')),
);

describe('AWS Solutions checks', () => {
  test('find nothing that is not acknowledged', () => {
    const { violations } = new AwsSolutionsChecks(app).validateScope(app);
    expect(
      violations.map(({ ruleName, violatingResources }) => [
        ruleName,
        violatingResources.map(({ constructPath }) => constructPath),
      ]),
    ).toEqual([]);
  });

  test('every acknowledgement has a reason, and none is for a whole stack', () => {
    expect(acknowledgements).not.toEqual([]);
    for (const { at, reason } of acknowledgements) {
      expect(reason.length).toBeGreaterThan(20);
      expect(at.split('/').length).toBeGreaterThan(1);
    }
  });

  test('every acknowledgement is still needed', () => {
    const silence = vi.spyOn(Validations.prototype, 'acknowledge').mockImplementation(() => {});
    const bare = new Synthesised('aws', EVERYTHING).app;
    silence.mockRestore();
    const findings = new AwsSolutionsChecks(bare)
      .validateScope(bare)
      .violations.flatMap(({ ruleName, violatingResources }) =>
        violatingResources.map(({ constructPath }) => ({ ruleName, path: constructPath ?? '' })),
      );
    const idle = acknowledgements.filter(
      ({ at, rule }) => !findings.some(({ ruleName, path }) => ruleName === rule && path.startsWith(`${at}/`)),
    );
    expect(idle).toEqual([]);
  });
});
