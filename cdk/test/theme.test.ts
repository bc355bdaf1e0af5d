import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { theme } from '../lib/identity/theme.ts';

const OURS = join(import.meta.dirname, '../branding/theme.css');

/** By path, what a style sheet sets. */
function leaves(css: string): Record<string, unknown> {
  const all: Record<string, unknown> = {};
  const walk = (value: unknown, path: string) => {
    if (typeof value !== 'object' || value === null) all[path] = value;
    else for (const [name, inner] of Object.entries(value)) walk(inner, path === '' ? name : `${path}.${name}`);
  };
  walk(theme(css, 'theme.css'), '');
  return all;
}

describe('the style sheet of the sign-in page', () => {
  test('is ours, in both schemes', () => {
    const ours = theme(readFileSync(OURS, 'utf8'), OURS);
    expect(ours).toMatchSnapshot();
    const colours = [...JSON.stringify(ours).matchAll(/[cC]olor":"([^"]*)"/g)];
    expect(colours.length).toBeGreaterThan(20);
    for (const [, colour] of colours) expect(colour).toMatch(/^[0-9a-f]{8}$/);
  });

  test('says for the dark what it says for all, unless it says something else', () => {
    const css = `
      :root { --page: #FFF }
      body { background-color: var(--page); color: #123 }
      @media (prefers-color-scheme: dark) { :root { --page: #0008 } body { color: #abcdef12 } }`;
    expect(leaves(css)).toEqual({
      'components.pageBackground.lightMode.color': 'ffffffff',
      'components.pageBackground.darkMode.color': '00000088',
      'components.pageText.lightMode.bodyColor': '112233ff',
      'components.pageText.darkMode.bodyColor': 'abcdef12',
    });
  });

  test('has lists of selectors, states, comments, and the last word', () => {
    const css = `
      /* a */
      button.primary, button.primary:hover { /* b */ color: #111; color: #222 }
      input { border-radius: 4px } input { border-radius: 0 }`;
    expect(leaves(css)).toEqual({
      'componentClasses.input.borderRadius': 0,
      'components.primaryButton.lightMode.defaults.textColor': '222222ff',
      'components.primaryButton.lightMode.hover.textColor': '222222ff',
      'components.primaryButton.darkMode.defaults.textColor': '222222ff',
      'components.primaryButton.darkMode.hover.textColor': '222222ff',
    });
  });

  test.each([
    ['a property that the page has not', 'form { margin: 0 }', /theme\.css:1: `form` has no `margin`.*; it has background-color, border-color/],
    ['an element that the page has not', '\n\naside { color: #fff }', /theme\.css:3: the sign-in page has no `aside`; it has body, h1/],
    ['a selector that only looks like one', 'form > a { color: #fff }', /has no `form > a`/],
    ['what every object has', 'constructor { color: #fff } form { toString: #fff }', /no `constructor`[^]*no `toString`/],
    ['a named colour', 'a { color: red }', /`color` has to be a colour such as #1f6f5c, or a variable that is one, not `red`/],
    ['a colour of five digits', 'a { color: #12345 }', /not `#12345`/],
    ['a variable that nobody set', 'a { color: var(--b) }', /not `var\(--b\)`/],
    ['a length in rem', 'form { border-radius: 1rem }', /`border-radius` has to be a length such as 8px/],
    ['an import', '@import url("https://example.com/a.css");', /no use for `@import`/],
    ['another media query', '@media print { a { color: #fff } }', /no use for `@media`/],
    ['a query in the dark', '@media (prefers-color-scheme: dark) { @media print {} }', /no use for `@media`/],
    ['a nested rule', 'form { a { color: #fff } }', /nothing can be nested in `form`/],
    ['a declaration outside of a rule', 'color: #fff;', /theme\.css:1: /],
    ['a brace that is never closed', 'a {\n color: #fff', /theme\.css:1: Unclosed block/],
  ])('refuses %s', (_, css, problem) => {
    expect(() => theme(css, 'theme.css')).toThrow(problem);
  });

  test('is refused for all that is wrong with it, once each', () => {
    const problems = () => theme('a { color: red; margin: 0 }\nform { border-radius: x }', 'theme.css');
    expect(problems).toThrow(/theme\.css:1: .*margin.*\n.*theme\.css:1: .*red`\n.*theme\.css:2: .*x`$/);
  });
});
