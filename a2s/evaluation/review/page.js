"use strict";
// Grid: pages of rows are fetched as they are scrolled to; only what is visible is in the document.
// Editor: the label is an array of 0 and 1; the canvas only shows it. Masks travel as packed bits.

const PAGE = 200, MAX_HEIGHT = 12e6, POLL_MS = 4000, STROKES = 30;
const $ = (id) => document.getElementById(id);
const STATES = { undecided: "", accepted: "✓ accepted", rejected: "✗ rejected", fixed: "✎ fixed" };
const FLAGS = { no_object: "no object", empty: "empty", touches_border: "touches border", inverted: "inverted" };

const list = { query: 0, total: 0, pages: new Map(), current: 0, generation: 0, waiting: null };
let version = 0, decided = [], hasQuality = true, start = "";
const isEditing = () => !$("editor").hidden;
// The browser keeps pictures; those of another start of a2s review have other addresses.
const pictureOf = (kind, { row }) => `/${kind}/${row}?start=${start}`;
const versionOf = (kind, item) => `${pictureOf(kind, item)}&v=${item.version}`;

async function ask(path, body) {
  const how = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let answer;
  try { answer = await fetch(path, how); }
  catch { throw new Error("a2s review does not answer; was it stopped? Start it again, and open its new address"); }
  if (answer.ok) return answer;
  const error = await answer.json().catch(() => ({ error: `answer ${answer.status}` }));
  throw Object.assign(new Error(error.error), { status: answer.status });
}

let hiding;
function tell(text) {
  $("message").textContent = text;
  $("message").hidden = !text;
  clearTimeout(hiding);
  hiding = setTimeout(() => { $("message").hidden = true; }, 8000);
}
const guarded = (work) => async (...values) => {
  try { return await work(...values); } catch (error) { tell(error.message); return undefined; }
};

function showCounts(counts) {
  const parts = Object.entries(counts).map(([name, count]) => [count.toLocaleString("en"), name]);
  $("counts").replaceChildren(...parts.flatMap(([count, name], at) => {
    const bold = document.createElement("b");
    bold.textContent = count;
    return [at ? " · " : "", bold, ` ${name}`];
  }));
}

// ---------------------------------------------------------------- the list

const find = guarded(async (keepRow) => {
  const asked = new URLSearchParams();
  const values = { state: $("state").value, flag: $("flag").value, shard: $("shard").value, text: $("text").value };
  for (const [name, value] of Object.entries(values)) if (value) asked.set(name, value);
  if (hasQuality) {
    asked.set("least_quality", $("least").value || "0");
    asked.set("most_quality", $("most").value || "1");
  }
  const generation = ++list.generation;
  const found = await (await ask(`/api/find?${asked}`)).json();
  if (generation !== list.generation) return;
  // Under an open editor the list stays as it is: "next" and "3 of 9" are about it.
  if (isEditing()) { list.waiting = { keepRow }; return; }
  Object.assign(list, { query: found.query, total: found.total, pages: new Map() });
  if (!keepRow) { list.current = 0; $("scroller").scrollTop = 0; }
  list.current = Math.min(list.current, Math.max(0, list.total - 1));
  $("none").hidden = list.total > 0;
  draw();
});

function load(number) {
  let page = list.pages.get(number);
  if (!page) {
    const query = list.query;
    page = { rows: null };
    page.done = ask(`/api/rows?query=${query}&first=${number * PAGE}&count=${PAGE}`)
      .then((answer) => answer.json())
      .then(({ rows }) => { page.rows = rows; if (query === list.query) draw(); })
      .catch((error) => { if (error.status === 410) find(true); else { list.pages.delete(number); tell(error.message); } });
    list.pages.set(number, page);
    // Far pages are fetched again when they are wanted.
    while (list.pages.size > 60) list.pages.delete(list.pages.keys().next().value);
  }
  return page;
}
const at = (index) => load(Math.floor(index / PAGE)).rows?.[index % PAGE];
async function itemAt(index) {
  const page = load(Math.floor(index / PAGE));
  await page.done;
  return page.rows?.[index % PAGE];
}

function update(described) {
  for (const { rows } of list.pages.values()) {
    const known = rows?.find((one) => one.row === described.row);
    // Answers may overtake each other.
    if (known && known.version <= described.version) Object.assign(known, described);
  }
  if (edit.item?.row === described.row && edit.item.version <= described.version) { Object.assign(edit.item, described); showFacts(); }
}

