// The table of pools: a body for each pool, a row for each backend. A row is drawn anew only where it changed, and only
// while it is on the screen; the others take turns.
const SHOWN = 25;
const TURNS = 10;
const failures = (recent) => recent.connect_failures + recent.resets_before_byte;

/// The heads are those of `tcplb status` and `tcplb top`. `what` and `unit` stand below them.
const COLUMNS = [
  { id: "name", head: "backend", text: true, by: null },
  { id: "state", head: "state", text: true, by: "worst" },
  { id: "conns", head: "conns", title: "open connections / limit", by: (row) => row.active_connections },
  { id: "rate", head: "conn/s", by: (row) => row.recent.connections_per_second },
  { id: "in", head: "in/s", title: "bytes per second from clients to backends", by: (row) => row.recent.bytes_to_backend_per_second },
  { id: "out", head: "out/s", title: "bytes per second from backends to clients", by: (row) => row.recent.bytes_to_client_per_second },
  { id: "connect", head: "connect", what: "p50 / p99", unit: "ms", title: "time to connect, of the last minute", by: (row) => row.recent.connect_ms.p99 },
  { id: "first", head: "first byte", what: "p50 / p99", unit: "ms", title: "time to the backend's first byte, of the last minute", by: (row) => row.recent.first_byte_ms.p99 },
  { id: "failures", head: "failures", title: "failed connects and resets before a byte, in the last minute", by: (row) => failures(row.recent) },
  { id: "spark", head: "3 min", title: "new connections per second over three minutes" },
];

const draw = {
  conns: (cell, row) => {
    const limit = row.connections_limit;
    const near = isNear(row.active_connections, limit);
    const changed = redraw(cell, row.active_connections + "/" + limit, () => [near ? icon("warning") : "", count(row.active_connections), known(limit) ? make("small", {}, " / " + count(limit)) : ""]);
    if (changed) cell.classList.toggle("near", near), cell.classList.toggle("zero", row.active_connections === 0);
  },
  rate: (cell, row) => putNumber(cell, rate(row.recent.connections_per_second)),
  in: (cell, row) => putNumber(cell, size(row.recent.bytes_to_backend_per_second)),
  out: (cell, row) => putNumber(cell, size(row.recent.bytes_to_client_per_second)),
  connect: (cell, row) => putNumber(cell, times(row.recent.connect_ms)),
  first: (cell, row) => putNumber(cell, times(row.recent.first_byte_ms)),
  failures: (cell, row) => {
    const number = failures(row.recent);
    putNumber(cell, count(number));
    cell.classList.toggle("bad", number > 0);
    if (cell.title || number > 0) cell.title = number > 0 ? many(row.recent.connect_failures, "failed connect") + ", " + many(row.recent.resets_before_byte, "reset") + " before a byte" : "";
  },
  spark: (cell, row) => sparkline(cell, row.history),
};

/// The worst first.
const URGENCIES = ["down_with_clients", "down", "failing", "at_limit", "near_limit", "set_aside", "up"];
const badness = (backend) => URGENCIES.indexOf(backend.urgency);

const collator = new Intl.Collator("en", { numeric: true });
const names = new Map();
/// The place of a name among all names: comparing numbers is fifty times as fast as comparing names.
function rankNames(pools) {
  const all = pools.flatMap((pool) => [pool.name, ...pool.backends.map((backend) => backend.name)]);
  if (all.length === names.total && all.every((name) => names.has(name))) return;
  names.clear();
  names.total = all.length;
  [...new Set(all)].sort(collator.compare).forEach((name, place) => names.set(name, place));
}

const watching = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    target.row.onScreen = isIntersecting;
    if (isIntersecting) target.row.draw();
  }
}, { rootMargin: "120px" });

class Row {
  constructor(kind, onScreen) {
    this.node = make("tr", { class: kind, role: "row" });
    this.node.row = this;
    this.onScreen = onScreen;
    this.cells = {};
    for (const { id, head, text, unit } of COLUMNS) {
      const named = id === "name";
      const cell = make(named ? "th" : "td", { class: id + (text ? " text" : ""), role: named ? "rowheader" : "cell", scope: named ? "row" : false, "data-head": text || id === "spark" ? false : unit ? head + " " + unit : head });
      this.cells[id] = cell;
      this.node.append(cell);
    }
    this.turn = Row.made++ % TURNS;
  }
  /// Takes the new values. The state is drawn at once, the rest if it can be seen.
  set(item, turn) {
    this.item = item;
    if (redraw(this.cells.state, this.stateKey(), () => this.state()) && this.known !== undefined && this.known !== item.state) {
      this.node.classList.remove("changed");
      void this.node.offsetWidth;
      this.node.classList.add("changed");
    }
    if (this.known !== item.state) this.node.dataset.state = item.state;
    this.known = item.state;
    if (this.onScreen || turn === this.turn) this.draw();
  }
  draw() {
    for (const id in draw) draw[id](this.cells[id], this.item);
  }
}
Row.made = 0;

