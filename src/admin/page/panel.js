// The panel beside the pools: a backend with its live connections, or what happens to a client (explain).
const CONNECTIONS = 100;
const panel = { key: "", rows: new Map(), list: null, note: null, facts: null, timer: 0 };

function find(pool, backend) {
  const found = status?.pools.find((one) => one.name === pool);
  return found?.backends.find((one) => one.name === backend);
}

/// Draws what the address asks for.
function drawPanel() {
  const { pool, backend, client, explain } = view;
  const key = explain ? JSON.stringify(["explain", client, view.listener, view.protocol, view.sni]) : backend ? JSON.stringify([pool, backend]) : "";
  const opened = key !== panel.key;
  hide($("panel"), !key);
  $("app").classList.toggle("two", key !== "");
  if (opened) {
    panel.key = key;
    panel.rows.clear();
    panel.list = panel.facts = null;
    clearTimeout(panel.timer);
    $("panel-body").replaceChildren();
    if (!key) return;
    $("panel-title").textContent = explain ? "Where does a client go?" : backend;
    if (explain) buildExplain(client);
    else buildBackend();
    $("panel-title").focus({ preventScroll: true });
  }
  if (key && !explain) drawBackend();
}

function buildBackend() {
  panel.actions = make("div", { class: "actions" });
  panel.facts = make("dl", { class: "facts" });
  panel.note = make("p", { class: "soft" });
  const sorts = [["age", "oldest first"], ["bytes", "most bytes first"], ["idle", "longest idle first"]];
  panel.sort = make("select", { "aria-label": "Order of connections", on: { change: () => drawConnections() } }, ...sorts.map(([value, text]) => make("option", { value }, text)));
  panel.all = make("button", { type: "button", class: "all", on: { click: () => CHANGES.killAll(view.pool, find(view.pool, view.backend)) } }, "Close all…");
  panel.list = make("tbody", { role: "rowgroup" });
  const heads = ["client", "age", "idle", "in", "out", "rtt", ""];
  const head = make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...heads.map((text, index) => make("th", { scope: "col", role: "columnheader", class: index ? "" : "text" }, text || make("span", { class: "unseen" }, "close")))));
  const table = make("div", { class: "box" }, make("table", { role: "table", "aria-label": "Live connections" }, head, panel.list));
  $("panel-body").append(panel.actions, panel.facts, make("h3", {}, "Live connections"), make("div", { class: "actions" }, panel.sort, panel.all), panel.note, table);
  drawConnections();
}

function drawBackend() {
  const backend = find(view.pool, view.backend);
  if (!backend) {
    redraw(panel.facts, "gone", () => ["Pool " + view.pool + " has no such backend."]);
    hide(panel.actions, true);
    return;
  }
  hide(panel.actions, false);
  const buttons = [["drain", "Drain…", backend.state !== "draining"], ["enable", "Enable…", ["draining", "disabled"].includes(backend.state)], ["disable", "Disable…", backend.state !== "disabled"], ["weight", "Weight…", true]];
  redraw(panel.actions, backend.state + readOnly, () => readOnly ? [make("span", { class: "soft" }, "This token permits reading only.")] : buttons.filter(([, , fits]) => fits).map(([change, text]) => make("button", { type: "button", on: { click: () => CHANGES[change](view.pool, find(view.pool, view.backend)) } }, text)));
  hide(panel.all, readOnly || !backend.active_connections);
  const { recent, closed } = backend;
  const why = backend.summary;
  const limit = known(backend.connections_limit) ? " of " + count(backend.connections_limit) : "";
  const effective = known(backend.effective_weight) && Math.abs(backend.effective_weight - backend.weight) >= 0.05 ? ", " + short(backend.effective_weight) + " now" : "";
  const facts = [
    ["state", backend.state + (why ? ", " + why : "")],
    ["address", backend.address + ", pool " + view.pool],
    origin(backend) && ["added by", origin(backend)],
    ["last probe", backend.health.last_result || NONE],
    ["weight", backend.weight + effective + (backend.backup ? ", backup" : "")],
    ["connections", count(backend.active_connections) + limit + ", " + count(backend.connections_total) + " in all"],
    ["last minute", rate(recent.connections_per_second) + " conn/s, " + size(recent.bytes_to_backend_per_second) + "/s in, " + size(recent.bytes_to_client_per_second) + "/s out"],
    ["connect", times(recent.connect_ms) + " ms; since the start " + times(backend.connect_ms) + " ms"],
    ["first byte", times(recent.first_byte_ms) + " ms; since the start " + times(backend.first_byte_ms) + " ms"],
    ["failures", many(recent.connect_failures, "failed connect") + ", " + many(recent.resets_before_byte, "reset") + " before a byte; " + count(backend.connect_failures_total) + " failed in all"],
    ["bytes", size(backend.bytes_to_backend_total) + " in, " + size(backend.bytes_to_client_total) + " out"],
    known(backend.rtt_ms) && ["network", milli(backend.rtt_ms) + " ms round trip, " + count(backend.retransmits_total) + " retransmits"],
    ["ended by", Object.entries(closed).sort((a, b) => b[1] - a[1]).map(([cause, number]) => cause + " " + count(number)).join(", ") || NONE],
    ...(backend.addresses.length > 1 ? backend.addresses.map((one) => [one.address, one.state + (one.last_result ? ", " + one.last_result : "")]) : []),
  ].filter(Boolean);
  redraw(panel.facts, JSON.stringify(facts), () => facts.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]));
}