// ---------------------------------------------------------------- the grid

const cards = new Map();
let shape = { columns: 1, width: 100, height: 100 };

function measure() {
  const width = $("scroller").clientWidth - 8;
  const columns = Math.max(2, Math.floor(width / 190));
  shape = { columns, width: width / columns, height: width / columns + 22 };
}

// Browsers limit the height of an element; a longer list moves faster than the scroll bar.
function geometry() {
  const view = $("scroller").clientHeight, real = Math.ceil(list.total / shape.columns) * shape.height + 8;
  const shown = Math.min(real, MAX_HEIGHT);
  const factor = shown > view ? (real - view) / (shown - view) : 1;
  return { view, shown, factor };
}

let drawing = false;
function draw() {
  if (!drawing) { drawing = true; requestAnimationFrame(() => { drawing = false; drawNow(); }); }
}
function drawNow() {
  const { view, shown, factor } = geometry(), top = $("scroller").scrollTop, offset = top * factor;
  $("space").style.height = `${shown}px`;
  const firstLine = Math.max(0, Math.floor(offset / shape.height) - 1);
  const lastLine = Math.floor((offset + view) / shape.height) + 1;
  const first = firstLine * shape.columns, last = Math.min(list.total, (lastLine + 1) * shape.columns);
  for (const [index, card] of cards) if (index < first || index >= last) { card.remove(); cards.delete(index); }
  for (let index = first; index < last; index++) {
    let card = cards.get(index);
    if (!card) { card = newCard(index); cards.set(index, card); $("space").append(card); }
    const x = (index % shape.columns) * shape.width + 4;
    const y = Math.floor(index / shape.columns) * shape.height - offset + top + 4;
    card.style.transform = `translate(${x}px, ${y}px)`;
    card.style.width = `${shape.width - 6}px`;
    card.style.height = `${shape.height - 6}px`;
    fill(card, index);
  }
  $("scroller").setAttribute("aria-activedescendant", `card-${list.current}`);
}

function newCard(index) {
  const card = document.createElement("div");
  card.className = "card";
  card.id = `card-${index}`;
  card.setAttribute("role", "option");
  for (const name of ["blank", "line title", "line"]) {
    const part = document.createElement("span");
    part.className = name;
    card.append(part);
  }
  card.addEventListener("click", () => { queue = queue.then(() => { list.current = index; draw(); return open(index); }); });
  return card;
}

function fill(card, index) {
  const item = at(index), isCurrent = index === list.current;
  const shown = item ? `${list.query} ${item.row} ${item.version} ${isCurrent}` : "";
  if (card.dataset.shown === shown) return;
  card.dataset.shown = shown;
  card.className = `card ${isCurrent ? "current" : ""} ${item ? `is-${item.state}` : ""}`;
  card.setAttribute("aria-selected", String(isCurrent));
  if (!item) return;
  const [picture, title, line] = card.children;
  const facts = describe(item), mark = document.createElement("b"), name = document.createElement("span");
  name.textContent = item.name;
  mark.className = item.state;
  mark.textContent = STATES[item.state];
  title.replaceChildren(name, mark);
  line.textContent = facts.join(", ") || item.shard;
  card.setAttribute("aria-label", [item.name, ...facts, item.state].join(", "));
  const address = versionOf("thumb", item);
  if (picture.dataset.address === address) return;
  // What is only scrolled past is not decoded.
  setTimeout(() => {
    if (!card.isConnected || card.dataset.shown.split(" ", 3).join(" ") !== shown.split(" ", 3).join(" ")) return;
    const image = new Image();
    image.alt = "";
    image.dataset.address = address;
    image.src = address;
    card.children[0].replaceWith(image);
  }, 70);
}

function describe(item) {
  const quality = item.quality === null ? [] : [`F ${item.quality.toFixed(2)}`];
  return [...quality, ...item.flags.map((flag) => FLAGS[flag] ?? flag)];
}

function showCurrent() {
  const line = Math.floor(list.current / shape.columns), { view, factor } = geometry();
  const offset = $("scroller").scrollTop * factor, y = line * shape.height;
  if (y < offset) $("scroller").scrollTop = y / factor;
  if (y + shape.height + 8 > offset + view) $("scroller").scrollTop = (y + shape.height + 8 - view) / factor;
  draw();
}

