// JSON for people: a line of it, or all of it with colours, bounded.

import { el } from "./dom.js";
import { size } from "./words.js";

const MAX_PRETTY = 100_000; // characters; what is longer is read elsewhere
const TOKEN = /("(?:\\.|[^"\\])*")(\s*:)?|\b(true|false|null)\b|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)/g;

/** The value in a line, cut after `length` characters. */
export function line(value, length) {
  const text = JSON.stringify(value) ?? "null";
  return text.length <= length ? text : `${text.slice(0, length - 1)}…`;
}

/** The value in full, indented. */
export function pretty(value) {
  const text = typeof value === "string" && value.includes("\n") ? value : (JSON.stringify(value, null, 2) ?? "null");
  if (text.length <= MAX_PRETTY) return el("pre", { class: "json", tabindex: "0" }, coloured(text));
  const note = el("p", { class: "note" }, `Cut here: it has ${size(text.length)}. Read the whole by the API.`);
  return el("div", {}, el("pre", { class: "json", tabindex: "0" }, text.slice(0, MAX_PRETTY)), note);
}

/** A short value in a line; a long one folded, and built only when it is unfolded. */
export function folded(value, length) {
  const text = JSON.stringify(value) ?? "null";
  if (text.length <= length) return el("code", { class: "json" }, coloured(text));
  const summary = el("summary", {}, el("code", { class: "json" }, coloured(`${text.slice(0, length - 1)}…`)));
  summary.append(el("span", { class: "size" }, size(new Blob([text]).size)));
  return unfolding(el("details", {}, summary), () => pretty(value));
}

/** Lets a `details` build what it hides when it is first opened. */
export function unfolding(details, build) {
  details.addEventListener("toggle", () => details.open && details.append(build()), { once: true });
  return details;
}

function coloured(text) {
  const parts = [];
  let done = 0;
  for (const match of text.matchAll(TOKEN)) {
    const [whole, string, colon, word] = match;
    const kind = string ? (colon ? "key" : "string") : word ? "word" : "number";
    parts.push(text.slice(done, match.index), el("span", { class: kind }, string ?? whole), colon ?? "");
    done = match.index + whole.length;
  }
  parts.push(text.slice(done));
  return parts;
}
