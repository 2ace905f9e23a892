// The list of sessions: newest first.

import { el, say } from "./dom.js";
import { LiveList, pane } from "./list.js";
import { mark } from "./runs.js";
import { showState, stateMark } from "./state.js";
import { clock, fullTime, plural } from "./words.js";

/** The pane of sessions; `select(id)` marks the one that is open. */
export class SessionList {
  #open = null;

  constructor(api) {
    this.list = new LiveList(api, {
      path: "/v1/sessions",
      empty: "No sessions. A run that reports anything has one.",
      row: (session) => this.#row(session),
      update: (row, session) => {
        showState(row.querySelector(".state"), session.state);
        say(row.querySelector(".row-age"), plural(session.last_seq, "event"));
      },
    });
    this.node = pane("Sessions", null, this.list);
  }

  select(id) {
    this.#open = id;
    for (const link of this.list.rows.querySelectorAll("a")) mark(link, id);
  }

  stop() {
    this.list.stop();
  }

  #row(session) {
    const link = el("a", { href: `#/sessions/${encodeURIComponent(session.id)}`, "data-id": session.id });
    link.append(
      el("span", { class: "row-title" }, session.id),
      stateMark(session.state),
      el("time", { datetime: session.created_at, title: fullTime(session.created_at) }, clock(session.created_at)),
      el("span", { class: "row-age" }),
    );
    mark(link, this.#open);
    return el("li", {}, link);
  }
}
