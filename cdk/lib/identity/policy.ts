import { readFileSync } from 'node:fs';
import { type Node, type ParseError, parseTree, printParseErrorCode } from 'jsonc-parser';

/**
 * Who may sign up. What a policy means, and why it is as strict, is said where it is judged:
 * crates/core/src/policy.rs. This refuses the same documents before they are deployed; both are tested
 * with crates/core/tests/corpus.
 */
export interface SignUpPolicy {
  readonly version: 1;
  readonly allowed_domains: readonly string[];
  readonly allowed_addresses: readonly string[];
  readonly blocked_addresses: readonly string[];
  readonly identity_providers: readonly IdentityProvider[];
  readonly plus_tags: string;
  readonly sign_ups_per_domain_per_hour: number;
}

export interface IdentityProvider {
  readonly name: string;
  readonly issuer: string;
  /** Given: the provider is added to the user pool by this app. See providers.ts. */
  readonly client_id?: string;
  readonly domains: readonly string[];
  readonly auto_confirm: boolean;
}

/** What keeps a text from being a policy, and on which line. */
export interface Problem {
  readonly line: number;
  readonly what: string;
}

export type Parsed = { readonly policy: SignUpPolicy } | { readonly problems: readonly Problem[] };

/** What an advanced parameter of Systems Manager holds. */
const MAX_BYTES = 8192;
const MAX_ENTRIES = 100;
const MAX_SIGN_UPS = 10_000;

const LABEL = '[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?';
const DOMAIN = new RegExp(`^(${LABEL}\\.)+[A-Za-z][A-Za-z0-9-]{0,61}[A-Za-z0-9]$`);
const WORD = "[A-Za-z0-9_][A-Za-z0-9_+'-]*";
const LOCAL_PART = new RegExp(`^${WORD}(\\.${WORD})*$`);
const PROVIDER_NAME = /^[A-Za-z0-9.-]{3,32}$/;
const ISSUER = /^(https:\/\/|http:\/\/|urn:)[!-~]{1,200}$/;
// What Cognito takes; and where a local stack has one, which needs no certificate on loopback.
const OPENID_CONNECT_ISSUER = /^(https:\/\/|http:\/\/127\.0\.0\.1:)/;
const CLIENT_ID = /^[!-~]{1,200}$/;
const PLUS_TAGS = ['same_identity', 'distinct', 'refused'];

const isDomain = (text: string) => text.length <= 253 && DOMAIN.test(text);
const isDomainEntry = (text: string) => isDomain(text.startsWith('*.') ? text.slice(2) : text);

/** An address of the one form that the function reads: crates/core/src/email.rs. */
export function isAddress(text: string): boolean {
  const [local = '', domain = '', ...more] = text.split('@');
  return text.length <= 254 && more.length === 0 && local.length <= 64 && LOCAL_PART.test(local) && isDomain(domain);
}

/** Reads the policy in a file. `allowedDomains`, if there are any, stand in place of the file's own. */
export function readPolicy(file: string, allowedDomains: readonly string[]): Parsed {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    return { problems: [{ line: 1, what: `the file cannot be read: ${(error as Error).message}` }] };
  }
  return parsePolicy(text, allowedDomains);
}

/** Reads a policy; all that is wrong with it is told at once. */
export function parsePolicy(text: string, allowedDomains: readonly string[] = []): Parsed {
  const reader = new Reader(text);
  const policy = reader.policy(allowedDomains);
  if (policy === undefined || reader.problems.length > 0) {
    return { problems: [...reader.problems].sort((one, other) => one.line - other.line) };
  }
  // What the function reads is not this text: with other domains in it, it may be too long or name one
  // twice. What is no domain at all is refused where the key is read.
  const deployed = new Reader(JSON.stringify(policy));
  deployed.policy([]);
  if (deployed.problems.length > 0 && allowedDomains.every(isDomain)) {
    return { problems: deployed.problems.map(({ what }) => ({ line: 1, what: `as it is deployed, ${what}` })) };
  }
  return { policy };
}

type Fields = ReadonlyMap<string, Node>;

class Reader {
  readonly problems: Problem[] = [];
  private readonly text: string;

  constructor(text: string) {
    this.text = text;
  }

