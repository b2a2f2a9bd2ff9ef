"use strict";
// Lists the samples a page at a time. Texts come from models and data: they are only ever set as text.
(() => {
  const { columns, runs, sources, rows } = JSON.parse(document.getElementById("sample-data").textContent);
  const PER_PAGE = 10;
  const TALL = 300;
  const WORDS = { w: "win", l: "loss", t: "tie" };
  const list = document.getElementById("sample-list");
  const count = document.getElementById("count");
  const pages = document.getElementById("pages");
  const controls = {};
  for (const id of ["search", "outcome", "source", "length", "order"]) controls[id] = document.getElementById(id);
  const value = (id) => (controls[id] ? controls[id].value : "");
  const number = new Intl.NumberFormat("en");
  const last = columns.length - 1;
  let found = [];
  let page = 0;
  let searchable = null;

  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };

  // A text with its matches marked, built of text nodes.
  const fill = (node, text, words) => {
    const lower = text.toLowerCase();
    let place = 0;
    while (words.length && lower.length === text.length) {
      let start = -1;
      let size = 0;
      for (const word of words) {
        const at = lower.indexOf(word, place);
        if (at >= 0 && (start < 0 || at < start)) { start = at; size = word.length; }
      }
      if (start < 0) break;
      node.append(text.slice(place, start), make("mark", "", text.slice(start, start + size)));
      place = start + size;
    }
    node.append(text.slice(place));
  };

  const terms = () => value("search").toLowerCase().split(/\s+/).filter(Boolean);
  const longest = (row) => Math.max(0, ...row[3].map((size) => size ?? 0));
  const growth = (row) => (row[3][last] === null || row[3][0] === null ? null : row[3][last] - row[3][0]);

  const fits = (row, place, words) => {
    const source = value("source");
    if (source !== "" && row[1] !== Number(source)) return false;
    const outcome = value("outcome");
    if (outcome === "none" && row[4].some(Boolean)) return false;
    if (outcome && outcome !== "none" && row[4][Number.parseInt(outcome, 10)] !== outcome.slice(-1)) return false;
    const length = value("length");
    if (length === "longer" && !(growth(row) > 0)) return false;
    if (length === "shorter" && !(growth(row) < 0)) return false;
    if (length === "empty" && !row[3].includes(0)) return false;
    if (/^\d/.test(length)) {
      const [low, high] = length.split("-");
      if (longest(row) < Number(low) || (high && longest(row) > Number(high))) return false;
    }
    return words.every((word) => searchable[place].includes(word));
  };

  const ordered = (places) => {
    const key = {
      longest: (row) => -longest(row), shortest: longest,
      grown: (row) => -(growth(row) ?? -Infinity), shrunk: (row) => growth(row) ?? Infinity,
    }[value("order")];
    return key ? places.sort((a, b) => key(rows[a]) - key(rows[b]) || a - b) : places;
  };

  const answer = (row, column, words) => {
    const node = make("div", "answer");
    const head = make("div", "answer-head");
    const size = row[3][column];
    head.append(make("span", "", columns[column]), make("span", "", size === null ? "" : `${number.format(size)} characters`));
    const text = row[2][column];
    const body = make("div", text ? "text" : "text none");
    body.dir = "auto";
    if (text) fill(body, text, words);
    else body.textContent = text === "" ? "empty" : "nothing was written for this instruction";
    node.append(head, body);
    return node;
  };

  // Long texts are folded: how long a text is shows only where it stands.
  const fold = () => {
    const long = [...list.querySelectorAll(".answer .text")].filter((body) => body.scrollHeight > TALL);
    for (const body of long) {
      const more = make("button", "more", "Show all");
      more.type = "button";
      more.setAttribute("aria-expanded", "false");
      more.addEventListener("click", () => {
        const folded = body.classList.toggle("clamped");
        more.setAttribute("aria-expanded", String(!folded));
        more.textContent = folded ? "Show all" : "Show less";
      });
      body.classList.add("clamped");
      body.after(more);
    }
  };

  const sample = (place, words) => {
    const row = rows[place];
    const node = make("article", "sample");
    const head = make("div", "sample-head");
    const title = make("h3", "", `Sample ${number.format(place + 1)}`);
    title.id = `sample-${place}`;
    node.setAttribute("aria-labelledby", title.id);
    head.append(title);
    row[4].forEach((letter, run) => {
      if (letter) head.append(make("span", `chip ${letter}`, runs.length > 1 ? `${runs[run]}: ${WORDS[letter]}` : WORDS[letter]));
    });
    if (sources[row[1]]) head.append(make("span", "", sources[row[1]]));
    node.append(head);
    const instruction = make("div", row[0] ? "text instruction" : "text instruction none");
    instruction.dir = "auto";
    if (row[0]) fill(instruction, row[0], words);
    else instruction.textContent = "no instruction: the text begins from nothing";
    const texts = make("div", "texts");
    columns.forEach((_, column) => texts.append(answer(row, column, words)));
    node.append(instruction, texts);
    return node;
  };

  const show = () => {
    const words = terms();
    const first = page * PER_PAGE;
    list.replaceChildren(...found.slice(first, first + PER_PAGE).map((place) => sample(place, words)));
    fold();
    const all = Math.max(1, Math.ceil(found.length / PER_PAGE));
    pages.hidden = all === 1;
    document.getElementById("page").textContent = `Page ${number.format(page + 1)} of ${number.format(all)}`;
    document.getElementById("previous").disabled = page === 0;
    document.getElementById("next").disabled = page === all - 1;
  };

  const filter = () => {
    const words = terms();
    if (words.length && !searchable) searchable = rows.map((row) => [row[0], ...row[2]].join("\n").toLowerCase());
    found = ordered(rows.map((_, place) => place).filter((place) => fits(rows[place], place, words)));
    page = 0;
    count.textContent = found.length === rows.length
      ? `${number.format(rows.length)} samples`
      : `${number.format(found.length)} of ${number.format(rows.length)} samples`;
    show();
  };

  const turn = (by) => {
    page += by;
    show();
    document.getElementById("count").scrollIntoView({ block: "start" });
  };
  document.getElementById("previous").addEventListener("click", () => turn(-1));
  document.getElementById("next").addEventListener("click", () => turn(1));
  let waiting;
  controls.search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 150);
  });
  for (const id of ["outcome", "source", "length", "order"]) if (controls[id]) controls[id].addEventListener("change", filter);
  const form = document.getElementById("filters");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  filter();
})();
