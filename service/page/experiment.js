// The running comparison, asked for again and again while it is looked at.

import { Problem, json } from "./api.js";
import { back } from "./asking.js";
import { intervals, rescuedAndBroken, shares } from "./charts.js";
import { el } from "./dom.js";
import { remembered } from "./photos.js";
import { clock, percent } from "./words.js";

const POLL_MS = 2000;
const ROWS = 30;
const MINUTE = 60_000;
const TIMES = {
  minute: { name: "Last hour", length: MINUTE, steps: 60, format: { hour: "2-digit", minute: "2-digit", hourCycle: "h23" } },
  hour: { name: "Last week", length: 60 * MINUTE, steps: 7 * 24, format: { weekday: "short", hour: "2-digit", hourCycle: "h23" } },
  day: { name: "Last year", length: 24 * 60 * MINUTE, steps: 366, format: { month: "short", day: "numeric" } },
};
const WHICH = {
  "": "All",
  disagree: "Disagreeing",
  rescued: "Rescued",
  broken: "Broken",
  no_detection: "Without a box",
  labelled: "Labelled",
  unlabelled: "Not labelled",
};

export class Experiment {
  #timer = null;
  #shown = "";

  // `onphoto(requestId)` shows the photo of an answer that this browser still has; `has` says whether it does.
  constructor(root, has, onphoto) {
    this.has = has;
    this.onphoto = onphoto;
    this.step = "minute";
    this.which = "";
    this.state = el("p", { class: "state", role: "status" });
    this.since = el("input", { type: "datetime-local", id: "since", step: 1, max: "9999-12-31T23:59:59", onchange: () => this.#poll() });
    const button = (told, moment) => el("button", { type: "button", onclick: () => this.#countSince(moment()) }, told);
    this.range = el(
      "div",
      { class: "since" },
      el("label", { for: "since" }, "Answers since"),
      this.since,
      button("From now on", () => new Date()),
      button("From the beginning", () => null),
    );
    this.cards = el("div", { class: "backbones" });
    this.course = el("div", { class: "course" });
    this.rows = el("div");
    this.charts = el("section", { class: "panel" }, el("header", { class: "split" }, el("h2", {}, "Over time"), this.#choice("When", TIMES, "step")), this.course);
    this.table = el("section", { class: "panel" }, el("header", { class: "split" }, el("h2", {}, "Latest answers"), this.#choice("Which", WHICH, "which")), this.rows);
    root.append(this.state, this.range, this.cards, this.charts, this.table);
    document.addEventListener("visibilitychange", () => this.#timer !== null && this.#poll());
  }

  start() {
    if (this.#timer === null) this.#poll();
  }

  stop() {
    clearTimeout(this.#timer);
    this.#timer = null;
  }

  #countSince(moment) {
    this.since.value = moment ? new Date(moment - moment.getTimezoneOffset() * MINUTE).toISOString().slice(0, 19) : "";
    this.#poll();
  }

  #choice(legend, choices, field) {
    const buttons = Object.entries(choices).map(([value, told]) => {
      const input = el("input", {
        type: "radio", name: field, value, checked: value === this[field],
        onchange: () => {
          this[field] = value;
          this.#poll();
        },
      });
      return el("label", {}, input, el("span", {}, told.name ?? told));
    });
    return el("fieldset", { class: "segments" }, el("legend", { class: "unseen" }, legend), ...buttons);
  }

  async #poll() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {}, 0);
    const timer = this.#timer;
    let wait = POLL_MS;
    if (!document.hidden) {
      try {
        const which = this.which ? { which: this.which } : {};
        const since = this.since.value ? { since: new Date(this.since.value).toISOString() } : {};
        const [told, latest] = await Promise.all([
          json(`experiment?${new URLSearchParams({ series: this.step, ...since })}`),
          json(`answers?${new URLSearchParams({ limit: ROWS, ...which })}`),
        ]);
        if (this.#timer === timer) this.#render(told.backbones, latest.answers);
      } catch (error) {
        if (this.#timer === timer) this.#fault(error);
        if (!(error instanceof Problem)) await back();
        else if (error.status === 404) wait = 30_000;
        else wait = Math.max(wait, 1000 * error.retryAfter);
      }
    }
    if (this.#timer === timer) this.#timer = setTimeout(() => this.#poll(), wait);
  }

  #fault(error) {
    this.state.className = "state fault";
    this.state.textContent = error.message;
    this.#shown = "";
    const off = error.status === 404;
    for (const part of [this.range, this.cards, this.charts, this.table]) part.hidden = off;
  }

  #render(backbones, latest) {
    const now = Date.now();
    // What is the same as before stays, with whatever is selected or focused in it.
    const shown = JSON.stringify([backbones, latest, this.since.value, this.step, Math.floor(now / TIMES[this.step].length)]);
    if (shown === this.#shown) return;
    this.#shown = shown;
    const names = Object.keys(backbones);
    const answers = names.reduce((sum, name) => sum + backbones[name].answers, 0);
    const labelled = names.reduce((sum, name) => sum + backbones[name].labelled, 0);
    this.state.className = "state";
    this.state.textContent = answers
      ? `${count(answers, "answer")}, ${labelled} with a true label. Followed live.`
      : this.since.value
        ? "No answers since then. Every photo that is asked about from now on counts."
        : "No answers yet. Every photo that is asked about counts here, and true labels make it an experiment.";
    this.range.hidden = answers === 0 && !this.since.value;
    this.cards.hidden = this.charts.hidden = answers === 0;
    this.table.hidden = latest.length === 0 && this.which === "";
    this.cards.replaceChildren(...names.map((name, place) => card(name, backbones[name], place)));
    this.course.replaceChildren(...this.#course(backbones, now));
    this.rows.replaceChildren(latest.length ? this.#table(latest) : el("p", { class: "faint empty" }, "There are no such answers."));
  }

  #course(backbones, now) {
    const { length, steps, format } = TIMES[this.step];
    const last = Math.floor(now / length) * length;
    const starts = Array.from({ length: steps }, (_, place) => last - (steps - 1 - place) * length);
    const tick = (start) => new Date(start).toLocaleString([], format);
    const names = Object.keys(backbones);
    const lines = (field) => names.map((name, number) => ({ name, number, points: backbones[name].series.map((point) => [Date.parse(point.start), point[field]]) }));
    const legend = () => el("ul", { class: "legend" }, ...names.map((name, number) => el("li", {}, el("span", { class: `dot number-${number}` }), name)));
    return [
      figure("Rescued and broken by the crop", [rescuedAndBroken(summed(backbones), starts, tick)], [
        el("ul", { class: "legend" }, el("li", {}, el("span", { class: "dot rescued" }), "rescued: wrong plain, right cropped"), el("li", {}, el("span", { class: "dot broken" }), "broken: right plain, wrong cropped")),
      ]),
      figure("Agreement of plain and cropped", [shares(lines("agreement_rate"), starts, tick, "Agreement over time, by backbone.")], [legend()]),
      figure("No detection", [shares(lines("no_detection_rate"), starts, tick, "Share without a detection over time, by backbone.")], [legend()]),
    ];
  }

  #table(latest) {
    const thumbnails = remembered();
    const head = ["Photo", "Time", "Backbone", "Plain", "Cropped", "True label", "Request"];
    return el(
      "div",
      { class: "scrolls", role: "region", tabindex: "0", "aria-label": "Latest answers" },
      el("table", {}, el("thead", {}, el("tr", {}, ...head.map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, ...latest.map((row) => this.#row(row, thumbnails)))),
    );
  }

  #row(row, thumbnails) {
    const { request_id: id, correct } = row;
    const source = thumbnails.get(id);
    const picture = source ? el("img", { class: "tiny", src: source, alt: "" }) : el("span", { class: "tiny none", title: "No photos are kept: only the browser that sent it has it" });
    const open = this.has(id);
    return el(
      "tr",
      {},
      el("td", {}, open ? el("button", { type: "button", class: "bare", "aria-label": `Show the photo of ${id}`, onclick: () => this.onphoto(id) }, picture) : picture),
      el("td", { class: "number" }, clock(new Date(row.answered))),
      el("td", {}, row.backbone, " ", row.box_policy === "given" ? el("span", { class: "tag", title: "Not counted: the box was drawn by hand" }, "own box") : null),
      el("td", {}, said(row.plain, correct?.plain)),
      el("td", {}, row.cropped ? said(row.cropped, correct?.cropped) : el("span", { class: "faint" }, row.outcome.replace("_", " "))),
      el("td", {}, row.truth ? (row.truth.label ?? row.truth.wnid) : el("span", { class: "faint" }, "–")),
      el("td", {}, el("code", { title: id }, id.length > 12 ? `${id.slice(0, 12)}…` : id)),
    );
  }
}

function card(name, told, place) {
  const { rescued, broken, labelled } = told;
  return el(
    "article",
    { class: "panel backbone", "aria-label": name },
    el("h2", {}, el("span", { class: `dot number-${place}` }), name),
    el("p", { class: "faint" }, `${count(told.answers, "answer")}, ${labelled} labelled`),
    intervals(told.arms),
    el("div", { class: "pairs" }, figureOf(rescued, "rescued", "rescued"), figureOf(broken, "broken", "broken"), figureOf(percent(told.agreement_rate), "agree"), figureOf(percent(told.no_detection_rate), "no detection")),
    el("p", { class: "finding" }, finding(told)),
  );
}

function finding({ rescued, broken, labelled, sequential, p_value: p }) {
  if (labelled === 0) return "Nothing is known before true labels are told.";
  if (rescued + broken === 0) return "Plain and cropped were right and wrong together so far.";
  const looks = `McNemar p = ${probability(p)}; for who looks again and again, p = ${probability(sequential.p_value)}.`;
  if (sequential.p_value < 0.05) return `Cropping ${rescued > broken ? "helps" : "harms"}. ${looks}`;
  return `No difference that can be told yet. ${looks}`;
}

function figureOf(value, told, kind = "") {
  return el("p", {}, el("strong", { class: kind }, String(value)), el("span", {}, told));
}

function figure(caption, charts, legends) {
  return el("figure", {}, el("figcaption", {}, caption), ...charts, ...legends);
}

// The points of all backbones together.
function summed(backbones) {
  const points = new Map();
  for (const { series } of Object.values(backbones))
    for (const { start, rescued, broken } of series) {
      const point = points.get(start) ?? { start, rescued: 0, broken: 0 };
      points.set(start, { start, rescued: point.rescued + rescued, broken: point.broken + broken });
    }
  return [...points.values()];
}

function said({ label, wnid, probability: share }, right) {
  const mark = right === undefined ? "" : right ? " ✓" : " ✗";
  return [label ?? wnid, " ", el("span", { class: "faint number" }, percent(share)), el("span", { class: right ? "right" : "wrong" }, mark)];
}

const count = (number, thing) => `${number.toLocaleString()} ${thing}${number === 1 ? "" : "s"}`;
const probability = (p) => (p < 0.001 ? p.toExponential(0) : p.toFixed(3));
