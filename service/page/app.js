// The page: photos come in, are asked about, and are shown with what was found.

import { Away, json, onKeyWanted, request } from "./api.js";
import { renderArms, renderDetails, renderVerdict } from "./answer.js";
import { Queue, back, health, predict } from "./asking.js";
import { renderComparison } from "./compare.js";
import { $, debounced, el, icon } from "./dom.js";
import { Experiment } from "./experiment.js";
import { Feedback } from "./feedback.js";
import { Options } from "./options.js";
import { Photo, remember } from "./photos.js";
import { Stage } from "./stage.js";
import { verdict } from "./words.js";

const DEBOUNCE_MS = 120;
const photos = [];
const queue = new Queue();
let current = null;
let models = null;
let options, stage, feedback, experiment;
let comparison = { key: "", results: new Map(), stop: null };

async function start() {
  onKeyWanted(askForKey);
  health.addEventListener("away", () => showAway(true));
  health.addEventListener("back", () => showAway(false));
  takePhotosIn();
  window.addEventListener("hashchange", showTab);
  stage = new Stage($("stage"), boxed);
  feedback = new Feedback($("feedback"), () => {
    renderArms($("arms"), current);
    renderStrip();
  });
  experiment = new Experiment($("experiment"), (id) => Boolean(photoOf(id)), (id) => {
    location.hash = "";
    select(photoOf(id));
  });
  showTab();
  models = await patiently(() => json("models"));
  options = new Options($("options"), models, debounced(reconsider, DEBOUNCE_MS));
  $("compare-on").addEventListener("change", () => compare());
  document.body.dataset.ready = "true";
  for (const photo of photos) enqueue(photo);
  await Promise.all([showSamples(), showFeedback()]);
}

// Until the service answers; anything else that it says is shown.
async function patiently(ask) {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof Away)) {
        showNotice(error.message);
        throw error;
      }
      await back();
    }
  }
}

// --- photos come in

function takePhotosIn() {
  for (const id of ["choose", "photograph"]) {
    $(id).addEventListener("change", (event) => {
      add([...event.target.files]);
      event.target.value = "";
    });
  }
  document.addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) add([...event.clipboardData.files]);
  });
  const dropping = (on) => document.body.classList.toggle("dropping", on);
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    dropping(true);
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget === null && dropping(false));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    dropping(false);
    add([...event.dataTransfer.files]);
  });
}

function add(files) {
  if (files.length === 0) return;
  const added = files.map((file) => new Photo(file, file.name || "pasted.png"));
  photos.push(...added);
  location.hash = "";
  if (models) added.forEach((photo) => enqueue(photo));
  select(added[0]);
  window.scrollTo({ top: 0 });
}

async function showSamples() {
  const { samples } = await json("samples");
  $("samples-panel").hidden = samples.length === 0;
  $("samples").replaceChildren(
    ...samples.map((sample) =>
      el(
        "button",
        { type: "button", class: "sample", title: `From ${sample.source}`, onclick: (event) => addSample(sample, event.currentTarget) },
        el("img", { src: `data:image/jpeg;base64,${sample.thumbnail}`, alt: "", width: 128, height: 128 }),
        el("span", {}, sample.name.split("_")[0]),
      ),
    ),
  );
}

async function addSample(sample, button) {
  button.disabled = true;
  try {
    const blob = await (await request(sample.path.slice(1))).blob();
    add([new File([blob], sample.name, { type: blob.type })]);
  } catch (error) {
    showNotice(error.message);
  } finally {
    button.disabled = false;
  }
}

// --- asking

function enqueue(photo) {
  photo.status = "waiting";
  queue.add(() => ask(photo), photo === current);
  changed(photo);
}

