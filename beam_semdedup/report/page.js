"use strict";
// Values of the dataset get into the page as text nodes and as attributes of images alone; no HTML is ever made of them.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { run, scale } = data;
  const $ = (id) => document.getElementById(id);
  const count = (n) => n.toLocaleString("en");
  const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
  const SVG = "http://www.w3.org/2000/svg";

  function element(name, properties = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(properties)) {
      if (key === "class") made.className = value;
      else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else made.setAttribute(key, value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }
  function shape(name, attributes) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }
  const plural = (n, what) => `${count(n)} ${what}${n === 1 ? "" : "s"}`;

  // The scale: thresholds, and how many rows are removed at each.
  const values = scale.values;
  let sum = 0;
  const found = scale.found.map((more) => (sum += more));
  const end = scale.end;
  const SLIDES = 10000;
  /** The place of the largest threshold that is at most eps. */
  function placeOf(eps) {
    let low = 0, high = values.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (values[middle] <= eps) low = middle + 1; else high = middle;
    }
    return low - 1;
  }
  const lastPlace = placeOf(data.reach ?? 2);
  const positionOf = (eps) => Math.min(1, Math.sqrt(eps / end));
  const shownEps = (eps) => String(Number(eps.toPrecision(12)));
  const similarity = (eps) => shownEps(Number((1 - eps).toFixed(6)));
  const usable = run.rows_read - run.rows_rejected;
  const state = { place: placeOf(data.eps), eps: data.eps };

  // Head.
  $("headline").textContent = data.runEps === null
    ? `${count(run.rows_read)} rows, and no threshold yet`
    : `${count(found[placeOf(data.runEps)])} of ${count(run.rows_read)} rows are duplicates`;
  function fact(name, value, small) {
    return element("div", {}, element("dt", {}, name), element("dd", {}, value, small ? element("small", {}, small) : null));
  }
  const atRun = data.runEps === null ? null : found[placeOf(data.runEps)];
  function recall() {
    const { recall: found } = run;
    const floor = (share) => `${(Math.floor(1000 * share) / 10).toFixed(1)} %`; // no share is told larger than it is
    if (found ? !found.sample && found.low === 1 : data.probes === "exact")
      return ["All", data.probes === "exact" ? "proven: n_probes=exact" : "proven: all were compared"];
    if (!found) return ["not measured", data.probes === 1 ? "compared within clusters" : `compared in ${data.probes} clusters`];
    if (!found.sample) return ["not known", "no kept row was drawn"];
    if (found.estimate === null) return ["none there", `none among ${plural(found.sample, "row")} drawn`];
    return [floor(found.estimate), `${floor(found.low)} to ${floor(found.high)}, by ${plural(found.sample, "row")}`];
  }
  $("facts").append(...[
    fact("Rows read", count(run.rows_read), `${count(run.dimension)} dimensions`),
    atRun === null ? null : fact("Kept", count(usable - atRun), percent((usable - atRun) / run.rows_read)),
    atRun === null ? null : fact("Duplicates", count(atRun), `${percent(atRun / run.rows_read)} at eps=${shownEps(data.runEps)}`),
    fact("Rejected", count(run.rows_rejected), run.rows_rejected ? "could not be used" : "all could be used"),
    fact("Recall", ...recall()),
    fact("Time", seconds(run.total_time), run.runner),
  ].filter(Boolean));
  function seconds(time) {
    return time >= 7200 ? `${(time / 3600).toFixed(1)} h` : time >= 120 ? `${(time / 60).toFixed(1)} min` : `${time.toFixed(1)} s`;
  }
  $("command").textContent = run.command;
  $("stages").textContent = Object.entries(run.stages).filter(([, time]) => typeof time === "number")
    .map(([name, time]) => `${name} ${seconds(time)}`).join(" · ");
  $("versions").textContent = `Written by ${Object.entries(run.versions).map(([name, version]) => `${name} ${version}`).join(", ")}. This file fetches nothing${data.image ? " but the images that the dataset names" : ""}.`;

  // Notes.
  const notes = [];
  if (data.isScreened) notes.push("precision=screened: the scores of this run are exact near its own eps only.");
  if (data.reach !== null) notes.push(`The scores of this run end at eps=${shownEps(data.reach)}; reach=… takes a run further.`);
  if (run.repeated_ids.count) notes.push(`${count(run.repeated_ids.count)} ids repeat: rows are found again by their id, so that a text shown here may be of another row with the same one.`);
  if (data.fieldsLeftOut) notes.push(`${plural(data.fieldsLeftOut, "metadata field")} more are not shown.`);
  $("notes").append(...notes.map((note) => element("p", { class: "notice" }, note)));

  // The histogram: bins of one width on the slider's scale, bars as high as the square root of their rows.
  const BINS = 120;
  const bins = [];
  for (let bin = 0, before = 0; bin < BINS; bin++) {
    const upper = placeOf(end * ((bin + 1) / BINS) ** 2 * (1 + 1e-12));
    bins.push({ upper, rows: found[upper] - before });
    before = found[upper];
  }
  // Identical rows are often so many that nothing else would be seen beside them: their bar is cut.
  const others = Math.sqrt(Math.max(1, ...bins.slice(1).map((bin) => bin.rows)));
  const isCut = Math.sqrt(bins[0].rows) > 1.8 * others;
  const highest = isCut ? 1.25 * others : Math.max(others, Math.sqrt(bins[0].rows));
  const bars = bins.map((bin, number) => {
    const height = Math.min(214, 214 * Math.sqrt(bin.rows) / highest);
    const bar = shape("rect", { x: 1000 * number / BINS + 0.6, y: 220 - height, width: 1000 / BINS - 1.2, height, class: "bin" });
    $("histogram").append(bar);
    return bar;
  });
  if (isCut) for (const y of [28, 36]) $("histogram").append(shape("polygon", { class: "cut", points: `-2,${y + 8} 10,${y} 10,${y + 3} -2,${y + 11}` }));
  function axis(target, text) {
    const steps = [0, 0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1, 1.5, 2];
    let last = -1;
    for (const eps of [...steps.filter((step) => step < end), end]) {
      const at = positionOf(eps);
      if (at - last < 0.075 || (eps < end && 1 - at < 0.09)) continue;
      const tick = element("span", { class: at - last < 0.14 && last >= 0 && eps < end ? "minor" : "" }, text(eps));
      last = at;
      tick.style.left = `${100 * at}%`;
      target.append(tick);
    }
  }
  axis($("axis"), shownEps);
  axis($("precision-axis"), shownEps);
  const behind = usable - found[placeOf(end)];
  $("histogram-said").textContent = `Rows by the distance, 1 − similarity, to the most similar row before them: identical ones on the left. The height of a bar is the square root of its rows, the axis that of eps.${isCut ? ` The first one, of ${plural(bins[0].rows, "row")}, is cut.` : ""}${behind ? ` ${plural(behind, "row")} ${behind === 1 ? "has" : "have"} nothing within ${shownEps(end)}.` : ""}`;
  $("reset").textContent = data.runEps === null ? `Back to ${shownEps(data.eps)}` : `Back to the run's ${shownEps(data.eps)}`;

  // Pairs.
  const pairs = data.pairs.map(([key, a, b, score, place, band]) => ({ key, a, b, score, place, band }));
  const bySimilarity = [...pairs].sort((x, y) => y.score - x.score || (x.key < y.key ? -1 : 1));
  const chance = (key) => parseInt(key.slice(3, 11), 16) / 2 ** 32;
  const bandRows = scale.edges.slice(1).map((upper, band) => [band ? scale.edges[band] : -1, upper]);
  /** Rows of a band that are removed at a place. */
  function rowsOf(band, place) {
    const [lower, upper] = bandRows[band];
    const before = lower < 0 ? 0 : found[Math.min(lower, place)];
    return found[Math.min(upper, place)] - before;
  }
  const words = (text) => text.match(/[\p{L}\p{N}\p{M}_]+|\s+|[^\p{L}\p{N}\p{M}_\s]/gu) ?? [];
  /** Says of the words of two texts which are in a longest common subsequence of both. */
  function common(a, b) {
    const height = a.length + 1, width = b.length + 1;
    const table = new Uint16Array(height * width);
    for (let i = a.length - 1; i >= 0; i--)
      for (let j = b.length - 1; j >= 0; j--)
        table[i * width + j] = a[i] === b[j] ? table[(i + 1) * width + j + 1] + 1 : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
    const inA = new Array(a.length).fill(false), inB = new Array(b.length).fill(false);
    for (let i = 0, j = 0; i < a.length && j < b.length;) {
      if (a[i] === b[j]) { inA[i++] = true; inB[j++] = true; }
      else if (table[(i + 1) * width + j] >= table[i * width + j + 1]) i++; else j++;
    }
    return [inA, inB];
  }
  function marked(tokens, isCommon) {
    const parts = [];
    for (let i = 0; i < tokens.length;) {
      let text = "";
      const same = isCommon[i];
      while (i < tokens.length && isCommon[i] === same) text += tokens[i++];
      const [before, middle, after] = [/^\s*/, /\S(.*\S)?/s, /\s*$/].map((part) => text.match(part)?.[0] ?? "");
      if (same || !middle) parts.push(text); else parts.push(before, element("mark", {}, middle), after);
    }
    return parts;
  }
  const MOST_WORDS = 600;
  function compared(a, b) {
    if (typeof a !== "string" || typeof b !== "string" || a === b) return [[a], [b]];
    const [wordsA, wordsB] = [words(a), words(b)];
    if (wordsA.length > MOST_WORDS || wordsB.length > MOST_WORDS) return [[a], [b]];
    const [inA, inB] = common(wordsA, wordsB);
    return [marked(wordsA, inA), marked(wordsB, inB)];
  }
  /** The address of an image; null for what is none, such as javascript:. */
  function imageAddress(text) {
    if (!text || text.endsWith("…") || /…( \([\d,]+ bytes\))?$/.test(text)) return null;
    if (/^(https?|file):\/\//i.test(text)) return text;
    if (/^[a-z][a-z0-9+.-]*:/i.test(text)) return null;
    const path = text.split("/").map(encodeURIComponent).join("/");
    return path.startsWith("/") ? `file://${path}` : path;
  }
  function side(who, mine, parts) {
    const row = data.rows[mine];
    const made = element("div", { class: "side" }, element("span", { class: "who" }, who), element("bdi", { class: "id" }, row[0]));
    data.fields.forEach((name, field) => {
      const text = row[field + 1];
      if (text === undefined) return; // of a row of another file, of which the id alone is known
      const shownName = data.fields.length > 1 ? element("span", { class: "name" }, name) : null;
      if (text === null) {
        made.append(element("div", { class: "value null" }, shownName, "null"));
        return;
      }
      const value = element("div", { class: "value", dir: "auto", tabindex: text.length > 500 ? "0" : "-1" }, shownName, ...parts[field]);
      const address = field + 1 === data.image ? imageAddress(text) : null;
      if (address) value.append(element("img", { src: address, alt: "", loading: "lazy", referrerpolicy: "no-referrer" }));
      made.append(value);
    });
    return made;
  }
  function card(a, b, head, note, whoA, whoB) {
    const both = data.fields.map((_, field) => compared(data.rows[a][field + 1], data.rows[b][field + 1]));
    return element("article", { class: "pair" },
      element("div", { class: "score" }, head, element("small", {}, note)),
      side(whoA, a, both.map(([left]) => left)), side(whoB, b, both.map(([, right]) => right)));
  }
  const pairCard = (pair, isRemoved) => card(pair.a, pair.b, pair.score.toFixed(6), "similarity", isRemoved ? "removed" : "kept", "resembles");
  const EACH = 5;
  function showPairs() {
    const at = bySimilarity.findIndex((pair) => pair.place > state.place);
    const split = at < 0 ? bySimilarity.length : at;
    const removed = bySimilarity.slice(0, split).filter((pair) => pair.place <= state.place);
    const kept = bySimilarity.slice(split);
    // At random: each drawn pair with the weight of the rows that it stands for.
    const inBand = new Map();
    for (const pair of removed) if (pair.band >= 0) inBand.set(pair.band, (inBand.get(pair.band) ?? 0) + 1);
    const drawn = removed.filter((pair) => pair.band >= 0)
      .map((pair) => [Math.log(chance(pair.key) + 1e-12) / (rowsOf(pair.band, state.place) / inBand.get(pair.band)), pair])
      .sort((x, y) => y[0] - x[0]).slice(0, EACH).map(([, pair]) => pair);
    const kinds = [
      ["Kept, the most alike", "keeps", "just below the threshold", kept.slice(0, EACH), false],
      ["Removed, the least alike", "", "just above it", removed.slice(-EACH).reverse(), true],
      ["Removed, at random", "", "", drawn, true],
    ];
    $("pairs").replaceChildren(...kinds.map(([title, kind, where, chosen, isRemoved]) => element("div", { class: `kind ${kind}` },
      element("h3", {}, title, element("small", {}, where)),
      ...(chosen.length ? chosen.map((pair) => pairCard(pair, isRemoved)) : [element("p", { class: "empty" }, "None.")]))));
  }
  const within = found[placeOf(end)];
  $("pairs-said").textContent = (pairs.length >= within && within ? `All ${count(within)} pairs within ${shownEps(end)} are here. ` : `From a sample of ${plural(pairs.length, "pair")}: those next to eps=${shownEps(data.eps)} are all here, elsewhere some of every step. `) + (data.fields.length ? "Words in which two rows differ are marked." : "Give metadata_fields to a run, and their texts stand here.");

  // Labels.
  const drawn = new Map(pairs.filter((pair) => pair.band >= 0).map((pair) => [pair.key, pair]));
  const labels = new Map(Object.entries(data.labels));
  const store = `semdedup-labels:${run.results}`;
  try {
    for (const [key, same] of Object.entries(JSON.parse(localStorage.getItem(store) ?? "{}"))) if (!labels.has(key)) labels.set(key, same === true);
  } catch { /* a browser that keeps nothing for files */ }
  const history = [];
  let skipped = new Set(), asked = null;
  function keep() {
    try { localStorage.setItem(store, JSON.stringify(Object.fromEntries(labels))); } catch { /* as above */ }
  }
  function nextPair() {
    const limit = Math.min(1.5 * Math.max(state.eps, 1e-3), end);
    const bands = bandRows.map((_, band) => ({ band, done: 0, open: [] }));
    for (const pair of drawn.values()) {
      if (labels.has(pair.key)) bands[pair.band].done++;
      else if (!skipped.has(pair.key)) bands[pair.band].open.push(pair);
    }
    const open = bands.filter(({ band, open }) => open.length && (band === 0 || values[scale.edges[band]] < limit));
    // A label in each band; then where one more narrows the interval most, which is where a label stands for most rows.
    const last = placeOf(limit);
    const gain = ({ band, done }) => (done ? rowsOf(band, last) ** 2 / (done * (done + 1)) : Infinity);
    open.sort((x, y) => (gain(y) === gain(x) ? x.band - y.band : gain(y) - gain(x)));
    return open.length ? open[0].open[0] : null;
  }
  const Z = 1.959963984540054;
  function precisionAt(place) {
    const counts = bandRows.map(() => [0, 0]);
    for (const [key, same] of labels) {
      const pair = drawn.get(key);
      if (pair && pair.place <= place) { counts[pair.band][0]++; counts[pair.band][1] += same ? 1 : 0; }
    }
    let weighted = 0, squares = 0, covered = 0;
    counts.forEach(([labelled, same], band) => {
      const rows = rowsOf(band, place);
      if (!labelled || !rows) return;
      covered += rows;
      weighted += rows * same / labelled;
      squares += rows * rows / labelled;
    });
    if (!covered) return null;
    const share = weighted / covered, number = covered * covered / squares, known = covered / found[place];
    const middle = (share + Z * Z / (2 * number)) / (1 + Z * Z / number);
    const half = Z / (1 + Z * Z / number) * Math.sqrt(share * (1 - share) / number + Z * Z / (4 * number * number));
    return { share, low: Math.max(0, middle - half) * known, high: Math.min(1, middle + half) * known + 1 - known };
  }
  function ask() {
    asked = nextPair();
    $("question").replaceChildren(asked
      ? card(asked.a, asked.b, asked.score.toFixed(6), "similarity", "one", "the other")
      : element("p", { class: "empty" }, drawn.size ? "No more pairs up to one and a half times this eps. Move the threshold on for others." : "There is no pair to label."));
    for (const id of ["same", "different", "later"]) $(id).disabled = !asked;
    $("undo").disabled = !history.length;
    const used = [...labels.keys()].filter((key) => drawn.has(key)).length;
    const foreign = labels.size - used;
    $("progress").textContent = `${plural(used, "label")}, of ${plural(drawn.size, "pair")} drawn in ${bandRows.length} bands of similarity.${foreign ? ` ${count(foreign)} more are of pairs that are not drawn here, and do not count.` : ""} Keys: S the same, D different, K skip, U undo.`;
  }
  let precisions = [], suggested = null;
  function judge() {
    // All places at which another number of rows is removed.
    precisions = [];
    if (labels.size) {
      const stop = Math.min(placeOf(end), lastPlace);
      for (let place = 0, from = 0; place <= stop; place++)
        if (place === stop || found[place] !== found[place + 1]) {
          const precision = precisionAt(place);
          if (precision) precisions.push({ place, from, ...precision });
          from = place + 1;
        }
    }
    for (const id of ["precision-plot", "precision-axis"]) $(id).hidden = !precisions.length;
    drawPrecision();
    suggest();
    verdict();
  }
  function verdict() {
    const precision = precisionAt(state.place);
    $("verdict").replaceChildren(...(precision
      ? ["At eps=", element("b", {}, shownEps(state.eps)), ", ", element("b", { id: "precision-said" }, percent(precision.share)), " of the removed rows are truly the same as the row that they resemble; between ", element("b", { id: "precision-interval" }, `${percent(precision.low)} and ${percent(precision.high)}`), "."]
      : ["Label some pairs, and the precision at this eps stands here."]));
    const at = `${100 * positionOf(state.eps)}%`;
    $("precision-line").style.left = at;
  }
  function suggest() {
    const wanted = Number($("wanted").value) / 100;
    suggested = null;
    for (const precision of precisions) if (precision.low >= wanted) suggested = precision;
    $("use").disabled = !suggested;
    $("suggestion").textContent = suggested
      ? `eps=${shownEps(values[suggested.place])} is the largest that is shown to reach it: at least ${percent(suggested.low)} of ${plural(found[suggested.place], "removed row")}.`
      : labels.size ? "No eps is shown to reach that yet: label more pairs." : "";
    drawTarget(wanted);
  }
  function heightOf(share) { return 220 - 220 * Math.max(0, (share - lowest) / (1 - lowest)); }
  let lowest = 0;
  function drawPrecision() {
    const svg = $("precision");
    svg.replaceChildren();
    const line = [], upper = [], lower = [];
    lowest = precisions.length ? Math.max(0, Math.min(0.8, Math.floor(10 * Math.min(...precisions.map((p) => p.low))) / 10)) : 0.5;
    precisions.forEach((precision, number) => {
      const next = precisions[number + 1];
      const from = 1000 * positionOf(values[precision.from]), to = 1000 * (next ? positionOf(values[next.from]) : 1);
      for (const x of [from, to]) {
        line.push(`${x.toFixed(1)},${heightOf(precision.share).toFixed(1)}`);
        upper.push(`${x.toFixed(1)},${heightOf(precision.high).toFixed(1)}`);
        lower.unshift(`${x.toFixed(1)},${heightOf(precision.low).toFixed(1)}`);
      }
    });
    svg.append(shape("polygon", { class: "band", points: [...upper, ...lower].join(" ") }), shape("polyline", { class: "estimate", points: line.join(" ") }));
    $("precision-scale").replaceChildren(...[lowest, (1 + lowest) / 2, 1].map((share) => {
      const tick = element("span", {}, percent(share, 0));
      tick.style.top = `${Math.max(8, 100 * heightOf(share) / 220)}%`;
      return tick;
    }));
  }
  function drawTarget(wanted) {
    $("precision").querySelector(".target")?.remove();
    if (wanted >= lowest && wanted <= 1) $("precision").append(shape("line", { class: "target", x1: 0, x2: 1000, y1: heightOf(wanted), y2: heightOf(wanted) }));
  }
  function answer(same) {
    if (!asked) return;
    labels.set(asked.key, same);
    history.push(asked.key);
    keep(); ask(); judge();
  }
  function undo() {
    const key = history.pop();
    if (key === undefined) return;
    labels.delete(key);
    keep(); ask(); judge();
  }
  function later() { if (asked) { skipped.add(asked.key); ask(); } }
  $("same").addEventListener("click", () => answer(true));
  $("different").addEventListener("click", () => answer(false));
  $("later").addEventListener("click", later);
  $("undo").addEventListener("click", undo);
  $("wanted").addEventListener("input", suggest);
  $("use").addEventListener("click", () => { if (suggested) move(values[suggested.place]); });
  document.addEventListener("keydown", (event) => {
    const inField = event.target instanceof HTMLInputElement && event.target.type !== "range";
    if (inField || event.ctrlKey || event.metaKey || event.altKey) return;
    const does = { s: () => answer(true), d: () => answer(false), k: later, u: undo }[event.key.toLowerCase()];
    if (does) { event.preventDefault(); does(); }
  });
  $("save").addEventListener("click", () => {
    const saved = [...labels].map(([pair, same]) => {
      const known = drawn.get(pair);
      return known ? { pair, same, score: known.score, id: data.rows[known.a][0], max_id: data.rows[known.b][0] } : { pair, same };
    });
    const content = JSON.stringify({ program: "beam-semdedup", labels: saved }, null, 1);
    const link = element("a", { href: URL.createObjectURL(new Blob([content], { type: "application/json" })), download: "labels.json" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    $("file-said").textContent = `${plural(labels.size, "label")} saved as labels.json: semdedup-report labels=… reads them again.`;
  });
  $("load").addEventListener("change", async (event) => {
    const file = event.target.files[0];
    event.target.value = "";
    if (!file) return;
    try {
      const read = JSON.parse(await file.text());
      if (read.program !== "beam-semdedup" || !Array.isArray(read.labels)) throw new Error();
      const taken = read.labels.filter((label) => label && typeof label.pair === "string" && /^[0-9a-f]{32}$/.test(label.pair) && typeof label.same === "boolean");
      for (const { pair, same } of taken) labels.set(pair, same);
      $("file-said").textContent = `${plural(taken.length, "label")} read.`;
      keep(); ask(); judge();
    } catch { $("file-said").textContent = "That is not a file of labels that a report saved."; }
  });
  $("forget").addEventListener("click", () => {
    if (!labels.size || !confirm(`Forget ${plural(labels.size, "label")}?`)) return;
    labels.clear(); history.length = 0; skipped = new Set();
    keep(); ask(); judge();
  });

  // Groups and chains.
  function histogram(values, threshold) {
    const made = shape("svg", { class: "bars", viewBox: "0 0 1000 100", preserveAspectRatio: "none", "aria-hidden": "true" });
    const most = Math.max(...values.counts), wide = 1000 / values.counts.length;
    values.counts.forEach((rows, number) => {
      const height = rows ? Math.max(1.5, 96 * rows / most) : 0;
      const middle = values.low + (values.high - values.low) * (number + 0.5) / values.counts.length;
      made.append(shape("rect", { x: wide * number + 1, y: 100 - height, width: wide - 2, height, class: threshold !== undefined && middle < threshold ? "out" : "" }));
    });
    const at = threshold === undefined ? -1 : (threshold - values.low) / (values.high - values.low);
    if (at >= 0 && at <= 1) made.append(shape("line", { x1: 1000 * at, x2: 1000 * at, y1: 0, y2: 100 }));
    const ends = element("div", { class: "ends" }, element("span", {}, values.low.toFixed(3)), element("span", {}, values.high.toFixed(3)));
    return element("div", {}, made, ends);
  }
  function powers(sizes, what) {
    const body = element("tbody");
    const most = Math.max(...sizes.map(([, times]) => times));
    for (const [size, times] of sizes) {
      const fill = element("i");
      fill.style.width = `${100 * times / most}%`;
      body.append(element("tr", {}, element("td", { class: "n" }, size === 1 ? "1" : `${count(size)} to ${count(2 * size - 1)}`), element("td", {}, element("span", { class: "meter" }, fill)), element("td", { class: "n" }, count(times))));
    }
    return element("div", { class: "scroll" }, element("table", {}, element("thead", {}, element("tr", {}, element("th", { class: "n" }, "rows"), element("th", {}, ""), element("th", { class: "n" }, what))), body));
  }
  function showGroups() {
    const box = $("groups"), groups = data.groups, eps = shownEps(data.eps);
    if (!groups) {
      box.append(element("p", { class: "lead" }, `${count(data.removed)} rows are removed at eps=${eps}; groups are found among ${count(data.mostRemoved)} at most with the memory that there is (memory_budget).`));
      return;
    }
    const { chains } = groups;
    box.append(element("p", { class: "lead" }, `A group is a row that is kept, and all that lead to it from row to row that each resembles: ${plural(groups.count, "group")} at eps=${eps}. It stays at this eps; semdedup-report eps=… looks at another.`));
    const share = chains.measured ? chains.below / chains.measured : 0;
    const told = !chains.count ? ["None", "Every removed row resembles the row that is kept in its place."]
      : !chains.measured ? [plural(chains.count, "row"), `led on by a row that is removed too. How alike they are to the row that stays could not be computed: ${chains.why_not}`]
      : [chains.measured < chains.count ? `about ${percent(share)}` : plural(chains.below, "row"),
        `${chains.measured < chains.count ? `of ${count(chains.count)} (from ${count(chains.measured)} of them)` : `of ${count(chains.count)}`} that are led on by a row that is removed too: less similar to the row that stays than ${similarity(data.eps)}. At worst ${chains.similarities.low.toFixed(4)}.`];
    box.append(element("div", { class: "figures" },
      element("div", { class: "panel broad" }, element("h3", {}, "Removed though unlike the row that stays"), element("div", { class: "columns" },
        element("div", {}, element("p", { class: "big", id: "chained" }, told[0]), element("p", { class: "note" }, told[1]), element("p", { class: "note" }, "This is the known weakness of the rule: a row goes if any row before it is alike, whether that one stays or goes. From A to B to C each step may be small, and C unlike A all the same. Where that matters, take a smaller eps.")),
        chains.similarities ? element("div", {}, histogram(chains.similarities, 1 - data.eps), element("p", { class: "note" }, "Similarity to the row that stays")) : null)),
      groups.sizes.length ? element("div", { class: "panel" }, element("h3", {}, "Groups by their rows"), powers(groups.sizes, "groups")) : null));
    const worst = chains.worst.filter(([a, b]) => a >= 0 && b >= 0);
    if (worst.length) box.append(element("div", { class: "kind" }, element("h3", {}, "The longest way from the row that stays", element("small", {}, "least similar first")),
      ...worst.slice(0, 5).map(([a, b, score, steps]) => card(a, b, score.toFixed(6), plural(steps, "step"), "removed", "stays"))));
    const largest = groups.largest.filter((group) => group.root >= 0);
    if (largest.length) box.append(element("div", { class: "kind" }, element("h3", {}, "The largest groups"),
      ...largest.map((group) => {
        const row = data.rows[group.root];
        const made = element("details", { class: "group" }, element("summary", {}, element("b", {}, plural(group.size, "row")), element("span", { dir: "auto" }, [...(row.slice(1, 2).filter(Boolean)), row[0]].join(" · "))));
        made.addEventListener("toggle", () => {
          if (made.children.length > 1) return;
          made.append(element("div", {}, element("p", { class: "note" }, "The kept row on the right; on the left removed ones, those that resemble the row before them least."),
            ...group.members.filter(([member]) => member >= 0).map(([member, score, steps]) => card(member, group.root, score.toFixed(6), steps > 1 ? `to the row that it resembles; ${steps} steps to the one that stays` : "similarity", "removed", "stays"))));
        });
        return made;
      })));
  }

  // Sources.
  let allSources = false;
  function showSources() {
    const { sources } = data, box = $("sources");
    let at = -1;
    while (at + 1 < sources.places.length && sources.places[at + 1] <= state.place) at++;
    const eps = at < 0 ? 0 : values[sources.places[at]];
    const rows = sources.rows.map(([name, total, ...lost]) => ({ name, total, lost: at < 0 ? 0 : lost[at] }));
    rows.sort((x, y) => y.lost / y.total - x.lost / x.total || y.lost - x.lost || (x.name < y.name ? -1 : 1));
    const most = rows.filter((row) => row.lost > row.total / 2).length;
    const shown = allSources ? rows : rows.slice(0, 15);
    const body = element("tbody");
    for (const row of shown) {
      const fill = element("i");
      fill.style.width = `${100 * row.lost / row.total}%`;
      body.append(element("tr", { class: row.lost > row.total / 2 ? "much" : "" }, element("td", { class: "name", dir: "auto" }, row.name), element("td", { class: "n" }, count(row.total)), element("td", { class: "n" }, count(row.lost)), element("td", { class: "n" }, percent(row.lost / row.total)), element("td", {}, element("span", { class: "meter" }, fill))));
    }
    const source = sources.field === null ? "input file" : sources.field;
    const heads = [source, "rows", "removed", "share", ""].map((name, number) => element("th", { class: number && number < 4 ? "n" : "", scope: "col" }, name));
    box.replaceChildren(
      element("p", { class: "lead" }, `Removed rows by ${source}, at eps=${shownEps(eps)}. ${most ? `${plural(most, "source")} ${most === 1 ? "loses" : "lose"} more than half: look whether they are templates, or the threshold is too wide. max_removed_share=… lets no run remove that silently.` : "None loses more than half."}`),
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Removed rows by source" }, element("table", {}, element("thead", {}, element("tr", {}, ...heads)), body)),
      ...(rows.length > 15 && !allSources ? [element("button", { type: "button", class: "quiet", onclick: () => { allSources = true; showSources(); } }, `Show ${count(rows.length)}`)] : []),
      element("p", { class: "note" }, sources.isCut ? `There are more than ${count(sources.most)} sources: the ones that were read later are not counted.` : rows.length < sources.count ? `Of ${count(sources.count)} sources those that lose most, by rows and by share, and the largest.` : ""));
  }

  // Clusters and rejected rows.
  function showClusters() {
    const { clusters } = data;
    const most = Math.max(1, ...clusters.largest.map(([, rows]) => rows));
    const body = element("tbody");
    for (const [centroid, rows, removed] of clusters.largest) {
      const fill = element("i");
      fill.style.width = `${100 * rows / most}%`;
      body.append(element("tr", {}, element("td", {}, String(centroid)), element("td", { class: "n" }, count(rows)), element("td", {}, element("span", { class: "meter" }, fill)), element("td", { class: "n" }, percent(removed / rows))));
    }
    const largest = element("div", { class: "scroll" }, element("table", {}, element("thead", {}, element("tr", {}, element("th", {}, "cluster"), element("th", { class: "n" }, "rows"), element("th", {}, ""), element("th", { class: "n" }, "removed"))), body));
    const rejected = Object.entries(run.rejected);
    const panels = [
      element("div", { class: "panel" }, element("h3", {}, "The largest"), element("p", { class: "note" }, `${plural(run.n_clusters, "cluster")}, of ${count(Math.round(usable / run.n_clusters))} rows on the average; removed at eps=${shownEps(data.eps)}.`), largest),
      element("div", { class: "panel" }, element("h3", {}, "Clusters by their rows"), powers(clusters.sizes, "clusters")),
      data.distances ? element("div", { class: "panel" }, element("h3", {}, "Distance to the centroid"), element("p", { class: "note" }, `Cosine distance of ${plural(data.distances.number, "row")}${data.distances.number < data.scored ? ", drawn at random" : ""}.`), histogram(data.distances)) : null,
      element("div", { class: "panel" }, element("h3", {}, "Rejected"), rejected.length
        ? element("div", { class: "scroll" }, element("table", {}, element("tbody", {}, ...rejected.map(([reason, rows]) => element("tr", {}, element("td", {}, reason), element("td", { class: "n" }, count(rows)))))))
        : element("p", { class: "note" }, "No row: every one had an id and a usable embedding.")),
    ];
    if (run.references.length) {
      const names = Object.keys(run.references[0]);
      panels.push(element("div", { class: "panel" }, element("h3", {}, "Decontamination"), element("div", { class: "scroll" }, element("table", {}, element("thead", {}, element("tr", {}, ...names.map((name) => element("th", {}, name)))), element("tbody", {}, ...run.references.map((row) => element("tr", {}, ...names.map((name) => element("td", { class: typeof row[name] === "number" ? "n" : "name" }, typeof row[name] === "number" ? count(row[name]) : row[name] === null ? "" : String(row[name]))))))))));
    }
    $("clusters").append(element("div", { class: "figures" }, ...panels.filter(Boolean)));
  }

  // The threshold.
  let drawing = 0;
  function move(eps) {
    const most = values[lastPlace];
    state.eps = Math.max(0, Math.min(most, eps));
    state.place = placeOf(state.eps);
    if (values[state.place] !== state.eps) state.eps = values[state.place];
    const removed = found[state.place], kept = usable - removed;
    const at = positionOf(state.eps);
    $("eps").value = shownEps(state.eps);
    if (document.activeElement !== $("slider") || Math.abs($("slider").value / SLIDES - at) > 2 / SLIDES) $("slider").value = Math.round(SLIDES * at);
    const said = `eps ${shownEps(state.eps)}: ${count(removed)} rows removed, ${percent(removed / run.rows_read)}; ${count(kept)} kept`;
    $("slider").setAttribute("aria-valuetext", said);
    $("removed").textContent = count(removed);
    $("kept").textContent = count(kept);
    $("removed-share").textContent = percent(removed / run.rows_read, 2);
    $("kept-share").textContent = percent(kept / run.rows_read, 2);
    $("bar-said").replaceChildren("eps ", element("b", {}, shownEps(state.eps)), " · removed ", element("b", {}, `${count(removed)} (${percent(removed / run.rows_read)})`), element("span", { class: "long" }, " · kept ", element("b", {}, count(kept))));
    $("split").style.width = `${100 * removed / Math.max(1, usable)}%`;
    $("line").style.left = `${100 * at}%`;
    $("reset").disabled = state.eps === data.eps;
    bars.forEach((bar, number) => bar.setAttribute("class", bins[number].upper <= state.place ? "bin out" : "bin"));
    cancelAnimationFrame(drawing);
    drawing = requestAnimationFrame(() => { showPairs(); showSources(); verdict(); if (!asked) ask(); });
  }
  function rounded(eps) {
    // What a hand can set: two significant digits, or three from 0.1 on.
    if (eps <= 0) return 0;
    const step = Math.max(1e-5, 10 ** (Math.floor(Math.log10(eps)) - (eps >= 0.1 ? 2 : 1)));
    return Number((Math.round(eps / step) * step).toFixed(6));
  }
  $("slider").addEventListener("input", (event) => move(rounded(end * (event.target.value / SLIDES) ** 2)));
  $("slider").addEventListener("keydown", (event) => {
    const size = state.eps < 0.001 ? 1e-5 : state.eps < 0.01 ? 1e-4 : 1e-3;
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 }[event.key];
    if (steps) move(Number((state.eps + steps * size).toFixed(6)));
    else if (event.key === "Home") move(0);
    else if (event.key === "End") move(end);
    else return;
    event.preventDefault();
  });
  $("eps").addEventListener("change", (event) => {
    const eps = Number(event.target.value);
    move(event.target.value !== "" && Number.isFinite(eps) ? eps : state.eps);
  });
  $("reset").addEventListener("click", () => move(data.eps));

  // Light and dark.
  $("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
    try { localStorage.setItem("semdedup-theme", root.dataset.theme); } catch { /* as above */ }
  });
  try { const theme = localStorage.getItem("semdedup-theme"); if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme; } catch { /* as above */ }

  showGroups();
  showClusters();
  ask();
  judge();
  move(data.eps);
  document.documentElement.dataset.ready = "true";
})();
