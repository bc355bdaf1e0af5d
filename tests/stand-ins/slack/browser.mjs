// A browser with the little that the page of Slack's stand-in needs of one, and without eyes: it
// loads the page of the URL it is given, runs the page's own script, and prints what the page shows,
// one line of JSON for each change, until its standard input ends. A name that it doesn't know is an
// error, so that a page that wants more of a browser doesn't pass.
import vm from "node:vm";

class Node {
  parent = null;
  children = [];
  #text = "";

  get textContent() {
    return this.children.length > 0 ? this.children.map((child) => child.textContent).join("") : this.#text;
  }
  set textContent(text) {
    this.children.forEach((child) => { child.parent = null; });
    this.children = [];
    this.#text = String(text);
  }
}

class Element extends Node {
  dataset = {};
  id = "";
  className = "";
  attributes = {};
  listeners = {};
  scrollTop = 0;
  clientHeight = 0;
  scrollHeight = 0;

  constructor(tag) {
    super();
    this.tag = tag;
  }

  get firstChild() { return this.children[0] ?? null; }
  get lastChild() { return this.children.at(-1) ?? null; }

  get classList() {
    const has = () => this.className.split(" ").filter(Boolean);
    const set = (name, on) => {
      this.className = [...has().filter((other) => other !== name), ...(on ? [name] : [])].join(" ");
    };
    return {
      add: (name) => set(name, true),
      remove: (name) => set(name, false),
      toggle: (name, on) => set(name, on),
    };
  }

  setAttribute(name, value) { this.attributes[name] = value; }
  addEventListener(name, listener) { this.listeners[name] = listener; }

  remove() {
    if (this.parent) this.parent.children.splice(this.parent.children.indexOf(this), 1);
    this.parent = null;
  }

  append(...children) { children.forEach((child) => this.insertBefore(child, null)); }

  insertBefore(child, before) {
    child.remove();
    this.children.splice(before ? this.children.indexOf(before) : this.children.length, 0, child);
    child.parent = this;
  }

  *within() {
    for (const child of this.children) {
      yield child;
      yield* child.within();
    }
  }

  querySelector(selector) {
    const parts = /^([a-z0-9]+)?(?:#([\w-]+))?(?:\.([\w-]+))?(?:\[data-([a-z]+)="(.*)"\])?$/.exec(selector);
    if (!parts) throw new Error(`no such selector here: ${selector}`);
    const [, tag, id, name, data, value] = parts;
    for (const element of this.within()) {
      if (tag && element.tag !== tag) continue;
      if (id && element.id !== id) continue;
      if (name && !element.className.split(" ").includes(name)) continue;
      if (data && element.dataset[data] !== value) continue;
      return element;
    }
    return null;
  }
}

// Only what is an element in the page's own markup is there when its script begins.
function parse(html) {
  const root = new Element("html");
  let open = root;
  const body = html.slice(html.indexOf("<body>"), html.indexOf("<script>"));
  for (const [, closes, tag, attributes] of body.matchAll(/<(\/?)([a-z0-9]+)([^>]*)>/g)) {
    if (closes) {
      open = open.parent;
      continue;
    }
    const element = new Element(tag);
    element.id = /\bid="([^"]*)"/.exec(attributes)?.[1] ?? "";
    open.append(element);
    open = element;
  }
  return root;
}

function shown(root) {
  const texts = (element, selector) => element.querySelector(selector)?.textContent ?? null;
  const of = (element, name) => [...element.within()].filter((e) => e.className.split(" ").includes(name));
  return {
    state: texts(root, "#state"),
    nothing: texts(root, ".nothing"),
    channels: [...root.querySelector("nav").within()].filter((e) => e.tag === "button")
      .map((button) => button.children.map((span) => span.textContent)),
    threads: of(root, "thread").map((thread) => ({
      where: texts(thread, ".where"),
      status: texts(thread, ".status"),
      messages: of(thread, "message").map((message) => ({
        who: texts(message, "b"),
        text: texts(message, ".text"),
        bot: message.className.includes("bot"),
        streaming: message.className.includes("streaming"),
      })),
    })),
  };
}

const page = process.argv[2];
const html = await (await fetch(page)).text();
const script = /<script>([^]*)<\/script>/.exec(html)[1];
const root = parse(html);
let last = "";

function print() {
  const now = JSON.stringify(shown(root));
  if (now !== last) console.log(now);
  last = now;
}

const unknown = (name) => { throw new Error(`no ${String(name)} in this browser`); };
const strict = (known) => new Proxy(known, {
  get: (of, name) => name in of ? of[name] : unknown(name),
});
vm.runInNewContext(script, {
  document: strict({
    querySelector: (selector) => root.querySelector(selector),
    getElementById: (id) => [...root.within()].find((element) => element.id === id) ?? null,
    createElement: (tag) => new Element(tag),
  }),
  CSS: strict({ escape: (text) => text.replace(/["\\]/g, "\\$&") }),
  fetch: (url, options) => fetch(new URL(url, page), options),
  // The page looks again after a while: by then it has drawn what it saw.
  setTimeout: (then, after) => { print(); return setTimeout(then, after); },
});

process.stdin.on("end", () => process.exit(0)).resume();
