import postcss, { type ChildNode, type Declaration, type Root } from 'postcss';
import { ConfigError } from '../config.ts';

/**
 * Managed login takes a document of settings where other pages take a style sheet. This is the part
 * of CSS that can be said in it: by selector and property, the path in the settings, in which `MODE`
 * is `lightMode` or `darkMode`. The paths are those of AWS's example of
 * `aws cognito-idp update-managed-login-branding`.
 */
const PATHS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  body: { 'background-color': 'components.pageBackground.MODE.color', color: 'components.pageText.MODE.bodyColor' },
  h1: { color: 'components.pageText.MODE.headingColor' },
  p: { color: 'components.pageText.MODE.descriptionColor' },
  header: {
    'background-color': 'components.pageHeader.MODE.background.color',
    'border-color': 'components.pageHeader.MODE.borderColor',
  },
  footer: {
    'background-color': 'components.pageFooter.MODE.background.color',
    'border-color': 'components.pageFooter.MODE.borderColor',
  },
  form: {
    'background-color': 'components.form.MODE.backgroundColor',
    'border-color': 'components.form.MODE.borderColor',
    'border-radius': 'components.form.borderRadius',
  },
  hr: { 'border-color': 'componentClasses.divider.MODE.borderColor' },
  label: { color: 'componentClasses.inputLabel.MODE.textColor' },
  input: {
    'background-color': 'componentClasses.input.MODE.defaults.backgroundColor',
    'border-color': 'componentClasses.input.MODE.defaults.borderColor',
    'border-radius': 'componentClasses.input.borderRadius',
  },
  'input::placeholder': { color: 'componentClasses.input.MODE.placeholderColor' },
  ':focus-visible': { 'outline-color': 'componentClasses.focusState.MODE.borderColor' },
  a: { color: 'componentClasses.link.MODE.defaults.textColor' },
  'a:hover': { color: 'componentClasses.link.MODE.hover.textColor' },
  button: { 'border-radius': 'componentClasses.buttons.borderRadius' },
  ...button('button.primary', 'components.primaryButton', ['background-color', 'color']),
  ...button('button.secondary', 'components.secondaryButton', ['background-color', 'border-color', 'color']),
  ...button('button.provider', 'components.idpButton.standard', ['background-color', 'border-color', 'color']),
  '[role=alert]': {
    'background-color': 'components.alert.MODE.error.backgroundColor',
    'border-color': 'components.alert.MODE.error.borderColor',
    'border-radius': 'components.alert.borderRadius',
  },
};

const DARK = /^\(\s*prefers-color-scheme\s*:\s*dark\s*\)$/;
const VARIABLE = /^var\(\s*(--[\w-]+)\s*\)$/;
const COLOUR = /^#(?:[0-9a-f]{3,4}|[0-9a-f]{6}|[0-9a-f]{8})$/i;
const LENGTH = /^(?:0|\d{1,3}px)$/;

/** What is said of one colour scheme. The last word counts, as in CSS. */
interface Scheme {
  readonly variables: Map<string, string>;
  /** By path in the settings. */
  readonly declarations: Map<string, Declaration>;
}

type Refuse = (node: ChildNode, problem: string) => void;

