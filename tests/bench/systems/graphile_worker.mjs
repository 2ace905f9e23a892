// Graphile Worker's part of the benchmark: `install` makes its tables, `work` is one worker until it is stopped, and
// `enqueue` is a process with callers.
//
//   node graphile_worker.mjs ENTRY install URL
//   node graphile_worker.mjs ENTRY work URL FIGURE CONCURRENCY CONNECTIONS LOCAL_QUEUE
//   node graphile_worker.mjs ENTRY enqueue URL FIGURE CONNECTIONS BATCH CALLERS PER_SECOND
//
// ENTRY is the file that the package starts with. `work` writes, as a line of JSON, a list with an element for each run
// whose code has run since the line before: in `pickup` the seconds that it had waited. `enqueue` reads numbers of runs,
// and answers each with a line when they are committed.

import { argv, stdin, stdout } from "node:process";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";

const TELL_EVERY = 3; // milliseconds; a line for each run would cost both processes more than the run
const [entry, command, connectionString, figure, ...numbers] = argv.slice(2);
const { Logger, makeWorkerUtils, run, runMigrations } = await import(pathToFileURL(entry).href);
const logger = new Logger(() => () => {}); // by default a line for each job

const now = () => (performance.timeOrigin + performance.now()) / 1000;

async function work(concurrentJobs, maxPoolSize, size) {
  let waits = [];
  let first = true;
  setInterval(() => {
    if (waits.length > 0) stdout.write(`${JSON.stringify(waits)}\n`);
    waits = [];
  }, TELL_EVERY);

  const task = async (payload, { job, query }) => {
    waits.push(payload.sent_at ? now() - payload.sent_at : 0);
    if (first) {
      first = false;
      // A finished job's row is deleted, and with it the time of the claim.
      await query(
        "insert into first_claim select locked_at from graphile_worker._private_jobs where id = $1",
        [job.id],
      );
    }
  };
  await run({
    preset: {
      worker: {
        connectionString,
        logger,
        concurrentJobs,
        maxPoolSize,
        localQueue: { size },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
      },
    },
    taskList: { [figure]: task },
  });
}

// The same three ways as callers.py.
async function enqueue(maxPoolSize, batch, callers, perSecond) {
  const utils = await makeWorkerUtils({ connectionString, logger, maxPoolSize });
  const ways = {
    async enqueue_batch(runs) {
      for (let start = 0; start < runs; start += batch) {
        const jobs = Array.from({ length: Math.min(batch, runs - start) }, () => ({ identifier: figure }));
        await utils.addJobs(jobs);
      }
    },
    async enqueue_single(runs) {
      let left = runs;
      const call = async () => {
        while (left-- > 0) await utils.addJob(figure, { sent_at: 0 });
      };
      await Promise.all(Array.from({ length: callers }, call));
    },
    async pickup(runs) {
      const start = performance.now();
      const calls = [];
      for (let number = 0; number < runs; number += 1) {
        const wait = start + (number * 1000) / perSecond - performance.now();
        if (wait > 0) await sleep(wait);
        calls.push(utils.addJob(figure, { sent_at: now() }));
      }
      await Promise.all(calls);
    },
  };
  for await (const line of createInterface({ input: stdin })) {
    await ways[figure](Number(line));
    stdout.write("done\n");
  }
}

if (command === "install") {
  await runMigrations({ connectionString, logger });
} else if (command === "work") {
  await work(...numbers.map(Number));
} else {
  await enqueue(...numbers.map(Number));
}