  policy(allowedDomains: readonly string[]): SignUpPolicy | undefined {
    const root = this.tree();
    const fields = root && this.object(root, '', FIELDS);
    if (root === undefined || fields === undefined) return undefined;

    const version = this.number(fields, root, 'version');
    if (version !== undefined && version !== 1) this.reject(fields.get('version'), 'version', `it is ${version}, but must be 1`);
    const limit = this.number(fields, root, 'sign_ups_per_domain_per_hour');
    if (limit !== undefined && (limit < 1 || limit > MAX_SIGN_UPS)) {
      const node = fields.get('sign_ups_per_domain_per_hour');
      this.reject(node, 'sign_ups_per_domain_per_hour', `it is ${limit}, but must be from 1 to ${MAX_SIGN_UPS}`);
    }
    const plusTags = this.plusTags(fields, root);
    const inFile = this.domains(fields.get('allowed_domains'), 'allowed_domains');
    const domains = allowedDomains.length > 0 ? allowedDomains : inFile;
    const addresses = this.addresses(fields.get('allowed_addresses'), 'allowed_addresses');
    const blocked = this.addresses(fields.get('blocked_addresses'), 'blocked_addresses');
    const providers = this.providers(fields.get('identity_providers'));
    if (plusTags === 'refused') {
      addresses.forEach((address, at) => {
        if (!address.includes('+')) return;
        const node = fields.get('allowed_addresses')?.children?.[at];
        this.reject(node, `allowed_addresses[${at}]`, 'it has a plus-tag, which plus_tags refuses');
      });
    }
    if (domains.length === 0 && addresses.length === 0 && providers.length === 0 && this.problems.length === 0) {
      this.reject(
        fields.get('allowed_domains') ?? root,
        'allowed_domains',
        'with no allowed_addresses and no identity_providers either, nobody may sign up; name a domain there or give -c allowedEmailDomains=…',
      );
    }
    return {
      version: 1,
      allowed_domains: domains,
      allowed_addresses: addresses,
      blocked_addresses: blocked,
      identity_providers: providers,
      plus_tags: plusTags ?? '',
      sign_ups_per_domain_per_hour: limit ?? 0,
    };
  }

  /** The text as a tree, if it is one document of strict JSON. */
  private tree(): Node | undefined {
    const bytes = Buffer.byteLength(this.text);
    if (bytes > MAX_BYTES) {
      this.problems.push({ line: 1, what: `it has ${bytes} bytes; at most ${MAX_BYTES} are allowed` });
      return undefined;
    }
    const errors: ParseError[] = [];
    const root = parseTree(this.text, errors, { disallowComments: true, allowTrailingComma: false });
    for (const { error, offset } of errors) {
      this.problems.push({ line: this.line(offset), what: `it is not JSON: ${printParseErrorCode(error)}` });
    }
    if (errors.length === 0) {
      // What the tolerant parser let pass all the same, a byte order mark for one.
      try {
        JSON.parse(this.text);
      } catch (error) {
        this.problems.push({ line: 1, what: `it is not JSON: ${(error as Error).message}` });
      }
    }
    return this.problems.length === 0 ? root : undefined;
  }

  /** The fields of an object: each known, none twice. */
  private object(node: Node, path: string, known: readonly string[]): Fields | undefined {
    if (node.type !== 'object') {
      this.reject(node, path, 'it must be a JSON object');
      return undefined;
    }
    const fields = new Map<string, Node>();
    for (const { children } of node.children ?? []) {
      const [key, value] = children ?? [];
      if (key === undefined || value === undefined) continue;
      const name = String(key.value);
      const at = path === '' ? name : `${path}.${name}`;
      if (!known.includes(name)) this.reject(key, at, `no such field; there are ${known.join(', ')}`);
      else if (fields.has(name)) this.reject(key, at, 'it is there twice');
      else fields.set(name, value);
    }
    return fields;
  }

  /** A whole number as it is written: 1.0 and 1e0 are none. */
  private number(fields: Fields, parent: Node, name: string): number | undefined {
    const node = this.required(fields, parent, name);
    if (node === undefined) return undefined;
    const written = this.text.slice(node.offset, node.offset + node.length);
    if (node.type === 'number' && /^(0|[1-9]\d*)$/.test(written)) return Number(written);
    this.reject(node, name, `${shown(written)} is not a whole number`);
    return undefined;
  }

  private plusTags(fields: Fields, parent: Node): string | undefined {
    const node = this.required(fields, parent, 'plus_tags');
    if (node === undefined) return undefined;
    if (node.type === 'string' && PLUS_TAGS.includes(node.value)) return node.value;
    this.reject(node, 'plus_tags', `it must be one of ${PLUS_TAGS.join(', ')}`);
    return undefined;
  }

  private domains(node: Node | undefined, path: string): string[] {
    const wants = 'neither a domain, example.com, nor all sub-domains of one, *.example.com';
    const domains: string[] = [];
    for (const [entry, at] of this.texts(node, path, isDomainEntry, wants)) {
      const domain = entry.value.toLowerCase();
      if (domains.includes(domain)) this.reject(entry, at, `${domain} is listed twice`);
      domains.push(domain);
    }
    return domains;
  }

