// Quality control in the browser. The server holds the state; this page holds what is on the screen.
"use strict";

const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const UNDECIDED = "n/a", FAR = 3.5, POLL_MS = 4000;
const NAMES = { pass: "passed", fail: "failed", unsure: "unsure", [UNDECIDED]: "undecided" };
const FILTERS = [
  ["undecided", (s) => s.prepared && decided(s.scan) === UNDECIDED],
  ["failed", (s) => decided(s.scan) === "fail"],
  ["unsure", (s) => decided(s.scan) === "unsure"],
  ["passed", (s) => decided(s.scan) === "pass"],
  ["all", (s) => s.prepared],
  ["not prepared", (s) => !s.prepared],
];

let scans = [], byName = new Map(), last = new Map(), seen = 0, folder = "";
let filter = "undecided", current = null, at = null, busy = false, drawn = null;
let shape = null, undoable = [];
const switches = { mask: true, template: true, head: false };
const cohort = {}; // per measure: sorted values, median, robust standard deviation

const decided = (name) => last.get(name)?.decision ?? UNDECIDED;
const listed = () => scans.filter(FILTERS.find(([name]) => name === filter)[1]);
const spell = (name) => name.replaceAll("_", " ");

function make(tag, text = "", attributes = {}) {
  const node = document.createElement(tag);
  node.textContent = text;
  for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
  return node;
}
function draw(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
  return node;
}

// --- the server ---------------------------------------------------------------------------------

let unanswered = false; // whether the last call found no server
let lost = false; // whether any call found none since the page last went on
async function call(path, body) {
  const options = body && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, options);
    unanswered = false;
  } catch {
    unanswered = lost = true;
    throw new Error("The server does not answer. Every decision that was made is in qc.tsv; start metavoxel qc again, and open the address that it prints.");
  }
  const data = await answer.json().catch(() => ({ error: `The server answered ${answer.status}.` }));
  if (!answer.ok) throw new Error(data.error);
  return data;
}
function complain(error) {
  byId("trouble").textContent = error ? error.message : "";
  byId("trouble").hidden = !error;
}
function take({ decisions, from, seen: now, shortened }) {
  if (shortened) { last = new Map(); seen = 0; }
  // Answers may come in another order than they were asked for: what is known already stays.
  for (const d of decisions.slice(Math.max(0, seen - from))) last.set(d.scan, d);
  seen = Math.max(seen, now);
}
async function poll() {
  try {
    const before = seen;
    take(await call(`api/decisions?seen=${seen}`));
    if (seen !== before) refresh();
    if (lost) { complain(null); lost = false; views.clear(); show(); }
  } catch (error) {
    lost = true;
    complain(error);
  }
  setTimeout(poll, POLL_MS);
}

// --- judging ------------------------------------------------------------------------------------

const remember = () => sessionStorage.setItem(`metavoxel-qc ${folder}`, JSON.stringify({ undoable, filter }));

// Writes a line; the line written, and the one on this scan that counted before it.
async function write(scan, decision, note, expected) {
  if (busy) return null;
  busy = true;
  try {
    const known = last.get(scan);
    const told = await call("api/decisions", { scan, decision, note, rater: byId("rater").value, expected, seen });
    take(told);
    complain(told.told ? new Error(told.told) : null);
    const { made } = told, lines = [known, ...told.decisions].filter((d) => d && d.scan === scan);
    return { made, before: lines[lines.findIndex((d) => d.time === made.time) - 1] };
  } catch (error) {
    complain(error);
    return null;
  } finally {
    busy = false;
  }
}
async function decide(scan, decision, note) {
  const done = await write(scan, decision, note);
  if (!done) return false;
  const { made, before } = done;
  undoable.push({ scan, time: made.time, decision: before?.decision ?? UNDECIDED, note: noteOf(before), earlier: before?.time });
  remember();
  return true;
}
const noteOf = (d) => (d && d.note !== "n/a" ? d.note : "");