async function ask(photo) {
  if (!photos.includes(photo)) return;
  photo.stop?.abort();
  const stop = (photo.stop = new AbortController());
  const parameters = String(options.parameters(photo.box));
  photo.status = "asking";
  photo.problem = null;
  changed(photo);
  const start = performance.now();
  try {
    const answer = await predict(photo, parameters, stop.signal, (note) => {
      photo.note = note;
      changed(photo);
    });
    Object.assign(photo, { answer, askedFor: parameters, roundTrip: performance.now() - start, status: "answered", told: null });
    photo.thumbnail.then((source) => source && remember(answer.request_id, source));
  } catch (error) {
    if (error.name === "AbortError") return;
    Object.assign(photo, { problem: error, status: "failed" });
  }
  photo.note = null;
  changed(photo);
}

// The options have changed: what is on show is asked about again, the rest when it is looked at.
function reconsider() {
  if (current) refresh(current);
}

function refresh(photo) {
  if (photo.askedFor === String(options.parameters(photo.box)) && photo.status === "answered") return;
  ask(photo);
}

let moving = false;
let again = false;

// While a box is being dragged, the answer follows: one request at a time, the last box wins.
async function boxed(box, dragging) {
  current.box = box;
  if (!dragging) {
    moving = again = false;
    ask(current);
    return;
  }
  again = true;
  if (moving) return;
  moving = true;
  while (moving && again) {
    again = false;
    await ask(current);
  }
  moving = false;
}

// --- showing

const onNextFrame = (run) => {
  let due = false;
  return () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      run();
    });
  };
};
const renderStripSoon = onNextFrame(() => renderStrip());

function changed(photo) {
  renderStripSoon();
  if (photo === current) renderCurrent();
}

function select(photo) {
  current = photo;
  document.body.classList.toggle("started", photo !== null);
  renderStrip();
  if (!photo) return;
  renderCurrent();
  if (models && ["answered", "failed"].includes(photo.status)) refresh(photo);
}

function renderCurrent() {
  const photo = current;
  stage.show(photo);
  showFault(photo);
  const { answer } = photo;
  for (const id of ["answer", "more", "compare-panel"]) $(id).classList.toggle("stale", photo.status !== "answered");
  $("waiting").hidden = answer !== null || photo.problem !== null;
  $("waiting-text").textContent = photo.note || "Asking…";
  for (const id of ["verdict", "arms", "details"]) $(id).hidden = answer === null;
  $("feedback-panel").hidden = answer === null;
  $("compare-panel").hidden = answer === null || models.backbones.length < 2;
  if (!answer || photo.status !== "answered") return;
  renderVerdict($("verdict"), answer);
  renderArms($("arms"), photo);
  renderDetails($("details"), photo, new URLSearchParams(options.chosen(photo.box)));
  feedback.show(photo);
  compare();
  photo.drawn ??= afterPainting(() => performance.measure("figureground:drawn", { start: photo.dropped, detail: photo.name }));
}

// A task that is made by the frame runs once the frame is on the screen.
const afterPainting = (run) => requestAnimationFrame(() => setTimeout(run));

function showFault(photo) {
  const text = photo.problem?.message ?? (photo.answer ? photo.note : null);
  $("fault").hidden = !text;
  if (!text) return;
  const { problem } = photo;
  $("fault").replaceChildren(
    el("div", {}, el("h2", {}, problem ? problem.title ?? "That did not work" : "Please wait"), el("p", {}, text), problem?.requestId ? el("p", { class: "faint" }, "Request ", el("code", {}, problem.requestId)) : null),
    problem ? el("button", { type: "button", onclick: () => ask(photo) }, "Ask again") : null,
  );
}

function renderStrip() {
  $("strip").hidden = photos.length === 0;
  $("strip").replaceChildren(...photos.map(tile));
  const done = photos.filter((photo) => photo.status === "answered");
  const changes = done.filter((photo) => photo.answer.agreement === false).length;
  $("tally").textContent = photos.length > 1 ? `${done.length} of ${photos.length} answered; cropping changes ${changes}.` : "";
}

