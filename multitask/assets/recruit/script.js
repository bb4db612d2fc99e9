// All that is shown is set as text: nothing typed or found in a posting becomes markup.
"use strict";

const $ = (id) => document.getElementById(id);
let token = "";

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function say(status, text, bad = false) {
  status.textContent = text;
  status.classList.toggle("bad", bad);
}

// The answer, or an Error with one line for the person.
async function ask(path, body) {
  let answer;
  try {
    const headers = { "content-type": "application/json" };
    if (token) headers.authorization = `Bearer ${token}`;
    answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  if (answer.ok) return answer.json();
  if (answer.status === 401) {
    $("token-form").hidden = false;
    $("token").focus();
    throw new Error("This server wants a token: enter it above.");
  }
  const said = await answer.json().catch(() => ({}));
  if (answer.status < 500 && said.detail) throw new Error(`Not answered: ${said.detail}.`);
  throw new Error("The server failed. Try again, or look at its log.");
}

// Runs `work` while the form shows that it is busy; a failure is shown where its result would be.
async function busy(form, status, work) {
  const button = form.querySelector("button");
  if (button.disabled) return;
  button.disabled = true;
  say(status, "Working ...");
  try {
    await work();
  } catch (error) {
    say(status, error.message, true);
  } finally {
    button.disabled = false;
  }
}

function marked(passage, words) {
  const shown = element("p", "passage");
  const signs = Array.from(passage); // the API counts characters, JavaScript's strings count halves of some
  let at = 0;
  for (const [start, end] of words) {
    shown.append(signs.slice(at, start).join(""), element("mark", "", signs.slice(start, end).join("")));
    at = end;
  }
  shown.append(signs.slice(at).join(""));
  return shown;
}

function card(result) {
  const item = element("li"), head = element("div", "head");
  const score = element("span", "score", result.score.toFixed(2));
  score.title = "how well it fits; to compare results of one search with";
  head.append(element("h4", "", result.title), score);
  const about = [result.company, result.location].filter(Boolean).join(" · ");
  item.append(head, element("p", "about", about), marked(result.passage, result.words));
  return item;
}

function filled(field, status) {
  if (field.value.trim()) return true;
  say(status, `Nothing to go by: fill in "${field.labels[0].textContent}".`, true);
  field.focus();
  return false;
}

function onSubmit(form, status, fields, work) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (fields.every((field) => filled(field, status))) busy(form, status, work);
  });
  for (const field of fields) {
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
  }
}

onSubmit($("search-form"), $("search-status"), [$("query")], async () => {
  $("results").replaceChildren();
  $("results-title").hidden = true;
  const { results } = await ask("/search", { query: $("query").value });
  say($("search-status"), "");
  $("results").replaceChildren(...results.map(card));
  $("results-title").textContent = results.length === 1 ? "1 posting, the words that carried it marked"
    : `${results.length} postings, best first, the words that carried them marked`;
  $("results-title").hidden = false;
  $("results-title").focus();
});

onSubmit($("complete-form"), $("complete-status"), [$("description")], async () => {
  $("titles").replaceChildren();
  const { titles } = await ask("/complete", { description: $("description").value });
  say($("complete-status"), "The role in this job description is:");
  $("titles").replaceChildren(...titles.map((title) => {
    const item = element("li");
    item.append(element("span", "score", `${(100 * title.probability).toFixed(0)} %`), element("span", "", title.text));
    return item;
  }));
});

onSubmit($("fit-form"), $("fit-status"), [$("job"), $("application")], async () => {
  const answer = await ask("/suitability", { job: $("job").value, application: $("application").value });
  say($("fit-status"), `${answer.qualified ? "Qualified" : "Not qualified"}. ${answer.note}`);
});

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value;
  $("token-form").hidden = true;
  say($("search-status"), "");
  $("query").focus();
});

fetch("/health").then((answer) => answer.json()).then(({ parts }) => {
  for (const part of ["completion", "suitability"]) $(part).hidden = !parts.includes(part);
}).catch(() => say($("search-status"), "The server does not answer.", true));
