"use strict";
// What a person typed, a posting says or the server answers becomes text nodes, never markup.

const MOST = 20000; // characters of a text
const PATIENCE = 60000; // ms
const PARTS = {
  search: { path: "/search", doing: "Searching", numbers: ["k"], show: hits },
  completion: { path: "/complete", doing: "Completing", numbers: [], show: titles },
  suitability: { path: "/suitability", doing: "Checking", numbers: [], show: verdict },
};
const EMPTY = {
  "search-text": "Type a need or paste a CV first.",
  "completion-text": "Paste a job description first.",
  "suitability-job": "Paste the job first.",
  "suitability-application": "Paste the application first.",
};

const by = id => document.getElementById(id);
let token = "", waiting = null; // waiting: what to do again once there is a token

function make(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Asking

async function ask(path, body) {
  const headers = { "Content-Type": "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  const options = { headers, signal: AbortSignal.timeout(PATIENCE) };
  const response = await fetch(path, body ? { method: "POST", body: JSON.stringify(body), ...options } : options);
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return answer;
  const error = new Error((answer && answer.message) || `The server answered with status ${response.status}.`);
  error.status = response.status;
  throw error;
}

function explained(error) {
  if (error.status >= 500) return `The server failed (status ${error.status}). Try again; what you typed is still here.`;
  if (error.status) return error.message;
  if (error.name === "TimeoutError") return `No answer in ${PATIENCE / 1000} seconds. Try again.`;
  return "The server cannot be reached. Is it still running? What you typed is still here.";
}

async function submit(part) {
  const panel = by(part), form = panel.querySelector("form"), button = form.querySelector("button");
  const { path, doing, numbers, show } = PARTS[part];
  if (button.getAttribute("aria-disabled") === "true" || !checked(form)) return;
  const body = Object.fromEntries(new FormData(form));
  for (const name of numbers) body[name] = Number(body[name]);
  busy(panel, `${doing} …`);
  try {
    const answer = await ask(path, body);
    busy(panel, "");
    fill(panel, show(answer));
  } catch (error) {
    busy(panel, "");
    if (error.status === 401) wantToken(() => submit(part));
    else complain(panel, explained(error));
  }
}

function busy(panel, what) {
  panel.querySelector("form button").setAttribute("aria-disabled", String(Boolean(what)));
  panel.querySelector(".results").setAttribute("aria-busy", String(Boolean(what)));
  panel.querySelector(".status").textContent = what;
  if (what) {
    panel.querySelector(".problem").hidden = true;
    panel.querySelector(".results").hidden = true;
  }
}

function complain(panel, message) {
  const problem = panel.querySelector(".problem");
  problem.hidden = false;
  problem.textContent = message;
}

// Each text of a form has something in it and is not too long; the first that is wrong gets the focus.
function checked(form) {
  const wrong = [...form.querySelectorAll("textarea")].filter(field => {
    const length = Array.from(field.value).length;
    const tooLong = `${length.toLocaleString("en")} characters; at most ${MOST.toLocaleString("en")} can be read.`;
    tell(field, length > MOST ? tooLong : field.value.trim() ? "" : EMPTY[field.id]);
    return field.getAttribute("aria-invalid") === "true";
  });
  if (wrong.length) wrong[0].focus();
  return !wrong.length;
}

function tell(field, message) {
  const place = by(`${field.id}-error`);
  field.setAttribute("aria-invalid", String(Boolean(message)));
  place.textContent = message;
  place.hidden = !message;
}

// Showing

function fill(panel, children) {
  const results = panel.querySelector(".results");
  results.replaceChildren(...children);
  results.hidden = false;
  results.querySelector("h2").focus();
}

const heading = text => make("h2", { tabindex: "-1" }, text);

function hits(answer) {
  const count = answer.hits.length;
  if (!count) return [heading("No posting found"), make("p", {}, "Try other words, or more of them.")];
  return [heading(count === 1 ? "1 posting" : `${count} postings`), make("ol", {}, ...answer.hits.map(hit))];
}

function hit(found) {
  const { pieces, words } = marked(found.passage, found.words);
  const title = make("h3", { dir: "auto" }, found.title);
  const item = make("li", {}, make("div", { class: "first" }, title, make("span", { class: "score" }, `score ${found.score.toFixed(2)}`)));
  const about = [found.company, found.location].filter(Boolean).join(" · ");
  if (about) item.append(make("p", { class: "meta", dir: "auto" }, about));
  if (words.length) item.append(make("p", { class: "unseen" }, `Matching words: ${words.join(", ")}`));
  item.append(make("p", { class: "passage", dir: "auto" }, ...pieces));
  return item;
}

// Postings come with lines of some 70 characters: where one just goes on, its break is a blank.
const unbroken = text => text.replace(/(?<=[^\n]{40})(?<![.;:!?])\n(?=\p{Ll})/gu, " ");

// The server counts code points; JavaScript's strings are of UTF-16 units.
function marked(passage, spans) {
  const signs = Array.from(unbroken(passage)), pieces = [], words = [];
  let at = 0;
  for (const [start, end] of spans) {
    const word = signs.slice(start, end).join("");
    pieces.push(signs.slice(at, start).join(""), make("mark", {}, word));
    words.push(word);
    at = end;
  }
  return { pieces: [...pieces, signs.slice(at).join("")], words };
}

function titles(answer) {
  const items = answer.titles.map(title =>
    make("li", { class: "first" }, make("h3", { dir: "auto" }, title.text), make("span", { class: "score" }, `probability ${title.probability.toFixed(3)}`)));
  return [heading("The role in this job description is …"), make("ol", {}, ...items)];
}

function verdict(answer) {
  const notes = [answer.note, answer.labels && `The model was trained on ${answer.labels}.`].filter(Boolean);
  return [
    heading(answer.qualified ? "Qualified" : "Not qualified"),
    ...notes.map(note => make("p", { class: "quiet" }, note)),
  ];
}

// Token

function wantToken(again) {
  waiting = again;
  by("token").hidden = false;
  if (token) by("token-hint").textContent = "That is not it. Whoever started this server has the token.";
  by("token-field").focus();
}

by("token").addEventListener("submit", event => {
  event.preventDefault();
  token = by("token-field").value.trim();
  if (!token) return by("token-field").focus();
  by("token").hidden = true;
  waiting();
});

// Tabs: arrows move between them, as the ARIA practices have it

const tabs = () => [...document.querySelectorAll("[role=tab]")].filter(tab => !tab.hidden);

function select(tab) {
  for (const other of document.querySelectorAll("[role=tab]")) {
    other.setAttribute("aria-selected", String(other === tab));
    other.tabIndex = other === tab ? 0 : -1;
    by(other.getAttribute("aria-controls")).hidden = other !== tab;
  }
  by("token").hidden = true;
}

by("tabs").addEventListener("click", event => {
  const tab = event.target.closest("[role=tab]");
  if (tab) select(tab);
});

by("tabs").addEventListener("keydown", event => {
  const all = tabs(), here = all.indexOf(document.activeElement);
  const next = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: all.length - 1 }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  const tab = all[(next + all.length) % all.length];
  select(tab);
  tab.focus();
});

for (const part of Object.keys(PARTS)) {
  const form = by(part).querySelector("form");
  form.addEventListener("submit", event => {
    event.preventDefault();
    submit(part);
  });
  form.addEventListener("input", event => event.target.matches("[aria-invalid=true]") && tell(event.target, ""));
  form.addEventListener("keydown", event => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}

ask("/health").then(health => {
  by("about").textContent = `${health.postings.toLocaleString("en")} postings in ${health.passages.toLocaleString("en")} passages`;
  for (const part of Object.keys(PARTS)) by(`tab-${part}`).hidden = !health.parts.includes(part);
  by("tabs").hidden = tabs().length < 2;
}).catch(error => { by("about").textContent = explained(error); });
