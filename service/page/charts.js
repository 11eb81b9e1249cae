// The experiment's charts, drawn by hand. Each has a text that says the same.

import { svg } from "./dom.js";
import { percent } from "./words.js";

const ARMS = ["plain", "cropped", "combined"];

// Accuracies with their 95 % intervals on one axis from 0 to 100 %.
export function intervals(arms) {
  const [width, left, right, row] = [420, 78, 56, 30];
  const x = (share) => left + share * (width - left - right);
  const height = ARMS.length * row + 22;
  const grid = [0, 0.25, 0.5, 0.75, 1].flatMap((share) => [
    svg("line", { class: "grid", x1: x(share), x2: x(share), y1: 4, y2: ARMS.length * row }),
    text(x(share), height - 6, percent(share), "middle", "tick"),
  ]);
  const rows = ARMS.flatMap((arm, place) => {
    const { accuracy, low, high } = arms[arm];
    const y = place * row + row / 2 + 2;
    const known = accuracy !== null;
    return [
      text(left - 12, y + 4, arm, "end", "name"),
      svg("line", { class: `whisker ${arm}${known ? "" : " unknown"}`, x1: x(low), x2: x(high), y1: y, y2: y }),
      ...(known ? [svg("circle", { class: `point ${arm}`, cx: x(accuracy), cy: y, r: 5.5 })] : []),
      text(width - right + 12, y + 4, percent(accuracy), "start", "value"),
    ];
  });
  const told = ARMS.map((arm) => `${arm} ${arms[arm].accuracy === null ? "unknown" : `${percent(arms[arm].accuracy)}, between ${percent(arms[arm].low)} and ${percent(arms[arm].high)}`}`);
  return chart(width, height, `Accuracy: ${told.join("; ")}.`, [...grid, ...rows]);
}

// Rescued above the line and broken below, a pair of bars a step.
export function rescuedAndBroken(points, starts, tick) {
  const [width, height, left, foot] = [640, 170, 34, 22];
  const most = Math.max(1, ...points.map((point) => Math.max(point.rescued, point.broken)));
  const middle = (height - foot) / 2;
  const step = (width - left - 6) / starts.length;
  const bar = Math.max(1.5, Math.min(26, step * 0.7));
  const unit = (middle - 8) / most;
  const at = new Map(points.map((point) => [Date.parse(point.start), point]));
  const bars = starts.flatMap((start, place) => {
    const point = at.get(start);
    if (!point) return [];
    const x = left + place * step + (step - bar) / 2;
    const title = svg("title");
    title.textContent = `${tick(start)}: ${point.rescued} rescued, ${point.broken} broken`;
    return [
      svg(
        "g",
        {},
        title,
        svg("rect", { class: "rescued", x, y: middle - point.rescued * unit, width: bar, height: point.rescued * unit, rx: 1.5 }),
        svg("rect", { class: "broken", x, y: middle, width: bar, height: point.broken * unit, rx: 1.5 }),
      ),
    ];
  });
  const parts = [
    svg("line", { class: "axis", x1: left, x2: width - 6, y1: middle, y2: middle }),
    text(left - 8, 14, String(most), "end", "tick"),
    text(left - 8, middle + 4, "0", "end", "tick"),
    text(left - 8, height - foot - 2, String(most), "end", "tick"),
    ...bars,
    ...ticks(starts, tick, left, step, height - 5),
  ];
  const sum = (name) => points.reduce((total, point) => total + point[name], 0);
  return chart(width, height, `Rescued ${sum("rescued")} and broken ${sum("broken")} in this time.`, parts);
}

// Shares over time, a line a series: [{name, number, points: [[time, share or null], ...]}].
export function shares(lines, starts, tick, told) {
  const [width, height, left, foot] = [640, 170, 44, 22];
  const y = (share) => 8 + (1 - share) * (height - foot - 16);
  const step = (width - left - 6) / starts.length;
  const x = new Map(starts.map((start, place) => [start, left + (place + 0.5) * step]));
  const grid = [0, 0.5, 1].flatMap((share) => [
    svg("line", { class: "grid", x1: left, x2: width - 6, y1: y(share), y2: y(share) }),
    text(left - 8, y(share) + 4, percent(share), "end", "tick"),
  ]);
  const drawn = lines.flatMap(({ name, number, points }) => {
    const known = points.filter(([time, share]) => share !== null && x.has(time));
    const title = svg("title");
    title.textContent = name;
    const path = known.map(([time, share], place) => `${place ? "L" : "M"}${x.get(time).toFixed(1)} ${y(share).toFixed(1)}`).join("");
    return [
      svg(
        "g",
        { class: `series number-${number}` },
        title,
        svg("path", { d: path || "M0 0" }),
        ...known.map(([time, share]) => svg("circle", { cx: x.get(time), cy: y(share), r: 2.6 })),
      ),
    ];
  });
  return chart(width, height, told, [...grid, ...drawn, ...ticks(starts, tick, left, step, height - 5)]);
}

function ticks(starts, tick, left, step, y) {
  const every = Math.ceil(starts.length / 5);
  return starts.flatMap((start, place) => (place % every === Math.floor(every / 2) ? [text(left + (place + 0.5) * step, y, tick(start), "middle", "tick")] : []));
}

function text(x, y, said, anchor, kind) {
  const node = svg("text", { x, y, "text-anchor": anchor, class: kind });
  node.textContent = said;
  return node;
}

function chart(width, height, told, parts) {
  return svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": told }, ...parts);
}
