// What a run waits for, in words, with the buttons that answer it.

import { onceKey } from "./api.js";
import { el, fill, say } from "./dom.js";
import { clock } from "./words.js";

/** The panel; `tell(run)` shows what the run waits for now, `answered()` is called when a signal was sent. */
export class Waits {
  #told = null;

  constructor(api, answered) {
    this.api = api;
    this.answered = answered;
    this.node = el("section", { class: "waits", "aria-label": "Waits for", hidden: true });
  }

  /** Show it for the run as it is; `why` is the reason, in a sentence, of one that waits for its turn. */
  tell(run, why) {
    const told = JSON.stringify([run.state, run.attempt, run.awaits, why]);
    if (told === this.#told) return;
    this.#told = told;
    const parts = run.awaits.map((awaited) => (awaited.kind === "signal" ? this.#question(run, awaited) : sentence(awaited)));
    fill(this.node, parts, why ? el("p", {}, why) : null);
    this.node.hidden = parts.length === 0 && !why;
  }

  #question(run, { name, choices, until }) {
    const answer = el("p", { class: "error", role: "alert" });
    const once = onceKey();
    const send = async (payload) => {
      const controls = form.querySelectorAll("button, textarea");
      for (const control of controls) control.disabled = true;
      try {
        await this.api.post(`/v1/runs/${run.id}/signals`, { name, payload }, once);
        answer.classList.remove("error");
        say(answer, `Sent: ${typeof payload === "string" ? payload : "your answer"}.`);
        this.answered();
      } catch (error) {
        say(answer, error.message);
        for (const control of controls) control.disabled = false;
      }
    };
    const form = choices ? buttons(choices, send) : this.#field(name, send, answer);
    return el("div", { class: "question" }, el("p", {}, "Waits for ", el("strong", {}, name), until ? `, until ${clock(until)}` : ""), form, answer);
  }

  #field(name, send, answer) {
    const text = el("textarea", { rows: 1, spellcheck: "false", "aria-label": `${name}, as JSON`, placeholder: "JSON, such as null" });
    const submit = (event) => {
      event.preventDefault();
      let payload;
      try {
        payload = JSON.parse(text.value.trim() || "null");
      } catch (error) {
        say(answer, `This is no JSON: ${error.message}`);
        return;
      }
      send(payload);
    };
    return el("form", { class: "answer", onsubmit: submit }, text, el("button", { class: "primary" }, "Send"));
  }
}

function buttons(choices, send) {
  const each = (choice, index) => el("button", { class: index === 0 ? "primary" : "", onclick: () => send(choice) }, choice);
  return el("div", { class: "answer" }, choices.map(each));
}

function sentence({ kind, name, until }) {
  const at = until ? `, until ${clock(until)}` : "";
  if (kind === "children") return el("p", {}, "Waits for the children of step ", el("strong", {}, name), at);
  if (kind === "events") return el("p", {}, "Waits for events in session ", el("strong", {}, name), at);
  return el("p", {}, "Sleeps in ", el("strong", {}, name), at);
}
