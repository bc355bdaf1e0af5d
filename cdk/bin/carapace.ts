import { App } from 'aws-cdk-lib';
import { carapace } from '../lib/carapace.ts';
import { ConfigError, readConfig } from '../lib/config.ts';

try {
  const app = new App();
  carapace(app, readConfig(app.node));
  app.synth();
} catch (error) {
  // What is wrong with the context is the operator's to mend: a stack trace would bury the message.
  if (!(error instanceof ConfigError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
