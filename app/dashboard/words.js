// Numbers, sizes and times in words.

const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

/** A count with its noun: "1 run", "2,000 runs". */
export function plural(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

/** A duration in two figures or so; `ms` in milliseconds. */
export function took(ms) {
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 9950) return `${(ms / 1000).toFixed(1)} s`;
  return span(ms);
}

/** A duration in whole seconds, minutes, hours or days. */
export function span(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days`;
}

/** Bytes in three figures or so. */
export function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  return bytes < 1_000_000 ? `${(bytes / 1000).toFixed(1)} kB` : `${(bytes / 1_000_000).toFixed(1)} MB`;
}

/** A time of day; the date goes before it where that is not today's. */
export function clock(iso, { tenths = false } = {}) {
  const at = new Date(iso);
  const two = (number) => String(number).padStart(2, "0");
  let text = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  if (tenths) text += `.${Math.floor(at.getMilliseconds() / 100)}`;
  const today = at.toDateString() === new Date().toDateString();
  return today ? text : `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${text}`;
}

/** A time in full, for a tooltip. */
export function fullTime(iso) {
  return FULL.format(new Date(iso));
}