/** The settings that a style sheet asks for. `file` is what it is called in errors. */
export function theme(css: string, file: string): Record<string, unknown> {
  // A set: what is said of both schemes is wrong in both.
  const problems = new Set<string>();
  const refuse: Refuse = (node, problem) => {
    problems.add(`brandingDir: ${file}:${node.source?.start?.line}: ${problem}`);
  };
  const all: Scheme = { variables: new Map(), declarations: new Map() };
  const dark: Scheme = { variables: new Map(), declarations: new Map() };
  for (const node of parse(css, file).nodes) {
    if (node.type === 'atrule' && node.name === 'media' && DARK.test(node.params)) {
      for (const inner of node.nodes ?? []) read(inner, dark, refuse);
    } else {
      read(node, all, refuse);
    }
  }

  const settings = {};
  const schemes = { lightMode: all, darkMode: over(all, dark) };
  for (const [mode, { variables, declarations }] of Object.entries(schemes)) {
    for (const [path, declaration] of declarations) {
      const said = declaration.value;
      const value = variables.get(VARIABLE.exec(said)?.[1] ?? '') ?? said;
      const length = declaration.prop.endsWith('-radius');
      if (!(length ? LENGTH : COLOUR).test(value)) {
        const wanted = length ? 'a length such as 8px' : 'a colour such as #1f6f5c';
        refuse(declaration, `\`${declaration.prop}\` has to be ${wanted}, or a variable that is one, not \`${said}\``);
        continue;
      }
      put(settings, path.replace('MODE', mode), length ? parseInt(value, 10) : eightDigits(value));
    }
  }
  if (problems.size > 0) throw new ConfigError([...problems]);
  return settings;
}

/** A button in the states that it has. */
function button(selector: string, component: string, properties: readonly string[]) {
  const names: Record<string, string> = {
    'background-color': 'backgroundColor',
    'border-color': 'borderColor',
    color: 'textColor',
  };
  const states = { '': 'defaults', ':hover': 'hover', ':active': 'active' };
  return Object.fromEntries(
    Object.entries(states).map(([pseudo, state]) => [
      `${selector}${pseudo}`,
      Object.fromEntries(properties.map((property) => [property, `${component}.MODE.${state}.${names[property]}`])),
    ]),
  );
}

function parse(css: string, file: string): Root {
  try {
    return postcss.parse(css);
  } catch (error) {
    if (!(error instanceof postcss.CssSyntaxError)) throw error;
    throw new ConfigError([`brandingDir: ${file}:${error.line}: ${error.reason}`]);
  }
}

function read(node: ChildNode, { variables, declarations }: Scheme, refuse: Refuse): void {
  if (node.type === 'comment') return;
  if (node.type !== 'rule') {
    const what = node.type === 'atrule' ? `@${node.name}` : node.prop;
    return refuse(node, `the sign-in page has no use for \`${what}\`, only for rules and @media (prefers-color-scheme: dark)`);
  }
  for (const inner of node.nodes) {
    if (inner.type === 'comment') continue;
    if (inner.type !== 'decl') {
      refuse(inner, `nothing can be nested in \`${node.selector}\``);
      continue;
    }
    for (const selector of node.selectors) {
      if (selector === ':root' && inner.prop.startsWith('--')) {
        variables.set(inner.prop, inner.value.trim());
        continue;
      }
      const paths = own(PATHS, selector);
      const path = own(paths ?? {}, inner.prop);
      if (path !== undefined) declarations.set(path, inner);
      else if (paths === undefined) {
        refuse(inner, `the sign-in page has no \`${selector}\`; it has ${Object.keys(PATHS).join(', ')}`);
      } else {
        const known = Object.keys(paths).join(', ');
        refuse(inner, `\`${selector}\` has no \`${inner.prop}\` on the sign-in page; it has ${known}`);
      }
    }
  }
}

function own<T>(object: Readonly<Record<string, T>>, name: string): T | undefined {
  return Object.hasOwn(object, name) ? object[name] : undefined;
}

function over(below: Scheme, above: Scheme): Scheme {
  return {
    variables: new Map([...below.variables, ...above.variables]),
    declarations: new Map([...below.declarations, ...above.declarations]),
  };
}

function put(settings: Record<string, unknown>, path: string, value: unknown): void {
  const names = path.split('.');
  const last = names.pop()!;
  let at = settings;
  for (const name of names) at = (at[name] ??= {}) as Record<string, unknown>;
  at[last] = value;
}

/** As managed login writes a colour: `rrggbbaa`. */
function eightDigits(colour: string): string {
  let digits = colour.slice(1).toLowerCase();
  if (digits.length < 6) digits = [...digits].map((digit) => digit + digit).join('');
  return digits.padEnd(8, 'f');
}
