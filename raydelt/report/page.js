"use strict";
// Charts tell the value at the pointer or at the arrow keys; tables sort by a click on a head; examples are filtered.

const tip = document.body.appendChild(Object.assign(document.createElement("div"), { id: "tip", hidden: true }));
tip.setAttribute("role", "status");

function listen(svg) {
  const marks = JSON.parse(svg.dataset.marks);
  const [left, top, right, bottom] = JSON.parse(svg.dataset.frame);
  const along = svg.dataset.along;
  const pin = svg.appendChild(document.createElementNS(svg.namespaceURI, "g"));
  pin.setAttribute("class", "pin");
  let at = -1;

  function scale() {
    const box = svg.getBoundingClientRect();
    return { box, by: box.width / svg.viewBox.baseVal.width };
  }

  function show(index) {
    at = index;
    const [x, y, text] = marks[at];
    pin.replaceChildren();
    const line = document.createElementNS(svg.namespaceURI, "line");
    const [x1, y1, x2, y2] = along === "y" ? [left, y, right, y] : [x, top, x, bottom];
    for (const [name, value] of Object.entries({ x1, y1, x2, y2 })) line.setAttribute(name, value);
    const dot = document.createElementNS(svg.namespaceURI, "circle");
    for (const [name, value] of Object.entries({ cx: x, cy: y, r: 3.5 })) dot.setAttribute(name, value);
    pin.append(line, dot);
    tip.textContent = text;
    tip.hidden = false;
    const { box, by } = scale();
    const [px, py] = [box.left + x * by, box.top + y * by];
    const width = tip.offsetWidth;
    tip.style.left = `${Math.max(4, Math.min(px - width / 2, document.documentElement.clientWidth - width - 4))}px`;
    const above = py - tip.offsetHeight - 12;
    tip.style.top = `${above > 4 ? above : py + 14}px`;
  }

  function hide() {
    at = -1;
    pin.replaceChildren();
    tip.hidden = true;
  }

  function nearest(event) {
    const { box, by } = scale();
    const [x, y] = [(event.clientX - box.left) / by, (event.clientY - box.top) / by];
    let best = 0, least = Infinity;
    marks.forEach(([mx, my], index) => {
      const away = along === "x" ? Math.abs(mx - x) : along === "y" ? Math.abs(my - y) : Math.hypot(mx - x, my - y);
      if (away < least) [best, least] = [index, away];
    });
    return best;
  }

  svg.addEventListener("pointermove", event => show(nearest(event)));
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", event => {
    const last = marks.length - 1;
    const to = {
      ArrowRight: Math.min(at + 1, last), ArrowDown: Math.min(at + 1, last),
      ArrowLeft: Math.max(at - 1, 0), ArrowUp: Math.max(at - 1, 0), Home: 0, End: last,
    }[event.key];
    if (event.key === "Escape") hide();
    if (to === undefined) return;
    event.preventDefault();
    show(to);
  });
}

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const value = (row, column) => {
    const cell = row.cells[column];
    const told = cell.dataset.v;
    return told === undefined ? cell.textContent.trim().toLowerCase() : told === "" ? null : Number(told);
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "descending";
      heads.forEach(own => own.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "ascending" : "descending");
      const sign = down ? 1 : -1;
      // What is not known comes last either way.
      const order = (a, b) => {
        const [x, y] = [value(a, column), value(b, column)];
        if (x === null || y === null) return (x === null) - (y === null);
        return x === y ? 0 : x < y ? -sign : sign;
      };
      body.append(...[...body.rows].sort(order));
    });
  });
}

function filtered(form) {
  const rows = [...document.getElementById(form.dataset.table).tBodies[0].rows];
  const told = form.querySelector("output");
  const field = name => form.elements[name].value.trim();
  function apply() {
    const [list, kept, words] = [field("list"), field("kept"), field("words").toLowerCase()];
    const bound = (name, none) => (field(name) === "" ? none : Number(field(name)));
    const [low, high] = [bound("low", -Infinity), bound("high", Infinity)];
    let count = 0;
    for (const row of rows) {
      const score = Number(row.dataset.score);
      const fits = (!list || row.dataset.lists.split(" ").includes(list)) && (!kept || row.dataset.kept === kept)
        && score >= low && score <= high && row.dataset.words.toLowerCase().includes(words);
      row.hidden = !fits;
      count += fits;
    }
    told.textContent = `${count} of ${rows.length} examples`;
  }
  form.addEventListener("input", apply);
  form.addEventListener("reset", () => setTimeout(apply));
  form.addEventListener("submit", event => event.preventDefault());
  form.hidden = false;
  apply();
}

document.querySelectorAll("svg[data-marks]").forEach(listen);
document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("form[data-table]").forEach(filtered);