/// What added a backend that is not in the file: `api`, or a source like `discovery:etcd`.
const origin = (backend) => backend.origin === "file" ? "" : backend.origin;

class BackendRow extends Row {
  constructor(pool, backend) {
    super("backend", false);
    const link = make("a", { href: "#" + new URLSearchParams({ pool: pool.name, backend: backend.name }) }, backend.name);
    this.node.dataset.pool = pool.name;
    this.node.dataset.backend = backend.name;
    this.origin = make("small");
    this.cells.name.append(link, this.origin);
    this.cells.name.title = backend.name === backend.address ? backend.address : backend.name + " at " + backend.address;
    watching.observe(this.node);
  }
  stateKey() {
    return [this.item.state, isFailing(this.item), this.item.summary].join();
  }
  draw() {
    super.draw();
    put(this.origin, origin(this.item));
  }
  state() {
    const { state } = this.item, why = this.item.summary, failing = isFailing(this.item);
    this.cells.state.title = why;
    return [make("span", { class: failing ? "failing" : state }, icon(failing ? "warning" : state, failing ? "failing" : state), make("b", {}, state)), make("span", { class: "reason" }, why)];
  }
}

/// What a source has found, and how it does.
class SourceRow {
  constructor() {
    this.cell = make("td", { colspan: COLUMNS.length, role: "cell" });
    this.node = make("tr", { class: "source", role: "row" }, this.cell);
  }
  set({ source, watches, ok, backends, last_success_seconds, errors_total, last_error, entries_left_out, left_out, kept, kept_because }) {
    const answered = known(last_success_seconds) ? "answered " + age(last_success_seconds) + " ago" : "no answer yet";
    const error = !last_error ? "" : ok ? ", " + many(errors_total, "error") + ", the last: " + last_error : ", error: " + last_error;
    const without = !entries_left_out ? "" : ", " + many(entries_left_out, "entry", "entries") + " left out";
    const stay = !kept_because ? "" : ", " + many(kept, "backend") + (kept === 1 ? " stays: " : " stay: ") + kept_because;
    const found = many(backends, "backend") + ", " + answered + error + without + stay;
    redraw(this.cell, [source, watches, ok, found].join(), () => [icon(ok ? "up" : "warning", ok ? "up" : "degraded"), make("b", {}, "source " + source), make("small", {}, watches), found]);
    const title = [found, ...left_out].join("\n");
    if (this.cell.title !== title) this.cell.title = title;
  }
}

class PoolRow extends Row {
  constructor(pool) {
    super("pool", true);
    this.cells.name.append(pool.name, make("small", {}, pool.algorithm));
    this.cells.name.title = pool.name + ", " + pool.algorithm;
    this.cells.name.scope = "rowgroup";
  }
  stateKey() {
    const { state, waiting, backends } = this.item;
    return [state, waiting, backends.length, backends.filter((one) => one.state === "up").length].join();
  }
  state() {
    const { state, waiting, backends } = this.item;
    const up = backends.filter((one) => one.state === "up").length;
    const rest = up + " of " + backends.length + " up" + (waiting ? ", " + many(waiting, "client") + " waiting" : "");
    return [make("span", { class: state }, icon(state === "degraded" ? "warning" : state, state), make("b", {}, state)), make("span", { class: "reason" }, rest)];
  }
}

class Pool {
  constructor(pool) {
    this.body = make("tbody", { role: "rowgroup" });
    this.head = new PoolRow(pool);
    this.rows = new Map();
    this.sources = [];
    this.button = make("button", { type: "button", on: { click: () => go({ all: view.all.includes(pool.name) ? view.all.filter((name) => name !== pool.name) : [...view.all, pool.name] }) } });
    this.more = make("tr", { class: "more", role: "row" }, make("td", { colspan: COLUMNS.length, role: "cell" }, this.button));
  }
  /// Shows these backends, or as many of them as fit.
  show(pool, backends, turn) {
    const all = view.all.includes(pool.name);
    const shown = all ? backends : backends.slice(0, SHOWN);
    this.head.set({ ...pool, active_connections: pool.backends.reduce((sum, backend) => sum + backend.active_connections, 0) }, turn);
    // Where a filter chooses among backends, the sources stand back.
    const sources = view.show === "all" && !view.find ? pool.discovery : [];
    sources.forEach((source, index) => (this.sources[index] ||= new SourceRow()).set(source));
    const nodes = [this.head.node, ...this.sources.slice(0, sources.length).map((row) => row.node)], left = new Map(this.rows);
    for (const backend of shown) {
      let row = this.rows.get(backend.name);
      if (!row) this.rows.set(backend.name, row = new BackendRow(pool, backend));
      left.delete(backend.name);
      row.set(backend, turn);
      const chosen = view.pool === pool.name && view.backend === backend.name;
      if (chosen !== row.chosen) row.node.classList.toggle("chosen", row.chosen = chosen);
      nodes.push(row.node);
    }
    for (const [name, row] of left) {
      watching.unobserve(row.node);
      this.rows.delete(name);
    }
    if (backends.length > SHOWN) {
      put(this.button, all ? "Show the first " + SHOWN + " only" : "Show " + count(backends.length - SHOWN) + " more");
      nodes.push(this.more);
    }
    arrange(this.body, nodes);
  }
}

