import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { App, Stack } from 'aws-cdk-lib';
import { Template } from 'aws-cdk-lib/assertions';
import cdkJson from '../cdk.json' with { type: 'json' };
import { carapace } from '../lib/carapace.ts';
import { readConfig } from '../lib/config.ts';
import type { StageName } from '../lib/stage.ts';

export const BINARIES = [
  'sandbox-claim',
  'sandbox-bind',
  'sandbox-announce',
  'sandbox-retire',
  'slack-ingress',
  'slack-reply',
  'conversation-accept',
  'conversation-turn',
  'user-onboard',
  'user-offboard',
  'pre-sign-up',
  'pre-token',
];
export const STACKS = ['CarapaceNetwork', 'CarapaceCluster', 'CarapaceControlPlane', 'CarapaceIdentity'] as const;
export type StackName = (typeof STACKS)[number];

/** What an operator has to give. */
export const GIVEN = {
  allowedEmailDomains: 'example.com,example.org',
  modelGatewayUrl: 'http://models.internal.example.com:4000',
  signUpUrl: 'https://agents.example.com/',
};
/** So that both stages are for the same account. */
export const ENVIRONMENT = { account: '111122223333', region: 'eu-central-1' };

export type Json = any;

/** Of the context in a cdk.json, what says how CDK itself behaves; an operator's values may be there too. */
export function featureFlags(context: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(context).filter(([key]) => key.startsWith('@aws-cdk/')));
}
export interface Resource {
  readonly Type: string;
  readonly Properties: Json;
  readonly DependsOn?: string[];
}

export class Synthesised {
  readonly app: App;

  constructor(stage: StageName, context: Record<string, unknown> = {}) {
    this.app = new App({
      context: { ...featureFlags(cdkJson.context), stage, lambdaDir: lambdaDir(), ...GIVEN, ...context },
    });
    carapace(this.app, readConfig(this.app.node));
  }

  template(stack: StackName): Template {
    return Template.fromStack(this.app.node.findChild(stack) as Stack);
  }

  json(stack: StackName): Json {
    return this.template(stack).toJSON();
  }

  resources(stack: StackName, type: string): Record<string, Resource> {
    return this.template(stack).findResources(type) as Record<string, Resource>;
  }

  /** The one resource of this type whose logical id matches. */
  resource(stack: StackName, type: string, id = /./): [string, Resource] {
    const found = Object.entries(this.resources(stack, type)).filter(([logicalId]) => id.test(logicalId));
    if (found.length !== 1) throw new Error(`${stack} has ${found.length} resources ${type} whose id matches ${id}`);
    return found[0] as [string, Resource];
  }
}

const made = new Map<StageName, Synthesised>();

/** The app of this stage without any option. */
export function synthesised(stage: StageName): Synthesised {
  const known = made.get(stage) ?? new Synthesised(stage);
  made.set(stage, known);
  return known;
}

let binaries: string | undefined;

/** Functions are built by cargo, not by these tests: an empty program stands in for each. */
export function lambdaDir(): string {
  if (binaries !== undefined) return binaries;
  const root = mkdtempSync(join(tmpdir(), 'carapace-cdk-'));
  for (const binary of BINARIES) {
    mkdirSync(join(root, binary));
    writeFileSync(join(root, binary, 'bootstrap'), `#!/bin/sh\n# ${binary}\n`, { mode: 0o755 });
  }
  binaries = root;
  return root;
}

/** Takes a template down to what a person decided: no bootstrap machinery, no content hashes. */
export function normalised(template: Json): Json {
  const { Parameters: _, Rules: __, ...rest } = template;
  for (const resource of Object.values<Json>(rest.Resources)) {
    if (resource.Type === 'AWS::StepFunctions::StateMachine') {
      resource.Properties.DefinitionString = '<the file in statemachines/>';
    }
  }
  return JSON.parse(JSON.stringify(rest).replaceAll(/[0-9a-f]{64}/g, '<asset>'));
}

export function asList<T>(value: T | T[] | undefined): T[] {
  return value === undefined ? [] : Array.isArray(value) ? value : [value];
}
