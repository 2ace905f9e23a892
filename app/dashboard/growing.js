// Texts that are being written, as an answer token by token: each is shown as it grows, until its event is there.

import { el, say } from "./dom.js";

const MOST = 20; // texts at a time
const LONGEST = 4_000; // characters that are shown of one: its end
const STALE_MS = 60_000; // without a new part its writer is gone, or its event is not for this page

export class GrowingTexts {
  #texts = new Map(); // by run and stream, the longest silent first

  constructor() {
    this.node = el("ul", { class: "growing", "aria-live": "off" });
  }

  /** A part: `data` is `{stream, offset, text}`, offsets in code points. What is none is passed over. */
  take({ type, run, data }) {
    const { stream, offset, text } = data ?? {};
    if (typeof stream !== "string" || typeof text !== "string" || !Number.isInteger(offset)) return;
    const key = keyOf(run, stream);
    const growing = this.#texts.get(key) ?? this.#begin(type);
    this.#texts.delete(key);
    this.#texts.set(key, growing);
    // From 0 on it is another attempt's; where parts were missed, as before the page was opened, the rest goes on.
    if (offset === 0) growing.text = "";
    else if (offset !== growing.next) growing.text += "… ";
    growing.next = offset + [...text].length;
    growing.text = (growing.text + text).slice(-LONGEST);
    say(growing.shown, growing.text);
    clearTimeout(growing.timer);
    growing.timer = setTimeout(() => this.#end(key), STALE_MS);
    if (this.#texts.size > MOST) this.#end(this.#texts.keys().next().value);
  }

  /** Events have come: the texts that they hold are whole. */
  settle(events) {
    for (const { run, data } of events) if (typeof data?.stream === "string") this.#end(keyOf(run, data.stream));
  }

  clear() {
    for (const key of [...this.#texts.keys()]) this.#end(key);
  }

  #begin(type) {
    const shown = el("div", { class: "data" });
    const row = el("li", {}, el("span", { class: "type", title: type }, type), shown);
    this.node.append(row);
    return { row, shown, text: "", next: 0, timer: null };
  }

  #end(key) {
    const growing = this.#texts.get(key);
    if (!growing) return;
    clearTimeout(growing.timer);
    growing.row.remove();
    this.#texts.delete(key);
  }
}

function keyOf(run, stream) {
  return `${run}/${stream}`;
}
