/* The page at /: a conversation with the server over /v1/chat/completions, nothing else. Text
 * of the model becomes text nodes only, never markup. The conversation and the settings live in
 * this tab (sessionStorage); the key is sent in a header and never part of an address. */
"use strict";

const $ = (id) => document.getElementById(id);
const SETTINGS = ["effort", "temperature", "max-tokens", "key", "system", "tools"];
const store = {
  get: (name, or) => JSON.parse(sessionStorage.getItem("fathom." + name) ?? "null") ?? or,
  set: (name, value) => sessionStorage.setItem("fathom." + name, JSON.stringify(value)),
};

let messages = store.get("messages", []); // as the API has them; ours: note, error
let running = null; // AbortController of the answer being written

function el(tag, className, text) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (text !== undefined) e.textContent = text;
  return e;
}

// ---- a little Markdown, as nodes ----

function inline(parent, text) {
  const mark = /(`+)([\s\S]+?)\1|\*\*([^*\n]+)\*\*/g;
  let from = 0;
  for (let m; (m = mark.exec(text)); from = mark.lastIndex) {
    parent.append(text.slice(from, m.index), m[1] ? el("code", "", m[2]) : el("strong", "", m[3]));
  }
  parent.append(text.slice(from));
}

function paragraph(out, lines) {
  const item = /^\s*(?:[-*+]|\d+[.)])\s+/;
  let list = null, p = null;
  for (const line of lines) {
    const heading = /^#{1,6}\s+(.*)/.exec(line);
    if (heading) {
      list = p = null;
      inline(out.appendChild(el("h2")), heading[1]);
    } else if (item.test(line)) {
      p = null;
      const kind = /^\s*\d/.test(line) ? "ol" : "ul";
      if (!list || list.localName !== kind) list = out.appendChild(el(kind));
      if (kind === "ol" && !list.children.length) list.start = parseInt(line, 10);
      inline(list.appendChild(el("li")), line.replace(item, ""));
    } else if (!line.trim()) {
      list = p = null;
    } else if (list && /^\s/.test(line)) {
      inline(list.lastChild, "\n" + line.trim());
    } else {
      list = null;
      if (p) p.append(el("br"));
      p = p ?? out.appendChild(el("p"));
      inline(p, line);
    }
  }
}

/* Fenced code stands apart; a fence that is still open, while the answer grows, is code, too. */
function markdown(out, text) {
  out.replaceChildren();
  text.split(/^ {0,3}```/m).forEach((part, i) => {
    if (i % 2 === 0) {
      paragraph(out, part.split("\n"));
    } else {
      const body = part.slice(part.indexOf("\n") + 1 || part.length);
      out.appendChild(el("pre")).append(el("code", "", body.replace(/\n$/, "")));
    }
  });
}

// ---- showing ----

function show(m) {
  const turn = el("article", "turn " + (m.role === "user" ? "user" : "answer"));
  if (m.role === "user") {
    turn.textContent = m.content;
  } else if (m.role === "tool") {
    turn.append(el("div", "call result", m.content));
  } else {
    fill(turn, m);
  }
  $("log").append(turn);
  return turn;
}

/* An assistant's message, again for every piece that arrives: only what changed is made anew. */
function fill(turn, m) {
  const parts = turn.parts ?? (turn.parts = { text: el("div"), calls: el("div") });
  if (m.reasoning_content && !parts.thought) {
    parts.thought = el("details");
    parts.thought.append(el("summary", "", "Reasoning"), el("div"));
    turn.prepend(parts.thought);
  }
  if (parts.thought) parts.thought.lastChild.textContent = m.reasoning_content;
  if (!parts.text.parentNode) turn.append(parts.text, parts.calls);
  if (m.content !== parts.shown) markdown(parts.text, (parts.shown = m.content) ?? "");
  parts.calls.replaceChildren(...(m.tool_calls ?? []).map((call) => {
    const box = el("div", "call");
    box.append(el("b", "", call.function.name), el("pre", "", pretty(call.function.arguments)));
    return box;
  }));
  turn.querySelectorAll(":scope > .note, :scope > .error").forEach((x) => x.remove());
  if (m.error) turn.append(el("div", "error", m.error));
  if (m.note) turn.append(el("div", "note", m.note));
}

