// The steps of a run, as they finish: when, how long, on which attempt, how large; what they returned on request.

import { el, fill, reconcile, say } from "./dom.js";
import { pretty, unfolding } from "./json.js";
import { clock, fullTime, plural, size, took } from "./words.js";

const PAGE = 100; // steps of a request
const MOST = 300; // rows; more than the two pages that are read again

/** The list of steps; `look(run)` reads what is new. */
export class Steps {
  #cursors = [null];
  #names = new Set();
  #shown = [];

  constructor(api, id) {
    this.api = api;
    this.path = `/v1/runs/${id}/steps`;
    this.count = el("span", { class: "count" });
    this.note = el("p", { class: "note top", hidden: true });
    this.empty = el("p", { class: "note" }, "None has finished yet.");
    this.rows = el("ul", { class: "steps" });
    const box = el("div", { class: "scroll", tabindex: "0", "aria-label": "Steps" }, this.note, this.rows, this.empty);
    this.box = box;
    this.node = el("section", { class: "panel grows", "aria-label": "Steps" }, el("h2", {}, "Steps", this.count), box);
  }

  /** Read the steps that finished since the last look, and place them on the run's time. */
  async look(run) {
    // One that was written late comes before the last of a page: the page before is read again.
    let place = Math.max(0, this.#cursors.length - 2);
    for (let cursor = this.#cursors[place]; ; place += 1) {
      const page = await this.api.get(this.path, { cursor, limit: PAGE, outputs: false });
      this.#take(page.items);
      cursor = page.next;
      if (cursor === null) break;
      this.#cursors[place + 1] = cursor;
    }
    this.#show(run);
  }

  #take(items) {
    const fresh = items.filter(({ step }) => !this.#names.has(step));
    if (fresh.length === 0) return;
    for (const { step } of fresh) this.#names.add(step);
    const order = (one, other) => Date.parse(one.finished_at) - Date.parse(other.finished_at);
    this.#shown = [...this.#shown, ...fresh].sort(order).slice(-MOST);
  }

  #show(run) {
    const follow = this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight < 40;
    const started = this.#shown.map((step) => Date.parse(step.started_at));
    const from = Math.min(Date.parse(run.created_at), ...started);
    const to = Math.max(run.finished_at ? Date.parse(run.finished_at) : Date.now(), from + 1);
    reconcile(this.rows, this.#shown, (step) => step.step, (step) => this.#row(step), (node, step) => {
      const bar = node.querySelector(".span");
      bar.style.setProperty("--from", (Date.parse(step.started_at) - from) / (to - from));
      bar.style.setProperty("--to", Math.min(1, (Date.parse(step.finished_at) - from) / (to - from)));
    });
    const earlier = this.#names.size - this.#shown.length;
    this.note.hidden = earlier === 0;
    say(this.note, `${plural(earlier, "earlier step")}, not shown.`);
    say(this.count, this.#names.size === 0 ? "" : this.#names.size.toLocaleString("en"));
    this.empty.hidden = this.#names.size > 0;
    if (this.#names.size === 0 && run.finished_at) say(this.empty, "It has none.");
    if (follow) this.box.scrollTop = this.box.scrollHeight;
  }

  #row(step) {
    return el("li", {}, unfolding(el("details", {}, summary(step)), () => this.#output(step.step)));
  }

  /** What a step returned, read when it is unfolded. */
  #output(step) {
    const node = el("div", {}, el("p", { class: "note" }, "Reading …"));
    this.api.get(this.path, { step }).then(
      ({ items }) => fill(node, items.length > 0 ? pretty(items[0].output) : el("p", { class: "note" }, "It is not kept any more.")),
      (error) => fill(node, el("p", { class: "note", role: "status" }, error.message)),
    );
    return node;
  }
}

function summary(step) {
  const again = step.repeats > 0 ? `, finished ${plural(step.repeats, "time")} more` : "";
  return el(
    "summary",
    {},
    el("span", { class: "step-name", title: step.step }, step.step),
    el("span", { class: "track", "aria-hidden": "true" }, el("span", { class: "span" })),
    el("span", { class: "number" }, took(step.took * 1000)),
    el("span", { class: "number size" }, size(step.bytes)),
    el("span", { class: "attempt", title: `on attempt ${step.attempt}${again}` }, `attempt ${step.attempt}`),
    el("time", { datetime: step.finished_at, title: fullTime(step.finished_at) }, clock(step.finished_at)),
  );
}
