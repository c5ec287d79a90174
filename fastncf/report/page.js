"use strict";
// Draws the charts, and computes in the page what a reader with the liked items is recommended.
(() => {
  const report = JSON.parse(document.getElementById("report").textContent);
  const isDark = window.matchMedia("(prefers-color-scheme: dark)");

  function chartConfig() {
    const style = getComputedStyle(document.documentElement);
    const [text, line] = ["--text", "--line"].map((name) => style.getPropertyValue(name).trim());
    return {
      background: "transparent",
      font: "system-ui, sans-serif",
      view: { stroke: null },
      axis: { labelColor: text, titleColor: text, gridColor: line, domainColor: line, tickColor: line, labelLimit: 120 },
      legend: { labelColor: text, titleColor: text, labelLimit: 220 },
    };
  }

  async function draw() {
    for (const [id, spec] of Object.entries(report.charts)) {
      const theme = isDark.matches ? "dark" : "light";
      const options = { actions: false, renderer: "svg", config: chartConfig(), tooltip: { theme } };
      await vegaEmbed(document.getElementById(id), spec, options);
    }
  }

  function bytes(text) {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0)).buffer;
  }

  // Each item has a history vector, or one for each feature, and behind them its output vector; or one vector for all.
  function unpack({ dtype, dim, each, values, scale }) {
    const kind = { float32: Float32Array, int16: Int16Array, int8: Int8Array }[dtype];
    const numbers = Float32Array.from(new kind(bytes(values)));
    if (scale) {
      new Float32Array(bytes(scale)).forEach((factor, row) => {
        for (let at = row * dim; at < (row + 1) * dim; at++) numbers[at] *= factor;
      });
    }
    const row = (item, at) => numbers.subarray((item * each + at) * dim, (item * each + at + 1) * dim);
    const lastInput = Math.max(0, each - 2);
    return { dim, input: (item, c) => row(item, Math.min(c, lastInput)), output: (item) => row(item, each - 1) };
  }

  function startBox(box) {
    const vectors = unpack(box.vectors);
    const bias = box.bias ? new Float32Array(bytes(box.bias)) : new Float32Array(box.ids.length);
    const search = document.getElementById("search");
    const places = Object.fromEntries(["found", "liked", "answers"].map((id) => [id, document.getElementById(id)]));
    const indexOf = new Map(box.ids.map((id, index) => [id, index]));
    const lowered = box.ids.map((id, item) => `${box.names[item]}\n${id}`.toLowerCase());
    let liked = [];

    function entry(tag, item, onClick) {
      const element = document.createElement(tag);
      element.textContent = box.names[item];
      element.title = box.ids[item];
      element.dataset.item = box.ids[item];
      if (onClick) {
        element.type = "button";
        element.addEventListener("click", onClick);
      }
      return element;
    }

    // The vector of a user with the liked items, as the package computes it of a history, oldest item first.
    function userVector() {
      const { gains, decays, isMean, longest, length } = box.encoder;
      const latest = liked.slice(-longest);
      const user = new Float64Array(vectors.dim);
      gains.forEach((gain, c) => {
        const feature = new Float64Array(vectors.dim);
        for (const item of latest) {
          vectors.input(item, c).forEach((value, d) => (feature[d] = decays[c][d] * feature[d] + value));
        }
        const weight = isMean[c] ? 1 / latest.length : 1;
        feature.forEach((value, d) => (user[d] += weight * gain[d] * value));
      });
      if (length > 0) {
        const factor = length / Math.max(Math.hypot(...user), 1e-12);
        user.forEach((value, d) => (user[d] = factor * value));
      }
      return user;
    }

    function best() {
      const user = userVector();
      const scored = [];
      for (let item = 0; item < box.ids.length; item++) {
        if (liked.includes(item)) continue;
        scored.push([vectors.output(item).reduce((sum, value, d) => sum + value * user[d], bias[item]), item]);
      }
      return scored.sort((a, b) => b[0] - a[0] || a[1] - b[1]).slice(0, 10);
    }

    function show() {
      places.liked.replaceChildren(...liked.map((item) => {
        const button = entry("button", item, () => change(liked.filter((other) => other !== item)));
        button.setAttribute("aria-label", `remove ${box.names[item]}`);
        button.append(" \u00d7");
        return button;
      }));
      places.answers.replaceChildren(...(liked.length ? best() : []).map(([score, item]) => {
        const line = entry("li", item);
        line.dataset.score = score;
        return line;
      }));
    }

    function change(items) {
      liked = items;
      history.replaceState(null, "", `#${new URLSearchParams(liked.map((item) => ["liked", box.ids[item]]))}`);
      show();
    }

    function find() {
      const wanted = search.value.trim().toLowerCase();
      const matches = [];
      for (let item = 0; wanted && item < lowered.length && matches.length < 8; item++) {
        if (lowered[item].includes(wanted) && !liked.includes(item)) matches.push(item);
      }
      places.found.replaceChildren(...matches.map((item) => entry("button", item, () => {
        search.value = "";
        places.found.replaceChildren();
        change([...liked, item]);
        search.focus();
      })));
    }

    function readAddress() {
      const asked = new URLSearchParams(location.hash.slice(1)).getAll("liked");
      liked = [...new Set(asked.filter((id) => indexOf.has(id)).map((id) => indexOf.get(id)))];
      show();
    }

    search.addEventListener("input", find);
    search.addEventListener("keydown", (event) => {
      if (event.key === "Enter") places.found.querySelector("button")?.click();
    });
    window.addEventListener("hashchange", readAddress);
    readAddress();
  }

  if (report.box) startBox(report.box);
  draw().then(() => (document.documentElement.dataset.state = "drawn"));
  isDark.addEventListener("change", draw);
})();
