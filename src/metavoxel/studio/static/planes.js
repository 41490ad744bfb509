// The pictures of the scan on the screen, fetched ahead of the next ones. State is in qc.js.
"use strict";

const AHEAD = 3, KEPT = 40; // scans, views
const views = new Map();

function fetchView(scan, place, head) {
  const key = `${scan} ${place ?? ""} ${head}`;
  if (!views.has(key)) {
    const where = place ? `&at=${place}` : "";
    const found = call(`api/view?scan=${encodeURIComponent(scan)}${where}&head=${head}`);
    found.catch(() => views.delete(key));
    views.set(key, found);
    if (views.size > KEPT) views.delete(views.keys().next().value);
  }
  return views.get(key);
}
async function show() {
  const scan = current, place = at && at.join(","), head = switches.head;
  const stale = () => scan !== current || place !== (at && at.join(",")) || head !== switches.head;
  if (scan === null) return sentence(done());
  const row = byName.get(scan);
  if (!row.prepared) { drawn = scan; return sentence(`It was not prepared: ${row.reason}`); }
  try {
    const view = await fetchView(scan, place, head);
    if (stale()) return;
    shape = view.shape;
    at = view.at;
    sentence("");
    byId("planes").replaceChildren(...view.planes.map((p) => plane(p, view.at)));
    fit();
  } catch (error) {
    if (stale()) return;
    if (head) { // the brain alone may well be there
      toggle("head");
      complain(error);
      return show();
    }
    sentence(error.message);
  }
  drawn = scan;
  ahead();
}
function sentence(text) {
  byId("sentence").textContent = text;
  byId("sentence").hidden = !text;
  if (text) byId("planes").replaceChildren();
}
function done() {
  return filter === "undecided" ? "Every scan has been judged." : `No scan is ${filter === "all" ? "here" : filter}.`;
}
function ahead() {
  const order = listed(), here = order.findIndex((s) => s.scan === current);
  const far = switches.head ? 1 : AHEAD; // a whole head takes the server longer
  for (const s of order.slice(here + 1, here + 1 + far)) if (s.prepared) fetchView(s.scan, null, switches.head).catch(() => {});
}
function plane(p, voxel) {
  const box = make("div", "", { class: "plane", "data-plane": p.name });
  const svg = draw("svg", { viewBox: `0 0 ${p.width} ${p.height}` });
  svg.append(draw("image", { href: p.picture, width: p.width, height: p.height, preserveAspectRatio: "none" }));
  const x = voxel[p.right] - p.corner[0] + 0.5, y = p.height - (voxel[p.up] - p.corner[1]) - 0.5;
  svg.append(draw("path", { class: "cross", d: `M${x} 0V${p.height}M0 ${y}H${p.width}` }));
  for (const kind of ["template", "mask"]) svg.append(draw("path", { class: kind, d: p[kind], transform: "scale(.25)" }));
  const where = `${p.name} · ${"xyz"[p.across]} = ${p.millimetres.toFixed(0)} mm`;
  box.append(svg, make("span", p.sides[0], { class: "left" }), make("span", p.sides[1], { class: "right" }), make("span", where, { class: "where" }));
  box.dataset.width = p.width;
  box.dataset.height = p.height;
  box.onclick = (e) => {
    const r = svg.getBoundingClientRect(), to = [...at];
    to[p.right] = p.corner[0] + Math.floor(((e.clientX - r.left) / r.width) * p.width);
    to[p.up] = p.corner[1] + p.height - 1 - Math.floor(((e.clientY - r.top) / r.height) * p.height);
    move(to);
  };
  box.onwheel = (e) => {
    e.preventDefault();
    const to = [...at];
    to[p.across] += e.deltaY < 0 ? 1 : -1;
    move(to);
  };
  return box;
}
function move(to) {
  at = to.map((i, axis) => Math.min(Math.max(0, i), shape[axis] - 1));
  show();
}
function fit() {
  const boxes = [...document.querySelectorAll(".plane")], room = document.querySelector("main").getBoundingClientRect();
  const width = boxes.reduce((sum, b) => sum + Number(b.dataset.width), 0), height = Math.max(...boxes.map((b) => Number(b.dataset.height)));
  const scale = Math.min((room.width - 40) / width, (room.height - 16) / height);
  for (const b of boxes) {
    b.style.width = `${b.dataset.width * scale}px`;
    b.style.height = `${b.dataset.height * scale}px`;
  }
}
