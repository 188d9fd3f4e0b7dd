// The view, which the address keeps, and the first screen around the pools.
const EVENTS = 10;
let status = null;

const view = {};
function readView() {
  const given = new URLSearchParams(location.hash.slice(1));
  const text = (name) => given.get(name) || "";
  Object.assign(view, {
    show: ["all", ...STATES].includes(text("show")) ? text("show") : "all", find: text("find"), all: given.getAll("all"),
    sort: COLUMNS.some(({ id, by }) => id === text("sort") && by !== undefined) ? text("sort") : "worst",
    pool: text("pool"), backend: text("backend"), explain: given.has("explain"), client: text("client"), listener: text("listener"), protocol: text("protocol"), sni: text("sni"),
  });
  if ($("find").value !== view.find) $("find").value = view.find;
}
function go(change, replace) {
  Object.assign(view, change);
  const hash = new URLSearchParams();
  for (const [name, value] of Object.entries(view)) {
    if (Array.isArray(value)) value.forEach((one) => hash.append(name, one));
    else if (value && !(name === "show" && value === "all") && !(name === "sort" && value === "worst")) hash.set(name, value === true ? 1 : value);
  }
  const target = hash.size ? "#" + hash : location.pathname;
  if (target !== (location.hash || location.pathname)) history[replace ? "replaceState" : "pushState"](null, "", target);
  render();
}
/// A plain click on a link changes the view; others open a tab, as links do.
function follow(event, change) {
  if (event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
  event.preventDefault();
  go(change);
}
const comeBack = () => { readView(); render(); };
addEventListener("popstate", comeBack);
addEventListener("hashchange", comeBack);

const LEVEL_ICONS = { ok: "up", warning: "warning", critical: "down" };
const LEVEL_COLORS = { ok: "#17743a", warning: "#c07a00", critical: "#c0222f" };
function drawVerdict({ verdict, findings, state, version, uptime_seconds, generation }) {
  const { level, text } = verdict;
  if (redraw($("verdict"), level + text, () => [make("span", { class: level }, icon(LEVEL_ICONS[level], "level")), make("span", {}, text)])) {
    document.querySelector("header").className = level;
    document.title = (level === "ok" ? "" : "▲ " + text + " · ") + "tcplb";
    const canvas = make("canvas", { width: 32, height: 32 }), brush = canvas.getContext("2d");
    brush.fillStyle = LEVEL_COLORS[level];
    brush.beginPath();
    if (level === "ok") brush.arc(16, 16, 11, 0, 7);
    else if (level === "warning") brush.moveTo(16, 3), brush.lineTo(31, 29), brush.lineTo(1, 29);
    else brush.rect(4, 4, 24, 24);
    brush.fill();
    document.querySelector("link[rel=icon]").href = canvas.toDataURL();
  }
  put($("process"), version + " · " + state + " · up " + age(uptime_seconds) + " · generation " + generation);
  hide($("findings"), findings.length < 2);
  put($("findings").querySelector("summary"), many(findings.length, "finding"));
  redraw($("findings").querySelector("ul"), JSON.stringify(findings), () => findings.map((one) => make("li", {}, icon(LEVEL_ICONS[one.level], one.level === "critical" ? "down" : "degraded"), one.backend ? make("a", { href: "#", on: { click: (event) => follow(event, { pool: one.pool, backend: one.backend, explain: false }) } }, one.text) : one.text)));
}

function drawLimits({ process }) {
  const limits = [
    ["connections", process.connections, process.connections_limit, "", false, "clients connected now, at all listeners"],
    ["descriptors", process.descriptors, process.descriptors_limit, "", false, "open file descriptors"],
    ["local ports", process.ports_used, process.ports_limit, "", false, "ports in use towards the backend address with the most connections"],
    ["loop lag", times(process.loop_lag_ms), null, known(process.loop_lag_ms.p50) ? "ms" : "", false, "how long events wait for a worker, p50 / p99 of the last minute"],
    ["lost log lines", process.log_lines_lost_total + process.access_log_lines_lost_total, null, "", process.log_lines_lost_recently + process.access_log_lines_lost_recently > 0, count(process.log_lines_lost_total) + " of the log, " + count(process.access_log_lines_lost_total) + " of the access log"],
    ["last reload", process.last_reload ? (process.last_reload.success ? "ok" : "failed") : "none", null, process.last_reload ? age(process.last_reload.age_seconds) + " ago" : "", process.last_reload && !process.last_reload.success, process.last_reload?.error],
  ];
  const box = $("limits");
  limits.forEach(([name, value, limit, unit, bad, title], index) => {
    const cell = box.children[index] || box.appendChild(make("div", {}, make("dt", {}, name), make("dd")));
    const part = known(value) && known(limit) && limit > 0 ? value / limit : null;
    const near = part !== null ? isNear(value, limit) : Boolean(bad);
    cell.classList.toggle("near", near);
    cell.title = title || "";
    const text = typeof value === "number" ? count(value) : value ?? NONE;
    redraw(cell.lastChild, [text, limit, unit, near].join(), () => [near ? icon("warning") : "", near ? " " : "", text, make("small", {}, part !== null ? " / " + count(limit) : unit ? " " + unit : ""), part !== null ? make("span", { class: "gauge" }, make("i")) : ""]);
    const gauge = cell.querySelector("i");
    if (gauge) gauge.style.transform = "scaleX(" + Math.min(1, part).toFixed(3) + ")";
  });
}

const LISTENER_HEADS = [["listener", "text"], ["address", "text wide"], ["pool", "text"], ["conns", ""], ["conn/s", ""], ["refused/s", ""], ["refused", "wide"], ["3 min", "spark wide"]];
$("listeners").tHead.append(make("tr", { role: "row" }, ...LISTENER_HEADS.map(([head, name]) => make("th", { class: name, scope: "col", role: "columnheader" }, make("span", {}, head)))));
const listenerRows = new Map();
function drawListeners({ listeners }) {
  for (const name of listenerRows.keys()) if (!listeners.some((one) => one.name === name)) listenerRows.delete(name);
  arrange($("listeners").tBodies[0], listeners.map((one) => {
    let row = listenerRows.get(one.name);
    if (!row) listenerRows.set(one.name, row = make("tr", { role: "row" }, ...LISTENER_HEADS.map(([, name], index) => make(index ? "td" : "th", { class: name, role: index ? "cell" : "rowheader" }))));
    const refused = Object.entries(one.refused).map(([cause, number]) => cause + " " + count(number)).join(", ");
    const texts = [one.name, one.address, one.pool, count(one.active_connections) + (known(one.connections_limit) ? " / " + count(one.connections_limit) : ""), rate(one.recent.accepted_per_second), rate(one.recent.refused_per_second), refused || count(one.refused_total)];
    texts.forEach((text, index) => {
      (index < 3 ? put : putNumber)(row.children[index], text);
      row.children[index].title = text;
    });
    sparkline(row.lastChild, one.history);
    return row;
  }));
}

const events = { list: [], next: 0, started: "" };
function eventText({ kind, pool, backend, from, to, reason }) {
  // A change of the configuration says it in words.
  const change = !to || (kind === "config" && reason) ? "" : from ? from + " → " + to : to;
  const text = [kind === "backend_state" ? "" : kind.replaceAll("_", " "), change, reason].filter(Boolean).join(", ");
  return [make("b", {}, [pool, backend].filter(Boolean).join("/") || "tcplb"), text];
}
const eventIcon = ({ kind, to }) => ["pool_empty", "reload_failed", "limit_reached", "source_failed", "kernel_failed"].includes(kind) || to === "down" ? icon(to === "down" || kind === "pool_empty" ? "down" : "warning", to === "down" || kind === "pool_empty" ? "down" : "degraded") : icon("up", to === "up" || kind === "pool_serves" || kind === "source_back" || kind === "kernel_back" ? "up" : "disabled");
function drawEvents() {
  const shown = events.list.slice(-EVENTS).reverse();
  redraw($("events"), shown.map(({ seq }) => seq).join(), () => shown.length ? shown.map((event) => make("li", {}, make("time", { datetime: event.time, title: event.time }, clock(event.time)), make("span", {}, eventIcon(event), ...eventText(event)), make("span", { class: "by" }, event.by ? "by " + event.by : ""))) : [make("li", { class: "soft none" }, "No event yet.")]);
}
