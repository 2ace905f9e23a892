// The events of a session as they come: the newest at the bottom, a bounded number of rows, earlier ones on request.

import { passes } from "./api.js";
import { el, fill, say } from "./dom.js";
import { GrowingTexts } from "./growing.js";
import { folded } from "./json.js";
import { SessionStream, read } from "./stream.js";
import { clock, fullTime, plural } from "./words.js";

const FIRST = 200; // events to begin with
const EARLIER = 100; // events that a press of the button adds
const MOST = 400; // rows; beyond it those at the other end go
const INLINE = 140; // characters of data that are shown without unfolding
const AGAIN_MS = 1_500; // a run's session is there as soon as something was said in it

/**
 * Follows a session. `run`: show only what that run wrote. `heard(events)`: called with what is new;
 * `ended()`: when no more will come.
 */
export class EventList {
  #stopped = false;
  #first = 1; // number of the earliest event that was read
  #kept = 1; // number of the earliest event that there still is
  #away = false; // looking at earlier ones: new ones are counted, not shown
  #unseen = 0;
  #follows = true; // the newest is in sight

  constructor(api, session, { run = null, heard = () => {}, ended = () => {} }) {
    Object.assign(this, { api, session, run, heard, ended });
    this.path = `/v1/sessions/${encodeURIComponent(session)}`;
    this.rows = el("ol", { class: "events" });
    this.earlier = el("button", { class: "quiet", onclick: () => this.#showEarlier() }, `Show ${EARLIER} earlier`);
    this.before = el("span");
    this.top = el("p", { class: "note top", hidden: true }, this.before, " ", this.earlier);
    this.foot = el("p", { class: "note foot" }, "Nothing yet.");
    this.texts = new GrowingTexts();
    this.box = el("div", { class: "scroll", tabindex: "0", "aria-label": "Events" }, this.top, this.rows, this.texts.node, this.foot);
    this.jump = el("button", { class: "jump", hidden: true, onclick: () => this.#toNewest() });
    this.node = el("div", { class: "event-list" }, this.box, this.jump);
    this.box.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    // Turning a phone around leaves who was at the newest there.
    new ResizeObserver(() => this.#follows && this.#scrollDown()).observe(this.box);
    this.#begin();
  }

  /** The session has events up to number `last`, whoever tells it. */
  expect(last) {
    this.stream?.expect(last);
  }

  stop() {
    this.#stopped = true;
    this.stream?.stop();
    this.texts.clear();
  }

  async #begin() {
    try {
      const session = await this.api.get(this.path);
      if (this.#stopped) return;
      this.#kept = session.first_seq;
      this.#first = Math.max(this.#kept, session.last_seq - FIRST + 1);
      this.#tellBefore();
      if (this.#kept > 1 && this.#kept > session.last_seq) say(this.foot, "Nothing since.");
      this.stream = new SessionStream(this.api, this.session, this.#first - 1, {
        events: (events) => this.#take(events),
        part: (part) => this.#grow(part),
        gap: (from, to) => this.#skip(from, to),
        reset: () => this.#reset(),
        end: () => this.#end(),
        problem: (error) => passes(error) || say(this.foot, error.message),
      });
    } catch (error) {
      if (this.#stopped) return;
      if (!passes(error) && error.kind !== "unknown-session") say(this.foot, error.message);
      setTimeout(() => this.#stopped || this.#begin(), AGAIN_MS);
    }
  }

  #grow(part) {
    if (this.run !== null && part.run !== this.run) return;
    const follow = this.#atBottom();
    say(this.foot, "");
    this.texts.take(part);
    if (follow && !this.#away) this.#scrollDown();
  }

  #take(events) {
    this.texts.settle(events);
    const own = this.run === null ? events : events.filter((event) => event.run === this.run);
    this.heard(own);
    if (own.length === 0) return;
    say(this.foot, "");
    if (this.#away) return this.#tellUnseen(this.#unseen + own.length);
    const follow = this.#atBottom();
    this.rows.append(...own.slice(-MOST).map(row));
    this.#dropFirst();
    if (follow) this.#scrollDown();
    else this.#tellUnseen(this.#unseen + own.length);
  }

  #dropFirst() {
    const surplus = this.rows.children.length - MOST;
    if (surplus <= 0) return;
    for (let count = 0; count < surplus; count += 1) this.rows.firstElementChild.remove();
    const first = [...this.rows.children].find((each) => each.dataset.seq);
    this.#first = Number(first?.dataset.seq ?? this.#first);
    this.#tellBefore();
  }

  #note(text) {
    const follow = this.#atBottom();
    this.rows.append(el("li", { class: "event-note", role: "status" }, text));
    if (follow) this.#scrollDown();
  }

  #skip(from, to) {
    this.#kept = to + 1;
    this.#tellBefore();
    this.#note(gone(from, to));
  }

  #reset() {
    fill(this.rows);
    this.texts.clear();
    this.#first = this.#kept = 1;
    this.#tellBefore();
    this.#note("The server does not know what was shown here, as after a restore: all is shown anew.");
  }

  #end() {
    say(this.foot, this.stream.seen === 0 ? "It ended without an event." : "The session is closed: this was all.");
    if (this.#atBottom()) this.#scrollDown();
    this.ended();
  }

  async #showEarlier() {
    const after = Math.max(this.#kept - 1, this.#first - 1 - EARLIER);
    this.earlier.disabled = true;
    try {
      const page = await this.api.get(`${this.path}/events`, { after, limit: this.#first - 1 - after });
      const earlier = page.events.map(read).filter((event) => event.seq < this.#first);
      const events = earlier.filter((event) => this.run === null || event.run === this.run);
      const fromBottom = this.box.scrollHeight - this.box.scrollTop;
      this.rows.prepend(...events.map(row));
      this.#kept = page.first_seq; // more may be gone by now
      this.#first = Math.min(this.#first, Math.max(this.#kept, after + 1));
      this.#tellBefore();
      this.box.scrollTop = this.box.scrollHeight - fromBottom;
      while (this.rows.children.length > MOST) {
        this.rows.lastElementChild.remove();
        this.#away = true;
      }
      this.#tellUnseen(this.#unseen);
    } catch (error) {
      say(this.before, error.message);
    } finally {
      this.earlier.disabled = false;
    }
  }

  #toNewest() {
    if (this.#away) {
      this.#away = false;
      this.stream.stop();
      fill(this.rows);
      this.#begin();
    }
    this.#scrollDown();
  }

  #tellBefore() {
    const count = this.#first - this.#kept;
    this.top.hidden = this.#first === 1;
    if (this.top.hidden) return;
    this.earlier.hidden = count <= 0;
    if (count <= 0) say(this.before, gone(1, this.#first - 1));
    else say(this.before, this.run === null ? `${plural(count, "earlier event")}, not shown.` : `Shown from number ${this.#first} on.`);
  }

  #tellUnseen(count) {
    this.#unseen = count;
    this.jump.hidden = count === 0 && !this.#away;
    say(this.jump, count > 0 ? `↓ ${count.toLocaleString("en")} new` : "↓ to the newest");
  }

  #scrolled() {
    this.#follows = this.#atBottom() && !this.#away;
    if (this.#follows) this.#tellUnseen(0);
  }

  #atBottom() {
    return this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight < 40;
  }

  #scrollDown() {
    this.box.scrollTop = this.box.scrollHeight;
    this.#tellUnseen(0);
  }
}

function gone(from, to) {
  return from === to ? `Event ${from} is not kept any more.` : `Events ${from} to ${to} are not kept any more.`;
}

function row(event) {
  const time = el("time", { datetime: event.time, title: fullTime(event.time) }, clock(event.time, { tenths: true }));
  const kind = event.type.startsWith("howdah.") ? "type own" : "type";
  return el(
    "li",
    { "data-seq": String(event.seq) },
    el("span", { class: "seq" }, String(event.seq)),
    time,
    el("span", { class: kind, title: event.type }, event.type),
    el("div", { class: "data" }, folded(event.data, INLINE)),
  );
}