function tile(photo) {
  const kind = photo.status === "answered" ? verdict(photo.answer).kind : photo.status;
  const told = { agree: "background does not decide", change: "cropping changes the answer", none: "no crop", failed: photo.problem?.message ?? "", waiting: "waiting", asking: "asking" }[kind];
  const picture = el("img", { alt: "" });
  photo.thumbnail.then((source) => (source ? (picture.src = source) : picture.remove()));
  const open = el(
    "button",
    { type: "button", class: `tile ${kind}`, "aria-current": photo === current ? "true" : null, title: `${photo.name}: ${told}`, "aria-label": `${photo.name}: ${told}`, onclick: () => select(photo) },
    picture,
    kind in { agree: 1, change: 1, none: 1 } ? icon(kind) : kind === "failed" ? icon("wrong") : null,
  );
  const close = el("button", { type: "button", class: "remove", "aria-label": `Remove ${photo.name}`, onclick: () => remove(photo) }, icon("close"));
  return el("li", {}, open, close);
}

function remove(photo) {
  const place = photos.indexOf(photo);
  photos.splice(place, 1);
  photo.stop?.abort();
  photo.forget();
  if (photo === current) select(photos[Math.min(place, photos.length - 1)] ?? null);
  else renderStrip();
  ($("strip").querySelectorAll(".tile")[Math.min(place, photos.length - 1)] ?? $("choose")).focus();
}

const photoOf = (requestId) => photos.find((photo) => photo.answer?.request_id === requestId) ?? null;

// --- several backbones about the same photo

async function compare() {
  const photo = current;
  const on = $("compare-on").checked;
  $("comparison").hidden = !on;
  if (!on || !photo?.answer || photo.status !== "answered") return;
  const key = `${photo.id} ${photo.answer.request_id}`;
  if (key === comparison.key) return;
  comparison.stop?.abort();
  const stop = new AbortController();
  const results = new Map(models.backbones.map(({ name }) => [name, name === photo.answer.models.backbone.name ? photo.answer : null]));
  comparison = { key, results, stop };
  renderComparison($("comparison"), results);
  for (const name of results.keys()) {
    if (results.get(name) !== null) continue;
    const parameters = options.parameters(photo.box, name);
    parameters.delete("label_space");
    try {
      results.set(name, await predict(photo, String(parameters), stop.signal, () => {}));
    } catch (error) {
      if (error.name === "AbortError") return;
      results.set(name, error);
    }
    if (comparison.results !== results) return;
    renderComparison($("comparison"), results);
  }
  feedback.show(photo, [...results.values()].filter((answer) => answer.request_id && answer !== photo.answer));
}

// --- around it

function showTab() {
  const experimenting = location.hash === "#experiment";
  $("try").hidden = experimenting;
  $("experiment").hidden = !experimenting;
  for (const [id, here] of [["to-try", !experimenting], ["to-experiment", experimenting]]) {
    if (here) $(id).setAttribute("aria-current", "page");
    else $(id).removeAttribute("aria-current");
  }
  if (experimenting) experiment.start();
  else experiment?.stop();
}

async function showFeedback() {
  try {
    await json("answers?limit=1");
  } catch (error) {
    if (error.status !== 404) return;
    // No journal: nothing can be learnt, and the service says why.
    $("feedback").replaceChildren(el("p", { class: "faint" }, error.message));
    feedback.show = async () => {};
  }
}

function showAway(away) {
  document.body.classList.toggle("away", away);
  $("away").hidden = !away;
  if (!away) for (const photo of photos) if (photo.problem instanceof Away) enqueue(photo);
}

function showNotice(text) {
  $("notice-text").textContent = text;
  $("notice").hidden = false;
}

function askForKey(problem, usedKey) {
  const dialog = $("key");
  $("key-problem").textContent = usedKey ? "This key is not one of the service’s. " + problem.message : problem.message;
  $("key-value").value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "use" ? $("key-value").value.trim() : null), { once: true });
  });
}

$("notice-close").addEventListener("click", () => ($("notice").hidden = true));
$("key-use").addEventListener("click", () => $("key").close("use"));
$("key-value").addEventListener("keydown", (event) => event.key === "Enter" && $("key").close("use"));
$("key-leave").addEventListener("click", () => $("key").close(""));
start();
