"use strict";
// The search page: no framework, no request to anywhere but this server.
const byId = (id) => document.getElementById(id);
const state = { version: null, total: 0, shown: 0, token: sessionStorage.getItem("token") || "", last: null, own: null, run: 0, metric: "cosine" };
const MEANING = {
  cosine: "The score is the cosine of the angle between embeddings: 1 is the same direction, 0 has nothing in common.",
  dot_product: "The score is the dot product of embeddings: larger is nearer.",
  euclidean: "The score is the distance between embeddings: 0 is the same.",
};

async function ask(path, options = {}) {
  const headers = { ...(options.headers || {}) };
  if (state.token) headers.Authorization = `Bearer ${state.token}`;
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) {
    byId("login").hidden = false;
    byId("token").focus();
  }
  if (!response.ok) {
    let message = `The server answered ${response.status}`;
    try { message = (await response.json()).error || message; } catch (ignored) { /* not JSON */ }
    const error = new Error(message);
    error.status = response.status;
    throw error;
  }
  return response;
}

function say(text, isError = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("error", isError);
}

async function picture(image, version, index) {
  const path = `gallery/${version}/${index}/picture`;
  image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < 64));
  if (!state.token) { image.src = path; return; }
  // An <img> cannot carry the token.
  try {
    const url = URL.createObjectURL(await (await ask(path)).blob());
    image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
    image.src = url;
  } catch (ignored) { /* the item stays without a picture */ }
}

function line(className, text) {
  const element = document.createElement("span");
  element.className = className;
  // Long names are broken behind their separators.
  String(text).split(/(?<=[_/.-])/).forEach((part, place) => element.append(...(place ? [document.createElement("wbr"), part] : [part])));
  return element;
}

function where() {
  const label = byId("label").value.trim();
  return label ? `&where=${encodeURIComponent(JSON.stringify({ label }))}` : "";
}

function score(item) {
  if (state.metric === "euclidean") return [line("score", Math.sqrt(Math.max(0, -item.score)).toFixed(4))];
  if (state.metric !== "cosine") return [line("score", item.score.toFixed(4))];
  const bar = document.createElement("meter");
  bar.max = 1;
  bar.value = Math.max(0, item.score);
  bar.setAttribute("aria-hidden", "true");
  return [line("score", item.score.toFixed(4)), bar];
}

function enlarge(item, version) {
  const image = byId("large-picture");
  image.removeAttribute("src");
  image.alt = item.id;
  picture(image, version, item.index);
  byId("large-name").textContent = item.id;
  byId("large").showModal();
}

// What stands in the id already is not said again: "cups/17.jpg" of the label "cups" is 17.jpg, with its label below.
function shortName(item) {
  const label = item.metadata.label;
  return label && item.id.startsWith(`${label}/`) ? item.id.slice(label.length + 1) : item.id;
}

function card(item, version) {
  const entry = document.createElement("li");
  const own = item.score !== undefined && item.id === state.own;
  entry.classList.toggle("own", own);
  const button = document.createElement("button");
  button.type = "button";
  button.className = "item";
  button.dataset.index = item.index;
  if (item.picture) {
    const image = document.createElement("img");
    image.alt = "";
    image.loading = "lazy";
    picture(image, version, item.index);
    button.append(image);
  } else {
    const blank = document.createElement("span");
    blank.className = "blank";
    button.append(blank);
  }
  if (item.score !== undefined) button.append(...score(item));
  if (own) button.append(line("note", "the query itself"));
  if (item.metadata.label) button.append(line("label", item.metadata.label));
  const name = line("name", shortName(item));
  name.title = item.id;
  button.append(name);
  for (const [column, value] of Object.entries(item.metadata)) {
    if (column !== "label" && value !== "" && value !== item.id) button.append(line("column", `${column}: ${value}`));
  }
  if (item.index < 0) {
    button.disabled = true;
    button.append(line("note", "added since this version"));
  }
  button.addEventListener("click", () => { remember({ item: item.id }); searchItem(item, version); });
  entry.append(button);
  if (item.picture) {
    const zoom = document.createElement("button");
    zoom.type = "button";
    zoom.className = "enlarge";
    zoom.textContent = "\u2922";
    zoom.setAttribute("aria-label", `Enlarge ${item.id}`);
    zoom.addEventListener("click", () => enlarge(item, version));
    entry.append(zoom);
  }
  return entry;
}

function neighbours() {
  const input = byId("k");
  const k = Math.round(Number(input.value));
  if (!(k >= 1)) throw new Error("The number of results must be at least 1");
  return Math.min(k, Number(input.max));
}

