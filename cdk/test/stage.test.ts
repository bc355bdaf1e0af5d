import { describe, expect, test } from 'vitest';
import { DIFFERENCES, STAGES } from '../lib/stage.ts';
import { ENVIRONMENT, type Json, normalised, STACKS, Synthesised } from './synthesised.ts';

interface Difference {
  readonly path: string;
  readonly aws: Json;
  readonly local: Json;
}

/** Where two templates differ: `<stack>/<resource type>/<path in its properties>`. */
function differences(path: string, aws: Json, local: Json): Difference[] {
  if (JSON.stringify(aws) === JSON.stringify(local)) return [];
  const isObject = (value: Json) => typeof value === 'object' && value !== null && !Array.isArray(value);
  if (!isObject(aws) || !isObject(local)) return [{ path, aws, local }];
  return [...new Set([...Object.keys(aws), ...Object.keys(local)])].flatMap((key) =>
    differences(path === '' ? key : `${path}.${key}`, aws[key], local[key]),
  );
}

/** Both for the same account and as patient, so that only the stage is left, and what only one stage allows. */
const ALIKE = { ...ENVIRONMENT, turnSliceSeconds: '240' };
const aws = new Synthesised('aws', ALIKE);
const local = new Synthesised('local', { ...ALIKE, faultDir: '/faults' });

const found = STACKS.flatMap((stack) => {
  const [a, b] = [normalised(aws.json(stack)), normalised(local.json(stack))];
  expect(Object.keys(b.Resources)).toEqual(Object.keys(a.Resources));
  const { Resources: _, ...restOfAws } = a;
  const { Resources: __, ...restOfLocal } = b;
  return [
    ...differences(`${stack}/`, restOfAws, restOfLocal),
    ...Object.entries<Json>(a.Resources).flatMap(([id, { Type, Properties, ...rest }]) => {
      const { Type: otherType, Properties: otherProperties, ...otherRest } = b.Resources[id];
      return [
        ...differences(`${stack}/${id}`, { Type, ...rest }, { Type: otherType, ...otherRest }),
        ...differences('', Properties ?? {}, otherProperties ?? {}).map((one) => ({
          ...one,
          path: `${stack}/${Type}/${one.path}`,
        })),
      ];
    }),
  ];
});

describe('the stages', () => {
  test('differ where stage.ts says and nowhere else', () => {
    const declared = Object.values(DIFFERENCES).flat();
    expect(found.filter(({ path }) => !declared.some((pattern) => pattern.test(path)))).toEqual([]);
  });

  test('every declared difference is one', () => {
    for (const pattern of Object.values(DIFFERENCES).flat()) {
      expect(
        found.map(({ path }) => path).filter((path) => pattern.test(path)),
        String(pattern),
      ).not.toEqual([]);
    }
  });

  test('every field of a stage but its defaults says where it shows', () => {
    expect(Object.keys(DIFFERENCES).sort()).toEqual(
      Object.keys(STAGES.aws)
        .filter((field) => field !== 'defaults')
        .sort(),
    );
  });

  test('the differences are golden', async () => {
    await expect(`${JSON.stringify(found, null, 2)}\n`).toMatchFileSnapshot('golden/local.json');
  });
});

describe('the templates of the stage aws', () => {
  // Bound to no account, as they are deployed. Those of the stage local are these with golden/local.json.
  const agnostic = new Synthesised('aws');
  test.each(STACKS)('%s is golden', async (stack) => {
    await expect(`${JSON.stringify(normalised(agnostic.json(stack)), null, 1)}\n`).toMatchFileSnapshot(
      `golden/${stack}.json`,
    );
  });
});
