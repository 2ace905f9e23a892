// A worker in another language, by REST alone. It holds no state that matters: kill it at any moment.
import { setTimeout as sleep } from "node:timers/promises";

export class Cancelled extends Error {} // the run was asked to end: its workflow has tidied up
export class AtRest extends Error {} // the attempt has nothing more to say: its run rests, or is another's by now

async function call(path, body, { method = "POST", once = false } = {}) { // till it is heard: a repeat changes nothing
  const headers = { authorization: `Bearer ${process.env.HOWDAH_KEY}`, "content-type": "application/json" };
  const request = { method, headers, body: body && JSON.stringify(body) };
  for (;; await sleep(200)) {
    const answer = fetch(`${process.env.HOWDAH_URL}/v1/workers${path}`, request);
    const [status, said] = await answer.then(async (got) => [got.status, await got.json()]).catch(() => [503]);
    if (status < 300) return said;
    if (once || status !== 503) throw new Error(said?.detail ?? "no answer");
  }
}

class Run {
  constructor(worker, claimed) { Object.assign(this, claimed, { worker }); }
  get cancelled() { return this.worker.cancelled.includes(this.id); }
  async write(kind, name, body = null) {
    const items = [{ run: this.id, attempt: this.attempt, kind, name, body }];
    const [result] = (await call(`/${this.worker.id}/items`, { items })).items;
    if (result.problem) throw new (result.status === "stale" ? AtRest : Error)(result.problem.detail);
    return result;
  }
  async step(name, work) { // once: what an earlier attempt finished is only read back
    if (Object.hasOwn(this.steps, name)) return this.steps[name];
    if (this.cancelled) throw new Cancelled(`cancelled before ${name}`);
    const output = (await work()) ?? null;
    await this.write("checkpoint", name, output);
    return (this.steps[name] = output);
  }
  execute(workflow) {
    return workflow(this, this.args).then((output) => this.write("outcome", "succeeded", output)).catch((raised) => {
      if (raised instanceof AtRest) return console.log(raised.message);
      const outcome = raised instanceof Cancelled ? "cancelled" : this.failures < 3 ? "retry" : "failed";
      return this.write("outcome", outcome, { type: raised.constructor.name, message: raised.message });
    });
  }
}

export async function work(workflows, registration) {
  let leaving = false;
  process.on("SIGTERM", () => (leaving = true));
  for (; !leaving; await sleep(200)) {
    const worker = { cancelled: [], ...(await call("", registration)) };
    const beat = () => call(`/${worker.id}/heartbeat`, null, { once: true }).catch(console.log);
    const beating = setInterval(async () => Object.assign(worker, await beat()), worker.heartbeat_s * 1000);
    while (!leaving) {
      const asked = { wait: 1, suspects: worker.suspects };
      const claimed = await call(`/${worker.id}/claim`, asked, { once: true }).catch(console.log);
      if (!claimed) break; // Refused, or its answer lost: who leaves gives back what it brought, and comes again.
      leaving ||= claimed.draining;
      for (const run of claimed.runs) await new Run(worker, run).execute(workflows[run.task]);
    }
    clearInterval(beating);
    await call(`/${worker.id}`, null, { method: "DELETE" });
  }
}