function pretty(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json; // not complete yet
  }
}

function showAll() {
  $("log").replaceChildren($("empty"));
  $("empty").hidden = messages.length > 0;
  messages.forEach(show);
  askResults();
  $("log").scrollTop = $("log").scrollHeight;
}

/* Calls that wait for results: the person at the page is the tool. */
function askResults() {
  const last = messages.at(-1);
  if (!last?.tool_calls?.length || last.error) return;
  const form = el("form", "turn answer");
  const inputs = last.tool_calls.map((call) => {
    const input = el("textarea");
    input.rows = 2;
    input.placeholder = `Result of ${call.function.name}`;
    input.setAttribute("aria-label", input.placeholder);
    form.append(input);
    return input;
  });
  const send = el("button", "", "Send results");
  send.type = "submit";
  form.append(send);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    form.remove();
    last.tool_calls.forEach((call, i) => {
      add({ role: "tool", tool_call_id: call.id, content: inputs[i].value });
    });
    answer();
  });
  $("log").append(form);
}

function add(m) {
  $("empty").hidden = true;
  messages.push(m);
  store.set("messages", messages);
  return show(m);
}

// ---- asking ----

function headers() {
  const key = $("key").value.trim();
  return { "Content-Type": "application/json", ...(key && { Authorization: "Bearer " + key }) };
}

function request() {
  const system = $("system").value.trim(), tools = $("tools").value.trim();
  const history = messages.filter((m) => !m.error || m.content).map(({ note, error, ...m }) => m);
  const body = {
    model: "fathom", stream: true, stream_options: { include_usage: true },
    messages: system ? [{ role: "system", content: system }, ...history] : history,
  };
  if ($("effort").value) body.reasoning_effort = $("effort").value;
  if ($("temperature").value) body.temperature = Number($("temperature").value);
  if ($("max-tokens").value) body.max_completion_tokens = Number($("max-tokens").value);
  if (tools) body.tools = JSON.parse(tools);
  return JSON.stringify(body);
}

