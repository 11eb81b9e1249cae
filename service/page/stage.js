// The photo with its boxes, one of which can be moved, sized and drawn anew, by pointer or by keys.

import { el, svg } from "./dom.js";
import { percent } from "./words.js";

const HANDLES = { nw: [0, 0], n: [0.5, 0], ne: [1, 0], e: [1, 0.5], se: [1, 1], s: [0.5, 1], sw: [0, 1], w: [0, 0.5] };
const NAMES = ["left", "top", "right", "bottom"];
const LEAST = 4;
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Stage {
  #photo = null;
  #answer = null;
  #box = null;
  #drag = null;
  #size = [1, 1];

  // `onbox(box, moving)` is called with xyxy in pixels of the upright photo; null is the detected box again.
  constructor(root, onbox) {
    this.onbox = onbox;
    this.image = el("img", { alt: "", draggable: "false" });
    this.overlay = svg("svg", { class: "overlay", role: "group", "aria-label": "Boxes on the photo" });
    this.blank = el("p", { class: "blank", hidden: true });
    this.frame = el("div", { class: "frame" }, this.image, this.blank, this.overlay);
    this.others = el("input", { type: "checkbox", id: "other-boxes", onchange: () => this.#draw() });
    this.draw = el("button", { type: "button", "aria-pressed": "false", onclick: () => this.#arm(!this.armed) }, "Draw a box");
    this.reset = el("button", { type: "button", hidden: true, onclick: () => this.onbox(null, false) }, "Back to the detected box");
    this.caption = el("p", { class: "faint", id: "stage-caption" });
    this.corners = NAMES.map((name, place) =>
      el("input", { type: "number", step: "any", min: "0", id: `box-${name}`, onchange: (event) => this.#type(place, event.target) }),
    );
    const numbers = el(
      "fieldset",
      { class: "corners" },
      el("legend", {}, "Box, in pixels"),
      ...NAMES.map((name, place) => el("label", {}, el("span", {}, name), this.corners[place])),
    );
    const tools = el("div", { class: "tools" }, this.draw, this.reset, el("label", { class: "check" }, this.others, el("span", {}, "Other boxes")));
    root.append(this.frame, tools, this.caption, el("details", { class: "plainly" }, el("summary", {}, "Corners as numbers"), numbers));
    this.frame.addEventListener("pointerdown", (event) => this.#grab(event));
    this.frame.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) this.frame.addEventListener(end, (event) => this.#drop(event));
  }

  get armed() {
    return this.draw.getAttribute("aria-pressed") === "true";
  }

  show(photo) {
    if (photo !== this.#photo) {
      this.#photo = photo;
      this.image.src = photo.url;
      this.image.alt = `The photo ${photo.name}`;
      this.#arm(false);
      photo.bitmap.then((bitmap) => {
        if (photo !== this.#photo) return;
        this.blank.hidden = bitmap !== null;
        this.image.hidden = bitmap === null;
        if (!this.#answer) this.#sized(bitmap?.width ?? 3, bitmap?.height ?? 2);
      });
    }
    this.#answer = photo.answer;
    if (this.#drag) return;
    const unread = photo.status === "failed" ? "No photo that can be shown." : "This browser cannot show this format. The service may read it all the same.";
    this.blank.textContent = unread;
    for (const tool of [this.draw, this.others]) tool.disabled = !photo.answer;
    if (photo.answer) this.#sized(photo.answer.image.width, photo.answer.image.height);
    this.#box = photo.box ?? photo.answer?.box?.xyxy ?? null;
    this.reset.hidden = photo.box === null;
    this.frame.classList.toggle("busy", photo.status === "asking" || photo.status === "waiting");
    this.caption.textContent = this.#told();
    this.#draw();
  }

  #told() {
    const answer = this.#answer;
    if (!answer) return "";
    const { width, height, format } = answer.image;
    const about = `${width} × ${height} ${format}`;
    if (!answer.box) return `${about}. No box: draw one where the object is.`;
    const how = answer.box.score === null ? "your own box" : `box with score ${answer.box.score.toFixed(2)}`;
    return `${about}; ${how}, ${percent(answer.box.area_fraction)} of the photo. Drag it, or draw another.`;
  }

  #sized(width, height) {
    this.#size = [width, height];
    this.overlay.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.frame.style.aspectRatio = `${width} / ${height}`;
    // Neither a tower nor a strip fills the page.
    this.frame.style.maxWidth = `min(100%, calc(68vh * ${width / height}))`;
    this.corners.forEach((input, place) => (input.max = place % 2 ? height : width));
  }

  #arm(armed) {
    this.draw.setAttribute("aria-pressed", String(armed));
    this.frame.classList.toggle("armed", armed);
  }

  // Pixels of the photo in one of the screen.
  get #scale() {
    return this.#size[0] / (this.frame.clientWidth || 1);
  }

  #draw() {
    const answer = this.#answer;
    const parts = [];
    if (answer && this.others.checked && !this.#photo.box)
      for (const other of answer.boxes.slice(1)) parts.push(rectangle(other.xyxy, "other"), scoreOf(other, this.#scale));
    if (answer?.crop && !this.#drag) parts.push(rectangle(answer.crop.xyxy, "crop halo"), rectangle(answer.crop.xyxy, "crop"));
    if (this.#box) parts.push(...this.#handled(this.#box));
    const focused = this.overlay.contains(document.activeElement);
    this.overlay.replaceChildren(...parts);
    if (focused) this.overlay.querySelector(".box-body")?.focus({ preventScroll: true });
    this.corners.forEach((input, place) => (input.value = this.#box ? round(this.#box[place]) : ""));
  }

  #handled(box) {
    const body = rectangle(box, "box-body");
    body.setAttribute("tabindex", "0");
    body.setAttribute("role", "button");
    body.setAttribute("aria-roledescription", "movable box");
    body.setAttribute("aria-label", `Box ${box.map(round).join(", ")}. Arrow keys move it, with shift they size it, escape gives the detected box back.`);
    body.addEventListener("keydown", (event) => this.#key(event));
    const reach = 7 * this.#scale;
    const handles = Object.entries(HANDLES).map(([name, [x, y]]) => {
      const at = [box[0] + x * (box[2] - box[0]), box[1] + y * (box[3] - box[1])];
      return svg(
        "g",
        { class: `handle ${name}`, "data-handle": name },
        svg("circle", { class: "target", cx: at[0], cy: at[1], r: 2.2 * reach }),
        svg("circle", { class: "dot", cx: at[0], cy: at[1], r: x === 0.5 || y === 0.5 ? 0.55 * reach : 0.8 * reach }),
      );
    });
    return [rectangle(box, "box halo"), rectangle(box, "box"), body, ...handles];
  }

  #at(event) {
    const { left, top } = this.frame.getBoundingClientRect();
    return [(event.clientX - left) * this.#scale, (event.clientY - top) * this.#scale];
  }

  #grab(event) {
    if (event.button !== 0 || !this.#photo) return;
    const handle = event.target.closest?.("[data-handle]")?.dataset.handle;
    const onBody = event.target.classList?.contains("box-body");
    const draws = this.armed || (!handle && !onBody);
    // A finger on the photo scrolls the page, unless a box is to be drawn.
    if (event.pointerType === "touch" && !handle && !this.armed) return;
    event.preventDefault();
    this.frame.setPointerCapture(event.pointerId);
    const how = draws ? "new" : (handle ?? "body");
    this.#drag = { how, from: this.#at(event), box: this.#box && [...this.#box], moved: false };
    if (!draws) this.overlay.querySelector(".box-body")?.focus({ preventScroll: true });
  }

  #move(event) {
    if (!this.#drag) return;
    const { how, from, box } = this.#drag;
    const at = this.#at(event);
    const [dx, dy] = [at[0] - from[0], at[1] - from[1]];
    if (!this.#drag.moved && Math.hypot(dx, dy) < 3 * this.#scale) return;
    this.#drag.moved = true;
    if (how === "new") this.#box = this.#inside([...from, ...at]);
    else if (how === "body") this.#box = this.#shifted(box, dx, dy);
    else {
      const [x, y] = HANDLES[how];
      this.#box = this.#inside([box[0] + dx * (x === 0), box[1] + dy * (y === 0), box[2] + dx * (x === 1), box[3] + dy * (y === 1)]);
    }
    this.#draw();
    this.onbox(this.#box.map(round), true);
  }

  #drop(event) {
    const drag = this.#drag;
    this.#drag = null;
    if (!drag) return;
    if (event.type === "pointercancel" || !drag.moved) {
      this.#box = drag.box;
      this.#draw();
      if (drag.moved) this.onbox(this.#photo.box, false);
      return;
    }
    this.#arm(false);
    this.onbox(this.#box.map(round), false);
  }

  #key(event) {
    const way = KEYS[event.key];
    if (event.key === "Escape" && this.#photo.box) this.onbox(null, false);
    if (!way) return;
    event.preventDefault();
    const step = Math.max(1, Math.round(Math.max(...this.#size) / 100));
    const [dx, dy] = [way[0] * step, way[1] * step];
    const [x1, y1, x2, y2] = this.#box;
    this.#box = event.shiftKey ? this.#inside([x1, y1, Math.max(x2 + dx, x1 + LEAST), Math.max(y2 + dy, y1 + LEAST)]) : this.#shifted(this.#box, dx, dy);
    this.#draw();
    this.onbox(this.#box.map(round), false);
  }

  #type(place, input) {
    const value = Number(input.value);
    const box = this.#box ? [...this.#box] : [0, 0, ...this.#size];
    if (input.value !== "" && Number.isFinite(value)) {
      box[place] = value;
      // What is no box is the service's to say.
      this.onbox(box, false);
    } else this.#draw();
  }

  #inside([x1, y1, x2, y2]) {
    const [width, height] = this.#size;
    const span = (a, b, most) => {
      const low = clamp(Math.min(a, b), 0, most - 1);
      return [low, Math.max(clamp(Math.max(a, b), 0, most), Math.min(most, low + LEAST))];
    };
    const [left, right] = span(x1, x2, width);
    const [top, bottom] = span(y1, y2, height);
    return [left, top, right, bottom];
  }

  #shifted([x1, y1, x2, y2], dx, dy) {
    const [width, height] = this.#size;
    const x = clamp(dx, -x1, width - x2);
    const y = clamp(dy, -y1, height - y2);
    return [x1 + x, y1 + y, x2 + x, y2 + y];
  }
}

function rectangle([x1, y1, x2, y2], kind) {
  return svg("rect", { class: kind, x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1) });
}

function scoreOf(box, scale) {
  const text = svg("text", { class: "score", x: box.xyxy[0] + 5 * scale, y: box.xyxy[1] + 15 * scale, "font-size": 12 * scale });
  text.textContent = box.score.toFixed(2);
  return text;
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const round = (value) => Math.round(value * 10) / 10;