async function show(what, request) {
  const run = ++state.run;
  say("Searching…");
  try {
    const answer = await (await request(neighbours())).json();
    if (run !== state.run) return;
    byId("results").replaceChildren(...answer.items.map((item) => card(item, answer.version)));
    byId("results-section").hidden = false;
    say(answer.items.length ? `${answer.items.length} items nearest to ${what}` : "No item fits");
    byId("meaning").textContent = MEANING[state.metric] || "";
    byId("results-section").scrollIntoView({ block: "start" });
    if (answer.version !== state.version) await openGallery();
  } catch (error) {
    if (run !== state.run) return;
    say(error.message, true);
    if (error.status === 404) await openGallery();
  }
}

function preview(url, text) {
  const image = byId("preview");
  if (image.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
  image.hidden = !url;
  if (url) image.src = url; else image.removeAttribute("src");
  byId("drop-text").textContent = text;
}

function searchFile(file) {
  if (!file) return;
  const name = file.name || "the pasted image";
  preview(URL.createObjectURL(file), name);
  state.own = null;
  remember({});
  state.last = () => show(name, (k) => ask(`search?k=${k}${where()}`, { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } }));
  state.last();
}

function searchItem(item, version) {
  preview("", `Gallery item ${item.id}`);
  if (item.picture) { byId("preview").hidden = false; picture(byId("preview"), version, item.index); }
  state.own = item.id;
  state.last = () => show(item.id, (k) => ask(`gallery/${version}/${item.index}/neighbours?k=${k}${where()}`));
  state.last();
}

// The address says what is shown, so that it can be sent to somebody and Back goes back.
function remember(query) {
  const address = new URLSearchParams(query);
  const label = byId("label").value.trim();
  if (label) address.set("label", label);
  const text = address.toString();
  if (text !== location.search.slice(1)) history.pushState(null, "", text ? `?${text}` : location.pathname);
}

async function follow() {
  const address = new URLSearchParams(location.search);
  byId("label").value = address.get("label") || "";
  await openGallery();
  const id = address.get("item");
  if (!id) {
    state.last = null;
    byId("results-section").hidden = true;
    preview("", "Drop an image here, paste one, or choose a file.");
    return;
  }
  try {
    const found = await (await ask(`gallery?limit=1&where=${encodeURIComponent(JSON.stringify({ ids: id }))}`)).json();
    if (found.items.length) searchItem(found.items[0], found.version);
    else say(`This gallery has no item ${id}`, true);
  } catch (error) {
    say(error.message, true);
  }
}

async function openGallery(more = false) {
  try {
    const offset = more ? state.shown : 0;
    const contains = encodeURIComponent(byId("find").value.trim());
    const answer = await (await ask(`gallery?offset=${offset}&limit=60&contains=${contains}${where()}`)).json();
    const cards = answer.items.map((item) => card(item, answer.version));
    if (more && answer.version === state.version) byId("gallery").append(...cards);
    else byId("gallery").replaceChildren(...cards);
    Object.assign(state, { version: answer.version, total: answer.total, shown: offset + cards.length });
    byId("title").textContent = answer.model;
    document.title = `${answer.model}: image search`;
    const some = answer.total < answer.size ? `${answer.total.toLocaleString()} of ` : "";
    byId("about").textContent = `${some}${answer.size.toLocaleString()} items, version ${answer.version}`;
    state.metric = answer.metric;
    byId("label-field").hidden = !answer.labels.length;
    byId("labels").replaceChildren(...answer.labels.map((label) => new Option(label)));
    byId("k").max = answer.max_k;
    byId("drop").hidden = !answer.images;
    byId("more").hidden = state.shown >= answer.total;
    byId("login").hidden = true;
  } catch (error) {
    say(error.message, true);
  }
}

byId("choose").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", (event) => { searchFile(event.target.files[0]); event.target.value = ""; });
byId("k").addEventListener("change", () => state.last && state.last());
byId("label").addEventListener("change", async () => {
  remember(Object.fromEntries([...new URLSearchParams(location.search)].filter(([name]) => name !== "label")));
  await openGallery();
  if (state.last) state.last();
});
byId("find").addEventListener("change", () => openGallery());
window.addEventListener("popstate", follow);
byId("more").addEventListener("click", () => openGallery(true));
byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  state.token = byId("token").value;
  sessionStorage.setItem("token", state.token);
  say("");
  follow();
});
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); byId("drop").classList.add("over"); });
}
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) byId("drop").classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  searchFile(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((candidate) => candidate.type.startsWith("image/"));
  if (file) { event.preventDefault(); searchFile(file); }
});
follow();