function move(by) {
  list.current = Math.min(list.total - 1, Math.max(0, list.current + by));
  showCurrent();
}

// ---------------------------------------------------------------- decisions

const decide = guarded(async (verdict, by = 1) => {
  const inEditor = isEditing(), item = inEditor ? edit.item : await itemAt(list.current);
  if (!item) return;
  if (inEditor && !edit.mask) { tell("This label is not shown, so nothing was decided. Go on, or decide in the grid."); return; }
  const index = inEditor ? edit.index : list.current, before = inEditor ? edit.version : item.version;
  const body = { row: item.row, version: before, verdict };
  if (verdict === "fixed") body.mask_bits = packed(edit.mask);
  edit.busy = true;
  try {
    const answer = await (await ask("/api/decide", body)).json();
    // To accept what was drawn before changes nothing.
    if (answer.row.version !== before) decided.push({ row: item.row, index, query: list.query, before, version: answer.row.version });
    took(answer);
    edit.changed = edit.dropped = false;
  } catch (error) {
    if (error.status === 409) await superseded(index); else throw error;
    return;
  } finally { edit.busy = false; }
  await go(by);
});

// Another window has decided since: show what holds now. What was drawn stays, and may replace it.
async function superseded(index) {
  const drawn = isEditing() && edit.changed;
  await follow();
  // After very many changes at once, the row was not among those that came.
  const { rows } = await (await ask(`/api/rows?query=${list.query}&first=${index}&count=1`)).json();
  rows.forEach(update);
  await reload();
  if (drawn) edit.version = edit.item.version;
  tell(`Another window has decided about this label meanwhile. ${drawn ? "Press A again to replace that, or Esc to discard what you drew." : "Look at it, and decide again."}`);
}

function took({ row, counts }) {
  update(row);
  if (edit.item?.row === row.row) edit.version = row.version;
  showCounts(counts);
  draw();
}

const undo = guarded(async () => {
  const last = decided.at(-1);
  if (!last) { tell("Nothing to undo: no decision was made in this window. Decide again to change one."); return; }
  let answer;
  try { answer = await (await ask("/api/undo", { row: last.row, version: last.version })).json(); }
  catch (error) {
    if (error.status !== 409) throw error;
    decided.pop();
    await follow();
    tell("Nothing was undone: another window has decided about that label since. Decide again to change it.");
    return;
  }
  decided.pop();
  took(answer);
  // The decision that holds again can be undone too, if it was made in this window.
  const earlier = decided.findLast((one) => one.row === last.row);
  if (earlier?.version === last.before) earlier.version = answer.row.version;
  if (last.query === list.query) {
    list.current = last.index;
    showCurrent();
    if (isEditing()) await open(list.current);
  } else if (isEditing() && edit.item.row === last.row) await open(edit.index);
});

const accept = () => decide(isEditing() && edit.changed ? "fixed" : "accepted");

async function go(by) {
  if (!isEditing()) { move(by); return; }
  if (edit.changed) { await decide("fixed", by); return; }
  const to = edit.index + by;
  if (to < 0 || to >= list.total) return;
  list.current = to;
  showCurrent();
  await open(to);
}

async function follow() {
  const found = await (await ask(`/api/changes?since=${version}`)).json();
  version = found.version;
  found.rows.forEach(update);
  if (!found.is_all) find(true);
  if (found.rows.length) { showCounts(found.counts); draw(); }
}

// Show what another window decided about the label in the editor; one that is drawn on stays.
const reload = guarded(async () => {
  if (isEditing() && edit.mask && !edit.changed && edit.item.version !== edit.version) await open(edit.index);
});

async function poll() {
  if (!document.hidden) {
    await guarded(follow)();
    queue = queue.then(reload);
  }
  setTimeout(poll, POLL_MS);
}

// ---------------------------------------------------------------- the editor

const edit = { item: null, index: 0, version: 0, image: null, width: 0, height: 0, mask: null, stroke: null, undone: [], changed: false, dropped: false, tool: "brush", snap: true, busy: false };
const context = $("canvas").getContext("2d", { willReadFrequently: false });
const layer = document.createElement("canvas");

