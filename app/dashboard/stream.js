// The events of one session as they come, each once and in order, through restarts of the server and the network.
//
// An EventSource cannot send a key: it carries a short-lived token of POST /v1/stream-tokens. As long as that holds, the
// browser reconnects by itself and says which event it had last. When it gives up, such as on a token that is over, a
// new token is asked for here, and the stream goes on after the last event seen.

import { Problem } from "./api.js";

const PAUSE_MS = [500, 8_000]; // before opening again: the first, the longest
const BATCH_MS = 40; // what comes within it is shown together

/** Follows a session; `hear` has `events(list)`, `part(part)`, `gap(from, to)`, `reset()`, `end()` and `problem(error)`. */
export class SessionStream {
  #source = null;
  #batch = [];
  #timer = null;
  #pause = PAUSE_MS[0];
  #stuckAt = null;
  #turn = 0; // counts openings: what an earlier one still brings is not heard

  constructor(api, session, after, hear) {
    this.api = api;
    this.session = session;
    this.path = `/v1/sessions/${encodeURIComponent(session)}`;
    this.seen = after;
    this.hear = hear;
    this.ended = false;
    this.onVisibility = () => this.#look();
    document.addEventListener("visibilitychange", this.onVisibility);
    this.#look();
  }

  /** Leave the stream. */
  stop() {
    document.removeEventListener("visibilitychange", this.onVisibility);
    this.ended = true;
    this.#close();
    this.api.connection.reached(this);
  }

  /**
   * The session has events up to number `last`, another source says. A stream that brings none of them from one such
   * word to the next is open in name only, and is opened again.
   */
  expect(last) {
    if (this.ended || this.#source?.readyState !== EventSource.OPEN || last <= this.seen) this.#stuckAt = null;
    else if (this.#stuckAt === this.seen) this.#fail("the stream brings nothing, though there is more");
    else this.#stuckAt = this.seen;
  }

  // A hidden page holds no stream: a browser has six connections for all its tabs.
  #look() {
    if (this.ended) return;
    if (document.hidden) this.#close();
    else if (this.#source === null) this.#open();
  }

  #close() {
    this.#flush();
    this.#turn += 1;
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
  }

  async #open() {
    this.#close();
    const turn = this.#turn;
    try {
      const session = await this.api.get(this.path);
      if (turn !== this.#turn) return;
      if (session.state === "closed" && session.last_seq <= this.seen) return this.#end();
      const { token } = await this.api.post("/v1/stream-tokens", { session: this.session });
      if (turn === this.#turn) this.#connect(token);
    } catch (error) {
      if (turn !== this.#turn) return;
      if (error instanceof Problem) this.hear.problem(error);
      if (!this.ended) this.#fail(error.message);
    }
  }

  #connect(token) {
    const source = new EventSource(`${this.path}/events?${new URLSearchParams({ token, after: this.seen })}`);
    this.#source = source;
    source.onopen = () => {
      this.#pause = PAUSE_MS[0];
      this.api.connection.reached(this);
    };
    source.onmessage = (message) => this.#take(message);
    source.addEventListener("howdah.reset", () => {
      this.#flush();
      this.seen = 0;
      this.hear.reset();
    });
    source.addEventListener("howdah.gap", (message) => this.#pass(message));
    source.addEventListener("howdah.end", () => this.#end());
    source.onerror = () => {
      if (source !== this.#source) return;
      if (source.readyState === EventSource.CLOSED) this.#fail("the stream was refused or ended");
      else this.api.connection.lost(this, "the stream broke off");
    };
  }

  #fail(reason) {
    this.#close();
    this.#stuckAt = null;
    this.api.connection.lost(this, reason);
    // Spread, so that the pages of a server that restarts do not come back in one instant.
    this.#timer = setTimeout(() => this.#look(), this.#pause * (0.5 + Math.random()));
    this.#pause = Math.min(this.#pause * 2, PAUSE_MS[1]);
  }

  #take(message) {
    const event = JSON.parse(message.data);
    // A part of an event that is to come has no number, and is not kept.
    if (event.partial) return this.hear.part(read(event));
    if (this.#batch.length === 0) setTimeout(() => this.#flush(), BATCH_MS);
    this.#batch.push(read(event));
  }

  // What retention took before this page had it.
  #pass(message) {
    this.#flush();
    const { from, to } = JSON.parse(message.data);
    this.seen = Number(to);
    this.hear.gap(Number(from), this.seen);
  }

  #flush() {
    if (this.ended) return;
    const fresh = this.#batch.splice(0).filter((event) => event.seq > this.seen);
    if (fresh.length === 0) return;
    this.seen = fresh.at(-1).seq;
    this.hear.events(fresh);
  }

  #end() {
    this.#flush();
    this.stop();
    this.hear.end();
  }
}

/** An event as this page uses it, from a CloudEvent. */
export function read({ sequence, type, time, data, subject }) {
  return { seq: Number(sequence), type, time, data, run: subject ?? null };
}
