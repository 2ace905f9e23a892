// Requests to the API, with the key of whoever signed in. Every refusal is a Problem, in the API's own words.

const PATIENCE_MS = 20_000;
const AWAY = [502, 503, 504]; // the API, or its database, is not there now

/** What the API refused: its problem document (RFC 9457). `errors` point at fields. */
export class Problem extends Error {
  constructor(status, document) {
    super(document.detail ?? document.title ?? `the server answered ${status}`);
    this.status = status;
    this.kind = (document.type ?? "").replace("urn:howdah:problem:", "");
    this.errors = document.errors ?? [];
  }
}

/** No answer came. */
export class Unreachable extends Error {}

/** A client of the API. `connection` hears whether requests get through, `onSignedOut` of a key that opens no more. */
export class Api {
  #headers;

  constructor(key, tenant, connection, onSignedOut = () => {}) {
    this.connection = connection;
    this.onSignedOut = onSignedOut;
    this.#headers = { Authorization: `Bearer ${key}`, ...(tenant ? { "Howdah-Tenant": tenant } : {}) };
  }

  /** A resource; parameters that are null are left out. */
  get(path, parameters = {}) {
    const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
    const query = new URLSearchParams(given).toString();
    return this.#send(query ? `${path}?${query}` : path, { method: "GET" });
  }

  /** What POST answers; with `once`, a repeat of the request changes nothing. */
  post(path, body = null, once = null) {
    const headers = once ? { "Idempotency-Key": once } : {};
    if (body === null) return this.#send(path, { method: "POST", headers });
    headers["Content-Type"] = "application/json";
    return this.#send(path, { method: "POST", headers, body: JSON.stringify(body) });
  }

  async #send(path, request) {
    let response;
    let text;
    try {
      response = await fetch(path, {
        ...request,
        headers: { ...this.#headers, ...request.headers },
        cache: "no-store",
        credentials: "omit",
        signal: AbortSignal.timeout(PATIENCE_MS),
      });
      text = await response.text();
    } catch (error) {
      this.connection.lost("requests", "the API does not answer");
      throw new Unreachable("the API does not answer: this goes on as soon as it does", { cause: error });
    }
    if (response.ok) {
      this.connection.reached("requests");
      return text === "" ? null : JSON.parse(text);
    }
    const problem = new Problem(response.status, read(text));
    if (AWAY.includes(response.status)) this.connection.lost("requests", problem.message);
    else this.connection.reached("requests");
    if (response.status === 401) this.onSignedOut(problem);
    throw problem;
  }
}

/** Whether asking again later may help. */
export function passes(error) {
  return error instanceof Unreachable || (error instanceof Problem && (AWAY.includes(error.status) || error.status === 429));
}

/** A key for one request that may be sent again. */
export function onceKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function read(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}
