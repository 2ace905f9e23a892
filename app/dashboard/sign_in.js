// Signing in: the API key stays in this tab, and goes to this server only.

import { Api, Problem } from "./api.js";
import { el, say } from "./dom.js";

const KEPT = "howdah"; // in sessionStorage: for this tab, until it is closed

/** Key and tenant that this tab signed in with, or null. */
export function kept() {
  return JSON.parse(sessionStorage.getItem(KEPT));
}

/** Forget them. */
export function forget() {
  sessionStorage.removeItem(KEPT);
}

/** The form; `signedIn(credential)` is called once the API has taken a key. `reason`: why one has to sign in again. */
export class SignIn {
  constructor(connection, signedIn, reason = "") {
    this.connection = connection;
    this.signedIn = signedIn;
    this.key = el("input", { id: "key", type: "password", autocomplete: "off", spellcheck: "false", required: true, placeholder: "hwd_…" });
    this.tenant = el("input", { id: "tenant", autocomplete: "off", spellcheck: "false" });
    this.ofTenant = el("div", { class: "field", hidden: true }, el("label", { for: "tenant" }, "Tenant to act for"), this.tenant);
    this.error = el("p", { class: "error", role: "alert" }, reason);
    this.button = el("button", { class: "primary", type: "submit" }, "Sign in");
    this.node = el(
      "form",
      { class: "sign-in", novalidate: true, onsubmit: (event) => this.#submit(event) },
      el("h1", {}, "Howdah"),
      el("p", { class: "lead" }, "Durable workflows, and their events as they happen."),
      el("div", { class: "field" }, el("label", { for: "key" }, "API key"), this.key),
      this.ofTenant,
      this.error,
      this.button,
      el("p", { class: "note" }, "It stays in this tab and is sent to this server only. ", el("code", {}, "make up"), " prints one."),
    );
  }

  async #submit(event) {
    event.preventDefault();
    const credential = { key: this.key.value.trim(), tenant: this.tenant.value.trim() };
    if (!/^[\x21-\x7e]+$/.test(credential.key)) {
      say(this.error, "Paste an API key: it has no spaces, and begins with hwd_.");
      return this.key.focus();
    }
    this.button.disabled = true;
    try {
      await new Api(credential.key, credential.tenant, this.connection).get("/v1/sessions", { limit: 1 });
      sessionStorage.setItem(KEPT, JSON.stringify(credential));
      this.signedIn(credential);
    } catch (error) {
      this.#tell(error);
    } finally {
      this.button.disabled = false;
    }
  }

  #tell(error) {
    if (error instanceof Problem && error.kind === "tenant-missing") {
      this.ofTenant.hidden = false;
      say(this.error, "This is an administrator's key: say for which tenant it is to act.");
      return this.tenant.focus();
    }
    const text = error.kind === "key-wrong" ? "This key is not valid: it is unknown here, or was revoked." : error.message;
    say(this.error, text);
    this.key.select();
  }
}
