// The page: photos on the left, options and faces on the right. State in, elements out.

import { detect, made, models, Refused } from "./api.js";
import { Camera } from "./camera.js";
import { drawFaces } from "./overlay.js";

const SIZES = [256, 384, 512, 640, 960, 1280];
const LISTED = 200;
const TRIED = 180; // milliseconds without a change of options before the server is asked
const THUMB = 168;
const AT_ONCE = 2;

const at = (id) => document.getElementById(id);
const form = at("options");
const photos = []; // {file, name, record, error, ms, asked, url, thumb}
let current = null;
let chosen = null;
let offered = [];
let touched = false; // the threshold, by the user: otherwise it follows the method
let camera = null;
let working = 0; // requests on their way

// --- options

function options() {
  const given = { method: form.method.value, landmarks: form.landmarks.value };
  if (form.input_size.value && !form.input_size.disabled) given.input_size = form.input_size.value;
  if (touched) given.threshold = form.threshold.value;
  if (form.min_face.value) given.min_face = form.min_face.value;
  return given;
}

const shown = () => ({ boxes: form.boxes.checked, points: form.points.checked, scores: form.scores.checked, covers: form.covers.checked });

function fill(select, choices, value) {
  select.replaceChildren(...choices.map(([id, text]) => new Option(text, id, false, id === value)));
}

function fillFor(method) {
  const model = offered.find((m) => m.name === method);
  const kept = form.landmarks.value;
  const count = (name) => (/^\d+$/.test(name) ? `${name} points` : name.replace(/^isnet-(\d+)$/, "$1 points, Information-Synthesis Network"));
  fill(form.landmarks, model.landmarks.map((name) => [name, count(name)]), model.landmarks.includes(kept) ? kept : model.landmarks[0]);
  form.input_size.disabled = !model.sizes;
  at("size-help").textContent = model.sizes
    ? "Longer edge of the photo as the network sees it. Larger finds smaller faces and takes longer."
    : "This method looks at several sizes; the smallest face decides.";
}

function showThreshold(value) {
  form.threshold.value = value;
  at("threshold-value").textContent = Number(value).toFixed(2);
}

// --- photos

async function add(files) {
  const images = [...files];
  if (!images.length) return;
  if (camera) stopCamera();
  const first = photos.length;
  for (const file of images) photos.push({ file, name: file.name || "photo", asked: "", error: "", bare: new Set() });
  const inEmpty = at("empty").contains(document.activeElement);
  show(photos[first]);
  if (inEmpty) at("photos").focus(); // its button is gone
  renderStrip();
  start();
}

// Asks for the photos whose answers are not those of the options: the one in view first.
async function work() {
  const wanted = JSON.stringify(options());
  const open = [current, ...photos].filter((photo) => photo && photo.asked !== wanted);
  if (!open.length || working >= AT_ONCE || camera) return;
  const photo = open[0];
  photo.asked = wanted;
  photo.stop?.abort();
  photo.stop = new AbortController();
  working++;
  render();
  const begun = performance.now();
  try {
    const record = await detect(photo.file, options(), photo.stop.signal);
    if (photo.asked === wanted) Object.assign(photo, { record: record.error ? null : record, error: record.error || "", bare: new Set(), ms: performance.now() - begun });
  } catch (error) {
    if (error.name !== "AbortError" && photo.asked === wanted) Object.assign(photo, { record: null, error: told(error) });
  }
  working--;
  if (photo === current) {
    if (!touched && photo.record) showThreshold(photo.record.detector.threshold);
    say(summary(photo));
    render();
  }
  renderStrip();
  start();
}

// Starts as many requests as may run.
function start() {
  for (let i = 0; i < AT_ONCE; i++) work();
}

function again() {
  if (current && current.asked !== JSON.stringify(options())) current.stop?.abort();
  start();
}

function told(error) {
  return error instanceof Refused ? error.message : `Something went wrong in this page: ${error.message}`;
}

