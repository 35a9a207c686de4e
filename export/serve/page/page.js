"use strict";
// The search page: no framework, no request to anywhere but this server.
const byId = (id) => document.getElementById(id);
const state = { version: null, total: 0, shown: 0, token: sessionStorage.getItem("token") || "", last: null, run: 0 };

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
  element.textContent = text;
  return element;
}

function card(item, version) {
  const entry = document.createElement("li");
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
  if (item.score !== undefined) button.append(line("score", item.score.toFixed(4)));
  button.append(line("name", item.id));
  for (const [name, value] of Object.entries(item.metadata)) {
    if (value !== "") button.append(line("column", `${name}: ${value}`));
  }
  button.addEventListener("click", () => searchItem(item, version));
  entry.append(button);
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
    say(answer.items.length ? `${answer.items.length} items nearest to ${what}` : "The gallery is empty");
    byId("results-section").scrollIntoView({ block: "nearest" });
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
  state.last = () => show(name, (k) => ask(`search?k=${k}`, { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } }));
  state.last();
}

function searchItem(item, version) {
  preview("", `Gallery item ${item.id}`);
  if (item.picture) { byId("preview").hidden = false; picture(byId("preview"), version, item.index); }
  state.last = () => show(item.id, (k) => ask(`gallery/${version}/${item.index}/neighbours?k=${k}`));
  state.last();
}

async function openGallery(more = false) {
  try {
    const offset = more ? state.shown : 0;
    const answer = await (await ask(`gallery?offset=${offset}&limit=60`)).json();
    const cards = answer.items.map((item) => card(item, answer.version));
    if (more && answer.version === state.version) byId("gallery").append(...cards);
    else byId("gallery").replaceChildren(...cards);
    Object.assign(state, { version: answer.version, total: answer.total, shown: offset + cards.length });
    byId("title").textContent = answer.model;
    document.title = `${answer.model}: image search`;
    byId("about").textContent = `${answer.total.toLocaleString()} items, version ${answer.version}`;
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
byId("more").addEventListener("click", () => openGallery(true));
byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  state.token = byId("token").value;
  sessionStorage.setItem("token", state.token);
  say("");
  openGallery();
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
openGallery();
