// The list in the browser. What the user does shows at once and waits in a queue, which is sent one by one, each change under an
// Idempotency-Key of its own, again and again until the service has answered: so it happens once, whatever becomes of connections,
// gateways and hosts meanwhile. The queue outlasts a reload. What others do comes with a poll.

const POLL_MS = 1000, POLL_HIDDEN_MS = 10_000, TYPING_MS = 400, RETRY_FIRST_MS = 300, RETRY_MAX_MS = 5000;
const GIVE_UP_MS = 75_000; // longer than a gateway holds a request
const SLOW_MS = 300, WAITING_MS = 500, BARS = 48, MINUTE_MS = 60_000;
const KEPT = "queue", DRAFT = "draft";

const $ = (id) => document.getElementById(id);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// ---- requests, and how long they take ----

const times = [];          // [when it ended, how long it took]
const waiting = new Set(); // when requests began that are not answered yet

async function ask(method, path, { headers, body } = {}) {
  const begun = performance.now();
  waiting.add(begun);
  try {
    const response = await fetch(path, { method, headers, body, cache: "no-store", signal: AbortSignal.timeout(GIVE_UP_MS) });
    const text = await response.text();
    return { status: response.status, text, headers: response.headers };
  } finally {
    waiting.delete(begun);
    times.push([performance.now(), performance.now() - begun]);
    if (times.length > 1000) times.shift();
    showTimes();
  }
}

const inWords = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

function showTimes() {
  const bars = times.slice(-BARS).map(([, took]) => {
    const bar = document.createElement("i");
    bar.className = took > SLOW_MS ? "slow" : "";
    bar.style.height = `${Math.min(100, 12 + 22 * Math.log10(1 + took))}%`;
    return bar;
  });
  $("bars").replaceChildren(...bars);
  const last = times.at(-1);
  if (!last) return;
  const slowest = Math.max(...times.filter(([at]) => performance.now() - at < MINUTE_MS).map(([, took]) => took), 0);
  $("times").textContent = `${inWords(last[1])} now, ${inWords(slowest)} at most in a minute`;
}

// ---- the list: what the service said last, and on top of it what it has not said yet ----

let server = { list: "", version: 0, items: [] };
let tag = "";
// {key, method, path, body, id, version}: `version` is what the service answered; from then on only the next poll is waited for.
let queue = JSON.parse(sessionStorage.getItem(KEPT) ?? "[]");

const keep = () => sessionStorage.setItem(KEPT, JSON.stringify(queue));

function applied(items, change) {
  const { method, path, id, body } = change;
  if (path === "done") return items.filter((item) => !item.done);
  if (method === "DELETE") return items.filter((item) => item.id !== id);
  const done = path.endsWith("/done") ? body === "true" : undefined;
  if (items.some((item) => item.id === id)) {
    return items.map((item) => (item.id !== id ? item : done === undefined ? { ...item, text: body } : { ...item, done }));
  }
  return done === undefined ? [...items, { id, text: body, done: false }] : items;
}

const view = () => queue.reduce(applied, server.items);

function change(method, path, id, body) {
  // A text that is still being typed replaces what has not been sent of it.
  const last = queue.findLast((waits) => waits.path === path && waits.method === method);
  if (last && !last.sent && path === `items/${id}`) last.body = body;
  else queue.push({ key: crypto.randomUUID?.() ?? newId(), method, path, id, body });
  keep();
  show();
  wakeSender();
}

const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");

// ---- sending ----

let wakeSender = () => {};
let trouble = "";

async function send() {
  for (;;) {
    const next = queue.find((waits) => waits.version === undefined);
    if (!next) {
      await new Promise((resolve) => { wakeSender = resolve; });
      continue;
    }
    next.sent = true;
    keep();
    await deliver(next);
    keep();
    show();
    poll.now();
  }
}

async function deliver(next) {
  for (let wait = RETRY_FIRST_MS; ; wait = Math.min(wait * 2, RETRY_MAX_MS)) {
    const headers = { "Idempotency-Key": next.key, "Content-Type": "text/plain; charset=utf-8" };
    const answer = await ask(next.method, next.path, { headers, body: next.body }).catch(() => null);
    trouble = "";
    if (answer?.status === 200 || answer?.status === 201) {
      next.version = JSON.parse(answer.text).version;
      return;
    }
    if (answer && [400, 404, 413, 507].includes(answer.status)) {
      refused(next, answer);
      return;
    }
    // Nobody can know whether it was done, or the request was sent in other words: every change may be done twice, so ask anew.
    if (answer?.status === 409 || answer?.status === 422) next.key = crypto.randomUUID?.() ?? newId();
    trouble = "No answer yet; nothing you typed is lost.";
    showStatus();
    await pause(wait);
  }
}

// The service will not do it, so it is taken back; a text that was new returns to where it was typed.
function refused(next, answer) {
  queue = queue.filter((waits) => waits !== next);
  const isNew = next.method === "PUT" && next.path === `items/${next.id}` && !server.items.some((item) => item.id === next.id);
  if (isNew && !$("new").value) $("new").value = next.body;
  if (answer.status === 404) return; // somebody else has deleted it
  try { trouble = JSON.parse(answer.text).error; } catch { trouble = `The service refused that (${answer.status}).`; }
}

// ---- polling ----

