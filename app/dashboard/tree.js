// The runs that a run has sent, and theirs.

import { el, reconcile, say } from "./dom.js";
import { showState, stateMark } from "./state.js";

const MOST = 200; // runs

/** The tree below a run; hidden while there is none. */
export class Tree {
  constructor(api, id) {
    this.api = api;
    this.path = `/v1/runs/${id}/tree`;
    this.count = el("span", { class: "count" });
    this.rows = el("ul", { class: "tree" });
    this.note = el("p", { class: "note", hidden: true }, `The ${MOST} nearest; there are more, see each run's own page.`);
    const box = el("div", { class: "scroll", tabindex: "0", "aria-label": "Children" }, this.rows, this.note);
    this.node = el("section", { class: "panel grows", "aria-label": "Children", hidden: true }, el("h2", {}, "Children", this.count), box);
  }

  /** Read it anew. */
  async look() {
    const { items, more } = await this.api.get(this.path, { limit: MOST });
    const children = inOrder(items);
    this.node.hidden = children.length === 0;
    this.note.hidden = !more;
    const done = children.filter(({ state }) => state === "succeeded").length;
    say(this.count, `${done} of ${children.length}${more ? "+" : ""} succeeded`);
    reconcile(this.rows, children, (run) => run.id, row, (node, run) => {
      showState(node.querySelector(".state"), run.state);
      say(node.querySelector(".why"), run.error?.split("\n")[0] ?? "");
    });
  }
}

/** The descendants, each below its parent. */
function inOrder(items) {
  const below = Map.groupBy(items.slice(1), (run) => run.parent);
  const walk = (id) => (below.get(id) ?? []).flatMap((run) => [run, ...walk(run.id)]);
  return items.length === 0 ? [] : walk(items[0].id);
}

function row(run) {
  const node = el(
    "li",
    {},
    stateMark(run.state),
    el("a", { href: `#/runs/${run.id}` }, run.task),
    el("span", { class: "step-name" }, run.step ?? ""),
    el("span", { class: "why" }),
  );
  node.style.setProperty("--depth", run.depth - 1);
  return node;
}
