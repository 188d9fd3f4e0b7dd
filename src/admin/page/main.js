// Polling, the log-in, and keys.
const EVERY = 1000, HIDDEN = 15000;
let answered = 0;

/// Asks for the last events, then waits for the next one. A new process answers with the last of its own.
async function followEvents() {
  for (;;) {
    if (document.hidden || $("app").hidden) await new Promise((wake) => { events.wake = wake; });
    try {
      const answer = await call("GET", "v1/events" + query({ since: events.next, last: EVENTS, wait: "25s" }), undefined, 40);
      // Another process numbers its events anew: those before the number that this one has passed are asked for again.
      if (answer.started !== events.started) {
        const asked = events.next;
        Object.assign(events, { list: [], next: 0, started: answer.started });
        if (asked > 0) continue;
      }
      events.list = [...events.list, ...answer.events].slice(-EVENTS);
      events.next = answer.next;
      drawEvents();
      // Many events at once take one call.
      await pause(EVERY / 2);
    } catch {
      await pause(5 * EVERY);
    }
  }
}
const pause = (time) => new Promise((wake) => setTimeout(wake, time));

function render() {
  if (!status) return;
  drawVerdict(status);
  drawLimits(status);
  drawPools(status);
  drawListeners(status);
  drawEvents();
  drawPanel();
}

function logOut(why) {
  token = "";
  readOnly = false;
  status = null;
  answered = 0;
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  Object.assign(events, { list: [], next: 0, started: "" });
  groups.clear();
  listenerRows.clear();
  panel.key = "";
  clearTimeout(panel.timer);
  document.querySelectorAll("#pools tbody").forEach((body) => body.remove());
  for (const id of ["events", "panel-body", "verdict", "process", "limits"]) redraw($(id), "", () => []);
  $("listeners").tBodies[0].replaceChildren();
  document.title = "tcplb";
  document.querySelector("header").className = "";
  ["app", "tools", "silent", "reading"].forEach((id) => hide($(id), true));
  $("login-why").textContent = why;
  hide($("login"), false);
  $("token").focus();
}
$("log-out").addEventListener("click", () => logOut(""));
$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  $("token").value = "";
  poll();
});

let timer = 0, polling = false;
async function poll() {
  clearTimeout(timer);
  if (polling) return;
  polling = true;
  try {
    const before = token;
    const answer = await call("GET", "v1/status");
    if (before === token) {
      status = answer;
      answered = performance.now();
      $("first")?.remove();
      hide($("login"), true);
      ["app", "tools"].forEach((id) => hide($(id), false));
      hide($("log-out"), !token);
      hide($("silent"), true);
      document.body.classList.remove("stale");
      render();
      if (events.wake && !document.hidden) events.wake();
    }
  } catch (error) {
    if (error.status !== 401) sayStale(error);
  }
  polling = false;
  if ($("login").hidden) timer = setTimeout(poll, document.hidden ? HIDDEN : EVERY);
}
function sayStale(error) {
  const silent = error.status === 0 && answered ? Math.round((performance.now() - answered) / 1000) : null;
  redraw($("silent"), error.message + silent, () => silent === null ? [error.message] : ["tcplb has not answered", make("span", { "aria-hidden": "true" }, " for " + silent + " s")]);
  hide($("silent"), false);
  document.body.classList.add("stale");
}
document.addEventListener("visibilitychange", () => { if (!document.hidden && $("login").hidden) poll(); });

const KEYS = [
  ["/", "filter by name or address", () => $("find").focus()],
  ["j", "next backend", () => step(1)],
  ["k", "backend before", () => step(-1)],
  ["Enter", "connections of the backend", null],
  ["d", "drain the backend", () => change("drain")],
  ["e", "enable the backend", () => change("enable")],
  ["w", "change its weight", () => change("weight")],
  ["x", "explain where a client goes", () => go({ explain: true })],
  ["Esc", "close the panel, clear the filter", () => escape()],
  ["?", "these keys", () => $("keys").showModal()],
];
$("keys").querySelector("dl").append(...KEYS.flatMap(([key, text]) => [make("dt", {}, make("kbd", {}, key)), make("dd", {}, text)]));
$("ask-keys").addEventListener("click", () => $("keys").showModal());
$("ask-explain").addEventListener("click", () => go({ explain: true }));

function step(by) {
  const links = [...document.querySelectorAll("#pools tr.backend a")];
  const here = links.indexOf(document.activeElement);
  const link = links[Math.max(0, Math.min(links.length - 1, here + by))];
  if (link) link.focus();
}
function change(what) {
  const row = document.activeElement.closest("tr.backend");
  const { pool, backend } = row ? row.dataset : view;
  const found = find(pool, backend);
  if (found && !readOnly) CHANGES[what](pool, found);
}
function escape() {
  if (view.explain || view.backend) return closePanel();
  if (view.find || view.show !== "all") go({ find: "", show: "all" });
  $("find").value = "";
  document.activeElement.blur();
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]") || $("app").hidden) return;
  const typing = event.target.matches("input, select, textarea");
  const key = event.key === "Escape" ? "Esc" : event.key;
  const found = KEYS.find(([name, , act]) => name === key && act);
  if (!found || (typing && key !== "Esc")) return;
  event.preventDefault();
  found[2]();
});
$("find").addEventListener("input", () => go({ find: $("find").value }, true));
$("pools").addEventListener("click", (event) => {
  const row = event.target.closest("tr.backend");
  if (row && !getSelection().toString()) follow(event, { pool: row.dataset.pool, backend: row.dataset.backend, explain: false, client: "", listener: "", protocol: "", sni: "" });
});

readView();
if (document.body.dataset.access === "locked") logOut("");
else poll();
followEvents();
