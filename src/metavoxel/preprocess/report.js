"use strict";
const { rows, measures } = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const FAR = 3.5, AT_ONCE = 60;
const SVG = "http://www.w3.org/2000/svg";

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
function median(values) {
  const sorted = [...values].sort((a, b) => a - b), n = sorted.length >> 1;
  return sorted.length % 2 ? sorted[n] : (sorted[n - 1] + sorted[n]) / 2;
}
const spell = (name) => name.replaceAll("_", " ");
const known = (name) => rows.map((r) => r.measures[name]).filter((x) => x !== null && x !== undefined);
const centre = {}, spread = {};
for (const name in measures) {
  const values = known(name);
  centre[name] = values.length ? median(values) : 0;
  spread[name] = values.length ? 1.4826 * median(values.map((x) => Math.abs(x - centre[name]))) : 0;
}
const isFar = (name, x) => spread[name] > 0 && Math.abs(x - centre[name]) / spread[name] > FAR;
function number(x, digits = 3) {
  if (x === null || x === undefined) return "n/a";
  return x >= 1e9 ? "∞" : Math.abs(x) >= 100 ? x.toFixed(0) : x.toFixed(digits);
}

// name, heading, value to sort by, text to show; measures come in between
const COLUMNS = [
  { key: "scan", head: "scan", value: (r) => r.scan },
  { key: "score", head: "outlier score", value: (r) => r.score, text: (r) => number(r.score, 1), number: true },
  { key: "oddest", head: "oddest measure", value: (r) => r.oddest, text: (r) => spell(r.oddest) },
  ...Object.keys(measures).map((name) => ({
    key: name, head: spell(name), value: (r) => r.measures[name], number: true,
    text: (r) => number(r.measures[name]), title: measures[name].Description,
    far: (r) => isFar(name, r.measures[name]),
  })),
  { key: "decision", head: "decision", value: (r) => (r.decision === "n/a" ? "" : r.decision) },
  { key: "seconds", head: "seconds", value: (r) => r.seconds, text: (r) => number(r.seconds, 0), number: true },
  { key: "notes", head: "notes", value: (r) => r.notes },
];
const state = { key: "score", down: true, wall: false, find: "", shown: 0, chosen: [] };

