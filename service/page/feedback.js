// What a photo really shows: a label to choose, sent as feedback, and taken back.

import { json, post } from "./api.js";
import { el } from "./dom.js";
import { ARMS, first } from "./words.js";

const MOST_SHOWN = 50;
// That the background alone is wrong is no fault.
const JUDGED = ["plain", "cropped", "combined", "detector"];
const spaces = new Map();

// The classes of a label space: [{wnid, label, index}].
export function classes(space) {
  if (!spaces.has(space)) {
    const loading = json(`labels?${new URLSearchParams({ label_space: space })}`).then((told) => told.classes.map((entry, index) => ({ ...entry, index })));
    loading.catch(() => spaces.delete(space));
    spaces.set(space, loading);
  }
  return spaces.get(space);
}

// Those that have the text in them, best first: the whole label, a whole word, the beginning of one, any other place.
export function search(known, text) {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return known;
  const rank = ({ wnid, label, index }) => {
    const name = label.toLowerCase();
    if (name === wanted || wnid === wanted || String(index) === wanted) return 0;
    if (` ${name} `.includes(` ${wanted} `)) return 1;
    if (name.startsWith(wanted)) return 2;
    if (name.includes(` ${wanted}`) || name.includes(`-${wanted}`)) return 3;
    return name.includes(wanted) || wnid.startsWith(wanted) ? 4 : 5;
  };
  return known
    .map((entry) => [rank(entry), entry])
    .filter(([rank_]) => rank_ < 5)
    .sort((one, other) => one[0] - other[0])
    .map(([, entry]) => entry);
}

export class Feedback {
  #photo = null;
  #also = [];
  #known = [];
  #shown = [];
  #active = -1;

  // `ontold(photo)` once the service has learnt, or unlearnt, a label.
  constructor(root, ontold) {
    this.ontold = ontold;
    this.chips = el("div", { class: "chips", role: "group", "aria-label": "Labels that were answered" });
    this.input = el("input", {
      id: "label", type: "text", role: "combobox", autocomplete: "off", autocapitalize: "none", spellcheck: "false",
      "aria-expanded": "false", "aria-controls": "label-list", "aria-autocomplete": "list", placeholder: "Search all labels",
      oninput: () => this.#open(), onfocus: () => this.input.select(), onkeydown: (event) => this.#key(event), onblur: () => this.#close(),
    });
    this.list = el("ul", { id: "label-list", role: "listbox", "aria-label": "Labels", hidden: true });
    // The field keeps the focus while an entry is pressed.
    this.list.addEventListener("pointerdown", (event) => event.preventDefault());
    this.told = el("div", { class: "told", role: "status" });
    root.append(this.chips, el("div", { class: "combo" }, el("label", { for: "label" }, "Another label"), this.input, this.list), this.told);
  }

  // `also` are the answers of other backbones about the same photo; the label is true for them too.
  async show(photo, also = []) {
    const fresh = photo !== this.#photo || photo.answer.request_id !== this.requestId;
    this.#photo = photo;
    this.#also = also;
    this.requestId = photo.answer.request_id;
    if (fresh) {
      this.input.value = "";
      this.#close();
      this.#chips();
      this.#tell();
    }
    try {
      this.#known = await classes(photo.answer.models.label_space);
    } catch (error) {
      this.#fault(error);
    }
  }

  #chips() {
    const { plain, cropped, combined, arms } = this.#photo.answer;
    const labels = new Map();
    for (const prediction of [combined, cropped, plain, arms.detector]) {
      const entry = first(prediction);
      if (entry) labels.set(entry.wnid, entry);
    }
    for (const entry of combined.top_k) if (labels.size < 5) labels.set(entry.wnid, entry);
    this.chips.replaceChildren(
      ...[...labels.values()].map((entry) => el("button", { type: "button", class: "chip", onclick: () => this.#send(entry.wnid) }, entry.label)),
    );
  }

  #open() {
    this.#shown = search(this.#known, this.input.value).slice(0, MOST_SHOWN);
    this.#active = this.input.value.trim() && this.#shown.length ? 0 : -1;
    this.list.replaceChildren(
      ...this.#shown.map((entry, place) =>
        el("li", { id: `label-${place}`, role: "option", "aria-selected": "false", onclick: () => this.#choose(place) }, el("span", {}, entry.label), el("span", { class: "faint" }, entry.wnid)),
      ),
    );
    if (this.#shown.length === 0) this.list.append(el("li", { role: "option", "aria-disabled": "true", "aria-selected": "false", class: "faint" }, "No label has this in it."));
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
    this.#mark();
  }

  #close() {
    this.list.hidden = true;
    this.#active = -1;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
  }

  #mark() {
    [...this.list.children].forEach((item, place) => item.setAttribute("aria-selected", String(place === this.#active)));
    const item = this.#shown.length ? this.list.children[this.#active] : null;
    if (!item) return this.input.removeAttribute("aria-activedescendant");
    this.input.setAttribute("aria-activedescendant", item.id);
    item.scrollIntoView({ block: "nearest" });
  }

  #key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      if (this.list.hidden) this.#open();
      else this.#active = (this.#active + step + this.#shown.length) % (this.#shown.length || 1);
      if (this.#active < 0) this.#active = step > 0 ? 0 : this.#shown.length - 1;
      this.#mark();
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (this.#active >= 0) this.#choose(this.#active);
      else this.#open();
    } else if (event.key === "Escape") {
      this.input.value = "";
      this.#close();
    }
  }

  #choose(place) {
    const entry = this.#shown[place];
    if (!entry) return;
    this.input.value = entry.label;
    this.#close();
    this.#send(entry.wnid);
  }

  async #send(label) {
    const photo = this.#photo;
    const answers = [photo.answer, ...this.#also];
    this.told.replaceChildren(el("span", { class: "faint" }, "Sending…"));
    try {
      const [learnt] = await Promise.all(answers.map((answer) => post("feedback", { request_id: answer.request_id, label })));
      photo.told = learnt.label ? learnt : null;
      if (photo !== this.#photo) return;
      this.#tell();
      this.ontold(photo);
    } catch (error) {
      this.#fault(error);
    }
  }

  #fault(error) {
    this.told.replaceChildren(el("p", { class: "fault" }, error.message));
  }

  #tell() {
    const told = this.#photo.told;
    if (!told) return this.told.replaceChildren();
    const judged = JUDGED.filter((arm) => arm in told.correct).map((arm) => {
      const right = told.correct[arm];
      return el("li", { class: right ? "right" : "wrong" }, `${ARMS[arm].name} is ${right ? "right" : "wrong"}`);
    });
    const undo = el("button", { type: "button", onclick: () => this.#undo() }, "Undo");
    this.told.replaceChildren(el("p", {}, el("span", {}, "Learnt: ", el("strong", {}, told.label.label)), undo), el("ul", { class: "verdicts" }, ...judged));
  }

  async #undo() {
    this.input.value = "";
    this.input.focus();
    await this.#send(null);
  }
}
