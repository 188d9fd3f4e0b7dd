// Calls of the admin API. The token stays in this variable: storage of the tab is written to disk by browsers that restore
// sessions, and belongs to whatever process serves this address next.
let token = "";
let readOnly = false;

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function call(method, path, body, seconds = 5) {
  const headers = token ? { Authorization: "Bearer " + token } : {};
  const sent = token;
  let answer;
  try {
    answer = await fetch(path, {
      method, headers, body: body && JSON.stringify(body), cache: "no-store", credentials: "omit", redirect: "error",
      signal: AbortSignal.timeout(seconds * 1000),
    });
  } catch {
    throw new Refused(0, "tcplb does not answer.");
  }
  if (answer.headers.get("Tcplb-Access") === "read") setReadOnly();
  const json = await answer.json().catch(() => ({}));
  if (answer.ok) return json;
  if (answer.status === 401 && sent === token) logOut(token ? "tcplb does not accept this token." : "");
  throw new Refused(answer.status, json.error || "tcplb answers with status " + answer.status + ".");
}

function setReadOnly() {
  if (readOnly) return;
  readOnly = true;
  hide($("reading"), false);
  drawPanel();
}

const backendPath = (pool, backend) => "v1/pools/" + encodeURIComponent(pool) + "/backends/" + encodeURIComponent(backend);
const query = (values) => "?" + new URLSearchParams(Object.entries(values).filter(([, value]) => known(value) && value !== ""));