function picture(row) {
  if (!row.tile) return make("div", row.reason || "no picture", { class: "none" });
  const [source, path, width, height] = row.tile;
  const svg = draw("svg", { class: "tile", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": row.scan });
  svg.append(draw("image", { href: source, width, height }));
  svg.append(draw("path", { d: path, transform: "scale(.25)" }));
  return svg;
}
function line(row) {
  const tr = make("tr");
  const cell = make("td");
  cell.append(picture(row));
  tr.append(cell);
  for (const c of COLUMNS) {
    const td = make("td", c.text ? c.text(row) : c.value(row) ?? "", { class: c.number ? "number" : "" });
    if (c.far && c.far(row)) td.classList.add("far");
    tr.append(td);
  }
  return tr;
}
function figure(row) {
  const node = make("figure"), caption = make("figcaption");
  const sorted = COLUMNS.find((c) => c.key === state.key);
  const told = state.key === "scan" ? "" : sorted.text ? sorted.text(row) : sorted.value(row);
  const why = state.key === "score" ? `${told} ${spell(row.oddest)}` : `${told ?? ""}`;
  caption.append(make("span", row.scan), make("span", why, { class: "soft" }));
  node.append(picture(row), caption);
  return node;
}
function more() {
  const into = byId("scans").querySelector(".wall, tbody");
  const next = state.chosen.slice(state.shown, state.shown + AT_ONCE);
  into.append(...next.map(state.wall ? figure : line));
  state.shown += next.length;
}
function heading() {
  const tr = make("tr");
  tr.append(make("th", "brain"));
  for (const c of COLUMNS) {
    const th = make("th", "", { title: c.title || "", class: c.number ? "number" : "" });
    const button = make("button", c.head);
    button.onclick = () => sortBy(c.key);
    if (c.key === state.key) th.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    th.append(button);
    tr.append(th);
  }
  const head = make("thead");
  head.append(tr);
  return head;
}
function compare(a, b) {
  const { value } = COLUMNS.find((c) => c.key === state.key);
  const [x, y] = [value(a), value(b)];
  const empty = (v) => v === null || v === undefined || v === "";
  if (empty(x) || empty(y)) return empty(x) - empty(y); // what is missing comes last, either way
  const order = x < y ? -1 : x > y ? 1 : 0;
  return state.down ? -order : order;
}
function show() {
  const find = state.find.toLowerCase();
  const prepared = rows.filter((r) => r.status === "prepared");
  state.chosen = prepared
    .filter((r) => `${r.scan} ${r.notes} ${r.decision} ${r.reason}`.toLowerCase().includes(find))
    .sort(compare);
  state.shown = 0;
  const into = make(state.wall ? "div" : "table", "", { class: state.wall ? "wall" : "" });
  if (!state.wall) into.append(heading(), make("tbody"));
  byId("scans").replaceChildren(into);
  byId("count").textContent = find ? `${state.chosen.length} of ${prepared.length}` : `${prepared.length} scans`;
  byId("as-table").setAttribute("aria-pressed", !state.wall);
  byId("as-wall").setAttribute("aria-pressed", state.wall);
  byId("key").value = state.key;
  more();
}
function sortBy(key) {
  const textual = !COLUMNS.find((c) => c.key === key).number;
  state.down = key === state.key ? !state.down : !textual;
  state.key = key;
  show();
}
function histogram(name) {
  const values = known(name), low = Math.min(...values), high = Math.max(...values), bins = 32;
  const counts = Array(bins).fill(0), far = Array(bins).fill(0);
  for (const x of values) {
    const bin = high > low ? Math.min(bins - 1, Math.floor(((x - low) / (high - low)) * bins)) : 0;
    counts[bin]++;
    far[bin] += isFar(name, x);
  }
  const top = Math.max(...counts);
  const svg = draw("svg", { viewBox: `0 0 ${bins * 6} 64`, preserveAspectRatio: "none" });
  counts.forEach((n, i) => {
    const height = n && Math.max(2, (n / top) * 62);
    svg.append(draw("rect", { x: i * 6 + 0.5, width: 5, y: 64 - height, height, class: far[i] ? "far" : "" }));
  });
  const node = make("figure"), ends = make("div", "", { class: "ends" });
  const unit = measures[name].Units === "1" || !measures[name].Units ? "" : ` ${measures[name].Units}`;
  ends.append(make("span", number(low) + unit), make("span", `median ${number(centre[name])}`), make("span", number(high) + unit));
  node.append(make("figcaption", spell(name), { title: measures[name].Description }), svg, ends);
  return node;
}

const failures = rows.filter((r) => r.status !== "prepared");
byId("failures").hidden = !failures.length;
for (const r of failures) {
  const tr = make("tr");
  tr.append(make("td", r.scan), make("td", r.reason, { class: "failed" }));
  byId("failures").querySelector("tbody").append(tr);
}
for (const name in measures) if (known(name).length) document.querySelector(".histograms").append(histogram(name));
for (const c of COLUMNS) byId("key").append(make("option", c.head, { value: c.key }));
byId("key").onchange = (e) => { state.key = ""; sortBy(e.target.value); };
byId("turn").onclick = () => { state.down = !state.down; show(); };
byId("as-table").onclick = () => { state.wall = false; show(); };
byId("as-wall").onclick = () => { state.wall = true; show(); };
byId("search").oninput = (e) => { state.find = e.target.value; show(); };
byId("outline").onchange = (e) => byId("scans").classList.toggle("bare", !e.target.checked);
show();
new IntersectionObserver((seen) => {
  if (seen.some((s) => s.isIntersecting) && state.shown < state.chosen.length) more();
}, { rootMargin: "1200px" }).observe(byId("end"));
