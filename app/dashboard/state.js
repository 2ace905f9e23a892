// The state of a run or a session, as a mark and a word.

import { el, say } from "./dom.js";

export const RUN_STATES = ["queued", "scheduled", "blocked", "waiting", "running", "succeeded", "failed", "cancelled"];
export const FINAL_STATES = ["succeeded", "failed", "cancelled"];

/** A mark for a state; `showState` sets it. */
export function stateMark(state) {
  const node = el("span", { class: "state" });
  showState(node, state);
  return node;
}

/** Sets a mark made by `stateMark`. */
export function showState(node, state) {
  node.dataset.state = state;
  say(node, state);
}

/** How long a run took, takes, or has been there, in milliseconds. */
export function age(run) {
  const from = FINAL_STATES.includes(run.state) && run.started_at ? run.started_at : run.created_at;
  return (run.finished_at ? new Date(run.finished_at) : Date.now()) - new Date(from);
}
