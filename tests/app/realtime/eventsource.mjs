// node eventsource.mjs MODULE URL KEY: prints the number of each event that npm's eventsource brings, a line each.
const [module, url, key] = process.argv.slice(2);
const { EventSource } = await import(module);

const source = new EventSource(url, {
  fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, Authorization: `Bearer ${key}` } }),
});
source.onmessage = (event) => console.log(Number(JSON.parse(event.data).sequence));