function packed(mask) {
  const bytes = new Uint8Array(Math.ceil(mask.length / 8));
  for (let i = 0; i < mask.length; i++) if (mask[i]) bytes[i >> 3] |= 128 >> (i & 7);
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(text);
}
function unpacked(bytes, count) {
  const mask = new Uint8Array(count);
  for (let i = 0; i < count; i++) mask[i] = (bytes[i >> 3] >> (7 - (i & 7))) & 1;
  return mask;
}
const bits = async (answer) => new Uint8Array(await (await answer).arrayBuffer());

const open = guarded(async (index) => {
  const item = await itemAt(index);
  if (!item) { tell("This label could not be loaded; go back to the grid"); return; }
  if (!isEditing()) { $("editor").hidden = false; $("canvas").focus(); }
  // Until it has arrived, nothing is shown, and nothing can be drawn, or saved under another name.
  Object.assign(edit, { item, index, version: item.version, mask: null, undone: [], changed: false, dropped: false, stroke: null });
  context.clearRect(0, 0, $("canvas").width, $("canvas").height);
  delete $("canvas").dataset.row;
  showFacts();
  const image = new Image();
  image.src = pictureOf("image", item);
  const decoded = image.decode().catch(() => { throw new Error(`${item.name} cannot be shown; is the image damaged?`); });
  const [mask] = await Promise.all([bits(ask(versionOf("mask", item))), decoded]);
  if (edit.item !== item) return;
  const { naturalWidth: width, naturalHeight: height } = image;
  Object.assign(edit, { image, width, height, mask: unpacked(mask, width * height) });
  $("canvas").width = layer.width = width;
  $("canvas").height = layer.height = height;
  $("zoom").value = 100;
  fit();
  paint();
  $("canvas").dataset.row = item.row;
  // The next one is in the cache of the browser when it is wanted.
  itemAt(index + 1).then((next) => { if (next) new Image().src = pictureOf("image", next); });
});

function showFacts() {
  const { item, index } = edit;
  $("name").textContent = item.name;
  const mark = document.createElement("b");
  mark.className = item.state;
  mark.textContent = STATES[item.state] || "undecided";
  $("facts").replaceChildren(`${(index + 1).toLocaleString("en")} of ${list.total.toLocaleString("en")} · ${[...describe(item), ""].join(" · ")}`, mark);
}

function fit() {
  const box = $("stage").getBoundingClientRect();
  const scale = Math.min(box.width / edit.width, box.height / edit.height, 4) * Number($("zoom").value) / 100;
  $("canvas").style.width = `${Math.max(1, Math.floor(edit.width * scale))}px`;
  $("canvas").style.height = `${Math.max(1, Math.floor(edit.height * scale))}px`;
}

function paint(x0 = 0, y0 = 0, x1 = edit.width, y1 = edit.height) {
  if (!edit.mask) return;
  [x0, y0] = [Math.max(0, x0), Math.max(0, y0)];
  [x1, y1] = [Math.min(edit.width, x1), Math.min(edit.height, y1)];
  if (x1 <= x0 || y1 <= y0) return;
  const pixels = new ImageData(x1 - x0, y1 - y0), { data } = pixels, { mask, width, height } = edit;
  const differs = (x, y, v) => x < 0 || y < 0 || x >= width || y >= height || mask[y * width + x] !== v;
  let k = 0;
  for (let y = y0; y < y1; y++) {
    for (let x = x0; x < x1; x++, k += 4) {
      const v = mask[y * width + x];
      if (!v) continue;
      const edge = differs(x - 1, y, v) || differs(x + 1, y, v) || differs(x, y - 1, v) || differs(x, y + 1, v);
      data[k] = 255; data[k + 1] = edge ? 235 : 120; data[k + 2] = edge ? 90 : 20; data[k + 3] = 255;
    }
  }
  layer.getContext("2d").putImageData(pixels, x0, y0);
  const part = [x0, y0, x1 - x0, y1 - y0];
  context.globalAlpha = 1;
  context.drawImage(edit.image, ...part, ...part);
  context.globalAlpha = Number($("overlay").value) / 100;
  context.drawImage(layer, ...part, ...part);
}

function place(event) {
  const box = $("canvas").getBoundingClientRect();
  return [(event.clientX - box.left) / box.width * edit.width, (event.clientY - box.top) / box.height * edit.height];
}
const radius = () => Math.max(0.5, Number($("size").value) / 2 * edit.width / $("canvas").getBoundingClientRect().width);

