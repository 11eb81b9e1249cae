// What the service found in one photo, beside it.

import { apiKey } from "./api.js";
import { copy, el, icon, svg } from "./dom.js";
import { drawCrop, drawWhole } from "./photos.js";
import { ARMS, curl, footnote, milliseconds, percent, verdict } from "./words.js";

const STAGES = ["decode", "queue", "detect", "crop", "classify"];
const WHOLE_SIDE = 224;

export function sentence(parts) {
  return parts.map((part) => (Array.isArray(part) ? el("strong", {}, part[0]) : part));
}

export function renderVerdict(root, answer) {
  const { kind, parts } = verdict(answer);
  root.className = `verdict ${kind}`;
  root.replaceChildren(icon(kind), el("div", {}, el("h2", {}, ...sentence(parts)), el("p", {}, ...sentence(footnote(answer)))));
}

export function renderArms(root, photo) {
  const { answer } = photo;
  const found = { plain: answer.plain, cropped: answer.cropped, combined: answer.combined, ...answer.arms };
  const truth = photo.told?.label?.wnid;
  root.replaceChildren(...Object.keys(ARMS).filter((arm) => arm in found).map((arm) => card(arm, found[arm], photo, truth)));
}

export function renderDetails(root, photo, parameters) {
  const { answer } = photo;
  const line = curl(photo.name, parameters, apiKey());
  const button = el("button", { type: "button", onclick: () => copy(line, button) }, "Copy");
  root.replaceChildren(
    section("Time", timings(answer.timings_ms, photo.roundTrip)),
    section("Models", provenance(answer)),
    section("The same from a shell", el("pre", { tabindex: "0", "aria-label": "The request as a curl line" }, el("code", {}, line)), button),
  );
}

function card(arm, prediction, photo, truth) {
  const { name, sees } = ARMS[arm];
  const reason = photo.answer.no_crop_reason === "covers_image" ? "No crop: the object fills the photo." : "No crop: no object was found.";
  return el(
    "article",
    { class: `arm ${arm}`, "aria-label": name },
    el("header", {}, seen(arm, prediction, photo), el("div", {}, el("h3", {}, name), el("p", { class: "faint" }, sees))),
    prediction
      ? el("ol", { class: "bars" }, ...prediction.top_k.map((entry) => bar(entry, truth)))
      : el("p", { class: "faint" }, arm === "detector" && photo.answer.box ? "It knows other classes." : reason),
  );
}

function bar({ label, wnid, probability }, truth) {
  const fill = el("span", { class: "fill" });
  fill.style.width = `${100 * probability}%`;
  const right = wnid === truth;
  return el(
    "li",
    { class: right ? "right" : null, title: wnid },
    fill,
    el("span", { class: "label" }, label, right ? el("span", { class: "mark" }, " ✓", el("span", { class: "unseen" }, " true label")) : null),
    el("span", { class: "share" }, percent(probability)),
  );
}

// A picture of what an arm looks at, drawn from the photo that this browser has.
function seen(arm, prediction, photo) {
  const { answer } = photo;
  if (!["plain", "cropped", "background"].includes(arm) || (arm !== "plain" && !prediction)) return null;
  const size = answer.models.backbone.input_size;
  const told = { plain: "The whole photo", cropped: `The crop at ${size} × ${size} pixels, as the classifier saw it`, background: "The photo without the object" }[arm];
  const canvas = el("canvas", { class: "seen", role: "img", "aria-label": told, title: told, width: size, height: size });
  photo.bitmap.then((bitmap) => {
    if (!bitmap) canvas.hidden = true;
    else if (arm === "cropped") drawCrop(canvas, bitmap, answer.crop.xyxy, size);
    else drawWhole(canvas, bitmap, WHOLE_SIDE, arm === "background" ? answer.box.xyxy : null);
  });
  return canvas;
}

function timings(ms, roundTrip) {
  const total = ms.total || 1;
  let left = 0;
  const parts = STAGES.map((stage) => {
    const part = svg("rect", { class: `stage ${stage}`, x: (100 * left) / total, y: 0, width: (100 * ms[stage]) / total, height: 10 });
    left += ms[stage];
    return part;
  });
  const picture = svg("svg", { class: "stages", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" }, ...parts);
  const rows = STAGES.map((stage) => el("li", {}, el("span", { class: `dot ${stage}` }), el("span", {}, stage), el("span", { class: "share" }, milliseconds(ms[stage]))));
  return [
    el("p", { class: "total" }, el("strong", {}, milliseconds(ms.total)), ` in the service; ${milliseconds(roundTrip)} with the way there and back`),
    picture,
    el("ul", { class: "legend" }, ...rows),
  ];
}

function provenance({ models, request_id: requestId, image }) {
  const { backbone, detector, label_space: space } = models;
  return el(
    "dl",
    { class: "facts" },
    ...fact("Backbone", `${backbone.name}, ${backbone.input_size} px`, hash(backbone.sha256)),
    ...fact("Detector", detector.name, hash(detector.sha256)),
    ...fact("Label space", space),
    ...fact("Photo", `${image.width} × ${image.height} ${image.format}`),
    ...fact("Request", el("code", {}, requestId)),
  );
}

function fact(name, ...values) {
  return [el("dt", {}, name), el("dd", {}, ...values)];
}

function hash(sha256) {
  const button = el("button", { type: "button", class: "hash", title: `SHA-256 ${sha256}; copy it`, onclick: () => copy(sha256, button) }, sha256.slice(0, 12));
  return button;
}

function section(title, ...children) {
  return el("section", {}, el("h3", {}, title), ...children);
}
