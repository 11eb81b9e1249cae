// Several backbones about the same photo, side by side.

import { el } from "./dom.js";
import { first, milliseconds, percent } from "./words.js";

const ARMS = ["plain", "cropped", "combined"];

// One row a backbone; `results` has an answer, an error or null (on its way) for each name.
export function renderComparison(root, results) {
  const head = el("tr", {}, ...["Backbone", "Plain", "Cropped", "Combined", "Agree", "Time"].map((text) => el("th", { scope: "col" }, text)));
  const rows = [...results].map(([name, result]) => el("tr", {}, el("th", { scope: "row" }, name), ...cells(result)));
  root.replaceChildren(
    el(
      "div",
      { class: "scrolls", role: "region", tabindex: "0", "aria-label": "Backbones side by side" },
      el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows)),
    ),
  );
}

function cells(result) {
  if (result === null) return [el("td", { colspan: "5", class: "faint" }, "Asking…")];
  if (result instanceof Error) return [el("td", { colspan: "5", class: "fault" }, result.message)];
  const agree = { true: "yes", false: "no" }[result.agreement] ?? "–";
  return [
    ...ARMS.map((arm) => el("td", {}, said(first(result[arm])))),
    el("td", { class: result.agreement === false ? "change" : null }, agree),
    el("td", { class: "number" }, milliseconds(result.timings_ms.total)),
  ];
}

function said(entry) {
  if (!entry) return el("span", { class: "faint" }, "no crop");
  return [entry.label, " ", el("span", { class: "faint number" }, percent(entry.probability))];
}
