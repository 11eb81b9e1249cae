// What a request can choose: the controls, and the query that they make.

import { el } from "./dom.js";

const POLICIES = {
  rescored: "rescored: the surest crop of three",
  score: "score: the surest box",
  largest: "largest",
  central: "central",
  score_area: "score × √area",
};
const FIXED = { top_k: "5", max_boxes: "20", arms: "background,detector" };

export class Options {
  #models;

  constructor(root, models, onchange) {
    this.#models = models;
    this.backbone = select("backbone", models.backbones.map(named));
    this.detector = select("detector", models.detectors.map(named));
    this.policy = select("box_policy", Object.entries(POLICIES));
    this.space = select("label_space", []);
    this.margin = slider("margin", "Margin", 0, 0.5, "share of the box’s side, around it");
    this.score = slider("min_score", "Least score", 0, 1, "of a box that counts");
    this.reset = el("button", { type: "button", class: "quiet", onclick: () => this.#clear() }, "Defaults");
    const changed = () => {
      this.#spaces();
      onchange();
    };
    this.onchange = changed;
    for (const control of [this.backbone, this.detector, this.policy, this.space]) control.addEventListener("change", changed);
    for (const control of [this.margin, this.score]) control.root.addEventListener("input", changed);
    root.append(
      field("Backbone", this.backbone),
      field("Detector", this.detector),
      field("Which box", this.policy),
      field("Label space", this.space),
      this.margin.root,
      this.score.root,
      this.reset,
    );
    this.#spaces();
  }

  // As the query of a request; `box` is the photo's own one or null.
  parameters(box, backbone = null) {
    const query = new URLSearchParams(FIXED);
    for (const [name, value] of Object.entries(this.chosen(box, backbone))) query.set(name, value);
    return query;
  }

  // Only what is not the default.
  chosen(box, backbone = null) {
    const chosen = {};
    const model = backbone ?? this.backbone.value;
    if (model !== this.#models.backbones[0].name) chosen.backbone = model;
    if (this.detector.selectedIndex > 0) chosen.detector = this.detector.value;
    if (this.policy.selectedIndex > 0) chosen.box_policy = this.policy.value;
    if (this.space.selectedIndex > 0) chosen.label_space = this.space.value;
    if (this.margin.value !== null) chosen.margin = this.margin.value;
    if (this.score.value !== null) chosen.min_score = this.score.value;
    if (box) chosen.box = box.join(",");
    return chosen;
  }

  // The backbone's own label space first, and the others that are no larger.
  #spaces() {
    const model = this.#models.backbones.find((one) => one.name === this.backbone.value);
    const others = this.#models.label_spaces.filter((space) => space.name !== model.label_space && space.classes < model.classes);
    const own = { name: model.label_space, classes: model.classes };
    const before = this.space.value;
    this.space.replaceChildren(...[own, ...others].map((space) => el("option", { value: space.name }, `${space.name} (${space.classes})`)));
    if ([own, ...others].some((space) => space.name === before)) this.space.value = before;
  }

  #clear() {
    for (const control of [this.backbone, this.detector, this.policy, this.space]) control.selectedIndex = 0;
    this.margin.value = this.score.value = null;
    this.onchange();
  }
}

const named = (model) => [model.name, model.name];

function select(id, options) {
  return el("select", { id, name: id }, ...options.map(([value, text]) => el("option", { value }, text)));
}

function field(label, control) {
  return el("div", { class: "field" }, el("label", { for: control.id }, label), control);
}

// A range that is the service's own choice until it is moved; its `value` is null then.
function slider(id, label, least, most, told) {
  const range = el("input", { type: "range", id, min: least, max: most, step: 0.01, value: 0, "aria-describedby": `${id}-told` });
  const own = el("input", { type: "checkbox", id: `${id}-tuned`, checked: true });
  const shown = el("output", { for: id }, "tuned");
  const root = el(
    "div",
    { class: "field slider" },
    el("label", { for: id }, label, shown),
    range,
    el("div", { class: "below" }, el("span", { class: "faint", id: `${id}-told` }, told), el("label", { class: "check" }, own, el("span", {}, "tuned"))),
  );
  const show = () => (shown.textContent = own.checked ? "tuned" : Number(range.value).toFixed(2));
  range.addEventListener("input", () => {
    own.checked = false;
    show();
  });
  own.addEventListener("input", show);
  return {
    root,
    get value() {
      return own.checked ? null : range.value;
    },
    set value(value) {
      own.checked = value === null;
      if (value !== null) range.value = value;
      show();
    },
  };
}
