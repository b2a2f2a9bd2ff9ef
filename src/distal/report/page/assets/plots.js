"use strict";
// Draws the plots: colours come from the style sheet, so that both themes and paper have theirs.
(() => {
  const specs = JSON.parse(document.getElementById("plot-data").textContent);
  const nodes = [...document.querySelectorAll("[data-plot]")];
  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  const PRINTED_WIDTH = 660;
  const drawn = new Set();

  const colour = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const faint = (name, share) => {
    const [r, g, b] = colour(name).match(/[\d.]+/g);
    return `rgba(${r}, ${g}, ${b}, ${share})`;
  };
  // The drawing library reads a little markup in names; escaped, they are plain text.
  const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

  const traces = (spec) => {
    const found = [];
    for (const curve of spec.curves) {
      if (curve.low) {
        const fill = curve.role === "ink" ? faint("band", 0.28) : faint(curve.role, 0.16);
        const edge = { mode: "lines", x: curve.x, line: { width: 0 }, hoverinfo: "skip", showlegend: false };
        found.push({ ...edge, y: curve.low }, { ...edge, y: curve.high, fill: "tonexty", fillcolor: fill });
      }
    }
    for (const curve of spec.curves) {
      const text = curve.low
        ? curve.y.map((value, place) => `${value.toPrecision(3)} [${curve.low[place].toPrecision(3)}, ${curve.high[place].toPrecision(3)}]`)
        : curve.y.map((value) => value.toPrecision(4));
      found.push({
        name: plain(curve.name), x: curve.x, y: curve.y, text, mode: curve.markers ? "lines+markers" : "lines",
        hovertemplate: "%{text}<extra>%{fullData.name}</extra>",
        marker: { size: 5 },
        line: { color: colour(curve.role), width: curve.dash ? 2 : 2.2, dash: curve.dash ? "5px,3px" : "solid" },
      });
    }
    return found;
  };

  const shapes = (spec) => {
    const found = [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: 0, y1: 0, layer: "below", line: { color: colour("muted"), width: 1 } }];
    if (!spec.shade) return spec.levels ? found : [];
    const { x, y } = spec.curves[0];
    const half = x.length > 1 ? (x[1] - x[0]) / 2 : 0;
    for (let start = 0; start < y.length; start += 1) {
      if (y[start] >= 0) continue;
      let end = start;
      while (end + 1 < y.length && y[end + 1] < 0) end += 1;
      found.push({ type: "rect", yref: "paper", y0: 0, y1: 1, x0: x[start] - half, x1: x[end] + half, layer: "below",
        line: { width: 0 }, fillcolor: faint("other", 0.16) });
      start = end;
    }
    return found;
  };

  const layout = (spec, width) => {
    const muted = colour("muted");
    const axis = { gridcolor: colour("grid"), zeroline: false, linecolor: colour("rule"), tickcolor: colour("rule"),
      tickfont: { color: muted, size: 11.5 }, automargin: true };
    const title = (text) => ({ text, font: { color: muted, size: 12 }, standoff: 10 });
    const font = getComputedStyle(document.body).fontFamily;
    return {
      ...(width ? { width, height: 290, autosize: false } : { autosize: true }),
      margin: { l: 56, r: 20, t: 30, b: 46 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: font, color: colour("ink"), size: 12 },
      xaxis: { ...axis, title: title(spec.x), ...(spec.levels ? { range: [0, 1], tickvals: [0, 0.25, 0.5, 0.75, 1], tickformat: ".0%" } : {}) },
      yaxis: { ...axis, exponentformat: "e", title: title(spec.y), ...(spec.range ? { range: spec.range } : {}) },
      showlegend: spec.curves.length > 1,
      legend: { orientation: "h", traceorder: "normal", x: 0, y: 1.02, yanchor: "bottom", font: { color: colour("ink"), size: 12 }, bgcolor: "rgba(0,0,0,0)" },
      hovermode: "x unified",
      hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("rule"), font: { color: colour("ink"), family: font, size: 12 } },
      dragmode: window.matchMedia("(pointer: coarse)").matches ? false : "zoom",
      shapes: shapes(spec),
    };
  };

  const draw = (node, width) => {
    const spec = specs[node.id];
    const kept = {};
    if (drawn.has(node) && !width) {
      for (const name of ["xaxis", "yaxis"]) if (node.layout[name].autorange === false) kept[name] = node.layout[name].range;
    }
    const shown = layout(spec, width);
    for (const name of Object.keys(kept)) shown[name].range = [...kept[name]];
    Plotly.react(node, traces(spec), shown, { displayModeBar: false, responsive: !width, doubleClick: "reset" });
    drawn.add(node);
  };

  const zoom = (node, how) => {
    const spec = specs[node.id];
    if (how === "reset") {
      Plotly.relayout(node, {
        ...(spec.levels ? { "xaxis.range": [0, 1] } : { "xaxis.autorange": true }),
        ...(spec.range ? { "yaxis.range": [...spec.range] } : { "yaxis.autorange": true }),
      });
      return;
    }
    const factor = how === "in" ? 0.6 : 1 / 0.6;
    const change = {};
    for (const name of ["xaxis", "yaxis"]) {
      const [low, high] = node.layout[name].range;
      const middle = (low + high) / 2;
      change[`${name}.range`] = [middle + (low - middle) * factor, middle + (high - middle) * factor];
    }
    Plotly.relayout(node, change);
  };

  for (const node of nodes) {
    const tools = node.parentElement.querySelector(".plot-tools");
    tools.hidden = false;
    tools.addEventListener("click", (event) => {
      const how = event.target.dataset.zoom;
      if (how && drawn.has(node)) zoom(node, how);
    });
  }

  // One plot at a time, so that the page answers in between.
  const queue = [...nodes];
  const next = () => {
    const node = queue.shift();
    if (!node) {
      document.documentElement.dataset.plots = "drawn";
      return;
    }
    if (!drawn.has(node)) draw(node);
    setTimeout(next, 0);
  };
  next();
  document.addEventListener("themechange", () => drawn.forEach((node) => draw(node)));

  window.addEventListener("beforeprint", () => {
    const root = document.documentElement;
    root.dataset.before = root.dataset.theme || "";
    root.dataset.theme = "light";
    for (const node of nodes) draw(node, PRINTED_WIDTH);
  });
  window.addEventListener("afterprint", () => {
    const root = document.documentElement;
    if (root.dataset.before) root.dataset.theme = root.dataset.before;
    else delete root.dataset.theme;
    for (const node of nodes) draw(node);
  });
})();
