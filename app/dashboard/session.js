// One session, opened: how it stands, its runs, its events live.

import { el, reconcile, say } from "./dom.js";
import { EventList } from "./events.js";
import { Poll } from "./poll.js";
import { showState, stateMark } from "./state.js";
import { clock, plural } from "./words.js";

const LOOK_MS = 3_000;
const RUNS = 20; // of its runs, the newest

/** The view of a session. */
export class SessionView {
  constructor(api, id) {
    this.api = api;
    this.id = id;
    this.mark = stateMark("open");
    this.facts = el("p", { class: "facts-line" });
    this.problem = el("p", { class: "error", role: "alert" });
    this.runs = el("ul", { class: "chips", "aria-label": "Runs in this session" });
    this.events = new EventList(api, id, { ended: () => this.poll.now() });
    this.node = el(
      "article",
      { class: "detail-body fills" },
      el("header", { class: "detail-head" }, el("h1", { class: "id" }, id), this.mark),
      this.facts,
      this.problem,
      this.runs,
      el("section", { class: "panel grows", "aria-label": "Events" }, el("h2", {}, "Events"), this.events.node),
    );
    this.poll = new Poll(LOOK_MS, () => this.#look(), (error) => say(this.problem, error.message));
  }

  stop() {
    this.poll.stop();
    this.events.stop();
  }

  async #look() {
    const session = await this.api.get(this.events.path);
    say(this.problem, "");
    showState(this.mark, session.state);
    const closed = session.closed_at ? ` · closed ${clock(session.closed_at)}` : "";
    say(this.facts, `${plural(session.last_seq, "event")} · since ${clock(session.created_at)}${closed}`);
    this.events.expect(session.last_seq);
    await this.#lookAtRuns();
    if (session.state === "closed") this.poll.stop();
  }

  async #lookAtRuns() {
    const own = this.id.startsWith("run:") ? this.id.slice(4) : null;
    const items = own ? [await this.api.get(`/v1/runs/${own}`)] : (await this.api.get("/v1/runs", { session: this.id, limit: RUNS })).items;
    reconcile(
      this.runs,
      items,
      (run) => run.id,
      (run) => el("li", {}, el("a", { href: `#/runs/${run.id}` }, run.task, stateMark(run.state))),
      (chip, run) => showState(chip.querySelector(".state"), run.state),
    );
  }
}
