// Numbers and findings in words.

export const ARMS = {
  plain: { name: "Plain", sees: "the whole photo" },
  cropped: { name: "Cropped", sees: "the box, with a little around it" },
  combined: { name: "Combined", sees: "both, each weighed by how sure it is" },
  background: { name: "Background", sees: "the photo without the object" },
  detector: { name: "Detector", sees: "the detector’s own class for the box" },
};

export function percent(share, digits = 0) {
  if (share === null || share === undefined) return "–";
  const shown = (100 * share).toFixed(digits);
  if (share > 0 && Number(shown) === 0) return `< ${digits ? "0.1" : "1"} %`;
  return `${shown} %`;
}

export function milliseconds(ms) {
  return ms < 9.95 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`;
}

export const first = (prediction) => prediction?.top_k[0] ?? null;

// What the comparison found: its kind, and a sentence in parts, of which [text] is a label.
export function verdict(answer) {
  const plain = first(answer.plain).label;
  if (answer.no_crop_reason === "no_detection")
    return { kind: "none", parts: ["No object was found: there is only the whole photo’s answer, ", [plain], "."] };
  if (answer.no_crop_reason === "covers_image")
    return { kind: "none", parts: ["The object fills the photo, there is nothing to crop: ", [plain], "."] };
  if (answer.agreement)
    return { kind: "agree", parts: ["The background does not decide: with it and without it, this is ", [plain], "."] };
  const cropped = first(answer.cropped).label;
  return { kind: "change", parts: ["Cropping changes the answer from ", [plain], " to ", [cropped], "."] };
}

// What stands below it.
export function footnote(answer) {
  const parts = [];
  if (answer.agreement === false) {
    const combined = first(answer.combined);
    parts.push("Combined says ", [combined.label], ` (${percent(combined.probability)}). `);
  }
  const background = first(answer.arms.background);
  if (background) {
    const same = background.label === first(answer.plain).label;
    parts.push(same ? "Even without the object it says " : "Without the object it says ", [background.label]);
    parts.push(` (${percent(background.probability)}).`);
  }
  return parts;
}

// The request as a line for a shell.
export function curl(photoName, parameters, key) {
  const url = new URL("predict", document.baseURI);
  url.search = parameters;
  const name = photoName || "photo.jpg";
  return [
    "curl",
    ...(key ? ["-H", '"X-API-Key: $KEY"'] : []),
    "-F",
    quoted(`image=@${/[",;]/.test(name) ? `"${name.replace(/(["\\])/g, "\\$1")}"` : name}`),
    quoted(url.href.replaceAll("%2C", ",")),
  ].join(" ");
}

function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

export function clock(time) {
  const sameDay = new Date().toDateString() === time.toDateString();
  return time.toLocaleString([], { hourCycle: "h23", ...(sameDay ? { timeStyle: "medium" } : { dateStyle: "short", timeStyle: "short" }) });
}