function stamp(x, y, r, value) {
  const { width, height, mask, stroke } = edit;
  const [x0, x1, y0, y1] = [Math.max(0, Math.floor(x - r)), Math.min(width - 1, Math.ceil(x + r)), Math.max(0, Math.floor(y - r)), Math.min(height - 1, Math.ceil(y + r))];
  for (let j = y0; j <= y1; j++) for (let i = x0; i <= x1; i++) {
    if ((i + 0.5 - x) ** 2 + (j + 0.5 - y) ** 2 <= r * r) { mask[j * width + i] = value; stroke[j * width + i] = 1; }
  }
}

function segment([xa, ya], [xb, yb]) {
  const r = radius(), value = edit.tool === "brush" ? 1 : 0;
  const steps = Math.max(1, Math.ceil(Math.hypot(xb - xa, yb - ya) / Math.max(1, r / 2)));
  for (let step = 0; step <= steps; step++) stamp(xa + (xb - xa) * step / steps, ya + (yb - ya) * step / steps, r, value);
  const pad = Math.ceil(r) + 2;
  paint(Math.floor(Math.min(xa, xb)) - pad, Math.floor(Math.min(ya, yb)) - pad, Math.ceil(Math.max(xa, xb)) + pad, Math.ceil(Math.max(ya, yb)) + pad);
}

function remember() {
  edit.undone.push(edit.mask.slice());
  if (edit.undone.length > STROKES) { edit.undone.shift(); edit.dropped = true; }
  edit.changed = true;
}

function flood([x, y]) {
  const { width, height, mask } = edit, start = Math.floor(y) * width + Math.floor(x), from = mask[start];
  remember();
  const queue = [start];
  mask[start] = 1 - from;
  while (queue.length) {
    const here = queue.pop(), column = here % width;
    for (const [to, inside] of [[here - 1, column > 0], [here + 1, column < width - 1], [here - width, here >= width], [here + width, here < width * (height - 1)]]) {
      if (inside && mask[to] === from) { mask[to] = 1 - from; queue.push(to); }
    }
  }
  paint();
}

let last = null;
$("canvas").addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || !edit.mask || edit.busy) return;
  $("canvas").setPointerCapture(event.pointerId);
  if (edit.tool === "fill") { flood(place(event)); return; }
  remember();
  edit.stroke = new Uint8Array(edit.mask.length);
  last = place(event);
  segment(last, last);
});
$("canvas").addEventListener("pointermove", (event) => {
  if (!last) return;
  for (const one of event.getCoalescedEvents?.() ?? [event]) { const to = place(one); segment(last, to); last = to; }
});
// In the queue of keys, so that a label is accepted after its last stroke has snapped.
for (const name of ["pointerup", "pointercancel"]) $("canvas").addEventListener(name, () => {
  if (!last) return;
  last = null;
  if (!edit.snap) return;
  edit.busy = true;
  queue = queue.then(snapStroke);
});
const snapStroke = guarded(async () => {
  const { item, mask, stroke, undone } = edit;
  $("busy").hidden = false;
  try {
    const asked = { row: item.row, mask_bits: packed(undone.at(-1)), stroke_bits: packed(stroke), adds: edit.tool === "brush" };
    const found = await bits(ask("/api/snap", asked));
    if (edit.mask === mask) { edit.mask = unpacked(found, mask.length); paint(); }
  } finally {
    edit.busy = false;
    $("busy").hidden = true;
  }
});

function takeBack() {
  if (!edit.undone.length || edit.busy) return;
  edit.mask = edit.undone.pop();
  // Strokes that can no longer be taken back are still there.
  edit.changed = edit.dropped || edit.undone.length > 0;
  paint();
}
const reset = guarded(async () => {
  if (!edit.mask) return;
  const first = await bits(ask(pictureOf("first", edit.item)));
  remember();
  edit.mask = unpacked(first, edit.mask.length);
  paint();
});
function close() {
  $("editor").hidden = true;
  edit.changed = edit.dropped = false;
  $("scroller").focus();
  draw();
  if (!list.waiting) return undefined;
  const { keepRow } = list.waiting;
  list.waiting = null;
  return find(keepRow);
}
function choose(tool) {
  edit.tool = tool;
  for (const name of ["brush", "eraser", "fill"]) $(`tool-${name}`).setAttribute("aria-pressed", String(name === tool));
}
function toggleSnap() {
  edit.snap = !edit.snap;
  $("snap").setAttribute("aria-pressed", String(edit.snap));
}
let overlayBefore = 50;
function toggleOverlay() {
  const now = Number($("overlay").value);
  if (now) overlayBefore = now;
  $("overlay").value = now ? 0 : overlayBefore;
  paint();
}
function resizeBrush(factor) {
  $("size").value = Math.round(Number($("size").value) * factor + Math.sign(factor - 1));
}