function show(photo) {
  if (current?.url) URL.revokeObjectURL(current.url);
  if (current) current.url = null;
  current = photo;
  chosen = null;
  if (photo) {
    photo.url = URL.createObjectURL(photo.file);
    at("photo").src = photo.url;
  }
  render();
}

function remove() {
  const index = photos.indexOf(current);
  current.stop?.abort();
  photos.splice(index, 1);
  show(photos[Math.min(index, photos.length - 1)] || null);
  renderStrip();
  if (!photos.length) document.querySelector("#empty [data-do=choose]").focus();
}

// A photo in a format that the browser does not show is shown as the server decodes it.
at("photo").addEventListener("error", async () => {
  const photo = current;
  if (!photo || photo.converted || photo.error) return;
  photo.converted = true;
  try {
    const plain = await made("draw", photo.file, { ...options(), boxes: false, points: false, scores: false });
    if (photo === current) at("photo").src = photo.url = URL.createObjectURL(plain);
  } catch { /* the answer of the detection says what is wrong */ }
});
at("photo").addEventListener("load", () => render());

// --- what is seen

const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

function summary(photo) {
  if (photo.error) return photo.error;
  if (!photo.record) return "Looking for faces …";
  return `${plural(photo.record.faces.length, "face")} in ${photo.name}, ${photo.record.width}×${photo.record.height}`;
}

function say(text) {
  at("status").textContent = text;
}

function render() {
  const live = Boolean(camera);
  const photo = live ? { record: camera.record, ms: camera.ms, error: camera.error || "", name: "Camera", bare: new Set() } : current;
  at("empty").hidden = Boolean(photo);
  at("stage").hidden = !photo;
  at("results").hidden = live || !photo?.record;
  if (!photo) {
    problem("");
    return;
  }
  const element = live ? at("camera") : at("photo");
  at("camera").hidden = !live;
  at("photo").hidden = live || Boolean(photo.error);
  at("stage").setAttribute("aria-busy", String(!live && !photo.record && !photo.error));
  at("photo").alt = live ? "" : summary(photo);
  problem(photo.error);
  const [width, height] = photo.record ? [photo.record.width, photo.record.height]
    : live ? [element.videoWidth, element.videoHeight] : [element.naturalWidth, element.naturalHeight];
  at("picture").hidden = Boolean(photo.error) && !live;
  if (width && height) at("picture").style.setProperty("--ratio", width / height);
  const speed = photo.ms ? `, ${Math.round(photo.ms)} ms` : "";
  const by = photo.record ? `, ${form.method.value}` : "";
  at("caption").textContent = photo.error ? photo.name : live && photo.record
    ? `${plural(photo.record.faces.length, "face")}${by}${speed}` : summary(photo) + by + speed;
  for (const action of document.querySelectorAll("#actions [data-do]"))
    action.hidden = ["take", "stop"].includes(action.dataset.do) !== live;
  if (photo.record) {
    const scale = width / (at("picture").clientWidth || width);
    drawFaces(at("overlay"), photo.record, shown(), scale, chosen, photo.bare, choose);
    if (!live) renderFaces(photo.record);
  } else {
    at("overlay").replaceChildren();
  }
}

