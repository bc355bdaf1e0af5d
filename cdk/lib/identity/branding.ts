import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as cognito from 'aws-cdk-lib/aws-cognito';
import type { Construct } from 'constructs';
import { ConfigError } from '../config.ts';

/** The images of the sign-in page, and where it shows them. */
const ASSETS = [
  { file: 'logo-light.svg', category: 'FORM_LOGO', colorMode: 'LIGHT' },
  { file: 'logo-dark.svg', category: 'FORM_LOGO', colorMode: 'DARK' },
  { file: 'favicon.svg', category: 'FAVICON_SVG', colorMode: 'DYNAMIC' },
];

/** How the sign-in page looks: colours and shapes from `settings.json`, images beside it. */
export function branding(
  scope: Construct,
  props: { readonly dir: string; readonly pool: cognito.IUserPool; readonly client: cognito.IUserPoolClient },
): cognito.CfnManagedLoginBranding {
  return new cognito.CfnManagedLoginBranding(scope, 'Branding', {
    userPoolId: props.pool.userPoolId,
    clientId: props.client.userPoolClientId,
    settings: settings(join(props.dir, 'settings.json')),
    assets: ASSETS.map(({ file, category, colorMode }) => ({
      category,
      colorMode,
      extension: 'SVG',
      bytes: read(join(props.dir, file)).toString('base64'),
    })),
  });
}

function settings(file: string): unknown {
  const text = read(file).toString('utf8');
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new ConfigError([`brandingDir: ${file} is not JSON: ${(error as Error).message}`]);
  }
}

function read(file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (error) {
    throw new ConfigError([`brandingDir: ${file} cannot be read: ${(error as Error).message}`]);
  }
}