/* The data of a stream's events, as they come; throws what the server says went wrong. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("The connection ended before the answer did.");
    const blocks = (text += value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").find((line) => line.startsWith("data: "))?.slice(6);
      if (data === "[DONE]") return;
      if (!data) continue; // a comment that keeps the connection alive
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

function take(m, delta) {
  if (delta.reasoning_content) m.reasoning_content = (m.reasoning_content ?? "") + delta.reasoning_content;
  if (delta.content) m.content += delta.content;
  for (const part of delta.tool_calls ?? []) {
    m.tool_calls = m.tool_calls ?? [];
    const call = (m.tool_calls[part.index] ??= { id: part.id, type: "function", function: { name: "", arguments: "" } });
    call.function.name += part.function?.name ?? "";
    call.function.arguments += part.function?.arguments ?? "";
  }
}

function cacheText(usage) {
  const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
  return `${cached} of ${usage.prompt_tokens} prompt tokens`;
}

async function answer() {
  const m = { role: "assistant", content: "" }, turn = show(m), log = $("log");
  const clock = { start: performance.now(), first: 0, pieces: 0 };
  running = new AbortController();
  busy(true);
  turn.classList.add("busy");
  try {
    const response = await fetch("/v1/chat/completions", { method: "POST", headers: headers(), body: request(), signal: running.signal });
    if (!response.ok) {
      const body = await response.json().catch(() => null);
      throw new Error(`${response.status}: ${body?.error?.message ?? response.statusText}`);
    }
    for await (const event of events(response)) {
      const choice = event.choices?.[0], now = performance.now();
      if (choice?.delta && (choice.delta.content || choice.delta.reasoning_content || choice.delta.tool_calls)) {
        clock.first = clock.first || now;
        clock.pieces++;
        take(m, choice.delta);
        if (now > clock.first) $("speed").textContent = speed(clock.pieces, now - clock.first);
      }
      if (choice?.finish_reason === "length") m.note = "cut at the limit · ";
      if (event.usage) finish(m, event.usage, clock);
      const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
      fill(turn, m);
      if (atEnd) log.scrollTop = log.scrollHeight;
    }
  } catch (e) {
    m.error = e.name === "AbortError" ? "Stopped." : e.message;
    delete m.tool_calls; // a call that was cut must not be answered
  }
  turn.classList.remove("busy");
  fill(turn, m);
  messages.push(m);
  store.set("messages", messages);
  running = null;
  busy(false);
  askResults();
  log.scrollTop = log.scrollHeight;
  refresh();
}

function speed(tokens, ms) {
  return `${(tokens / (ms / 1000)).toFixed(1)} tokens/s`;
}

function finish(m, usage, clock) {
  const ms = performance.now() - (clock.first || clock.start), n = usage.completion_tokens;
  const wait = ((clock.first || performance.now()) - clock.start) / 1000;
  if (n > 1 && ms > 0) $("speed").textContent = speed(n - 1, ms);
  $("cache").textContent = cacheText(usage);
  m.note = `${m.note ?? ""}${n} tokens, ${$("speed").textContent} · first after ${wait.toFixed(1)} s · ` +
    `${cacheText(usage)} from the cache`;
}

function busy(on) {
  $("send").disabled = on;
  $("stop").hidden = !on;
  $("new").disabled = on;
  if (!on) $("prompt").focus();
}

// ---- what the server says of itself ----

function bytes(n) {
  const unit = ["B", "kB", "MB", "GB", "TB"];
  let i = 0;
  for (; n >= 1000 && i < unit.length - 1; i++) n /= 1000;
  return `${n < 10 && i > 0 ? n.toFixed(1) : Math.round(n)} ${unit[i]}`;
}

async function refresh() {
  try {
    const response = await fetch("/props", { headers: headers() });
    if (response.status === 401) {
      $("model").textContent = "needs an API key (Settings)";
      return;
    }
    const p = await response.json();
    if (!response.ok) {
      $("model").textContent = p.error?.message ?? "not ready";
      return;
    }
    $("model").textContent = `${p.name || p.model}, ${p.context_length.toLocaleString("en")} tokens, ${p.backend}`;
    $("queue").textContent = `${p.requests_running} of ${p.slots} running, ${p.requests_queued} waiting`;
    $("kv").textContent = `${bytes(p.kv_used_bytes)} of ${bytes(p.kv_budget_bytes)}`;
    $("weights").textContent = `${bytes(p.weight_bytes)} + ${bytes(p.scratch_bytes)} scratch`;
  } catch {
    $("model").textContent = "the server does not answer";
  }
}

// ---- start ----

function submit() {
  const text = $("prompt").value;
  if (running || !text.trim()) return;
  try {
    if ($("tools").value.trim()) JSON.parse($("tools").value);
  } catch (e) {
    add({ role: "assistant", content: "", error: `Tools (Settings) are not JSON: ${e.message}` });
    return;
  }
  $("prompt").value = "";
  grow();
  document.querySelector("#log form")?.remove();
  add({ role: "user", content: text });
  answer();
}

function grow() {
  $("prompt").style.height = "auto";
  $("prompt").style.height = $("prompt").scrollHeight + 2 + "px";
}

for (const name of SETTINGS) {
  $(name).value = store.get(name, "");
  $(name).addEventListener("change", () => {
    store.set(name, $(name).value);
    refresh();
  });
}
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
$("prompt").addEventListener("input", grow);
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
});
$("stop").addEventListener("click", () => running?.abort());
$("new").addEventListener("click", () => {
  messages = [];
  store.set("messages", messages);
  $("cache").textContent = $("speed").textContent = "–";
  showAll();
  $("prompt").focus();
});
$("settings").addEventListener("submit", (event) => event.preventDefault());
$("settings-toggle").addEventListener("click", (event) => {
  $("settings").hidden = !$("settings").hidden;
  event.target.setAttribute("aria-expanded", String(!$("settings").hidden));
});
showAll();
refresh();
setInterval(() => !document.hidden && refresh(), 2000);
$("prompt").focus();