// ---------------------------------------------------------------- keys and buttons

const everywhere = { a: accept, r: () => decide("rejected"), x: () => decide("rejected"), u: undo, n: () => go(1), j: () => go(1), p: () => go(-1), k: () => go(-1), "?": () => $("help").showModal() };
const inGrid = { ArrowRight: () => move(1), ArrowLeft: () => move(-1), ArrowDown: () => move(shape.columns), ArrowUp: () => move(-shape.columns), Home: () => move(-list.total), End: () => move(list.total), Enter: () => open(list.current), " ": () => open(list.current) };
const inEditor = { Escape: close, b: () => choose("brush"), e: () => choose("eraser"), f: () => choose("fill"), s: toggleSnap, z: takeBack, o: toggleOverlay, "[": () => resizeBrush(0.8), "]": () => resizeBrush(1.25), ArrowRight: () => go(1), ArrowLeft: () => go(-1) };

// One after the other: keys that are pressed fast decide about one label each.
let queue = Promise.resolve();
document.addEventListener("keydown", (event) => {
  const inField = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  const isButton = event.target.tagName === "BUTTON" && (event.key === " " || event.key === "Enter");
  if (event.ctrlKey && event.key === "z" && isEditing()) { takeBack(); event.preventDefault(); return; }
  if (event.ctrlKey || event.metaKey || event.altKey || isButton || $("help").open) return;
  if (inField && event.key !== "Escape" && event.target.type !== "range") return;
  if (event.target.type === "range" && event.key.startsWith("Arrow")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const work = ($("editor").hidden ? inGrid : inEditor)[key] ?? everywhere[key];
  if (!work) return;
  event.preventDefault();
  queue = queue.then(work);
});
const buttons = { close, back: takeBack, first: reset, accept, reject: () => decide("rejected"), undo, next: () => go(1), previous: () => go(-1), snap: toggleSnap, "tool-brush": () => choose("brush"), "tool-eraser": () => choose("eraser"), "tool-fill": () => choose("fill"), "help-button": () => $("help").showModal(), "help-close": () => $("help").close() };
for (const [id, work] of Object.entries(buttons)) $(id).addEventListener("click", () => { queue = queue.then(work); });
$("filters-button").addEventListener("click", () => {
  const isOpen = $("filters").classList.toggle("open");
  $("filters-button").setAttribute("aria-expanded", String(isOpen));
});
$("filters").addEventListener("submit", (event) => event.preventDefault());
let typing;
for (const id of ["state", "flag", "shard", "least", "most"]) $(id).addEventListener("change", () => find(false));
$("text").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => find(false), 250); });
$("overlay").addEventListener("input", () => paint());
$("zoom").addEventListener("input", fit);
$("scroller").addEventListener("scroll", draw, { passive: true });
new ResizeObserver(() => { measure(); draw(); if (edit.mask && isEditing()) fit(); }).observe($("scroller"));
window.addEventListener("beforeunload", (event) => { if (edit.changed) event.preventDefault(); });

guarded(async () => {
  const summary = await (await ask("/api/summary")).json();
  ({ version, start } = summary);
  hasQuality = summary.has_quality;
  $("folder").textContent = `${summary.labels}${summary.num_failed ? ` (${summary.num_failed.toLocaleString("en")} images have no label)` : ""}`;
  $("quality-label").hidden = !hasQuality;
  const option = (value, text) => Object.assign(document.createElement("option"), { value, textContent: text });
  $("flag").append(...summary.flags.map((flag) => option(flag, FLAGS[flag] ?? flag)));
  $("shard").append(...summary.shards.map((shard) => option(shard, shard)));
  showCounts(summary.counts);
  measure();
  await find(false);
  $("scroller").focus();
  setTimeout(poll, POLL_MS);
})();