async function drawConnections() {
  const { key } = panel, { pool, backend } = view;
  clearTimeout(panel.timer);
  try {
    const list = await call("GET", "v1/connections" + query({ pool, backend, limit: CONNECTIONS, sort: panel.sort.value }));
    if (panel.key !== key) return;
    const all = find(pool, backend)?.active_connections ?? list.length;
    put(panel.note, list.length === 0 ? "No client is connected." : list.length === CONNECTIONS && list.length < all ? "The first " + count(list.length) + " of " + count(all) + "." : "");
    const left = new Map(panel.rows);
    const nodes = list.map((connection) => {
      let row = panel.rows.get(connection.id);
      if (!row) panel.rows.set(connection.id, row = connectionRow(connection));
      left.delete(connection.id);
      row.connection = connection;
      const texts = [age(connection.age_seconds), age(connection.idle_seconds), size(connection.bytes_to_backend), size(connection.bytes_to_client), known(connection.rtt_ms) ? milli(connection.rtt_ms) + " ms" : NONE];
      texts.forEach((text, index) => put(row.children[index + 1], text));
      hide(row.lastChild.firstChild, readOnly);
      return row;
    });
    left.forEach((_, id) => panel.rows.delete(id));
    arrange(panel.list, nodes);
  } catch (error) {
    if (panel.key !== key) return;
    put(panel.note, error.message);
  }
  panel.timer = setTimeout(drawConnections, document.hidden ? 15000 : 2000);
}

function connectionRow(connection) {
  const row = make("tr", { role: "row" });
  const name = connection.client || "unix client";
  const client = name.replace(/:\d+$/, "").replace(/^\[|\]$/g, "");
  const target = { explain: true, client, listener: connection.listener, protocol: connection.protocol || "", sni: connection.sni || "" };
  const link = !connection.client ? name : make("a", { href: "#" + new URLSearchParams({ ...target, explain: 1 }), title: "Explain where this client goes" + (connection.sni ? ", which asks for " + connection.sni : ""), on: { click: (event) => follow(event, target) } }, name);
  const kill = make("button", { type: "button", "aria-label": "Close the connection of " + name, on: { click: () => CHANGES.kill(view.pool, find(view.pool, view.backend), row.connection) } }, "✕");
  row.append(make("td", { class: "text", role: "cell" }, link), ...Array.from({ length: 5 }, () => make("td", { role: "cell" })), make("td", { role: "cell" }, kill));
  return row;
}

