// The form that starts a run: a task, its arguments, a session if it is to have one.

import { Problem, onceKey } from "./api.js";
import { el, fill, say } from "./dom.js";
import { parameters, sample } from "./schema.js";

const ROWS = [4, 16]; // of the field for arguments, at least and at most

/** The form; `started(run)` is called with the run that there is then. */
export class Start {
  #tasks = new Map();
  #sent = null; // the request under way or failed, and its key: the same again starts no second run

  constructor(api, started) {
    this.api = api;
    this.started = started;
    this.task = el("select", { id: "task", name: "task", onchange: () => this.#choose() });
    this.about = el("p", { class: "note" });
    this.args = el("textarea", {
      id: "args",
      name: "args",
      spellcheck: "false",
      rows: ROWS[0],
      "aria-describedby": "args-error",
      onkeydown: (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && this.#submit(event),
    });
    this.hints = el("dl", { class: "hints" });
    this.session = el("input", { id: "session", name: "session", autocomplete: "off", placeholder: "none: one of its own" });
    this.errors = Object.fromEntries(["task", "args", "session", "form"].map((name) => [name, slot(name)]));
    this.button = el("button", { type: "submit", class: "primary" }, "Start");
    this.form = el(
      "form",
      { class: "start", novalidate: true, onsubmit: (event) => this.#submit(event) },
      field("task", "Task", this.task, this.about, this.errors.task),
      field("args", "Arguments, as JSON", this.args, this.errors.args, this.hints),
      field("session", "Session", this.session, this.errors.session),
      el("div", { class: "submit" }, this.button, el("span", { class: "note" }, "or Ctrl+Enter in the arguments")),
      this.errors.form,
    );
    this.node = el("article", { class: "detail-body" }, el("h1", {}, "Start a run"), this.form);
    this.#load();
  }

  stop() {}

  async #load() {
    try {
      const { items } = await this.api.get("/v1/tasks");
      this.#tasks = new Map(items.map((item) => [item.task, item]));
      fill(this.task, items.map(({ task }) => el("option", { value: task }, task)));
      this.button.disabled = items.length === 0;
      if (items.length > 0) this.#choose();
      else say(this.errors.task, "No worker has registered any task yet: start one, with howdah worker, and reload.");
    } catch (error) {
      say(this.errors.form, error.message);
      if (this.node.isConnected || !(error instanceof Problem)) setTimeout(() => this.#load(), 2_000);
    }
  }

  #choose() {
    const { kind, queue, description, paused, args_schema: schema } = this.#tasks.get(this.task.value);
    const held = paused ? " It is paused: no run of it starts now." : "";
    fill(this.about, description && `${description} `, `A ${kind} on queue `, el("code", {}, queue), `.${held}`);
    this.#clear();
    fill(
      this.hints,
      parameters(schema).map(({ name, kind: of, required, text }) => [
        el("dt", {}, name),
        el("dd", {}, `${of}${required ? "" : ", optional"}${text && ` · ${text}`}`),
      ]),
    );
    this.args.value = JSON.stringify(sample(schema), null, 2);
    this.args.rows = Math.min(Math.max(this.args.value.split("\n").length + 1, ROWS[0]), ROWS[1]);
  }

  async #submit(event) {
    event.preventDefault();
    if (this.button.disabled) return;
    this.#clear();
    const body = this.#body();
    if (body === null) return;
    const text = JSON.stringify(body);
    if (this.#sent?.text !== text) this.#sent = { text, key: onceKey() };
    this.button.disabled = true;
    try {
      const run = await this.api.post("/v1/runs", body, this.#sent.key);
      this.#sent = null;
      this.started(run);
    } catch (error) {
      this.#tell(error);
    } finally {
      this.button.disabled = false;
    }
  }

  #body() {
    const body = { task: this.task.value };
    try {
      body.args = JSON.parse(this.args.value.trim() || "{}");
    } catch (error) {
      say(this.errors.args, `This is no JSON: ${error.message}`);
      this.args.setAttribute("aria-invalid", "true");
      this.args.focus();
      return null;
    }
    const session = this.session.value.trim();
    return session ? { ...body, session } : body;
  }

  /** What the API said, next to the field that it is about. */
  #tell(error) {
    const found = { task: [], args: [], session: [], form: [] };
    for (const { pointer, detail } of error.errors ?? []) {
      const [, name, ...rest] = (pointer ?? "").split("/");
      const of = name in found ? name : "form";
      found[of].push(rest.length > 0 ? `${rest.join(".")}: ${detail}` : detail);
    }
    if (error.kind === "unknown-task") found.task.push(error.message);
    if (Object.values(found).every((each) => each.length === 0)) found.form.push(error.message);
    for (const [name, texts] of Object.entries(found)) {
      say(this.errors[name], texts.join("\n"));
      if (texts.length > 0) this[name]?.setAttribute?.("aria-invalid", "true");
    }
    const first = ["task", "args", "session"].find((name) => found[name].length > 0);
    if (first) this[first].focus();
  }

  #clear() {
    for (const [name, node] of Object.entries(this.errors)) {
      say(node, "");
      this[name]?.removeAttribute?.("aria-invalid");
    }
  }
}

function field(id, title, ...rest) {
  return el("div", { class: "field" }, el("label", { for: id }, title), ...rest);
}

function slot(name) {
  return el("p", { class: "error", id: `${name}-error`, role: "alert" });
}
