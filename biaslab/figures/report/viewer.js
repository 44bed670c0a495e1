// The sample browser of a report. Its data lie in a JSON block of the page; nothing is fetched, and what comes from a
// data set or a model is only ever set as text. What it draws is in viewer_drawing.js.
"use strict";

(function () {
  const source = document.getElementById("biaslab-data");
  const root = document.getElementById("viewer");
  if (!source || !root) return;
  const data = JSON.parse(source.textContent);
  const { paintKept, paintAttention, paintBox } = biaslabDrawing;
  const $ = (name) => root.querySelector(`[data-part="${name}"]`);

  // ------------------------------------------------------------------ reading what is packed

  const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const maskOf = (text, n) => {
    const bytes = bytesOf(text);
    return Uint8Array.from({ length: n }, (_, i) => (bytes[i >> 3] >> (i & 7)) & 1);
  };
  const layouts = data.layouts.map((layout) => {
    const raw = bytesOf(layout.at);
    const at = new Uint16Array(raw.buffer, 0, 2 * layout.n);
    const cells = Array.from({ length: layout.n }, (_, i) => {
      const [x, y] = [2 * at[2 * i], 2 * at[2 * i + 1]];
      return [layout.xs[x], layout.ys[y], layout.xs[x + 1], layout.ys[y + 1]];
    });
    const thumbnail = layout.thumbnail ? maskOf(layout.thumbnail, layout.n) : new Uint8Array(layout.n);
    return { ...layout, cells, thumbnail, hasThumbnail: Boolean(layout.thumbnail) };
  });
  const pictures = data.images.map((address) => {
    const image = new Image();
    image.addEventListener("load", () => draw(), { once: true });
    image.src = address;
    return image;
  });

  /** One map of several: head -1 is the mean over heads; null where a head is not packed, or not known. */
  function mapOf(packed, n, head) {
    const ids = packed.heads ? [-1, ...packed.heads] : packed.max.map((_, h) => h);
    const wanted = head < 0 && !packed.heads ? ids : [head];
    const bytes = bytesOf(packed.data);
    const values = new Float64Array(n);
    for (const id of wanted) {
      const at = ids.indexOf(id);
      if (at < 0) return null;
      const scale = packed.max[at] / 255 / wanted.length;
      for (let i = 0; i < n; i++) values[i] += bytes[at * n + i] * scale;
    }
    return values;
  }

  const profileOf = (sample, layer) => {
    const layout = layouts[sample.layouts[0]];
    return layout && (data.expected[layout.key] || {})[layer];
  };

  /**
   * One map of attention: head -1 is the mean over heads; of a word of the answer; divided by the profile if asked, head
   * by head. Words are not: their rows are not what the profile was fitted on.
   */
  function attentionOf(sample, layer, head, relative, word = -1) {
    const ofWord = word >= 0 && sample.wordAttention[layer];
    const packed = ofWord || sample.attention[layer];
    const layout = layouts[sample.layouts[0]];
    if (!packed || !layout) return null;
    const values = mapOf(packed, layout.n, ofWord ? word : head); // a map per word, each the mean over heads
    if (!relative || !values) return values;
    const profile = profileOf(sample, layer);
    const expected = profile && !ofWord && mapOf(profile, layout.n, head);
    if (!expected) return null;
    const least = expected.reduce((a, b) => Math.max(a, b), 0) / 510; // half a step of what is packed
    return values.map((value, i) => value / Math.max(expected[i], least));
  }

  // ------------------------------------------------------------------ state and filters

  const state = { list: [], at: 0, a: 0, b: -1, shown: "kept", layer: null, head: -1, stage: -1, word: -1 };
  const some = (test) => data.samples.some(test);
  const firstPruned = data.configs.findIndex((c) => c.pruned);
  state.a = Math.max(firstPruned, 0);
  state.b = data.configs.length > 1 ? (state.a === 0 ? 1 : 0) : -1;
  const twin = data.configs.findIndex((c) => c.side === 1 && c.spelled === data.configs[state.a].spelled);
  if (twin >= 0) state.b = twin; // of two runs: the same configuration in the other
  const layers = [...new Set(data.samples.flatMap((s) => Object.keys(s.attention)))].map(Number).sort((x, y) => x - y);
  const ofAttention = () => ["attention", "relative"].includes(state.shown);
  if (firstPruned < 0 && layers.length) state.shown = "attention"; // all tokens are kept: there is nothing to see of that
  const browsed = data.samples.length > 1; // of one sample there is nothing to choose

  function fill(select, options, chosen) {
    select.replaceChildren(
      ...options.map(([value, text, title]) => {
        const option = document.createElement("option");
        option.value = String(value);
        option.textContent = text;
        option.dir = "auto"; // kinds and labels are a user's
        if (title) option.title = title;
        option.selected = String(value) === String(chosen);
        return option;
      }),
    );
    const field = select.closest("label");
    if (field) field.hidden = options.length < 2;
  }

  function setUp() {
    const names = data.configs.map((c, i) => [i, c.name, c.spelled]);
    fill($("a"), names, state.a);
    fill($("b"), browsed ? names : [], state.b); // what it is for: to choose samples by both
    fill($("why"), [
      ["", "all shown samples"],
      ...[
        ["disagree", "methods disagree most"],
        ["miss", "misses"],
        ["random", "at random"],
      ].filter(([why]) => some((s) => s.why.includes(why))),
    ]);
    fill($("verdict"), !browsed || !some((s) => s.runs.some((r) => r && (r.hit !== null || r.note || r.error))) ? [] : [
      ["", "any verdict"],
      ["hit", "A right"],
      ["miss", "A wrong"],
      ...(data.configs.length > 1
        ? [
            ["hit-miss", "A right and B wrong"],
            ["miss-hit", "A wrong and B right"],
          ]
        : []),
      ...(some((s) => s.runs.some((r) => r && r.note)) ? [["note", "A without a whole answer"]] : []),
      ...(some((s) => s.runs.some((r) => r && r.error)) ? [["error", "A failed"]] : []),
    ]);
    for (const name of ["type", "objectSize"]) {
      const values = [...new Set(data.samples.map((s) => s[name]))].filter(Boolean).sort();
      fill($(name), [["", "all"], ...(values.length > 1 ? values.map((v) => [v, v]) : [])]);
    }
    fill($("shown"), [
      ["kept", "tokens kept"],
      ["none", "image alone"],
      ...(layers.length ? [["attention", "attention"]] : []),
      ...(layers.length && Object.keys(data.expected).length
        ? [["relative", "attention over profile", "of the last prompt token: words of the answer have none"]]
        : []),
    ], state.shown);
    state.layer = layers.length ? layers[layers.length - 1] : null;
    fill($("layer"), layers.map((l) => [l, `layer ${l}`]), state.layer);
    for (const name of ["why", "verdict", "type", "objectSize"]) {
      $(name).addEventListener("change", () => { filter(); draw(); });
    }
    $("a").addEventListener("change", (e) => choose(Number(e.target.value)));
    $("b").addEventListener("change", (e) => { state.b = Number(e.target.value); filter(); draw(); });
    $("shown").addEventListener("change", (e) => show(e.target.value));
    $("layer").addEventListener("change", (e) => { state.layer = Number(e.target.value); state.head = -1; draw(); });
    $("head").addEventListener("change", (e) => { state.head = Number(e.target.value); draw(); });
    $("stage").addEventListener("change", (e) => { state.stage = Number(e.target.value); draw(); });
    $("tiles").addEventListener("change", () => draw());
    for (const name of ["previous", "position", "next", "sample-keys"]) $(name).hidden = !browsed;
    $("previous").addEventListener("click", () => step(-1));
    $("next").addEventListener("click", () => step(1));
    if (!layouts.some((l) => l.tiles.length > 1)) $("tiles").closest("label").hidden = true;
    document.addEventListener("keydown", onKey);
    new ResizeObserver(() => draw()).observe($("stageview"));
    filter();
    draw();
  }

  function show(what) {
    state.shown = $("shown").value = what;
    if (what === "relative") state.word = -1;
    draw();
  }

  /** The heads that can be chosen of this sample, and what is said where these are not all, or not divided. */
  function fillHeads(sample) {
    const packed = sample.attention[state.layer];
    const profile = state.shown === "relative" && packed ? profileOf(sample, state.layer) : null;
    const all = packed ? (packed.heads || packed.max.map((_, h) => h)) : [];
    const heads = profile && profile.heads ? all.filter((h) => profile.heads.includes(h)) : all;
    if (!heads.includes(state.head)) state.head = -1;
    const chosen = heads.length > (packed && packed.heads ? 0 : 1) ? heads : [];
    fill($("head"), [[-1, "mean of heads"], ...[...chosen].sort((a, b) => a - b).map((h) => [h, `head ${h}`])], state.head);
    const says = [];
    if (ofAttention() && packed && packed.heads)
      says.push(all.length
        ? `Of ${packed.of} heads: their mean, and the ${all.length} with most attention to the images (${all.join(", ")}).`
        : `Of ${packed.of} heads their mean alone: single heads would make the file too large.`);
    if (state.shown === "relative" && packed && !profile) says.push("The profile holds no map of this layer and layout.");
    if (profile && all.length > heads.length && packed.max.length > 1)
      says.push("The profile is of the mean over heads: single heads are not divided by it.");
    $("heads-note").textContent = says.join(" ");
  }

  function passes(sample) {
    const [a, b] = [sample.runs[state.a], state.b < 0 ? null : sample.runs[state.b]];
    const why = $("why").value;
    if (why && !sample.why.includes(why)) return false;
    if ($("type").value && sample.type !== $("type").value) return false;
    if ($("objectSize").value && sample.objectSize !== $("objectSize").value) return false;
    switch ($("verdict").value) {
      case "hit": return Boolean(a && a.hit === 1);
      case "miss": return Boolean(a && a.hit === 0);
      case "hit-miss": return Boolean(a && b && a.hit === 1 && b.hit === 0);
      case "miss-hit": return Boolean(a && b && a.hit === 0 && b.hit === 1);
      case "note": return Boolean(a && a.note);
      case "error": return Boolean(a && a.error);
      default: return true;
    }
  }

  function filter() {
    const before = state.list[state.at];
    state.list = data.samples.map((_, i) => i).filter((i) => passes(data.samples[i]));
    state.at = Math.max(state.list.indexOf(before), 0);
  }

  function step(by) {
    if (!state.list.length) return;
    state.word = -1;
    state.at = (state.at + by + state.list.length) % state.list.length;
    draw();
  }

  function choose(config) {
    state.a = config;
    state.stage = -1;
    $("a").value = String(config);
    filter();
    draw();
  }

  /**
   * Whether a key is the viewer's: if nothing else has the focus, those that would scroll the page only where the
   * viewer is all there is, and others while it is in sight.
   */
  function isMeant(event) {
    if (root.contains(event.target)) return true;
    if (event.target !== document.body) return false;
    if (document.body.classList.contains("view")) return true;
    const { top, bottom } = root.getBoundingClientRect();
    return top < window.innerHeight && bottom > 0 && !["ArrowUp", "ArrowDown", "Home", "End"].includes(event.key);
  }

  function onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || !isMeant(event)) return;
    if (["SELECT", "INPUT", "TEXTAREA"].includes(event.target.tagName)) return;
    const shown = [...$("shown").options].map((o) => o.value);
    const act = {
      arrowleft: () => step(-1),
      arrowright: () => step(1),
      arrowup: () => choose((state.a - 1 + data.configs.length) % data.configs.length),
      arrowdown: () => choose((state.a + 1) % data.configs.length),
      home: () => { state.at = 0; draw(); },
      end: () => { state.at = Math.max(state.list.length - 1, 0); draw(); },
      v: () => show(shown[(shown.indexOf(state.shown) + 1) % shown.length]),
      t: () => { $("tiles").checked = !$("tiles").checked; draw(); },
    }[event.key.toLowerCase()]; // with shift and caps lock too
    if (!act) return;
    event.preventDefault();
    act();
  }

  // ------------------------------------------------------------------ drawing

  const cssColour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  /** The mask of a run: of one stage if asked, all tokens where nothing was pruned, null where it is not known. */
  function keptOf(run, layout, stage) {
    if (!run || run.error || !layout) return null;
    if (run.stages && stage >= 0 && stage < run.stages.length) return maskOf(run.stages[stage], layout.n);
    if (run.mask) return maskOf(run.mask, layout.n);
    return run.kept === layout.n ? new Uint8Array(layout.n).fill(1) : null;
  }

  function paintPicture(context, sample, width, height) {
    const picture = sample.image === null ? null : pictures[sample.image];
    if (picture && picture.complete && picture.naturalWidth) context.drawImage(picture, 0, 0, width, height);
    else {
      context.fillStyle = "#8a8a8a";
      context.fillRect(0, 0, width, height);
    }
  }

  function paint(canvas, sample, config, part, full) {
    const size = sample.size || [1, 1];
    const shownWidth = full ? Math.min(canvas.parentElement.clientWidth || 448, part ? 224 : 560) : 104;
    const limit = full ? 560 : 104;
    const scale = Math.min(shownWidth / size[0], limit / size[1]);
    const [width, height] = [Math.max(Math.round(size[0] * scale), 1), Math.max(Math.round(size[1] * scale), 1)];
    const dense = Math.min(window.devicePixelRatio || 1, 2);
    canvas.width = width * dense;
    canvas.height = height * dense;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d");
    context.scale(dense, dense);
    paintPicture(context, sample, width, height);
    const side = data.configs[config].side;
    const place = sample.layouts[side];
    const layout = place === null || place === undefined ? null : layouts[place];
    const run = sample.runs[config];
    const shown = full ? state.shown : "kept";
    if (layout && shown === "kept") {
      const kept = keptOf(run, layout, full ? state.stage : -1);
      if (kept) paintKept(context, layout, kept, part, width, height);
    }
    if (layout && full && ofAttention()) {
      const values = attentionOf(sample, state.layer, state.head, shown === "relative", state.word);
      if (values) paintAttention(context, layouts[sample.layouts[0]], values, part, width, height);
    }
    if (full && layout && !part && $("tiles").checked) {
      context.strokeStyle = "white";
      context.lineWidth = 2;
      layout.tiles.forEach(([x0, y0, x1, y1]) =>
        context.strokeRect(x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height));
    }
    if (sample.size && sample.target) paintBox(context, sample.target, size, width, height, cssColour("--target"), false);
    if (sample.size && run && run.box) paintBox(context, run.box, size, width, height, cssColour("--answer"), true);
  }

  function verdictText(run) {
    if (!run) return "not run";
    if (run.error) return `failed: ${run.error}`;
    const parts = [run.hit === null ? "answered" : run.hit ? "right" : "wrong"];
    if (run.note) parts.push(run.note);
    if (run.iou !== undefined && run.box) parts.push(`IoU ${run.iou.toFixed(2)}`);
    return parts.join(", ");
  }

  const colourOf = (run) => (!run || run.hit === null ? "" : run.hit === 1 ? "right" : "wrong");

  function keptText(sample, run, layout) {
    if (!run || run.kept === undefined) return "";
    let text = `${run.kept}${layout ? ` of ${layout.n}` : ""} visual tokens kept`;
    if (run.target !== undefined && sample.target) text += `, ${Math.round(100 * run.target)} % of the target's`;
    return text;
  }

  function draw() {
    const none = !state.list.length;
    $("empty").hidden = !none;
    $("body").hidden = none;
    $("position").textContent = none ? "no sample" : `${state.at + 1} of ${state.list.length}`;
    if (none) {
      $("live").textContent = "No sample passes the filters.";
      return;
    }
    const sample = data.samples[state.list[state.at]];
    const run = sample.runs[state.a];
    const config = data.configs[state.a];
    const place = sample.layouts[config.side];
    const layout = place === null || place === undefined ? null : layouts[place];
    const stages = run && run.stages ? run.stages : [];
    if (state.stage >= stages.length) state.stage = -1;
    fill($("stage"), stages.length > 1
      ? [[-1, "after the last stage"], ...config.stages.map((name, i) => [i, `after stage ${i + 1}: ${name}`])]
      : [], state.stage);
    fillHeads(sample);
    for (const name of ["layer", "head"]) {
      const few = $(name).options.length < 2;
      $(name).closest("label").hidden = few || !ofAttention() || (name === "head" && state.word >= 0); // a mean of heads
    }
    $("target-legend").hidden = !sample.target;
    $("dropped-legend").hidden = state.shown !== "kept" || firstPruned < 0;
    $("attention-legend").hidden = !ofAttention();
    $("text").textContent = sample.text || sample.id;
    $("id").textContent = [sample.id, sample.type, sample.objectSize].filter(Boolean).join(" · ");
    $("config").textContent = config.name;
    $("config").title = config.spelled;
    $("verdict-text").textContent = verdictText(run);
    $("verdict-text").className = colourOf(run);
    $("answer").textContent = run && run.answer !== undefined && run.answer !== null ? run.answer : "";
    $("right-answer").textContent = sample.answers.join(" / ");
    $("right-label").hidden = !sample.answers.length;
    $("kept-text").textContent = keptText(sample, run, layout);
    drawWords(sample);
    const drawable = sample.image !== null || layout !== null;
    $("stageview").hidden = !drawable;
    if (drawable) {
      paint($("picture"), sample, state.a, 0, true);
      const says = `${sample.text || sample.id}. ${config.name}: ${verdictText(run)}. ${keptText(sample, run, layout)}`;
      $("picture").setAttribute("aria-label", says);
    }
    $("thumbnail-figure").hidden = !(layout && layout.hasThumbnail && state.shown !== "none");
    if (!$("thumbnail-figure").hidden) paint($("thumbnail"), sample, state.a, 1, true);
    drawStrip(sample);
    $("live").textContent =
      `Sample ${state.at + 1} of ${state.list.length}: ${sample.text || sample.id}. ` +
      `${config.name}: ${verdictText(run)}. ${keptText(sample, run, layout)}`;
  }

  /** The tokens of the unpruned answer: choosing one shows where the model looked when it chose that token. */
  function drawWords(sample) {
    $("words").hidden = !sample.words.length;
    const packed = sample.wordAttention[state.layer];
    const drawn = packed ? packed.max.length : 0;
    $("words-left").hidden = drawn === sample.words.length;
    $("words-left").textContent = `Words without a map, which would make the file too large: ${sample.words.length - drawn}.`;
    const buttons = sample.words.slice(0, drawn).map((text, word) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text.trim() || "\u2423";
      button.setAttribute("aria-pressed", String(word === state.word));
      button.addEventListener("click", () => {
        state.word = word === state.word ? -1 : word;
        if (state.word >= 0 || !ofAttention()) state.shown = $("shown").value = "attention";
        draw();
        $("word-list").children[word].focus();
      });
      return button;
    });
    $("word-list").replaceChildren(...buttons);
  }

  /** All configurations on this sample, small: what each method kept at each ratio. */
  function drawStrip(sample) {
    const strip = $("strip");
    while (strip.children.length < data.configs.length) {
      const button = document.createElement("button");
      const at = strip.children.length;
      button.type = "button";
      button.append(document.createElement("canvas"), document.createElement("span"), document.createElement("em"));
      button.children[1].dir = "auto"; // a label may be of any script
      button.addEventListener("click", () => choose(at));
      strip.append(button);
    }
    data.configs.forEach((config, i) => {
      const [canvas, name, verdict] = strip.children[i].children;
      const run = sample.runs[i];
      canvas.hidden = sample.image === null && sample.layouts.every((l) => l === null);
      if (!canvas.hidden) paint(canvas, sample, i, 0, false);
      name.textContent = config.name;
      strip.children[i].title = config.spelled;
      verdict.textContent = verdictText(run);
      verdict.className = colourOf(run);
      strip.children[i].setAttribute("aria-pressed", String(i === state.a));
    });
  }

  setUp();
  root.dataset.ready = "true"; // for whoever waits for it
  root.biaslab = { state, layouts, keptOf, attentionOf, data }; // for tests and for the console
})();
