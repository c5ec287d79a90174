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

  const dot = (a, b) => a.reduce((sum, value, d) => sum + value * b[d], 0);
  const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

  // Solves a positive definite system by Cholesky's method; only the lower triangle is read, and is overwritten.
  function solveSystem(rows, right) {
    const x = Float64Array.from(right);
    for (let i = 0; i < x.length; i++) {
      for (let j = 0; j <= i; j++) {
        let rest = rows[i][j];
        for (let k = 0; k < j; k++) rest -= rows[i][k] * rows[j][k];
        rows[i][j] = j < i ? rest / rows[j][j] : Math.sqrt(rest);
      }
      for (let k = 0; k < i; k++) x[i] -= rows[i][k] * x[k];
      x[i] /= rows[i][i];
    }
    for (let i = x.length - 1; i >= 0; i--) {
      for (let k = i + 1; k < x.length; k++) x[i] -= rows[k][i] * x[k];
      x[i] /= rows[i][i];
    }
    return x;
  }

  // The minimum of a weighted logistic loss plus half of the squares weighted by the ridge, by Newton's method. A sample
  // has a column, a label, a weight, and offsets: each of them, plus the product of column and user, is a score.
  function newton(samples, ridge, { steps, tolerance, largestScore }) {
    function lossOf(user) {
      let loss = user.reduce((sum, value, d) => sum + (ridge[d] * value * value) / 2, 0);
      for (const { column, label, weight, offsets } of samples) {
        const own = dot(column, user);
        for (const offset of offsets) loss += weight * softplus(label ? -own - offset : own + offset);
      }
      return loss;
    }

    function stepFrom(user) {
      const gradient = user.map((value, d) => ridge[d] * value);
      const curvature = Array.from(ridge, (value, d) => new Float64Array(ridge.length).fill(value, d, d + 1));
      for (const { column, label, weight, offsets } of samples) {
        const own = dot(column, user);
        let [slope, bend] = [0, 0];
        for (const offset of offsets) {
          const score = Math.min(Math.max(own + offset, -largestScore), largestScore);
          const share = 1 / (1 + Math.exp(-score));
          slope += weight * (share - label);
          bend += weight * share * (1 - share);
        }
        curvature.forEach((row, i) => {
          gradient[i] += slope * column[i];
          for (let j = 0; j <= i; j++) row[j] += bend * column[i] * column[j];
        });
      }
      return solveSystem(curvature, gradient);
    }

    let user = new Float64Array(ridge.length);
    let loss = lossOf(user);
    for (let count = 0; count < steps; count++) {
      const step = stepFrom(user);
      const after = (length) => user.map((value, d) => value - length * step[d]);
      let length = 1;
      while (lossOf(after(length)) > loss && length > 1e-4) length /= 2;
      user = after(length);
      const saved = loss - lossOf(user);
      if (saved <= tolerance * Math.abs(loss)) break;
      loss -= saved;
    }
    return user;
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

    // The state of a user, whose features are each made of items, oldest first.
    function stateOf(itemsOf) {
      const { gains, decays, isMean, longest, length } = box.encoder;
      const state = new Float64Array(vectors.dim);
      gains.forEach((gain, c) => {
        const feature = new Float64Array(vectors.dim);
        const latest = itemsOf(c).slice(-longest);
        for (const item of latest) {
          vectors.input(item, c).forEach((value, d) => (feature[d] = decays[c][d] * feature[d] + value));
        }
        const weight = isMean[c] ? 1 / Math.max(latest.length, 1) : 1;
        feature.forEach((value, d) => (state[d] += weight * gain[d] * value));
      });
      if (length > 0) {
        const factor = length / Math.max(Math.hypot(...state), 1e-12);
        state.forEach((value, d) => (state[d] = factor * value));
      }
      return state;
    }

    // What is added to the state of a user with the liked items, a vector and behind it a bias, as the package solves
    // for it. The training of an item sees the state without it: a mean of all others, or a sum of the older ones.
    function solveUser() {
      const { numNegatives, l2, sampled, leastRidge } = box.fixed;
      const { isMean } = box.encoder;
      const states = liked.map((own, place) =>
        stateOf((c) => (isMean[c] ? liked.filter((item) => item !== own) : liked.slice(0, place))));
      const sample = (item, label, weight, seenBy) => ({
        column: Float64Array.from([...vectors.output(item), 1]),
        label,
        weight,
        offsets: seenBy.map((state) => dot(state, vectors.output(item)) + bias[item]),
      });
      const positives = liked.map((item, place) => sample(item, 1, 1, [states[place]]));
      const shares = new Float64Array(bytes(box.fixed.shares));
      const drawn = [...sampled.keys()].filter((at) => !liked.includes(sampled[at]));
      const all = drawn.reduce((sum, at) => sum + shares[at], 0);
      const negatives = drawn.map((at) => sample(sampled[at], 0, (numNegatives * shares[at]) / Math.max(all, Number.MIN_VALUE), states));
      const ridge = new Float64Array(vectors.dim + 1).fill(leastRidge);
      ridge.fill(Math.max(2 * l2 * liked.length * (1 + numNegatives), leastRidge), 0, vectors.dim);
      return newton([...positives, ...negatives], ridge, box.fixed);
    }

    // The vector of a user with the liked items, and behind it the bias, as the package computes them of a history.
    function userVector() {
      const user = Float64Array.from([...stateOf(() => liked), 0]);
      if (box.fixed) solveUser().forEach((value, d) => (user[d] += value));
      return user;
    }

    function best() {
      const user = userVector();
      const userBias = user[vectors.dim];
      const scored = [];
      for (let item = 0; item < box.ids.length; item++) {
        if (liked.includes(item)) continue;
        scored.push([vectors.output(item).reduce((sum, value, d) => sum + value * user[d], bias[item] + userBias), item]);
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
