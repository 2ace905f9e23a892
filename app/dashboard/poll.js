// Looking again and again, while somebody looks.

import { passes } from "./api.js";

const SOON_MS = 250; // between two looks, however many ask for one
const SLOWEST_MS = 5_000; // while the API does not answer
const SHARE = 4; // a look that takes long is followed by so many times its duration without one

/** Calls `look` at once and then every `ms`; not while the page is hidden, more slowly while the API is away. */
export class Poll {
  #stopped = false;
  #wake = null;
  #asked = false;

  constructor(ms, look, onProblem = () => {}) {
    this.#run(ms, look, onProblem);
  }

  /** Look again now, or soon after a look that was just made. */
  now() {
    this.#asked = true;
    this.#wake?.();
  }

  stop() {
    this.#stopped = true;
    this.#wake?.();
  }

  async #run(ms, look, onProblem) {
    const wake = () => this.now();
    document.addEventListener("visibilitychange", wake);
    addEventListener("online", wake);
    let pause = ms;
    while (!this.#stopped) {
      this.#asked = false;
      const begun = performance.now();
      try {
        await look();
        pause = Math.max(ms, SHARE * (performance.now() - begun));
      } catch (error) {
        if (!passes(error) && !this.#stopped) onProblem(error);
        pause = Math.min(pause * 1.5, Math.max(SLOWEST_MS, ms));
      }
      await this.#wait(SOON_MS);
      if (!this.#asked) await this.#wait(Math.max(0, pause - SOON_MS), true);
      while (document.hidden && !this.#stopped) await this.#wait(60_000, true);
    }
    document.removeEventListener("visibilitychange", wake);
    removeEventListener("online", wake);
  }

  #wait(ms, untilAsked = false) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = untilAsked ? () => (clearTimeout(timer), resolve()) : null;
    });
  }
}
