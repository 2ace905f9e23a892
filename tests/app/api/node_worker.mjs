// A worker in another language, by REST alone. It holds no state that matters: kill it at any moment.
import { setTimeout as sleep } from "node:timers/promises";

export class Cancelled extends Error {}
class AtRest extends Error {} // the attempt has nothing more to say: its run rests, or is another's by now

async function call(method, path, body) {
  const headers = { authorization: `Bearer ${process.env.HOWDAH_KEY}`, "content-type": "application/json" };
  const answer = await fetch(process.env.HOWDAH_URL + path, { method, headers, body: body && JSON.stringify(body) });
  const said = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(said.detail), { status: answer.status });
  return said;
}

class Run {
  constructor(worker, claimed) { Object.assign(this, claimed, { worker, cancelled: false }); }

  async write(kind, name, body = null, more = {}) {
    const items = [{ run: this.id, attempt: this.attempt, kind, name, body, ...more }];
    for (;; await sleep(200)) {
      try {
        const [result] = (await call("POST", `${this.worker}/items`, { items })).items;
        if (result.status === "stale") throw new AtRest(result.problem.detail);
        if (result.problem) throw new Error(result.problem.detail);
        return result;
      } catch (error) { // Not reached, or not now: the same item again changes nothing.
        if (!(error instanceof TypeError) && error.status !== 503) throw error;
      }
    }
  }

  async step(name, work) { // once: what an earlier attempt finished is only read back
    if (!Object.hasOwn(this.steps, name)) {
      if (this.cancelled) throw new Cancelled(`cancelled before ${name}`);
      const output = (await work()) ?? null;
      await this.write("checkpoint", name, output);
      this.steps[name] = output;
    }
    return this.steps[name];
  }

  async waitFor(signal) { // the payload of the next signal of this name that no other wait has had
    const received = await this.step(`wait ${signal}`, async () => {
      const after = Math.max(0, ...Object.values(this.steps).map((kept) => (kept?.signal === signal ? kept.no : 0)));
      for (;;) {
        const next = this.signals.find(({ name, no }) => name === signal && no > after);
        if (next) return { signal, no: next.no, payload: next.payload };
        const { status, signals } = await this.write("outcome", "wait", [{ signal, after }]);
        if (status === "ok") throw new AtRest(`run ${this.id} waits for ${signal}`);
        if (status === "cancelled") throw new Cancelled(`cancelled while it waited for ${signal}`);
        this.signals = signals;
      }
    });
    return received.payload;
  }

  async execute(workflow) {
    try {
      await this.write("outcome", "succeeded", await workflow(this, this.args));
    } catch (raised) {
      if (raised instanceof AtRest) return console.log(raised.message);
      const error = { type: raised.constructor.name, message: raised.message };
      if (raised instanceof Cancelled) return this.write("outcome", "cancelled", error);
      if (this.failures >= 3) return this.write("outcome", "failed", error);
      await this.write("outcome", "retry", error, { at: new Date(Date.now() + 100).toISOString() });
    }
  }
}

export async function work(workflows, registration) {
  let leaving = false;
  process.on("SIGTERM", () => (leaving = true));
  for (; !leaving; await sleep(200)) {
    const joined = await call("POST", "/v1/workers", registration).catch((error) => console.log(error.message));
    if (!joined) continue;
    const { id, heartbeat_s } = joined;
    let heard = { alive: true, suspects: false }, runs = [];
    const beating = setInterval(async () => {
      heard = await call("POST", `/v1/workers/${id}/heartbeat`).catch(() => heard);
      for (const run of runs) run.cancelled ||= heard.cancelled?.includes(run.id);
    }, heartbeat_s * 1000);
    try {
      while (!leaving && heard.alive) {
        const claimed = await call("POST", `/v1/workers/${id}/claim`, { wait: 1, suspects: heard.suspects });
        runs = claimed.runs.map((run) => new Run(`/v1/workers/${id}`, run));
        for (const run of runs) await run.execute(workflows[run.task]).catch((error) => console.log(error.message));
        leaving ||= claimed.draining;
      }
    } catch (error) { // Was a claim's answer lost? Who leaves gives back what it brought, and comes again.
      console.log(error.message);
    }
    clearInterval(beating);
    await call("DELETE", `/v1/workers/${id}`).catch((error) => console.log(error.message));
  }
}