function renderFaces(record) {
  const { face: focused, cover: ticked } = document.activeElement?.dataset ?? {};
  at("results-title").textContent = plural(record.faces.length, "face");
  const items = record.faces.slice(0, LISTED).map((face, index) => {
    const [x1, y1, x2, y2] = face.box;
    const size = `${Math.round(x2 - x1)}×${Math.round(y2 - y1)}`;
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "face";
    button.dataset.face = index;
    button.setAttribute("aria-pressed", String(index === chosen));
    button.setAttribute("aria-label", `Face ${index + 1}, score ${face.score.toFixed(2)}, ${size} pixels`);
    const text = document.createElement("span");
    const small = document.createElement("small");
    small.textContent = `${size} px`;
    text.append(`Face ${index + 1}`, small);
    const score = document.createElement("span");
    score.className = "score";
    score.textContent = face.score.toFixed(2);
    button.append(crop(face.box, record), text, score);
    button.addEventListener("click", () => choose(index === chosen ? null : index));
    item.append(button, coverIt(index));
    return item;
  });
  if (record.faces.length > LISTED) {
    const item = document.createElement("li");
    item.className = "more";
    item.textContent = `and ${record.faces.length - LISTED} more, in the JSON`;
    items.push(item);
  }
  at("faces").replaceChildren(...items);
  if (focused !== undefined) at("faces").querySelector(`[data-face="${focused}"]`)?.focus({ preventScroll: true });
  if (ticked !== undefined) at("faces").querySelector(`[data-cover="${ticked}"]`)?.focus({ preventScroll: true });
}

// Whether a face is covered in the redacted photo.
function coverIt(index) {
  const label = document.createElement("label");
  label.className = "cover-it";
  const box = document.createElement("input");
  box.type = "checkbox";
  box.checked = !current.bare.has(index);
  box.dataset.cover = index;
  box.setAttribute("aria-label", `Cover face ${index + 1}`);
  box.addEventListener("change", () => {
    current.bare[box.checked ? "delete" : "add"](index);
    render();
  });
  label.append(box, "cover");
  return label;
}

function crop([x1, y1, x2, y2], record) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 88;
  const image = at("photo");
  const side = 1.25 * Math.max(x2 - x1, y2 - y1, 1);
  const scale = image.naturalWidth / record.width || 1;
  if (image.complete && image.naturalWidth)
    canvas.getContext("2d").drawImage(image, ((x1 + x2 - side) / 2) * scale, ((y1 + y2 - side) / 2) * scale, side * scale, side * scale, 0, 0, 88, 88);
  return canvas;
}

function choose(index) {
  chosen = index;
  render();
  if (index !== null) at("faces").querySelector(`[data-face="${index}"]`)?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

async function thumbnail(photo) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = THUMB;
  photo.thumb = canvas;
  try {
    const image = await createImageBitmap(photo.file);
    const side = Math.min(image.width, image.height);
    canvas.getContext("2d").drawImage(image, (image.width - side) / 2, (image.height - side) / 2, side, side, 0, 0, THUMB, THUMB);
    image.close();
  } catch { /* the browser cannot show it; its number of faces stands on an empty field */ }
}

function renderStrip() {
  at("strip").hidden = photos.length < 2;
  const focused = photos.indexOf(at("strip").contains(document.activeElement) ? current : null);
  at("strip").replaceChildren(...photos.map((photo) => {
    if (!photo.thumb) thumbnail(photo);
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.classList.toggle("failed", Boolean(photo.error));
    button.setAttribute("aria-label", photo.record ? summary(photo) : `${photo.name}, ${photo.error || "waiting"}`);
    button.setAttribute("aria-current", String(photo === current));
    const count = document.createElement("span");
    count.className = "count";
    count.textContent = photo.error ? "!" : photo.record ? photo.record.faces.length : "…";
    button.append(photo.thumb, count);
    button.addEventListener("click", () => { show(photo); renderStrip(); say(summary(photo)); work(); });
    item.append(button);
    return item;
  }));
  if (focused >= 0) at("strip").children[focused]?.firstChild.focus();
}

function step(by) {
  const next = photos[photos.indexOf(current) + by];
  if (!next) return;
  show(next);
  renderStrip();
  say(summary(next));
  work();
}

// --- camera

async function startCamera() {
  camera = new Camera(at("camera"), options, (record, ms) => {
    const before = camera.record?.faces.length;
    Object.assign(camera, { record: record.error ? null : record, ms, error: record.error || "" });
    if (before !== record.faces?.length) say(plural(record.faces?.length ?? 0, "face"));
    if (!touched && record.detector) showThreshold(record.detector.threshold);
    render();
  }, (error) => { camera.error = told(error); render(); });
  chosen = null;
  render();
  try {
    await camera.start();
    render();
    document.querySelector("#actions [data-do=take]").focus();
  } catch (error) {
    stopCamera();
    problem(told(error));
  }
}

