// Nodes and numbers. Names are data: they become text nodes and attributes, never markup.
"use strict";
const $ = (id) => document.getElementById(id);
const SVG = document.querySelector("svg").namespaceURI;

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "on") Object.entries(value).forEach(([event, act]) => node.addEventListener(event, act));
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== undefined && value !== null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}
function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
  node.append(...children);
  return node;
}
const icon = (name, state) => svg("svg", { class: "icon " + (state || name), "aria-hidden": "true" }, svg("use", { href: "#i-" + name }));
const hide = (node, hidden) => { if (node.hidden !== hidden) node.hidden = hidden; };

/// Draws only if what is drawn differs from the last time: `draw` replaces the children.
function redraw(node, key, draw) {
  if (node.drawn === key) return false;
  node.drawn = key;
  const children = draw ? draw() : [key];
  node.replaceChildren(...children);
  return true;
}
/// A number: nothing and zero stand back.
const putNumber = (node, text) => {
  if (node.drawn === text) return;
  node.classList.toggle("zero", text === NONE || text === "0" || text === "0 B");
  put(node, text);
};
const put = (node, text) => {
  if (node.drawn === text) return;
  node.drawn = text;
  node.textContent = text;
};

/// Puts the children into this order with as few moves as possible. A moved row keeps the focus.
function arrange(parent, wanted) {
  const focused = document.activeElement;
  let at = parent.firstChild;
  for (const node of wanted) {
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
  if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
}

const NONE = "–";
const known = (value) => value !== null && value !== undefined;

// From 80 % on, as the server's findings.
const isNear = (value, limit) => known(value) && known(limit) && limit > 0 && value >= 0.8 * limit;
const GROUPS = new Intl.NumberFormat("en", { useGrouping: true, maximumFractionDigits: 0 });
const count = (value) => known(value) ? GROUPS.format(value).replaceAll(",", "\u202f") : NONE;
const short = (value) => value < 10 ? String(Math.round(value * 10) / 10) : value < 1e5 ? count(value) : Math.round(value / 1e3) + "k";
const rate = (value) => known(value) ? short(value) : NONE;
function size(bytes) {
  if (!known(bytes)) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) { bytes /= 1024; unit += 1; }
  return (unit && bytes < 100 ? bytes.toFixed(1) : Math.round(bytes)) + " " + units[unit];
}
const milli = (value) => value < 0.095 ? value.toFixed(2) : value < 10 ? value.toFixed(1) : value < 1e4 ? String(Math.round(value)) : Math.round(value / 1e3) + "k";
const times = (pair) => pair && known(pair.p50) ? milli(pair.p50) + " / " + (known(pair.p99) ? milli(pair.p99) : NONE) : NONE;
function age(seconds) {
  if (!known(seconds)) return NONE;
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= 2 * length) return Math.floor(seconds / length) + " " + unit;
  }
  return Math.round(seconds) + " s";
}
const clock = (time) => time ? time.slice(11, 19) : NONE;
const many = (number, one, more) => count(number) + " " + (number === 1 ? one : more || one + "s");
const connections = (number) => many(number, "open connection");

/// The values as a line over an area, the newest at the right end.
function sparkline(node, history) {
  const key = history.join();
  if (node.drawn === key) return;
  if (!node.firstChild) node.append(svg("svg", { class: "line", viewBox: "0 0 35 20", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("path", { d: "" }), svg("polyline", { points: "" })));
  node.drawn = key;
  node.classList.toggle("zero", history.every((value) => value === 0));
  const most = Math.max(1, ...history), first = 36 - history.length;
  const points = history.map((value, index) => (first + index) + "," + (18.5 - 17 * value / most).toFixed(1));
  const [area, line] = node.firstChild.children;
  line.setAttribute("points", points.join(" "));
  area.setAttribute("d", points.length ? "M" + first + ",20L" + points.join("L") + "L35,20Z" : "");
  node.title = history.length ? "new connections per second over three minutes, at most " + short(most) : "";
}
