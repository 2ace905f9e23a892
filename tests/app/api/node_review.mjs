// What the tests' Node worker runs: each step that is really executed leaves a line; a gate lets a test strike in one.
import { appendFileSync, existsSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { Cancelled, work } from "./node_worker.mjs";

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
  const { by } = await run.waitFor("approve");
  return run.step("print", () => (note("print"), `${pages} pages, approved by ${by}`));
}

await work({ "node.review": review }, {
  name: `node/${process.pid}`,
  queues: ["node"],
  tasks: [{ name: "node.review", queue: "node", args_schema: { type: "object", required: ["folder"] } }],
});