const STATES = ["up", "failing", "down", "draining", "disabled"];
const isFailing = (backend) => backend.urgency === "failing";
function matches(pool, backend) {
  const shown = view.show === "all" || (view.show === "failing" ? isFailing(backend) : backend.state === view.show);
  const text = view.find.toLowerCase();
  return shown && (!text || [backend.name, backend.address, pool.name].some((name) => name.toLowerCase().includes(text)));
}

function drawCounts(pools) {
  const backends = pools.flatMap((pool) => pool.backends);
  const numbers = { all: backends.length, failing: backends.filter(isFailing).length };
  for (const { state } of backends) numbers[state] = (numbers[state] || 0) + 1;
  const box = $("counts");
  if (!box.firstChild) {
    box.append(make("span"));
    for (const state of ["all", ...STATES]) {
      const parts = [state === "all" ? "" : icon(state === "failing" ? "warning" : state, state), state + " ", make("b")];
      box.append(make("button", { type: "button", "data-show": state, on: { click: () => go({ show: view.show === state ? "all" : state }) } }, ...parts));
    }
  }
  put(box.firstChild, many(pools.length, "pool") + " · " + many(backends.length, "backend"));
  for (const button of box.querySelectorAll("button")) {
    const state = button.dataset.show;
    put(button.querySelector("b"), count(numbers[state] || 0));
    button.classList.toggle("none", !numbers[state]);
    button.setAttribute("aria-pressed", view.show === state);
  }
}

const groups = new Map();
let turn = 0;
function drawPools({ pools }) {
  drawCounts(pools);
  rankNames(pools);
  turn = (turn + 1) % TURNS;
  const column = COLUMNS.find(({ id }) => id === view.sort);
  const byName = (a, b) => names.get(a.name) - names.get(b.name);
  const key = column?.by === null ? () => 0 : typeof column?.by === "function" ? (row) => -(column.by(row) ?? -1) : badness;
  const sorted = [];
  for (const pool of pools) {
    const keyed = pool.backends.filter((backend) => matches(pool, backend)).map((backend) => [key(backend), backend]);
    keyed.sort((a, b) => a[0] - b[0] || byName(a[1], b[1]));
    const worst = Math.min(9, ...pool.backends.map(badness)) + (pool.state === "down" ? -10 : 0);
    if (keyed.length || (view.show === "all" && !view.find)) sorted.push([worst, pool, keyed.map(([, backend]) => backend)]);
  }
  sorted.sort((a, b) => a[0] - b[0] || byName(a[1], b[1]));
  for (const name of groups.keys()) if (!pools.some((pool) => pool.name === name)) groups.delete(name);
  const bodies = sorted.map(([, pool, backends]) => {
    let group = groups.get(pool.name);
    if (!group) groups.set(pool.name, group = new Pool(pool));
    group.show(pool, backends, turn);
    return group.body;
  });
  arrange($("pools"), [$("pools").tHead, ...bodies]);
  hide($("nothing"), bodies.length > 0);
  hide($("pools"), bodies.length === 0);
  for (const head of $("pools").tHead.querySelectorAll("th")) {
    if (head.dataset.sort === view.sort) head.setAttribute("aria-sort", view.sort === "name" ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  }
}

$("pools").tHead.append(make("tr", { role: "row" }, ...COLUMNS.map(({ id, head, text, what, unit, title, by }) => {
  const words = [head, ...(unit ? [make("small", {}, " " + what + " " + unit)] : [])];
  const inside = by === undefined ? make("span", {}, ...words) : make("button", { type: "button", on: { click: () => go({ sort: by === "worst" ? "worst" : id }) } }, ...words);
  return make("th", { class: id + (text ? " text" : ""), scope: "col", role: "columnheader", title, "data-sort": by === "worst" ? "worst" : id }, inside);
})));