  private addresses(node: Node | undefined, path: string): string[] {
    return this.texts(node, path, isAddress, 'not a plain address').map(([entry]) => entry.value);
  }

  private providers(node: Node | undefined): IdentityProvider[] {
    const providers: IdentityProvider[] = [];
    this.list(node, 'identity_providers').forEach((entry, at) => {
      const path = `identity_providers[${at}]`;
      const fields = this.object(entry, path, PROVIDER_FIELDS);
      if (fields === undefined) return;
      const text = (name: string, form: RegExp, wants: string): string => {
        const node = this.required(fields, entry, name, path);
        if (node === undefined) return '';
        if (node.type === 'string' && form.test(node.value)) return node.value;
        this.reject(node, `${path}.${name}`, `${shown(String(node.value))} is not ${wants}`);
        return '';
      };
      const name = text('name', PROVIDER_NAME, "a provider's name: 3 to 32 characters of A-Z, a-z, 0-9, . and -");
      const issuer = text('issuer', ISSUER, 'an issuer: https://, http:// or urn: and at most 200 visible ASCII characters');
      if (name !== '' && providers.some((one) => one.name.toLowerCase() === name.toLowerCase())) {
        this.reject(fields.get('name'), `${path}.name`, `"${name}" is listed twice`);
      }
      const clientId = fields.has('client_id')
        ? text('client_id', CLIENT_ID, "a client's id: at most 200 visible ASCII characters")
        : undefined;
      if (clientId !== undefined && issuer !== '' && !OPENID_CONNECT_ISSUER.test(issuer)) {
        const why = 'with a client_id it must be an issuer of OpenID Connect: give an https:// URL';
        this.reject(fields.get('issuer'), `${path}.issuer`, why);
      }
      const listed = this.required(fields, entry, 'domains', path);
      const domains = this.domains(listed, `${path}.domains`);
      if (listed?.type === 'array' && listed.children?.length === 0) {
        this.reject(listed, `${path}.domains`, 'it has no domains: name those whose addresses it may assert');
      }
      const confirm = this.required(fields, entry, 'auto_confirm', path);
      if (confirm !== undefined && confirm.type !== 'boolean') {
        this.reject(confirm, `${path}.auto_confirm`, 'it must be true or false');
      }
      const client = clientId === undefined ? {} : { client_id: clientId };
      providers.push({ name, issuer, ...client, domains, auto_confirm: confirm?.value === true });
    });
    return providers;
  }

  /** The entries of a list of texts that have this form; the others are rejected. */
  private texts(node: Node | undefined, path: string, form: (text: string) => boolean, wants: string): [Node, string][] {
    const entries = this.list(node, path).map((entry, at): [Node, string] => [entry, `${path}[${at}]`]);
    return entries.filter(([entry, at]) => {
      if (entry.type === 'string' && form(entry.value)) return true;
      const written = this.text.slice(entry.offset, entry.offset + entry.length);
      this.reject(entry, at, `${shown(written)} is ${wants}`);
      return false;
    });
  }

  private list(node: Node | undefined, path: string): readonly Node[] {
    if (node === undefined) return [];
    const entries = node.children ?? [];
    if (node.type !== 'array') {
      this.reject(node, path, 'it must be a list');
      return [];
    }
    if (entries.length > MAX_ENTRIES) {
      this.reject(node, path, `it has ${entries.length} entries; at most ${MAX_ENTRIES} are allowed`);
    }
    return entries;
  }

  private required(fields: Fields, parent: Node, name: string, path = ''): Node | undefined {
    const node = fields.get(name);
    if (node === undefined) this.reject(parent, path === '' ? name : `${path}.${name}`, 'it is missing');
    return node;
  }

  private reject(node: Node | undefined, path: string, why: string): void {
    this.problems.push({ line: this.line(node?.offset ?? 0), what: path === '' ? why : `${path}: ${why}` });
  }

  private line(offset: number): number {
    return this.text.slice(0, offset).split('\n').length;
  }
}

const FIELDS = [
  'version',
  'allowed_domains',
  'allowed_addresses',
  'blocked_addresses',
  'identity_providers',
  'plus_tags',
  'sign_ups_per_domain_per_hour',
];
const PROVIDER_FIELDS = ['name', 'issuer', 'client_id', 'domains', 'auto_confirm'];

/** Fit for one line of an error message. */
function shown(text: string): string {
  const line = text.replaceAll(/[^ -~]/g, '?');
  return line.length <= 64 ? line : `${line.slice(0, 64)}…`;
}
