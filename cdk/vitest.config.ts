import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/*.test.ts'],
    globalSetup: ['test/temporary.ts'],
    // One process that synthesises each app once (test/synthesised.ts) is quicker than many that
    // each load the CDK.
    pool: 'threads',
    isolate: false,
    fileParallelism: false,
    testTimeout: 30_000,
  },
});
