"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const table = document.getElementById("layers");
  const body = table && table.tBodies[0];
  const rows = body ? [...body.rows] : [];
  const models = [];  // bokeh's, of all plots
  const named = name => models.filter(model => model.name === name);
  let selected = null;

  // ---- one selection for the table, the panel and every plot ----

  function select(row) {
    if (row === null || row === undefined || !data.rows[row]) return;
    selected = row;
    for (const line of rows) line.classList.toggle("picked", Number(line.dataset.row) === row);
    for (const source of named("rows")) {
      if (source.selected.indices.length !== 1 || source.selected.indices[0] !== row) source.selected.indices = [row];
    }
    showDetails(data.rows[row]);
  }

  function showDetails(layer) {
    document.getElementById("selected-name").textContent = layer.name;
    const list = document.getElementById("selected-facts");
    list.replaceChildren(...layer.facts.map(([label, value]) => {
      const entry = document.createElement("div");
      entry.append(element("dt", label), element("dd", value));
      return entry;
    }));
    const spectra = document.getElementById("spectra");
    if (spectra) showSpectra(layer, spectra);
  }

  function showSpectra(layer, panel) {
    panel.hidden = layer.curves.length === 0;
    document.getElementById("no-spectra").hidden = !panel.hidden;
    for (const model of models) {
      if (model.name && model.name.startsWith("curve_")) model.data = {x: [], y: []};
    }
    for (const curve of layer.curves) {
      for (const source of named(`curve_${curve.source}_${curve.number}`)) {
        source.data = {x: curve.x, y: curve.y};
      }
    }
    const mark = layer.mark;
    for (const source of named("mark")) {
      source.data = Object.fromEntries(Object.keys(source.data).map(key => [key, mark ? [mark[key]] : []]));
    }
    document.getElementById("curves").replaceChildren(...layer.curves.map(curve => {
      const entry = document.createElement("li"), line = document.createElement("i");
      line.style.borderTopColor = data.colors[curve.number];
      line.style.borderTopStyle = curve.source === "weights" ? "solid" : "dashed";
      const enough = curve.directions.map(([share, count]) => `${count} for ${+(100 * share).toFixed(1)} %`).join(", ");
      entry.append(line, `${curve.name}: ${enough}`);
      return entry;
    }));
  }

  function element(name, text) {
    const made = document.createElement(name);
    made.textContent = text;
    return made;
  }

  // ---- the table ----

  function sortBy(column, header) {
    const falls = header.getAttribute("aria-sort") === "descending" ||
      (header.getAttribute("aria-sort") === "none" && header.classList.contains("text"));
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", falls ? "ascending" : "descending");
    const sign = falls ? 1 : -1, text = header.classList.contains("text");
    const key = line => {
      const cell = line.cells[column];
      return text ? cell.textContent : cell.dataset.value === undefined ? null : Number(cell.dataset.value);
    };
    const keyed = rows.map(line => [key(line), Number(line.dataset.row), line]);
    const compare = (a, b) => text ? a.localeCompare(b, "en", {numeric: true}) : a - b;
    keyed.sort(([a, i], [b, j]) => {  // what is unknown stays last, what is equal in its order
      if (a === null || b === null) return (a === null) - (b === null) || i - j;
      return sign * compare(a, b) || i - j;
    });
    body.append(...keyed.map(([, , line]) => line));
  }

  function search(words) {
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    for (const line of rows) {
      const text = line.textContent.toLowerCase();
      line.hidden = !wanted.every(word => text.includes(word));
      found += line.hidden ? 0 : 1;
    }
    document.getElementById("found").textContent = `${found} of ${rows.length}`;
  }

  if (table) {
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      header.querySelector("button").addEventListener("click", () => sortBy(column, header));
    });
    body.addEventListener("click", event => {
      const line = event.target.closest("tr");
      if (line) select(Number(line.dataset.row));
    });
    const field = document.getElementById("search");
    field.addEventListener("input", () => search(field.value));
    search("");
  }

  // ---- the plots ----

  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  function paint() {
    const style = getComputedStyle(document.documentElement);
    const [quiet, line, grid, card] = ["--quiet", "--line", "--grid", "--card"]
      .map(name => style.getPropertyValue(name).trim());
    for (const model of models) {
      if (model.type.endsWith("Axis")) {
        model.setv({axis_label_text_color: quiet, major_label_text_color: quiet, axis_line_color: line,
          major_tick_line_color: line, minor_tick_line_color: null, axis_label_text_font_style: "normal"});
      } else if (model.type === "Grid") {
        model.setv({grid_line_color: grid});
      } else if (model.type === "Figure") {
        model.setv({outline_line_color: line, background_fill_color: card, background_fill_alpha: 1,
          border_fill_color: card, border_fill_alpha: 1});
      } else if (model.type === "Text") {
        model.setv({text_color: {value: quiet}});
      }
    }
  }

  /** Show only the names of stages that have room. */
  function fitLabels() {
    for (const source of named("stages")) {
      const figure = models.find(model => model.type === "Figure" && model.references().has(source));
      const range = figure.x_range, width = (figure.inner_width || 300) / (range.end - range.start);
      const {label, left, right} = source.data;
      const shown = label.map((text, i) => 6.6 * text.length < (right[i] - left[i]) * width ? text : "");
      if (shown.some((text, i) => text !== source.data.shown[i])) source.data = {...source.data, shown};
    }
  }

  async function draw() {
    for (const script of document.querySelectorAll("script.plot-item")) {
      await Bokeh.embed.embed_item(JSON.parse(script.textContent));
    }
    for (const shown of Bokeh.documents) {
      for (const root of shown.roots()) models.push(...root.references());
    }
    paint();
    dark.addEventListener("change", paint);
    for (const source of named("rows")) {
      source.selected.properties.indices.change.connect(() => {
        const [row] = source.selected.indices.slice(-1);
        if (row === undefined) select(selected);  // a click beside everything selects nothing new
        else if (row !== selected) select(row);
      });
    }
    for (const figure of models.filter(model => model.type === "Figure")) {
      figure.properties.inner_width.change.connect(fitLabels);
      figure.x_range.change.connect(fitLabels);
    }
    fitLabels();
    select(selected === null ? data.first : selected);
    document.documentElement.dataset.ready = "yes";
  }

  draw();
})();
