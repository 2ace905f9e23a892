// Graphile Worker's part of the benchmark: `install` makes its tables, `work` is one worker until it is stopped.
//
//   node graphile_worker.mjs ENTRY install URL
//   node graphile_worker.mjs ENTRY work URL CONCURRENCY CONNECTIONS LOCAL_QUEUE
//
// ENTRY is the file that the package starts with. `work` writes the number of runs whose code has run since the line
// before, as a line.

import { argv, stdout } from "node:process";
import { pathToFileURL } from "node:url";

const TELL_EVERY = 3; // milliseconds; a line for each run would cost both processes more than the run
const [entry, command, connectionString, ...numbers] = argv.slice(2);
const { Logger, run, runMigrations } = await import(pathToFileURL(entry).href);
const logger = new Logger(() => () => {}); // by default a line for each job

if (command === "install") {
  await runMigrations({ connectionString, logger });
} else {
  const [concurrentJobs, maxPoolSize, size] = numbers.map(Number);
  let count = 0;
  let first = true;
  setInterval(() => {
    if (count > 0) stdout.write(`${count}\n`);
    count = 0;
  }, TELL_EVERY);

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
    taskList: {
      drain_empty: async (_payload, { job, query }) => {
        if (first) {
          first = false;
          // A finished job's row is deleted, and with it the time of the claim.
          await query(
            "insert into first_claim select locked_at from graphile_worker._private_jobs where id = $1",
            [job.id],
          );
        }
        count += 1;
      },
    },
  });
}
