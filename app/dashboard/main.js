// The page: who is signed in, and which view the address asks for.

import { Api } from "./api.js";
import { Connection } from "./connection.js";
import { el, fill } from "./dom.js";
import { RunView } from "./run.js";
import { RunList } from "./runs.js";
import { SessionView } from "./session.js";
import { SessionList } from "./sessions.js";
import { SignIn, forget, kept } from "./sign_in.js";
import { Start } from "./start.js";

const main = document.getElementById("main");
const nav = document.getElementById("nav");
const status = document.getElementById("connection");
const signOut = document.getElementById("sign-out");
const connection = new Connection(status);

const aside = el("div", { class: "aside" });
const detail = el("div", { class: "detail", id: "detail", tabindex: "-1" });
let api = null;
let list = null; // in the aside
let view = null; // in the detail

/** What `#/runs/7` asks for: ["runs", "7"]. */
function place() {
  const [name, id] = location.hash.replace(/^#\/?/, "").split("/").map(decode);
  return [["start", "runs", "sessions"].includes(name) ? name : "start", id || null];
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return "";
  }
}

function go() {
  if (api === null) return;
  const [name, id] = place();
  document.title = `${name[0].toUpperCase()}${name.slice(1)} · Howdah`;
  for (const link of nav.children) {
    if (link.getAttribute("href") === `#/${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  main.dataset.shows = name === "start" || id !== null ? "detail" : "list";
  const Wanted = name === "sessions" ? SessionList : RunList;
  if (!(list instanceof Wanted)) {
    list?.stop();
    list = new Wanted(api);
    fill(aside, list.node);
  }
  list.select(id);
  view?.stop();
  view = open(name, id);
  const back = id === null ? null : el("a", { class: "back", href: `#/${name}` }, `‹ ${name === "runs" ? "Runs" : "Sessions"}`);
  fill(detail, back, view?.node ?? el("p", { class: "note nothing" }, `Choose one of the ${name} to see it live.`));
  detail.scrollTop = 0;
}

function open(name, id) {
  if (name === "start") {
    return new Start(api, (run) => {
      list.refresh();
      location.hash = `#/runs/${run.id}`;
    });
  }
  if (id === null) return null;
  return name === "runs" ? new RunView(api, id) : new SessionView(api, id);
}

function enter({ key, tenant }) {
  api = new Api(key, tenant, connection, () => leave("This key is not valid any more: sign in again."));
  for (const node of [nav, status, signOut]) node.hidden = false;
  main.className = "app";
  fill(main, aside, detail);
  go();
}

function leave(reason) {
  forget();
  list?.stop();
  view?.stop();
  [api, list, view] = [null, null, null];
  for (const node of [nav, status, signOut]) node.hidden = true;
  main.className = "";
  const form = new SignIn(connection, enter, reason);
  fill(main, form.node);
  form.key.focus();
}

signOut.addEventListener("click", () => leave(""));
addEventListener("hashchange", go);
const credential = kept();
if (credential) enter(credential);
else leave("");
