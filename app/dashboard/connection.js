// Whether what the page shows is what there is: live, reconnecting, or offline, and for how long.

import { el, say } from "./dom.js";
import { span } from "./words.js";

const OFFLINE_MS = 10_000; // a server that restarts is back by then

/** Hears from requests and streams whether they get through, and tells it in the bar. */
export class Connection {
  #broken = new Map(); // who does not get through → since when, and why
  #since = Date.now();
  #state = null;

  constructor(node) {
    this.node = node;
    this.word = el("span", { role: "status" });
    this.time = el("span", { class: "since", "aria-hidden": "true" });
    node.append(el("span", { class: "dot" }), this.word, this.time);
    setInterval(() => this.#tell(), 500);
    addEventListener("online", () => this.#tell());
    addEventListener("offline", () => this.#tell());
  }

  /** `source` gets through. */
  reached(source) {
    if (this.#broken.delete(source)) this.#tell();
  }

  /** `source` does not get through. */
  lost(source, reason) {
    if (this.#broken.has(source)) return;
    this.#broken.set(source, { at: Date.now(), reason });
    this.#tell();
  }

  #tell() {
    const broken = [...this.#broken.values()];
    const at = Math.min(...broken.map((each) => each.at));
    const down = broken.length > 0;
    const away = !navigator.onLine || (down && Date.now() - at > OFFLINE_MS);
    const state = away ? "offline" : down ? "reconnecting" : "live";
    if (state !== this.#state) {
      // From reconnecting to offline is one and the same time without the server.
      if (!(state === "offline" && this.#state === "reconnecting")) this.#since = down ? at : Date.now();
      this.#state = state;
      this.node.dataset.state = state;
      say(this.word, state);
    }
    say(this.time, span(Date.now() - this.#since));
    this.node.title = down ? broken[0].reason : "";
  }
}
