// The service's paths: answers as JSON, errors as the service words them.

const KEY = "figureground-api-key";

// An error of the service's own: RFC 9457, with the seconds after which to ask again.
export class Problem extends Error {
  constructor(body, status, retryAfter) {
    super(body.detail ?? `The service answered ${status}.`);
    this.status = status;
    this.title = body.title ?? "Error";
    this.requestId = body.request_id;
    this.retryAfter = retryAfter;
  }
}

// Nobody answered at all.
export class Away extends Error {}

let unlocking = null;
let askForKey = async () => null;

// `ask` is called with the problem when the service wants a key; it gives one, or null.
export function onKeyWanted(ask) {
  askForKey = ask;
}

export function apiKey() {
  return sessionStorage.getItem(KEY);
}

export async function request(path, { method = "GET", body = null, type = null, signal = null } = {}) {
  for (;;) {
    const key = apiKey();
    const headers = { Accept: "application/json", ...(type && { "Content-Type": type }), ...(key && { "X-API-Key": key }) };
    const response = await reach(path, { method, body, headers, signal });
    if (response.ok) return response;
    const problem = await asProblem(response);
    if (problem.status !== 401 || !(await unlocked(problem, key))) throw problem;
  }
}

export async function json(path, options) {
  return (await request(path, options)).json();
}

export function post(path, document) {
  return json(path, { method: "POST", body: JSON.stringify(document), type: "application/json" });
}

// Whether the service takes requests; needs no key.
export async function ready() {
  try {
    return (await fetch("readyz", { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}

async function reach(path, options) {
  try {
    return await fetch(path, { cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Away("The service does not answer.");
  }
}

async function asProblem(response) {
  let body = {};
  try {
    body = await response.json();
  } catch {
    // A proxy's error page: its status says enough.
  }
  return new Problem(body, response.status, Number(response.headers.get("Retry-After")) || 0);
}

// One question for all requests that were refused at once.
async function unlocked(problem, usedKey) {
  if (apiKey() !== usedKey) return true;
  unlocking ??= askForKey(problem, usedKey).finally(() => (unlocking = null));
  const key = await unlocking;
  if (key) sessionStorage.setItem(KEY, key);
  return Boolean(key);
}