async function judge(decision) {
  // Only what is on the screen can be judged: not a scan whose pictures are still on their way.
  if (current === null || drawn !== current || !byName.get(current).prepared) return;
  const order = listed(), here = order.findIndex((s) => s.scan === current);
  if (!(await decide(current, decision, byId("note").value))) return;
  byId("note").blur();
  const left = [...order.slice(here + 1), ...order.slice(0, Math.max(here, 0))].filter((s) => s.scan !== current);
  const still = new Set(listed().map((s) => s.scan));
  const next = left.find((s) => still.has(s.scan));
  if (next) go(next.scan);
  else if (still.has(current)) refresh();
  else go(null);
}
async function undo() {
  if (busy) return;
  const step = undoable.pop();
  if (!step) return complain(new Error("There is nothing to undo in this window."));
  const done = await write(step.scan, step.decision, step.note, step.time);
  // The line that was restored is now the new one: that is what an earlier step is to undo.
  if (done) for (const h of undoable) if (h.scan === step.scan && h.time === step.earlier) h.time = done.made.time;
  if (!done && unanswered) undoable.push(step);
  remember();
  if (done) go(step.scan);
  else refresh();
}
async function saveNote() {
  const scan = current, text = byId("note").value.trim().replace(/\s+/g, " ");
  if (scan === null || text === noteOf(last.get(scan))) return;
  if (await decide(scan, decided(scan), text)) refresh();
}
function step(by) {
  const order = listed(), here = order.findIndex((s) => s.scan === current);
  if (!order.length) return;
  if (here >= 0) return go(order[(here + by + order.length) % order.length].scan);
  // The current scan has left the filter: go on from where it stands in the whole order.
  const rank = scans.findIndex((s) => s.scan === current);
  const after = order.findIndex((s) => scans.indexOf(s) > rank);
  const next = by > 0 ? Math.max(after, 0) : ((after < 0 ? order.length : after) - 1 + order.length) % order.length;
  go(order[next].scan);
}
function jump(text) {
  const wanted = text.trim().toLowerCase(), number = Number(wanted);
  if (!wanted) return;
  const order = listed();
  const found = byName.get(text.trim())
    ?? scans.find((s) => s.scan.toLowerCase().includes(wanted))
    ?? (Number.isInteger(number) ? order[number - 1] : undefined);
  const exact = Number.isInteger(number) && number >= 1 && number <= order.length ? order[number - 1] : found;
  if (!exact) return complain(new Error(`No scan is called ${text}.`));
  complain(null);
  go(exact.scan);
}

// --- what stands around them --------------------------------------------------------------------

