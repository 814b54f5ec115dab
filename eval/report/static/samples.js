"use strict";
// The samples: a list with search and filters, and one sample in full. The address after # says what is shown.
(async () => {
  const PAGE = 50;
  const CHUNKS = 6; // kept in memory
  const { element, block, plain } = Text;
  const $ = (id) => document.getElementById(id);
  if (!$("filters")) return;
  const status = (text) => { $("status").textContent = text; };
  let index;
  try {
    index = await AgentArk.load("index");
  } catch (error) {
    status(`The samples cannot be loaded: ${error.message}`);
    return;
  }
  const { runs, columns, verdicts } = index;
  const total = columns.id.length;
  const shards = new Set(index.words);
  const FILTERS = ["text", "dataset", "method", "model", "verdict", "path"];
  const state = { text: "", dataset: "", method: "", model: "", verdict: "", path: "", page: 0, sample: null };
  let matching = [];
  let asked = 0;
  let comparing = false;

  // ------------------------------------------------------------ search

  const CJK = "\\u3040-\\u30ff\\u3400-\\u9fff";
  const WORD = new RegExp(`[${CJK}]|(?:(?![${CJK}])[\\p{L}\\p{N}])+`, "gu");
  const LONGEST = 40; // characters of a word that count
  const codePoints = (text, count) => [...text].slice(0, count).join("");
  const shard = (word) => {
    const head = codePoints(word, 2);
    if (/^[\u0000-\u007f]+$/.test(head)) return head.length === 2 ? head : `${head}_`;
    return `u${word.codePointAt(0) % 32}`;
  };
  const places = (steps, into) => {
    let at = 0;
    for (const step of steps) { at += step; into[at] = 1; }
  };
  // One byte a sample: 1 where all words of the query occur. The last word may be a beginning.
  const find = async (query) => {
    const named = columns.id.map((id) => (id === query.trim() ? 1 : 0));
    if (named.includes(1)) return named; // an id in full is meant as such
    const words = (query.toLowerCase().match(WORD) ?? []).map((word) => codePoints(word, LONGEST));
    const found = new Uint8Array(total).fill(1);
    for (const [place, word] of words.entries()) {
      const hits = new Uint8Array(total);
      const key = shard(word);
      if (shards.has(key)) {
        const content = await AgentArk.load(`words-${key}`);
        const isOpen = place === words.length - 1 && [...word].length > 1 && !/[^\p{L}\p{N}]$/u.test(query);
        if (Object.hasOwn(content, word)) places(content[word], hits);
        if (isOpen) {
          for (const known of Object.keys(content)) if (known.startsWith(word)) places(content[known], hits);
        }
      }
      for (let at = 0; at < total; at++) found[at] &= hits[at];
    }
    if (!words.length && query.trim()) found.fill(0);
    return found;
  };
  const filter = async () => {
    const mine = ++asked;
    const started = performance.now();
    const found = await find(state.text);
    if (mine !== asked) return false;
    const fits = runs.map((run) => ["dataset", "method", "model"].every((name) => !state[name] || run[name] === state[name]));
    const verdict = state.verdict ? verdicts.indexOf(state.verdict) : -1;
    const path = Number(state.path);
    matching = [];
    for (let at = 0; at < total; at++) {
      if (found[at] && fits[columns.run[at]] && (verdict < 0 || columns.verdict[at] === verdict) && (columns.flags[at] & path) === path) matching.push(at);
    }
    document.body.dataset.searchMs = (performance.now() - started).toFixed(1);
    return true;
  };

  // ------------------------------------------------------------ address

  const address = () => {
    const given = new URLSearchParams();
    for (const name of [...FILTERS, "page", "sample"]) if (state[name] !== "" && state[name] !== null && state[name] !== 0) given.set(name, state[name]);
    if (state.sample === 0) given.set("sample", 0);
    return `#${given}`;
  };
  const go = (changed) => {
    Object.assign(state, changed);
    if (location.hash !== address()) location.hash = address();
  };
  const read = () => {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const name of FILTERS) state[name] = given.get(name) ?? "";
    const number = (name) => (/^\d{1,9}$/.test(given.get(name) ?? "") ? Number(given.get(name)) : null);
    state.page = number("page") ?? 0;
    state.sample = number("sample") !== null && number("sample") < total ? number("sample") : null;
    for (const name of FILTERS) $(name).value = state[name];
  };

  // ------------------------------------------------------------ list

  const NAMES = { null: "no verdict" };
  const mark = (at) => {
    const name = verdicts[columns.verdict[at]];
    return element("span", `verdict ${name}`, NAMES[name] ?? name);
  };
  const flags = (at) => [[1, "corrective"], [2, "corrupted"], [4, "cut"]].filter(([bit]) => columns.flags[at] & bit).map(([, name]) => element("span", "tag", name));
  const list = () => {
    const last = Math.max(0, Math.ceil(matching.length / PAGE) - 1);
    state.page = Math.min(state.page, last);
    const first = state.page * PAGE;
    $("rows").replaceChildren(...matching.slice(first, first + PAGE).map((at) => {
      const run = runs[columns.run[at]];
      const question = element("span", "", ...plain(columns.question[at]));
      question.dir = "auto";
      const link = element("a", "", mark(at), element("span", "", ...plain(`${columns.id[at]} · ${run.method}`)), question, element("span", "", ...flags(at), ` ${columns.tokens[at].toLocaleString("en")} tokens`));
      link.href = `#${new URLSearchParams([...new URLSearchParams(address().slice(1)), ["sample", at]])}`;
      return element("li", "", link);
    }));
    status(`${matching.length.toLocaleString("en")} of ${total.toLocaleString("en")} samples`);
    $("where").textContent = `page ${state.page + 1} of ${last + 1}`;
    $("before").disabled = state.page === 0;
    $("after").disabled = state.page === last;
  };

  // ------------------------------------------------------------ one sample

  const verdictName = (verdict) => (verdict === null ? "null" : verdict ? "right" : "wrong");
  const dialogue = (sample, turn, depth = 0) => {
    const turns = new Map(sample.turns.map((one) => [one.id, one]));
    const before = turn.continues && turns.has(turn.continues) && depth < 50 ? [...dialogue(sample, turns.get(turn.continues), depth + 1), { role: "assistant", text: turns.get(turn.continues).text }] : [];
    const text = (part) => (part.ref === undefined ? part.text : part.ref === "document" ? sample.document ?? "" : turns.get(part.ref)?.text ?? "");
    return [...before, ...turn.messages.map((one) => ({ role: one.role, text: one.parts.map(text).join("") }))];
  };
  const details = (summary, make) => {
    const place = element("details", "", element("summary", "", summary));
    place.addEventListener("toggle", () => { if (place.open && place.children.length === 1) place.append(make()); }, { once: true });
    return place;
  };
  const card = (sample, turn, earlier) => {
    const verdict = verdictName(turn.verdict);
    const line = element("div", "line",
      element("span", "agent", ...plain(turn.agent)),
      turn.model === null ? null : element("span", "", ...plain(turn.model)),
      element("span", `verdict ${verdict}`, NAMES[verdict] ?? verdict),
      turn.answer === null ? null : element("span", "", "answer ", ...plain(turn.answer.slice(0, 80))),
      turn.p === null ? null : element("span", "", `P(right) ${turn.p.toFixed(2)}`),
      element("span", "", `${turn.prompt.toLocaleString("en")} + ${turn.completion.toLocaleString("en")} tokens`),
      turn.finish === "length" ? element("span", "tag bad", "cut at its limit") : null,
      element("span", "", ...plain(turn.role)));
    const place = element("article", `turn ${verdict}`, line);
    if (earlier) {
      const from = verdictName(earlier.verdict);
      const answers = earlier.answer !== turn.answer ? `answer ${earlier.answer ?? "none"} → ${turn.answer ?? "none"}` : "same answer";
      const moved = from !== verdict ? `, ${NAMES[from] ?? from} → ${NAMES[verdict] ?? verdict}` : "";
      place.append(element("div", "changed", ...plain(earlier.text === turn.text ? "unchanged since the round before" : answers + moved)));
    }
    if (turn.reasoning) place.append(details("thinking", () => block(turn.reasoning)));
    place.append(block(turn.text, { steps: turn.steps, before: comparing && earlier ? earlier.text : null }));
    if (turn.note) place.append(element("div", "note", ...plain(turn.note)));
    place.append(details("what it was shown", () => element("div", "", ...dialogue(sample, turn).map((one) => element("div", "", element("strong", "", one.role), block(one.text))))));
    return place;
  };
  const grid = (sample) => {
    const rounds = [...new Set(sample.turns.map((turn) => turn.round))].sort((a, b) => a - b);
    const agents = sample.agents;
    const place = element("div", "rounds");
    place.tabIndex = 0;
    place.style.gridTemplateColumns = `repeat(${Math.max(1, agents.length)}, minmax(min(20rem, 85vw), 1fr))`;
    place.append(...agents.map((agent) => element("div", "head", ...plain(agent), sample.paths[agent] ? ` · ${sample.paths[agent].replaceAll("_", " ")}` : "")));
    const latest = new Map();
    for (const round of rounds) {
      const heading = element("h3", "", `Round ${round}`);
      heading.style.gridColumn = "1 / -1";
      place.append(heading);
      const now = new Map();
      for (const agent of agents) {
        const turns = sample.turns.filter((turn) => turn.round === round && turn.agent === agent);
        place.append(element("div", "cell", ...turns.map((turn) => {
          const key = `${agent}\u0000${turn.role}`;
          now.set(key, turn);
          return card(sample, turn, latest.get(key));
        })));
      }
      now.forEach((turn, key) => latest.set(key, turn));
    }
    return place;
  };
  const fact = (name, ...value) => [element("dt", "", name), element("dd", "", ...value)];
  const show = async () => {
    const at = state.sample;
    const place = $("sample");
    const name = `chunk-${columns.chunk[at]}`;
    let chunk;
    try {
      chunk = await AgentArk.load(name);
    } catch (error) {
      place.replaceChildren(element("p", "empty", error.message));
      return;
    }
    AgentArk.forget("chunk-", CHUNKS);
    if (state.sample !== at) return;
    const sample = chunk[at];
    const run = runs[columns.run[at]];
    const order = matching.indexOf(at);
    const button = (label, target, pressed) => {
      const made = element("button", "", label);
      made.type = "button";
      made.disabled = target === undefined;
      if (pressed !== undefined) made.setAttribute("aria-pressed", pressed);
      made.addEventListener("click", () => (typeof target === "function" ? target() : go({ sample: target })));
      return made;
    };
    const bar = element("div", "bar",
      button("Back to the list", () => go({ sample: null })),
      button("Previous", order > 0 ? matching[order - 1] : undefined),
      button("Next", order >= 0 && order < matching.length - 1 ? matching[order + 1] : undefined),
      button("Changes between rounds", () => { comparing = !comparing; show(); }, comparing),
      element("span", "", order < 0 ? "not in this search" : `${(order + 1).toLocaleString("en")} of ${matching.length.toLocaleString("en")}`));
    const tokens = Object.entries(sample.tokens).map(([model, used]) => `${model}: ${used.num_llm_calls} calls, ${used.prompt_tokens.toLocaleString("en")} prompt (${used.cached_tokens ?? "unknown"} cached), ${used.completion_tokens.toLocaleString("en")} new`);
    const facts = element("dl", "facts",
      ...fact("sample", ...plain(sample.id), ...flags(at)),
      ...fact("run", ...plain(`${run.dataset} · ${run.method} · ${run.model} (${run.file})`)),
      ...fact("question", block(sample.query)),
      ...(sample.choices ? fact("options", ...sample.choices.map((one, number) => block(`${String.fromCharCode(65 + number)}. ${one}`))) : []),
      ...(sample.document ? fact("document", details(`${sample.document.length.toLocaleString("en")} characters`, () => block(sample.document))) : []),
      ...fact("gold", block(sample.gold || "(none)")),
      ...fact("final answer", mark(at), " ", block(sample.answer ?? "(none)")),
      ...(sample.error ? fact("error", ...plain(sample.error)) : []),
      ...fact("tokens", ...plain(tokens.join("; ") || "none")),
      ...fact("seconds", sample.seconds.toFixed(1)),
      ...(Object.keys(sample.info).length ? fact("kept by the method", details("show", () => block(JSON.stringify(sample.info, null, 2)))) : []));
    place.replaceChildren(bar, facts, grid(sample));
  };

  // ------------------------------------------------------------ events

  const render = async () => {
    read();
    if (!(await filter())) return;
    const open = state.sample !== null;
    $("list").hidden = open;
    $("sample").hidden = !open;
    if (open) {
      await show();
      window.scrollTo(0, 0);
      $("sample").querySelector("button")?.focus({ preventScroll: true });
    } else {
      $("sample").replaceChildren();
      list();
    }
    document.body.dataset.ready = "yes";
  };
  let typing = 0;
  const changed = (event) => {
    const apply = () => go({ [event.target.id]: event.target.value, page: 0, sample: null });
    clearTimeout(typing);
    if (event.type === "input" && event.target.id === "text") typing = setTimeout(apply, 30);
    else apply();
  };
  for (const name of ["dataset", "method", "model"]) {
    const values = [...new Set(runs.map((run) => run[name]))].sort();
    $(name).append(...values.map((value) => new Option(value, value)));
  }
  $("filters").addEventListener("input", changed);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", (event) => {
    event.preventDefault();
    go({ text: "", dataset: "", method: "", model: "", verdict: "", path: "", page: 0, sample: null });
  });
  $("before").addEventListener("click", () => go({ page: state.page - 1 }));
  $("after").addEventListener("click", () => go({ page: state.page + 1 }));
  window.addEventListener("hashchange", render);
  document.addEventListener("keydown", (event) => {
    const inField = event.target.matches("input, select, textarea");
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Escape") {
      if (inField) event.target.blur();
      else if (state.sample !== null) go({ sample: null });
      return;
    }
    if (inField) return;
    if (state.sample !== null) {
      const order = matching.indexOf(state.sample);
      const move = { ArrowLeft: -1, ArrowRight: 1, k: -1, j: 1 }[event.key];
      if (event.target.closest(".rounds") === event.target && event.key.startsWith("Arrow")) return;
      if (move && matching[order + move] !== undefined && order >= 0) go({ sample: matching[order + move] });
      else if (event.key === "c") { comparing = !comparing; show(); }
      return;
    }
    if (event.key === "/") {
      event.preventDefault();
      $("text").focus();
      return;
    }
    const move = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 }[event.key];
    if (!move) return;
    event.preventDefault();
    const links = [...$("rows").querySelectorAll("a")];
    const at = links.indexOf(document.activeElement);
    links[Math.min(links.length - 1, Math.max(0, at + move))]?.focus();
  });
  await render();
})();
