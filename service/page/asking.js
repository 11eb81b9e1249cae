// Asks the service about photos: few at once, patient when it is busy, and again when it was away.

import { Away, Problem, json, ready } from "./api.js";
import { sleep } from "./dom.js";

const AT_ONCE = 2;
const MOST_TRIES = 5;
const MOST_BREAKS = 3;
const LOOK_MS = 1000;

const BROKEN_OFF = "The service breaks the connection off while the photo is sent: it may be too large.";

const health = new EventTarget();
let away = null;

// Events "away" and "back".
export { health };

// The answer about one photo. `note` is told what it waits for, "" for nothing.
export async function predict(photo, parameters, signal, note) {
  let breaks = 0;
  for (let tries = 1; ; tries++) {
    try {
      const path = `predict?${parameters}`;
      return await json(path, { method: "POST", body: photo.blob, type: "application/octet-stream", signal });
    } catch (error) {
      if (error instanceof Away && (await ready())) {
        // It is there, and closed this connection: as for a photo of which it wants no more.
        if (++breaks === MOST_BREAKS) throw new Away(BROKEN_OFF);
      } else if (error instanceof Away) {
        note("The service does not answer. The photo is sent again as soon as it is back.");
        await back();
      } else if (error instanceof Problem && [429, 503].includes(error.status) && tries < MOST_TRIES) {
        const seconds = Math.max(1, error.retryAfter);
        note(`${error.message} Asking again in ${seconds} s.`);
        await sleep(seconds * 1000);
      } else throw error;
      signal?.throwIfAborted();
      note("");
    }
  }
}

// Resolves once the service takes requests again.
export function back() {
  away ??= (async () => {
    health.dispatchEvent(new Event("away"));
    while (!(await ready())) await sleep(LOOK_MS);
    away = null;
    health.dispatchEvent(new Event("back"));
  })();
  return away;
}

// Runs jobs a few at a time; the one added last with `urgent` comes first.
export class Queue {
  #jobs = [];
  #running = 0;

  add(job, urgent = false) {
    this.#jobs[urgent ? "unshift" : "push"](job);
    this.#next();
  }

  async #next() {
    if (this.#running >= AT_ONCE || this.#jobs.length === 0) return;
    this.#running++;
    try {
      await this.#jobs.shift()();
    } finally {
      this.#running--;
      this.#next();
    }
  }
}
