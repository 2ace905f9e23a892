// One run, opened: how it stands, what it waits for, its steps, children and events as they come, its result.

import { el, fill, say } from "./dom.js";
import { EventList } from "./events.js";
import { pretty } from "./json.js";
import { Poll } from "./poll.js";
import { FINAL_STATES, age, showState, stateMark } from "./state.js";
import { Steps } from "./steps.js";
import { Tree } from "./tree.js";
import { Waits } from "./waits.js";
import { clock, fullTime, span, took } from "./words.js";

const LOOK_MS = 1_000; // steps finish without an event of their own
const EXPLAINED = ["queued", "scheduled", "blocked"];

/** The view of a run. */
export class RunView {
  #shown = null; // the state whose result and arguments are shown

  constructor(api, id) {
    this.api = api;
    this.id = id;
    this.path = `/v1/runs/${encodeURIComponent(id)}`;
    this.title = el("h1", {}, "…");
    this.mark = stateMark("");
    this.cancel = el("button", { hidden: true, onclick: () => this.#act("cancel") }, "Cancel");
    this.requeue = el("button", { hidden: true, onclick: () => this.#act("requeue") }, "Requeue");
    this.bar = el("progress", { max: "1", value: "0", "aria-label": "Progress" });
    this.note = el("span", { class: "note" });
    this.said = el("p", { class: "note", role: "status" });
    this.waits = new Waits(api, () => this.poll.now());
    this.steps = new Steps(api, encodeURIComponent(id));
    this.tree = new Tree(api, encodeURIComponent(id));
    this.events = el("section", { class: "panel grows", "aria-label": "Events" }, el("h2", {}, "Events"));
    this.result = el("section", { class: "panel result", "aria-label": "Result" });
    this.args = el("section", { class: "panel", "aria-label": "Arguments" });
    this.facts = el("dl", { class: "facts" });
    const head = el("header", { class: "detail-head" }, this.title, this.mark, el("span", { class: "actions" }, this.cancel, this.requeue));
    const left = el("div", { class: "column main" }, this.steps.node, this.tree.node, this.events);
    const right = el("div", { class: "column side" }, this.result, this.args, el("section", { class: "panel", "aria-label": "Facts" }, el("h2", {}, "Facts"), this.facts));
    this.node = el(
      "article",
      { class: "detail-body fills" },
      head,
      el("div", { class: "progress" }, this.bar, this.note),
      this.said,
      this.waits.node,
      el("div", { class: "columns" }, left, right),
    );
    this.poll = new Poll(LOOK_MS, () => this.#look(), (error) => say(this.said, error.message));
  }

  stop() {
    this.poll.stop();
    this.list?.stop();
  }

  async #look() {
    const run = await this.api.get(this.path);
    // The run first: what it has said is on disk before its end is.
    const why = EXPLAINED.includes(run.state) ? (await this.api.get(`${this.path}/explanation`)).explanation : null;
    await Promise.all([this.steps.look(run), this.tree.look()]);
    this.#show(run, why);
    if (FINAL_STATES.includes(run.state)) this.poll.stop();
  }

  #show(run, why) {
    const over = FINAL_STATES.includes(run.state);
    say(this.title, run.task);
    document.title = `${run.task} · ${run.state} · Howdah`;
    showState(this.mark, run.state);
    this.cancel.hidden = over;
    this.requeue.hidden = !["failed", "cancelled"].includes(run.state);
    this.waits.tell(run, why);
    this.#showFacts(run);
    if (this.list === undefined) this.#follow(run);
    if (this.#shown === run.state || (this.#shown && !over)) return;
    this.#shown = run.state;
    fill(this.args, el("h2", {}, "Arguments"), pretty(run.args));
    fill(this.result, el("h2", {}, run.error ? "Error" : "Output"), over ? outcome(run) : el("p", { class: "note" }, "Not yet."));
    if (over) this.node.dataset.over = run.state;
    if (run.state === "succeeded" && this.bar.value > 0) this.bar.value = 1;
  }

  #showFacts(run) {
    const session = run.session ?? `run:${run.id}`;
    const time = (iso) => iso && el("time", { datetime: iso, title: fullTime(iso) }, clock(iso));
    const facts = {
      Run: el("code", { class: "id" }, run.id),
      Queue: run.queue,
      Session: el("a", { href: `#/sessions/${encodeURIComponent(session)}` }, run.session ?? "its own"),
      Parent: run.parent && el("a", { href: `#/runs/${run.parent}` }, run.parent),
      Created: time(run.created_at),
      Started: time(run.started_at),
      Finished: time(run.finished_at),
      [run.finished_at ? "Took" : "For"]: run.finished_at ? took(age(run)) : span(age(run)),
      Attempt: String(run.attempt),
      Failures: run.failures > 0 && String(run.failures),
      Priority: run.priority !== 0 && String(run.priority),
      Deadline: time(run.deadline),
      Due: run.state === "scheduled" && time(run.run_at),
    };
    const told = JSON.stringify(Object.entries(facts).map(([name, value]) => [name, value?.textContent ?? value]));
    if (told === this.told) return;
    this.told = told;
    fill(this.facts, Object.entries(facts).filter(([, value]) => value).map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  }

  #follow(run) {
    const session = run.session ?? `run:${run.id}`;
    this.list = new EventList(this.api, session, { run: run.session ? run.id : null, heard: (events) => this.#hear(events) });
    this.events.append(this.list.node);
  }

  #hear(events) {
    const last = events.findLast((event) => event.type === "howdah.progress");
    if (last) {
      this.bar.value = Number(last.data?.fraction) || 0;
      say(this.note, `${Math.round(this.bar.value * 100)} %${last.data?.note ? ` · ${last.data.note}` : ""}`);
    }
    if (events.length > 0) this.poll.now();
  }

  async #act(what) {
    const button = this[what];
    button.disabled = true;
    try {
      const { status } = await this.api.post(`${this.path}/${what}`);
      say(this.said, status === "requested" ? "Its worker is asked to end it." : "");
      if (what === "requeue") dispatchEvent(new HashChangeEvent("hashchange"));
      else this.poll.now();
    } catch (error) {
      say(this.said, error.message);
    } finally {
      button.disabled = false;
    }
  }
}

function outcome(run) {
  const { error } = run;
  if (!error) return run.state === "succeeded" ? pretty(run.output) : el("p", { class: "note" }, "It was cancelled.");
  const { type = "Error", message = "", traceback } = typeof error === "object" ? error : { message: String(error) };
  return [
    el("p", { class: "failure" }, el("strong", {}, type), message ? `: ${message}` : ""),
    traceback ? el("pre", { class: "traceback", tabindex: "0" }, traceback) : null,
  ];
}
