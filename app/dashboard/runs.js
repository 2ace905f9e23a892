// The list of runs: newest first, by state and task; those that other runs have spawned are asked for.

import { el, say } from "./dom.js";
import { LiveList, pane } from "./list.js";
import { RUN_STATES, FINAL_STATES, age, showState, stateMark } from "./state.js";
import { clock, fullTime, span, took } from "./words.js";

/** The pane of runs; `select(id)` marks the one that is open. */
export class RunList {
  #open = null;

  constructor(api) {
    this.list = new LiveList(api, {
      path: "/v1/runs",
      empty: "No runs. Start one, and it appears here.",
      row: (run) => this.#row(run),
      update: (row, run) => this.#update(row, run),
      filters: { parent: "none" },
    });
    const filter = () =>
      this.list.filter({ state: this.state.value, task: this.task.value, parent: this.children.value });
    this.state = el("select", { "aria-label": "State", onchange: filter }, option("", "any state"));
    this.state.append(...RUN_STATES.map((state) => option(state, state)));
    this.task = el("select", { "aria-label": "Task", onchange: filter }, option("", "any task"));
    this.children = el("select", { "aria-label": "Children", onchange: filter }, option("none", "without children"));
    this.children.append(option("", "with children"));
    this.node = pane("Runs", el("div", { class: "filters" }, this.state, this.task, this.children), this.list);
    api.get("/v1/tasks").then(
      ({ items }) => this.task.append(...items.map(({ task }) => option(task, task))),
      () => {}, // without them the list is still one of all tasks
    );
  }

  select(id) {
    this.#open = id;
    for (const link of this.list.rows.querySelectorAll("a")) mark(link, id);
  }

  /** Look now, such as for a run that was just started. */
  refresh() {
    this.list.poll.now();
  }

  stop() {
    this.list.stop();
  }

  #row(run) {
    const link = el("a", { href: `#/runs/${run.id}`, "data-id": run.id });
    link.append(
      el("span", { class: run.parent ? "row-title child" : "row-title" }, run.task),
      stateMark(run.state),
      el("time", { datetime: run.created_at, title: fullTime(run.created_at) }, clock(run.created_at)),
      el("span", { class: "row-age" }),
    );
    mark(link, this.#open);
    return el("li", {}, link);
  }

  #update(row, run) {
    showState(row.querySelector(".state"), run.state);
    say(row.querySelector(".row-age"), FINAL_STATES.includes(run.state) ? took(age(run)) : span(age(run)));
  }
}

/** Says of a link whether it is the one that is open. */
export function mark(link, id) {
  if (link.dataset.id === id) link.setAttribute("aria-current", "true");
  else link.removeAttribute("aria-current");
}

function option(value, text) {
  return el("option", { value }, text);
}