function go(scan) {
  if (document.activeElement === byId("note")) byId("note").blur();
  current = scan;
  at = null;
  drawn = null;
  window.history.replaceState(null, "", scan === null ? " " : `#${scan}`);
  refresh();
  show();
}
function refresh() {
  const prepared = scans.filter((s) => s.prepared), order = listed();
  const counts = { pass: 0, fail: 0, unsure: 0, [UNDECIDED]: 0 };
  for (const s of prepared) counts[decided(s.scan)]++;
  for (const kind of ["pass", "fail", "unsure"]) {
    document.querySelector(`#progress .${kind}`).style.width = `${(100 * counts[kind]) / Math.max(1, prepared.length)}%`;
  }
  const judged = prepared.length - counts[UNDECIDED];
  byId("judged").textContent = `${judged} of ${prepared.length} judged`;
  byId("progress").setAttribute("aria-label", byId("judged").textContent);
  byId("filters").replaceChildren(...FILTERS.map(([name, holds], i) => {
    const button = make("button", `${i + 1} ${name}`, { "aria-pressed": name === filter, "data-filter": name });
    button.append(make("b", scans.filter(holds).length));
    button.onclick = () => choose(name);
    return button;
  }));
  const here = order.findIndex((s) => s.scan === current);
  byId("place").textContent = here >= 0 ? `${here + 1} of ${order.length}, the oddest first` : `${order.length} here`;
  describe();
}
function choose(name) {
  filter = name;
  remember();
  const order = listed();
  if (order.some((s) => s.scan === current)) return refresh();
  go(order.length ? order[0].scan : null);
}
function describe() {
  const row = byName.get(current), d = last.get(current), state = decided(current);
  byId("panel").style.visibility = row ? "visible" : "hidden";
  if (!row) return;
  byId("name").textContent = row.scan;
  byId("badge").textContent = row.prepared ? NAMES[state] : "not prepared";
  byId("badge").className = state === UNDECIDED ? "undecided" : state;
  byId("oddity").textContent = row.score !== null
    ? `Outlier score ${row.score.toFixed(1)}, for its ${spell(row.oddest)}`
    : row.oddest ? `Not measured: ${spell(row.oddest)}` : "";
  const who = d && d.decision !== UNDECIDED ? `${NAMES[d.decision]} by ${d.rater}, ${d.time.slice(0, 16).replace("T", " ")}` : "";
  byId("said").textContent = [who, ...row.notes, row.prepared ? row.reason : ""].filter(Boolean).join(" · ");
  byId("said").title = byId("said").textContent;
  if (document.activeElement !== byId("note")) byId("note").value = noteOf(d);
  byId("measures").replaceChildren(...Object.entries(row.measures).flatMap(measure));
  for (const b of document.querySelectorAll("#decide .pass, #decide .fail, #decide .unsure")) {
    b.classList.toggle("now", b.dataset.do === state);
    b.disabled = !row.prepared;
  }
  byId("note").disabled = !row.prepared;
}
function measure([name, value]) {
  const c = cohort[name], far = value !== null && c.spread > 0 && Math.abs(value - c.median) / c.spread > FAR;
  const digits = value !== null && Math.abs(value) >= 100 ? 0 : 3;
  const strip = make("div", "", { class: "strip", title: `median of the cohort ${c.median?.toFixed(digits)}` });
  const [low, high] = [c.values[0], c.values.at(-1)], along = (x) => (high > low ? (100 * (x - low)) / (high - low) : 50);
  const quarter = (q) => along(c.values[Math.floor(q * (c.values.length - 1))]);
  const middle = make("i");
  middle.style.left = `${quarter(0.25)}%`;
  middle.style.width = `${Math.max(2, quarter(0.75) - quarter(0.25))}%`;
  strip.append(middle);
  if (value !== null) {
    const dot = make("b", "", { class: far ? "far" : "" });
    dot.style.left = `${along(value)}%`;
    strip.append(dot);
  }
  return [make("dt", spell(name)), make("dd", value === null ? "n/a" : value.toFixed(digits), { class: far ? "far" : "" }), strip];
}
function learnCohort() {
  const middle = (v) => (v.length % 2 ? v[v.length >> 1] : (v[(v.length >> 1) - 1] + v[v.length >> 1]) / 2);
  const names = new Set(scans.flatMap((s) => Object.keys(s.measures)));
  for (const name of names) {
    const values = scans.map((s) => s.measures[name]).filter((x) => x !== null && x !== undefined).sort((a, b) => a - b);
    const median = middle(values), distances = values.map((x) => Math.abs(x - median)).sort((a, b) => a - b);
    cohort[name] = { values, median, spread: 1.4826 * middle(distances) };
  }
}

// --- keys ---------------------------------------------------------------------------------------

const ACTIONS = {
  pass: () => judge("pass"), fail: () => judge("fail"), unsure: () => judge("unsure"), undo,
  next: () => step(1), previous: () => step(-1),
  note: () => byId("note").focus(), jump: () => { byId("jump").value = ""; byId("jump").focus(); },
  mask: () => (closer.shown ? closer.tint() : toggle("mask")), template: () => toggle("template"),
  head: () => { toggle("head"); show(); },
  up: () => at && move(at.map((i) => i + 2)), down: () => at && move(at.map((i) => i - 2)),
  reset: () => { at = null; show(); },
  closer: () => (closer.shown ? closer.close() : current && byName.get(current).prepared && closer.open(current)),
  help: () => byId("keys").showModal(),
};
const KEYS = {
  p: ["pass", "pass, and on to the next"], f: ["fail", "fail, and on to the next"], u: ["unsure", "unsure, and on to the next"],
  z: ["undo", "undo the last decision of this window"], n: ["note", "write a note; Enter keeps it"],
  ArrowRight: ["next", "next scan"], ArrowLeft: ["previous", "previous scan"], g: ["jump", "jump to a scan by name or number"],
  m: ["mask", "mask outline"], t: ["template", "template edges"], h: ["head", "whole head, from the raw scan"],
  v: ["closer", "closer look with NiiVue"], ArrowUp: ["up", "slices up, right and forward"], ArrowDown: ["down", "slices down, left and back"],
  r: ["reset", "planes back to the middle"], "?": ["help", "these keys"],
};
const REPEATING = new Set(["up", "down", "next", "previous"]);

