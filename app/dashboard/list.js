// A list of the newest, kept as the API has it now: the first rows, and more when asked for.

import { el, fill, reconcile, say } from "./dom.js";
import { Poll } from "./poll.js";

const FIRST = 40; // rows
const MORE = 60; // rows that a press of the button adds
const MOST = 400; // rows; whoever looks further filters
const PAGE = 200; // the API's longest page
const LOOK_MS = 2_000;

/** Shows `path`, a list with a cursor, newest first. `row(item)` makes a row, `update(row, item)` tells it anew. */
export class LiveList {
  #wanted = FIRST;
  #filters;
  #turn = 0;

  constructor(api, { path, empty, row, update, filters = {} }) {
    this.api = api;
    this.#filters = filters;
    this.path = path;
    this.row = row;
    this.update = update;
    this.rows = el("ul", { class: "rows" });
    this.more = el("button", { class: "quiet more", hidden: true, onclick: () => this.#extend() }, "Show more");
    this.empty = el("p", { class: "note", hidden: true }, empty);
    this.note = el("p", { class: "note", role: "status", hidden: true });
    this.node = el("div", { class: "scroll", "aria-busy": "true" }, this.rows, this.empty, this.more, this.note);
    this.poll = new Poll(LOOK_MS, () => this.#look(), (error) => this.#tell(error.message));
  }

  /** Show only what fits `filters`, from the newest on. */
  filter(filters) {
    this.#filters = filters;
    this.#wanted = FIRST;
    this.node.scrollTop = 0;
    this.poll.now();
  }

  stop() {
    this.poll.stop();
  }

  #extend() {
    this.#wanted = Math.min(this.#wanted + MORE, MOST);
    this.poll.now();
  }

  async #look() {
    const turn = (this.#turn += 1);
    const items = [];
    let cursor = null;
    do {
      const limit = Math.min(PAGE, this.#wanted - items.length);
      const page = await this.api.get(this.path, { ...this.#filters, limit, cursor });
      items.push(...page.items);
      cursor = page.next;
    } while (cursor !== null && items.length < this.#wanted);
    if (turn !== this.#turn) return;
    reconcile(this.rows, items, (item) => item.id, this.row, this.update);
    this.node.removeAttribute("aria-busy");
    this.empty.hidden = items.length > 0;
    this.more.hidden = cursor === null || this.#wanted >= MOST;
    this.#tell(cursor !== null && this.#wanted >= MOST ? `The newest ${MOST}; older ones are not shown. Filter to find them.` : "");
  }

  #tell(text) {
    say(this.note, text);
    this.note.hidden = text === "";
  }
}

/** The pane of a list: its heading, what is above the rows, the rows. */
export function pane(title, controls, list) {
  const node = el("section", { class: "pane", "aria-label": title });
  fill(node, el("div", { class: "pane-head" }, el("h2", {}, title), controls), list.node);
  return node;
}