function buildExplain(client) {
  const input = make("input", { id: "client", value: client, placeholder: "192.0.2.7", "aria-label": "Address of a client, with or without port", autocomplete: "off", spellcheck: "false", required: true });
  const listeners = status.listeners;
  const chosen = view.listener || listeners.find(({ pool }) => pool === view.pool)?.name;
  const listener = make("select", { id: "listener", "aria-label": "Listener" }, ...listeners.map(({ name }) => make("option", { value: name, selected: name === chosen }, name)));
  const submit = (event) => {
    event.preventDefault();
    const wanted = { explain: true, client: input.value.trim(), listener: listener.value, protocol: "", sni: "" };
    if (wanted.client === view.client && wanted.listener === view.listener && !view.protocol && !view.sni) showExplained();
    else go(wanted);
  };
  const outcome = make("div", { id: "outcome" });
  const back = view.backend && make("p", {}, make("a", { href: "#", class: "soft", on: { click: (event) => follow(event, { explain: false, client: "", listener: "", protocol: "", sni: "" }) } }, "← " + view.backend));
  $("panel-body").append(back || "", make("p", { class: "soft" }, "What a connection from this address meets now. Asking changes nothing."), make("form", { class: "where", on: { submit } }, input, listeners.length > 1 ? listener : "", make("button", { type: "submit", class: "primary" }, "Explain")), outcome);
  if (client) showExplained();
}

async function showExplained() {
  const { key } = panel, outcome = $("outcome");
  try {
    const answer = await call("GET", "v1/explain" + query({ client: view.client, listener: view.listener || $("listener")?.value, protocol: view.protocol, sni: view.sni }));
    if (panel.key === key) outcome.replaceChildren(...explained(answer));
  } catch (error) {
    if (panel.key === key) outcome.replaceChildren(make("p", { class: "wrong" }, error.message));
  }
}

function explained(answer) {
  const accepted = answer.verdict === "accept";
  const shares = answer.candidates.some((one) => known(one.share));
  const verdict = !accepted ? "is refused" : answer.pick ? "goes to " + answer.pick : shares ? "goes where chance decides" : "waits";
  const head = make("p", { class: "outcome" }, icon(accepted ? "up" : "down"), "  " + view.client + " " + verdict);
  const facts = [["listener", answer.listener], view.protocol && ["protocol", view.protocol], view.sni && ["server name", view.sni], answer.route && ["route", answer.route], answer.reason && ["reason", answer.reason], answer.pool && ["pool", answer.pool], answer.algorithm && ["algorithm", answer.algorithm + (answer.approximate ? ", approximated by weights" : "")]].filter(Boolean);
  const heads = ["backend", "usable", "why", "weight", "active", ...(shares ? ["chance"] : [])];
  const rows = answer.candidates.map((one) => make("tr", { role: "row", class: one.backend === answer.pick ? "chosen" : "" },
    make("td", { class: "text", role: "cell" }, one.backend), make("td", { class: "text " + (one.usable ? "up" : "down"), role: "cell" }, icon(one.usable ? "up" : "down"), one.usable ? " yes" : " no"),
    make("td", { class: "text why", role: "cell" }, one.why || ""), make("td", { role: "cell" }, String(one.weight)), make("td", { role: "cell" }, count(one.active)),
    ...(shares ? [make("td", { role: "cell" }, known(one.share) ? (100 * one.share).toFixed(1) + " %" : NONE)] : [])));
  const table = make("table", { role: "table", "aria-label": "Candidates" }, make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...heads.map((text, index) => make("th", { scope: "col", role: "columnheader", class: index < 3 ? "text" : "" }, text)))), make("tbody", { role: "rowgroup" }, ...rows));
  return [head, make("dl", { class: "facts" }, ...facts.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, String(text))])), make("h3", {}, "Candidates"), make("div", { class: "box" }, table)];
}

$("close-panel").addEventListener("click", closePanel);
function closePanel() {
  const { pool, backend } = view;
  go({ pool: "", backend: "", explain: false, client: "", listener: "", protocol: "", sni: "" });
  const row = backend && groups.get(pool)?.rows.get(backend)?.node;
  (row ? row.querySelector("a") : $("ask-explain")).focus();
}
