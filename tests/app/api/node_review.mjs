// What the tests' Node worker runs: each step that is really executed leaves a line; a gate lets a test strike in one.
import { appendFileSync, existsSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { AtRest, Cancelled, work } from "./node_worker.mjs";

// The payload of the next signal of this name that no other wait has had. A step like others: the run rests in it.
async function waitFor(run, signal) {
  const received = await run.step(`wait ${signal}`, async () => {
    const after = Math.max(0, ...Object.values(run.steps).map((kept) => (kept?.signal === signal ? kept.no : 0)));
    for (let { signals } = run; ; ) {
      const next = signals.find(({ name, no }) => name === signal && no > after);
      if (next) return { signal, no: next.no, payload: next.payload };
      const waiting = await run.write("outcome", "wait", [{ signal, after }]);
      if (waiting.status === "ok") throw new AtRest(`run ${run.id} waits for ${signal}`);
      if (waiting.status === "cancelled") throw new Cancelled(`cancelled while it waited for ${signal}`);
      ({ signals } = waiting);
    }
  });
  return received.payload;
}

async function review(run, { folder }) {
  const note = (what) => appendFileSync(`${folder}/executed`, `${what} ${run.attempt}\n`);
  const pages = await run.step("draft", () => (note("draft"), 3));
  try {
    await run.step("check", async () => {
      note("check");
      while (!existsSync(`${folder}/gate`)) {
        if (run.cancelled) throw new Cancelled("cancelled in check");
        await sleep(10);
      }
    });
  } finally {
    note("tidied");
  }
  if (run.failures === 0) throw new RangeError("no paper");
  const { by } = await waitFor(run, "approve");
  return run.step("print", () => (note("print"), `${pages} pages, approved by ${by}`));
}

await work({ "node.review": review }, {
  name: `node/${process.pid}`,
  queues: ["node"],
  tasks: [{ name: "node.review", queue: "node", args_schema: { type: "object", required: ["folder"] } }],
});