function stopCamera() {
  camera.stop();
  camera = null;
  render();
  work();
}

async function take() {
  const file = await camera.frame();
  stopCamera();
  add([file]);
}

// --- downloads

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  say(`${name} is saved.`);
}

const stem = (name) => name.replace(/\.[^.]*$/, "");

async function saveMade(path, name, more) {
  say("The server makes the photo …");
  try {
    save(await made(path, current.file, { ...options(), ...more }), `${stem(current.name)}-${name}.jpg`);
  } catch (error) {
    problem(told(error));
  }
}

function saveRecords() {
  const lines = photos.filter((p) => p.record || p.error).map((p) => JSON.stringify(p.record ?? { path: p.name, error: p.error }) + "\n");
  save(new Blob(lines, { type: "application/x-ndjson" }), "faces.jsonl");
}

function problem(text) {
  at("problem").hidden = !text;
  if (at("problem").textContent !== text) at("problem").textContent = text;
}

// --- events

const actions = {
  choose: () => at("files").click(),
  camera: startCamera,
  take,
  stop: stopCamera,
  remove,
  "save-drawn": () => saveMade("draw", "faces", { boxes: form.boxes.checked, points: form.points.checked, scores: form.scores.checked }),
  // Not verified unless the detection was: the faces that the page shows are covered, and `keep` counts them.
  "save-redacted": () =>
    saveMade("redact", "redacted", { verify: false, threshold: current.record.detector.threshold, style: at("style").value, keep: [...current.bare] }),
  "save-json": saveRecords,
};
document.addEventListener("click", (event) => actions[event.target.closest("[data-do]")?.dataset.do]?.());
at("files").addEventListener("change", (event) => { add(event.target.files); event.target.value = ""; });

let timer;
form.addEventListener("input", (event) => {
  if (event.target === form.threshold) { touched = true; showThreshold(form.threshold.value); }
  if (event.target === form.method) { fillFor(form.method.value); touched = false; }
  if (event.target.type === "checkbox") { render(); return; }
  if (!form.min_face.checkValidity()) return;
  clearTimeout(timer);
  timer = setTimeout(again, TRIED);
});
form.addEventListener("reset", () => setTimeout(() => { touched = false; setUp(); render(); again(); }));
form.addEventListener("submit", (event) => event.preventDefault());

addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "ArrowRight" && !camera) step(1);
  if (event.key === "ArrowLeft" && !camera) step(-1);
  if (event.key === "Escape" && camera) stopCamera();
});
addEventListener("paste", (event) => add(event.clipboardData.files));
let inside = 0;
addEventListener("dragenter", (event) => { event.preventDefault(); inside++; document.body.classList.add("dropping"); });
addEventListener("dragleave", () => { if (!--inside) document.body.classList.remove("dropping"); });
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  document.body.classList.remove("dropping");
  add(event.dataTransfer.files);
});
addEventListener("resize", () => render());

// --- start

function setUp() {
  const standard = offered.find((model) => model.default);
  fill(form.method, offered.map((m) => [m.name, m.name === m.title.toLowerCase() ? m.title : `${m.title}: ${m.name}`]), standard.name);
  fill(form.input_size, [["", "Default of the method"], ...SIZES.map((size) => [String(size), `${size} pixels`])], "");
  fillFor(standard.name);
}

at("example").textContent = `curl -F photos=@photo.jpg ${location.origin}/v1/detect`;
showThreshold(0.5);
at("threshold-value").textContent = "";
try {
  const server = await models();
  offered = server.models;
  at("version").textContent = `lineament ${server.version}`;
  setUp();
  document.body.dataset.ready = "true";
} catch (error) {
  problem(told(error));
}