const poll = {
  wake: () => {},
  now() { this.wake(); },
  async forever() {
    for (let wait = 0; ; ) {
      const answer = await ask("GET", "items", { headers: tag ? { "If-None-Match": tag } : {} }).catch(() => null);
      if (answer?.status === 200) {
        take(JSON.parse(answer.text));
        tag = answer.headers.get("ETag") ?? "";
      }
      const well = answer?.status === 200 || answer?.status === 304;
      unreachable = !well;
      wait = well ? 0 : Math.min(Math.max(wait * 2, RETRY_FIRST_MS), RETRY_MAX_MS);
      showStatus();
      await Promise.race([pause(wait || (document.hidden ? POLL_HIDDEN_MS : POLL_MS)), new Promise((resolve) => { this.wake = resolve; })]);
    }
  },
};
let unreachable = false;

function take(state) {
  const before = new Map(view().map((item) => [item.id, JSON.stringify(item)]));
  const first = server.list === "";
  // Another list altogether: its versions say nothing about what was sent to the last one.
  const other = state.list !== server.list && !first;
  queue = queue.filter((sent) => sent.version === undefined || (!other && sent.version > state.version));
  server = state;
  keep();
  const news = first ? [] : view().filter((item) => before.get(item.id) !== JSON.stringify(item)).map((item) => item.id);
  show(news);
}

// ---- showing ----

const inOneLine = (text) => text.replace(/[\0-\x1f\x7f]+/g, " ").trim();

// As high as its text, where the browser does not see to that itself.
function fit(text) {
  if (CSS.supports("field-sizing", "content")) return;
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight}px`;
}

const rows = new Map(); // id to {element, box, text, remove, timer}

function makeRow(id) {
  const element = document.createElement("li"), box = document.createElement("input"), text = document.createElement("textarea");
  const remove = document.createElement("button");
  const row = { element, box, text, remove, timer: 0 };
  box.type = "checkbox";
  text.rows = 1;
  text.maxLength = 200;
  text.enterKeyHint = "done";
  remove.type = "button";
  remove.textContent = "×";
  const typed = () => {
    clearTimeout(row.timer);
    row.timer = 0;
    const now = inOneLine(text.value);
    if (now && now !== view().find((item) => item.id === id)?.text) change("PUT", `items/${id}`, id, now);
  };
  box.addEventListener("change", () => change("PUT", `items/${id}/done`, id, String(box.checked)));
  text.addEventListener("input", () => { clearTimeout(row.timer); row.timer = setTimeout(typed, TYPING_MS); fit(text); });
  text.addEventListener("blur", () => { typed(); show(); });
  text.addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.isComposing) text.blur(); });
  remove.addEventListener("click", () => {
    const neighbour = element.nextElementSibling ?? element.previousElementSibling;
    clearTimeout(row.timer);
    change("DELETE", `items/${id}`, id);
    (neighbour?.querySelector("button") ?? $("new")).focus();
  });
  element.append(box, text, remove);
  return row;
}

function show(news = []) {
  const items = view();
  for (const [id, row] of rows) {
    if (!items.some((item) => item.id === id)) { row.element.remove(); rows.delete(id); }
  }
  items.forEach((item, index) => {
    const row = rows.get(item.id) ?? makeRow(item.id);
    rows.set(item.id, row);
    // What the user is typing is the user's.
    if (document.activeElement !== row.text && !row.timer && row.text.value !== item.text) row.text.value = item.text;
    row.box.checked = item.done;
    row.box.setAttribute("aria-label", `Done: ${item.text}`);
    row.text.setAttribute("aria-label", `Text: ${item.text}`);
    row.remove.setAttribute("aria-label", `Delete: ${item.text}`);
    row.element.classList.toggle("done", item.done);
    if (news.includes(item.id)) {
      row.element.classList.remove("news");
      requestAnimationFrame(() => row.element.classList.add("news"));
    }
    if ($("items").children[index] !== row.element) $("items").insertBefore(row.element, $("items").children[index] ?? null);
    fit(row.text);
  });
  const done = items.filter((item) => item.done).length;
  $("count").textContent = items.length ? `${items.length - done} of ${items.length} open` : "";
  $("empty").hidden = items.length > 0 || server.list === "";
  $("clear").hidden = done === 0;
  $("clear").textContent = `Delete ${done} done`;
  showStatus();
}

function showStatus() {
  const unsent = queue.filter((waits) => waits.version === undefined).length;
  const longest = waiting.size ? performance.now() - Math.min(...waiting) : 0;
  const bad = trouble || (unreachable && "No connection; what you type is kept and sent later.");
  const text = bad || (longest > WAITING_MS ? `Waiting for an answer: ${inWords(longest)}` : unsent ? "Saving …" : server.list ? "All saved" : "Loading …");
  if ($("status").textContent !== text) $("status").textContent = text;
  $("status").classList.toggle("trouble", Boolean(bad));
}

// ---- start ----

$("new").value = sessionStorage.getItem(DRAFT) ?? "";
$("new").addEventListener("input", () => sessionStorage.setItem(DRAFT, $("new").value));
$("add").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = inOneLine($("new").value), id = newId();
  if (!text) return;
  $("new").value = "";
  sessionStorage.removeItem(DRAFT);
  change("PUT", `items/${id}`, id, text);
});
$("clear").addEventListener("click", () => change("DELETE", "done"));
document.addEventListener("visibilitychange", () => { if (!document.hidden) poll.now(); });
addEventListener("online", () => poll.now());
setInterval(showStatus, 250);
for (const waits of queue) waits.sent = waits.sent ?? false;
show();
send();
poll.forever();