function toggle(name) {
  switches[name] = !switches[name];
  document.querySelector(`[data-do=${name}]`).setAttribute("aria-pressed", switches[name]);
  document.body.classList.toggle(`no-${name}`, !switches[name]);
}
function press(e) {
  if (e.target.matches("input")) return typing(e);
  if (byId("keys").open || e.altKey || e.metaKey || (e.ctrlKey && e.key !== "z")) return;
  if (closer.shown && !["v", "m", "Escape"].includes(e.key)) return;
  if (e.key === "Escape") return closer.close();
  const digit = Number(e.key);
  if (digit >= 1 && digit <= FILTERS.length) return choose(FILTERS[digit - 1][0]);
  const found = KEYS[e.key] ?? KEYS[e.key.toLowerCase()];
  if (!found || (e.repeat && !REPEATING.has(found[0]))) return;
  e.preventDefault();
  ACTIONS[found[0]]();
}
function typing(e) {
  if (e.key === "Escape" && e.target.id === "note") e.target.value = noteOf(last.get(current));
  if (e.key === "Enter" && e.target.id === "jump") jump(e.target.value);
  if (e.key === "Enter" || e.key === "Escape") e.target.blur();
}
function helpTable() {
  const spelt = { ArrowRight: "→", ArrowLeft: "←", ArrowUp: "↑", ArrowDown: "↓" };
  const table = make("table");
  for (const [key, [, what]] of [...Object.entries(KEYS), ["1–6", ["", "filters"]]]) {
    const tr = make("tr"), td = make("td");
    td.append(make("kbd", spelt[key] ?? key.toUpperCase()));
    tr.append(td, make("td", what));
    table.append(tr);
  }
  byId("keys").append(table, make("p", "Escape closes this.", { class: "soft" }));
}

async function start() {
  helpTable();
  try {
    const all = await call("api/scans");
    scans = all.scans;
    folder = all.folder;
    byName = new Map(scans.map((s) => [s.scan, s]));
    take({ decisions: all.decisions, from: 0, seen: all.seen });
    learnCohort();
    byId("folder").textContent = `\u200e${folder}`;
    byId("folder").title = folder;
    document.title = `Quality control: ${folder.split("/").at(-1)}`;
    byId("rater").value = localStorage.getItem("metavoxel-qc rater") ?? all.rater;
    byId("names").append(...scans.map((s) => make("option", "", { value: s.scan })));
  } catch (error) {
    complain(error);
    return void setTimeout(() => location.reload(), POLL_MS);
  }
  const kept = JSON.parse(sessionStorage.getItem(`metavoxel-qc ${folder}`) ?? "{}");
  undoable = kept.undoable ?? [];
  filter = kept.filter ?? "undecided";
  const wanted = decodeURIComponent(location.hash.slice(1));
  go(byName.has(wanted) ? wanted : listed()[0]?.scan ?? null);
  setTimeout(poll, POLL_MS);
}

document.addEventListener("keydown", press);
for (const b of document.querySelectorAll("[data-do]")) {
  b.addEventListener("mousedown", (e) => e.preventDefault()); // the note keeps the focus, and so its text
  b.addEventListener("click", () => ACTIONS[b.dataset.do]());
}
byId("help").onclick = ACTIONS.help;
byId("note").onblur = saveNote;
byId("rater").onchange = (e) => localStorage.setItem("metavoxel-qc rater", e.target.value.trim());
addEventListener("resize", fit);
start();
