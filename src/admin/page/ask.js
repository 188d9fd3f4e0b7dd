// Changes: each is asked for first, with the number of connections that it concerns.
let asked = null;

function ask(question) {
  asked = question;
  $("ask-title").textContent = question.title;
  $("ask-text").textContent = question.text;
  $("ask-yes").textContent = question.yes;
  $("ask-yes").className = question.danger ? "primary danger" : "primary";
  $("ask-answer").textContent = "";
  hide($("ask-yes"), false);
  $("ask-yes").disabled = false;
  $("ask-no").textContent = "Cancel";
  hide($("ask-field"), !known(question.weight));
  $("ask-weight").value = question.weight ?? "";
  $("ask-weight").required = known(question.weight);
  $("ask").showModal();
  (known(question.weight) ? $("ask-weight") : $("ask-no")).focus();
}

$("ask").querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const question = asked;
  $("ask-yes").disabled = true;
  let answer = "";
  try {
    const { warnings } = await question.act($("ask-weight").valueAsNumber);
    answer = (warnings || []).map((warning) => "Done. Warning: " + warning).join("\n");
  } catch (error) {
    if (error.status === 401) return $("ask").close();
    if (error.status === 403) setReadOnly();
    answer = error.message;
  }
  poll();
  if (asked !== question || !$("ask").open) return;
  if (!answer) return $("ask").close();
  $("ask-answer").textContent = answer;
  hide($("ask-yes"), true);
  $("ask-no").textContent = "Close";
  $("ask-no").focus();
});
$("ask-no").addEventListener("click", () => $("ask").close());

const changeTo = (pool, backend, change) => () => call("PATCH", backendPath(pool, backend.name), change);

const CHANGES = {
  drain: (pool, backend) => ask({
    title: "Drain " + backend.name + "?", yes: "Drain", act: changeTo(pool, backend, { state: "draining" }),
    text: backend.name + " takes no new connections. Its " + connections(backend.active_connections) + " continue until they end.",
  }),
  disable: (pool, backend) => ask({
    title: "Disable " + backend.name + "?", yes: "Disable", act: changeTo(pool, backend, { state: "disabled" }),
    text: backend.name + " takes no new connections and gets no probes. Its " + connections(backend.active_connections) + " continue until they end.",
  }),
  enable: (pool, backend) => ask({
    title: "Enable " + backend.name + "?", yes: "Enable", act: changeTo(pool, backend, { state: "enabled" }),
    text: backend.name + " takes new connections again while it is up. Its " + connections(backend.active_connections) + " stay as they are.",
  }),
  weight: (pool, backend) => ask({
    title: "Change the weight of " + backend.name, yes: "Change", weight: backend.weight,
    act: (weight) => call("PATCH", backendPath(pool, backend.name), { weight }),
    text: "The weight is the share of new connections. Its " + connections(backend.active_connections) + " stay where they are. Weight 0 takes no new ones.",
  }),
  kill: (pool, backend, connection) => ask({
    title: "Close this connection?", yes: "Close 1 connection", danger: true,
    act: () => call("DELETE", "v1/connections/" + connection.id),
    text: "This concerns 1 open connection: " + (connection.client || "a unix client") + " to " + backend.name + (known(connection.age_seconds) ? ", open for " + age(connection.age_seconds) : "") + ". Both sides get a reset.",
  }),
  killAll: (pool, backend) => ask({
    title: "Close all connections of " + backend.name + "?", yes: "Close " + many(backend.active_connections, "connection"), danger: true,
    act: () => call("DELETE", "v1/connections" + query({ pool, backend: backend.name }), undefined, 15),
    text: "This concerns " + connections(backend.active_connections) + ". Both sides get a reset. Clients that return may reach " + backend.name + " again: drain it first to prevent that.",
  }),
};
