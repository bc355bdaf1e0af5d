import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** The CDK leaves a cloud assembly behind for every app that is synthesised; here they go with the run. */
export default function setup(): () => void {
  const directory = mkdtempSync(join(tmpdir(), 'carapace-cdk-'));
  process.env.TMPDIR = directory;
  return () => rmSync(directory, { recursive: true, force: true });
}
