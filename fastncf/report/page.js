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

  const floats = (text) => new Float32Array(bytes(text));
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

  // An mlp, or a neumf with a table of items for each of its parts, whose hidden layers end in ReLU. A user has a row
  // for each table. What the first layer makes of an item does not depend on the user and is computed once.
  function makeNetwork({ items, layers, output, maps, solving }, numItems) {
    const tables = items.map(unpack);
    const last = tables.length - 1;
    const dim = tables[last].dim;
    const weights = layers.map(({ weight, bias }) => {
      const shift = floats(bias);
      const matrix = floats(weight);
      const inputs = matrix.length / shift.length;
      return { shift, inputs, rows: Array.from(shift, (_, row) => matrix.subarray(row * inputs, (row + 1) * inputs)) };
    });
    const outputs = floats(output.weights);
    const productDim = outputs.length - weights[weights.length - 1].shift.length;
    const [first, ...others] = weights;
    const width = first.shift.length;
    const ofItems = new Float64Array(numItems * width);
    for (let item = 0; item < numItems; item++) {
      const vector = tables[last].output(item);
      first.rows.forEach((row, h) => (ofItems[item * width + h] = dot(vector, row.subarray(dim))));
    }
    const ofUser = (row) => Float64Array.from(first.rows, (weight, h) => first.shift[h] + dot(row, weight));

    // The score of an item for a user, whose part of the first layer is given, and the activations of all layers.
    function forward(item, rows, user) {
      let below = Float64Array.from(user, (value, h) => Math.max(0, value + ofItems[item * width + h]));
      const activations = [below];
      for (const { shift, rows: matrix } of others) {
        const inputs = below;
        below = Float64Array.from(shift, (value, h) => Math.max(0, value + dot(inputs, matrix[h])));
        activations.push(below);
      }
      let score = output.bias + dot(below, outputs.subarray(productDim));
      if (productDim) {
        const vector = tables[0].output(item);
        for (let d = 0; d < productDim; d++) score += outputs[d] * rows[0][d] * vector[d];
      }
      return { score, activations };
    }

    // Adds the gradient of a score, times a slope, to that of the rows and of the user's part of the first layer.
    function backward(item, slope, activations, gradients, ofFirst) {
      let above = Float64Array.from(outputs.subarray(productDim), (weight) => slope * weight);
      for (let layer = activations.length - 1; layer >= 0; layer--) {
        above.forEach((_, h) => { if (activations[layer][h] <= 0) above[h] = 0; });
        if (layer === 0) break;
        const { rows: matrix, inputs } = weights[layer];
        const below = new Float64Array(inputs);
        above.forEach((value, h) => { if (value) for (let d = 0; d < inputs; d++) below[d] += value * matrix[h][d]; });
        above = below;
      }
      above.forEach((value, h) => (ofFirst[h] += value));
      if (productDim) {
        const vector = tables[0].output(item);
        for (let d = 0; d < productDim; d++) gradients[0][d] += slope * outputs[d] * vector[d];
      }
    }

    // The rows of the user with the least logistic loss for the liked items, by steps of Adam from the mean row on.
    function solveRows(liked) {
      const { numNegatives, sampled, steps, stepSize } = solving;
      const [means, deviations] = [solving.means.map(floats), solving.deviations.map(floats)];
      const shares = new Float64Array(bytes(solving.shares));
      const drawn = [...sampled.keys()].filter((at) => !liked.includes(sampled[at]));
      const all = drawn.reduce((sum, at) => sum + shares[at], 0);
      const perShare = (numNegatives * liked.length) / Math.max(all, Number.MIN_VALUE);
      const samples = [
        ...liked.map((item) => ({ item, sign: -1, weight: 1 })),
        ...drawn.map((at) => ({ item: sampled[at], sign: 1, weight: perShare * shares[at] })),
      ];
      const zeros = () => means.map((mean) => new Float64Array(mean.length));
      const [offsets, firsts, seconds] = [zeros(), zeros(), zeros()];
      const rowsOf = () => offsets.map((offset, t) => offset.map((value, d) => means[t][d] + deviations[t][d] * value));
      for (let step = 0; step < steps; step++) {
        const [rows, gradients, ofFirst] = [rowsOf(), zeros(), new Float64Array(width)];
        const user = ofUser(rows[last]);
        for (const { item, sign, weight } of samples) {
          const { score, activations } = forward(item, rows, user);
          backward(item, (weight * sign) / (1 + Math.exp(-sign * score)), activations, gradients, ofFirst);
        }
        first.rows.forEach((row, h) => gradients[last].forEach((_, d) => (gradients[last][d] += ofFirst[h] * row[d])));
        const rate = (stepSize * (1 - step / steps)) / (1 - 0.9 ** (step + 1));
        const correction = Math.sqrt(1 - 0.999 ** (step + 1));
        offsets.forEach((offset, t) => offset.forEach((value, d) => {
          const gradient = deviations[t][d] * gradients[t][d] + value;
          firsts[t][d] += 0.1 * (gradient - firsts[t][d]);
          seconds[t][d] = 0.999 * seconds[t][d] + 0.001 * gradient * gradient;
          offset[d] -= (rate * firsts[t][d]) / (Math.sqrt(seconds[t][d]) / correction + 1e-8);
        }));
      }
      return rowsOf();
    }

    // The rows of a user of the model that this one was pretrained by, whose vector, bias and 1 the maps multiply.
    function mapRows(vector) {
      const inputs = [...vector, 1];
      return maps.map(floats).map((map) => {
        const size = map.length / inputs.length;
        const row = new Float64Array(size);
        inputs.forEach((value, at) => { for (let d = 0; d < size; d++) row[d] += value * map[at * size + d]; });
        return row;
      });
    }

    return (liked, userVector) => {
      const rows = maps ? mapRows(userVector()) : solveRows(liked);
      const user = ofUser(rows[last]);
      return (item) => forward(item, rows, user).score;
    };
  }

  function startBox(box) {
    const vectors = box.vectors && unpack(box.vectors);
    const bias = box.bias && floats(box.bias);
    const network = box.network && makeNetwork(box.network, box.ids.length);
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
      const states = isMean.length
        ? liked.map((own, place) =>
          stateOf((c) => (isMean[c] ? liked.filter((item) => item !== own) : liked.slice(0, place))))
        : [new Float64Array(vectors.dim)];
      const sample = (item, label, weight, seenBy) => ({
        column: Float64Array.from([...vectors.output(item), 1]),
        label,
        weight,
        offsets: seenBy.map((state) => dot(state, vectors.output(item)) + bias[item]),
      });
      const positives = liked.map((item, place) => sample(item, 1, 1, [states[place] ?? states[0]]));
      const shares = new Float64Array(bytes(box.fixed.shares));
      const drawn = [...sampled.keys()].filter((at) => !liked.includes(sampled[at]));
      const all = drawn.reduce((sum, at) => sum + shares[at], 0);
      const perShare = (numNegatives * liked.length) / states.length / Math.max(all, Number.MIN_VALUE);
      const negatives = drawn.map((at) => sample(sampled[at], 0, perShare * shares[at], states));
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

    // The function from an item to its score for a user with the liked items.
    function scorer() {
      if (network) return network(liked, userVector);
      const user = userVector();
      return (item) => vectors.output(item).reduce((sum, value, d) => sum + value * user[d], bias[item] + user[vectors.dim]);
    }

    function best() {
      const score = scorer();
      const scored = [];
      for (let item = 0; item < box.ids.length; item++) {
        if (!liked.includes(item)) scored.push([score(item), item]);
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
