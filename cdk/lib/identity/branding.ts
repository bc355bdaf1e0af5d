import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as cognito from 'aws-cdk-lib/aws-cognito';
import type { Construct } from 'constructs';
import { ConfigError } from '../config.ts';
import { theme } from './theme.ts';

/** The images of the sign-in page, and where it shows them. */
const ASSETS = [
  { file: 'logo-light.svg', category: 'FORM_LOGO', colorMode: 'LIGHT' },
  { file: 'logo-dark.svg', category: 'FORM_LOGO', colorMode: 'DARK' },
  { file: 'favicon.svg', category: 'FAVICON_SVG', colorMode: 'DYNAMIC' },
];

/** How the sign-in page looks: colours and corners from `theme.css`, the rest from `settings.json`, images beside them. */
export function branding(
  scope: Construct,
  props: { readonly dir: string; readonly pool: cognito.IUserPool; readonly client: cognito.IUserPoolClient },
): cognito.CfnManagedLoginBranding {
  return new cognito.CfnManagedLoginBranding(scope, 'Branding', {
    userPoolId: props.pool.userPoolId,
    clientId: props.client.userPoolClientId,
    settings: merged(settings(join(props.dir, 'settings.json')), style(join(props.dir, 'theme.css'))),
    assets: ASSETS.map(({ file, category, colorMode }) => ({
      category,
      colorMode,
      extension: 'SVG',
      bytes: read(join(props.dir, file)).toString('base64'),
    })),
  });
}

type Settings = Record<string, unknown>;

function settings(file: string): Settings {
  const text = read(file).toString('utf8');
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new ConfigError([`brandingDir: ${file} is not JSON: ${(error as Error).message}`]);
  }
}

function style(file: string): Settings {
  return theme(read(file).toString('utf8'), file);
}

/** Both, where they don't contradict each other; then what is above. */
function merged(below: Settings, above: Settings): Settings {
  const both = { ...below };
  for (const [name, value] of Object.entries(above)) {
    both[name] = isSettings(value) && isSettings(both[name]) ? merged(both[name], value) : value;
  }
  return both;
}

function isSettings(value: unknown): value is Settings {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function read(file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (error) {
    throw new ConfigError([`brandingDir: ${file} cannot be read: ${(error as Error).message}`]);
  }
}
