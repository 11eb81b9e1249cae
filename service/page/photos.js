// Photos, as this browser has them: nothing of them is kept anywhere else.

const THUMBNAIL = 96;
// The last thumbnails by request id, so that rows of the experiment can show them after a reload.
const REMEMBERED = "figureground-thumbnails";
const MOST_REMEMBERED = 150;

let number = 0;

export class Photo {
  constructor(blob, name) {
    this.id = `photo-${++number}`;
    this.blob = blob;
    this.name = name;
    this.url = URL.createObjectURL(blob);
    this.dropped = performance.now();
    // "waiting", "asking", "answered" or "failed"
    this.status = "waiting";
    this.answer = this.problem = this.note = this.box = this.told = null;
    // Which options the answer was given for, and how long the browser waited for it.
    this.askedFor = null;
    this.roundTrip = 0;
    // Upright, as the service sees it. Null where this browser cannot read the format.
    this.bitmap = createImageBitmap(blob, { imageOrientation: "from-image" }).catch(() => null);
    this.thumbnail = this.bitmap.then(thumbnail);
  }

  forget() {
    URL.revokeObjectURL(this.url);
    this.bitmap.then((bitmap) => bitmap?.close());
  }
}

// The part of the photo that a classifier saw, resized straight to its input size.
export function drawCrop(canvas, bitmap, [x1, y1, x2, y2], size) {
  const context = blank(canvas, size, size);
  context.drawImage(bitmap, x1, y1, x2 - x1, y2 - y1, 0, 0, size, size);
}

// The whole photo, and where `box` is given without what is in it.
export function drawWhole(canvas, bitmap, size, box = null) {
  const scale = size / Math.max(bitmap.width, bitmap.height);
  const width = Math.max(1, Math.round(bitmap.width * scale));
  const height = Math.max(1, Math.round(bitmap.height * scale));
  const context = blank(canvas, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  if (!box) return;
  const [x1, y1, x2, y2] = [Math.floor(box[0]), Math.floor(box[1]), Math.ceil(box[2]), Math.ceil(box[3])];
  context.fillStyle = meanColour(bitmap);
  context.fillRect(x1 * scale, y1 * scale, (x2 - x1) * scale, (y2 - y1) * scale);
}

export function remember(requestId, source) {
  const known = remembered();
  known.delete(requestId);
  known.set(requestId, source);
  const kept = [...known].slice(-MOST_REMEMBERED);
  try {
    sessionStorage.setItem(REMEMBERED, JSON.stringify(kept));
  } catch {
    sessionStorage.removeItem(REMEMBERED);
  }
}

export function remembered() {
  try {
    return new Map(JSON.parse(sessionStorage.getItem(REMEMBERED)) ?? []);
  } catch {
    return new Map();
  }
}

function thumbnail(bitmap) {
  if (!bitmap) return null;
  const canvas = document.createElement("canvas");
  const side = Math.min(bitmap.width, bitmap.height);
  const [left, top] = [(bitmap.width - side) / 2, (bitmap.height - side) / 2];
  drawCrop(canvas, bitmap, [left, top, left + side, top + side], THUMBNAIL);
  return canvas.toDataURL("image/jpeg", 0.75);
}

function blank(canvas, width, height) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  return context;
}

function meanColour(bitmap) {
  const canvas = document.createElement("canvas");
  const context = blank(canvas, 1, 1);
  // In two steps: one step to a single pixel looks at few of the pixels only.
  const small = document.createElement("canvas");
  blank(small, 32, 32).drawImage(bitmap, 0, 0, 32, 32);
  context.drawImage(small, 0, 0, 1, 1);
  const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
  return `rgb(${red} ${green} ${blue})`;
}
