/* The viewer of captions: a picture, its caption as words, and with each word the map of where the model looked.

   CaptionViewer.mount(element, data)      builds it inside an element; what it returns has destroy()
   CaptionViewer.gallery(element, [data])  small ones in a grid, each of which opens into a whole one

   `data` is what captioner.show.page.payload makes. Nothing is loaded, evaluated or parsed as HTML: all text from
   outside goes through textContent, all styles through the style sheet or element.style. */
(function () {
  "use strict";

  const EVEN = 64; // the byte of a cell that gets its even share, as in page.py
  const STRONGEST = 0.82; // opacity at the top of the scale, as in heatmap.py
  const FADE = 160; // milliseconds from one map to the next
  const PACE = 1100; // milliseconds a word while playing
  const SMOOTH_PIXELS = 640; // an interpolated map needs no more along its longer side
  const THUMBNAIL = { width: 132, height: 88 };
  // The colour map inferno from 0.3 to 1, as in heatmap.py.
  const COLOURS = (
    "6a176e 751b6e 7f1e6c 8a226a 932667 9d2964 a82e5f b1325a bc3754 c43c4e cc4248 d54a41 dd513a e45a31 ea632a " +
    "ef6c23 f37819 f78212 f98e09 fb9906 fca50a fcb216 fbbe23 f9cb35 f6d746 f3e35a f1ef75 f4f88e fcffa4"
  ).split(" ");
  const TABLE = colourTable();

  function colourTable() {
    const stops = COLOURS.map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
    const table = new Uint8ClampedArray(256 * 4);
    for (let step = 0; step < 256; step++) {
      const place = (step / 255) * (stops.length - 1);
      const first = Math.min(Math.floor(place), stops.length - 2);
      const share = place - first;
      for (let i = 0; i < 3; i++) {
        table[step * 4 + i] = stops[first][i] * (1 - share) + stops[first + 1][i] * share;
      }
      table[step * 4 + 3] = step;
    }
    return table;
  }

  // Maps.

  /** A caption of the data with its maps as numbers, multiples of the even share, and as how strongly each cell glows. */
  function decode(caption, cells) {
    const bytes = atob(caption.maps);
    const top = caption.scale[0];
    if (bytes.length !== caption.words.length * cells) {
      throw new Error(`${caption.words.length} words of ${cells} cells, but ${bytes.length} bytes of maps`);
    }
    const maps = caption.words.map((_, word) =>
      Float32Array.from({ length: cells }, (_, cell) => {
        const byte = bytes.charCodeAt(word * cells + cell);
        return byte < EVEN ? byte / EVEN : Math.pow(top, (byte - EVEN) / (255 - EVEN));
      }),
    );
    const glows = maps.map((map) => map.map((value) => Math.log(Math.max(value, 1)) / Math.log(top)));
    const { text, score, finished, words } = caption;
    return { text, score, finished, words, top, maps, glows };
  }

  /** For each pixel along an axis: the cells whose centres it lies between, and the weights of their values and slopes. */
  function between(pixels, length, start, end, cells, smooth) {
    const perCell = (end - start) / cells;
    const last = Math.min(cells, Math.ceil((length - start) / perCell - 1e-6)) - 1; // beyond it is only padding
    const first = new Uint16Array(pixels);
    const second = new Uint16Array(pixels);
    const weights = new Float32Array(pixels * 4);
    for (let i = 0; i < pixels; i++) {
      const place = (((i + 0.5) * length) / pixels - start) / perCell;
      const from = Math.max(0, Math.min(last, smooth ? place - 0.5 : Math.floor(place)));
      first[i] = Math.floor(from);
      second[i] = Math.min(first[i] + 1, last);
      const share = from - first[i];
      const rest = 1 - share;
      weights.set([(1 + 2 * share) * rest * rest, share * share * (3 - 2 * share)], i * 4);
      weights.set([share * rest * rest, -share * share * rest], i * 4 + 2);
    }
    return { first, second, weights, last };
  }

  /** Slopes at the centres of a line of cells between which a cubic neither overshoots nor adds a peak (Fritsch and
      Butland 1984): the harmonic mean of the steps to both sides, and level at peaks, valleys and ends. */
  function slopes(values, start, stride, last, into) {
    for (let i = 0, at = start; i <= last; i++, at += stride) {
      const before = i > 0 ? values[at] - values[at - stride] : 0;
      const after = i < last ? values[at + stride] - values[at] : 0;
      into[at] = before * after > 0 ? (2 * before * after) / (before + after) : 0;
    }
  }

  /** Paint a map over the whole of a canvas, which covers the picture exactly. */
  function paint(canvas, glow, data, smooth) {
    const { width, height } = canvas;
    if (!width || !height) return;
    const [rows, columns] = data.grid;
    const [left, upper, right, lower] = data.extent;
    const across = between(width, data.size[0], left, right, columns, smooth);
    const down = between(height, data.size[1], upper, lower, rows, smooth);
    const downSlopes = new Float32Array(glow.length);
    for (let column = 0; column < columns; column++) slopes(glow, column, columns, down.last, downSlopes);
    const line = new Float32Array(columns);
    const lineSlopes = new Float32Array(columns);
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    const pixels = image.data;
    for (let y = 0, at = 0; y < height; y++) {
      const one = down.first[y] * columns;
      const two = down.second[y] * columns;
      const [a, b, c, d] = down.weights.subarray(y * 4, y * 4 + 4);
      for (let i = 0; i < columns; i++) {
        line[i] = glow[one + i] * a + glow[two + i] * b + downSlopes[one + i] * c + downSlopes[two + i] * d;
      }
      slopes(line, 0, 1, across.last, lineSlopes);
      for (let x = 0; x < width; x++, at += 4) {
        const first = across.first[x];
        const second = across.second[x];
        const strength =
          line[first] * across.weights[x * 4] +
          line[second] * across.weights[x * 4 + 1] +
          lineSlopes[first] * across.weights[x * 4 + 2] +
          lineSlopes[second] * across.weights[x * 4 + 3];
        if (strength <= 0) continue;
        const step = Math.min(255, Math.round(strength * 255)) * 4;
        pixels[at] = TABLE[step];
        pixels[at + 1] = TABLE[step + 1];
        pixels[at + 2] = TABLE[step + 2];
        pixels[at + 3] = TABLE[step + 3];
      }
    }
    context.putImageData(image, 0, 0);
  }

  /** Where a map is strongest: how many times its even share, and in which part of the picture. */
  function peak(map, data) {
    const [rows, columns] = data.grid;
    let best = 0;
    for (let cell = 1; cell < map.length; cell++) if (map[cell] > map[best]) best = cell;
    const [left, upper, right, lower] = data.extent;
    const x = (left + (((best % columns) + 0.5) * (right - left)) / columns) / data.size[0];
    const y = (upper + ((Math.floor(best / columns) + 0.5) * (lower - upper)) / rows) / data.size[1];
    const third = (value, names) => names[Math.max(0, Math.min(2, Math.floor(value * 3)))];
    const place = [third(y, ["upper", "", "lower"]), third(x, ["left", "", "right"])].filter(Boolean);
    const words = { upper: "at the top", lower: "at the bottom", left: "at the left", right: "at the right" };
    const where = place.length === 2 ? `at the ${place.join(" ")}` : words[place[0]] || "in the middle";
    return { times: map[best], where };
  }

  // Elements.

  function make(tag, name, parent, text) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    if (parent) parent.append(element);
    return element;
  }

  function button(name, parent, label) {
    const element = make("button", name, parent);
    element.type = "button";
    if (label) element.setAttribute("aria-label", label);
    return element;
  }

  function icon(parent, path) {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    svg.setAttribute("viewBox", "0 0 24 24");
    svg.setAttribute("aria-hidden", "true");
    const shape = document.createElementNS(space, "path");
    shape.setAttribute("d", path);
    svg.append(shape);
    parent.append(svg);
    return shape;
  }

  const PLAY = "M7 4.5v15l12.5-7.5z";
  const PAUSE = "M6.5 5h4v14h-4zM13.5 5h4v14h-4z";
  const ENLARGE = "M4 10V4h6v2H7.4l4.1 4.1-1.4 1.4L6 7.4V10zM20 14v6h-6v-2h2.6l-4.1-4.1 1.4-1.4 4.1 4.1V14z";
  const CLOSE = "M6.4 5 12 10.6 17.6 5 19 6.4 13.4 12 19 17.6 17.6 19 12 13.4 6.4 19 5 17.6 10.6 12 5 6.4z";

  /** One stop of the Tab key for a row of buttons; arrow keys go from one to the next. */
  function rove(container, items) {
    items.forEach((item, i) => (item.tabIndex = i ? -1 : 0));
    container.addEventListener("keydown", (event) => {
      const now = items.indexOf(document.activeElement);
      const steps = { ArrowRight: now + 1, ArrowDown: now + 1, ArrowLeft: now - 1, ArrowUp: now - 1 };
      const next = { ...steps, Home: 0, End: items.length - 1 }[event.key];
      if (now < 0 || next === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      items[Math.max(0, Math.min(items.length - 1, next))].focus();
    });
    container.addEventListener("focusin", (event) => {
      if (items.includes(event.target)) items.forEach((item) => (item.tabIndex = item === event.target ? 0 : -1));
    });
  }

  const percent = (share) => (share < 0.01 ? "<1%" : share > 0.99 && share < 1 ? ">99%" : `${Math.round(share * 100)}%`);
  const times = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)}×`;
  const asked = (query) => window.matchMedia(query).matches;

  // The viewer.

  class Viewer {
    constructor(element, data, { compact = false, enlarge = null } = {}) {
      this.data = data;
      this.readings = data.captions.map((caption) => decode(caption, data.grid[0] * data.grid[1]));
      this.dark = new Float32Array(data.grid[0] * data.grid[1]);
      this.compact = compact;
      this.smooth = data.smooth !== false;
      this.chosen = null; // the word that was clicked, reached by key, or is being played
      this.hovered = null; // the word under the mouse
      this.root = make("div", compact ? "cv cv-compact" : "cv");
      this.root.style.setProperty("--cv-ratio", String(data.size[0] / data.size[1]));
      this.root.style.setProperty("--cv-opacity", String(STRONGEST));
      this.build(enlarge);
      element.replaceChildren(this.root);
      this.watcher = new ResizeObserver(() => this.fit());
      this.watcher.observe(this.picture);
      this.choose(0);
    }

    build(enlarge) {
      const main = make("div", "cv-main", this.root);
      const stage = make("div", "cv-stage", main);
      this.picture = make("div", "cv-picture", stage);
      this.image = make("img", "", this.picture);
      this.image.decoding = "async";
      this.image.draggable = false;
      this.image.src = this.data.image;
      this.canvas = make("canvas", "cv-map", this.picture);
      this.canvas.setAttribute("aria-hidden", "true");
      this.picture.addEventListener("pointermove", (event) => this.lookBack(event));
      this.picture.addEventListener("pointerleave", () => this.lookBack(null));
      this.picture.addEventListener("click", () => this.pick(null));
      if (enlarge) {
        const open = button("cv-enlarge", stage, "Enlarge");
        icon(open, ENLARGE);
        open.addEventListener("click", enlarge);
      }
      const side = make("div", "cv-side", main);
      this.sentence = make("div", "cv-sentence", side);
      this.sentence.setAttribute("role", "toolbar");
      this.sentence.setAttribute("aria-label", "The caption, word by word");
      this.status = make("p", "cv-status", side);
      this.status.setAttribute("role", "status");
      if (this.compact) return;
      this.buildTools(make("div", "cv-tools", side));
      this.buildScale(make("div", "cv-scale", side));
      if (this.readings.length > 1) this.buildOthers(make("div", "cv-others", side));
      this.buildAbout(make("p", "cv-about", side));
      this.strip = make("div", "cv-strip", this.root);
      this.strip.setAttribute("role", "toolbar");
      this.strip.setAttribute("aria-label", "The maps of all words");
    }

    buildTools(tools) {
      this.playButton = button("cv-play", tools);
      this.playIcon = icon(this.playButton, PLAY);
      this.playLabel = make("span", "", this.playButton, "Play");
      this.playButton.addEventListener("click", () => (this.timer ? this.stop() : this.play()));
      const how = make("div", "cv-how", tools);
      how.setAttribute("role", "group");
      how.setAttribute("aria-label", "How maps are drawn");
      this.how = ["Smooth", "Cells"].map((name, i) => {
        const choice = button("", how);
        choice.textContent = name;
        choice.setAttribute("aria-pressed", String(this.smooth === (i === 0)));
        choice.addEventListener("click", () => this.draw(i === 0));
        return choice;
      });
      const label = make("label", "cv-opacity", tools);
      make("span", "", label, "Opacity");
      const slider = make("input", "", label);
      Object.assign(slider, { type: "range", min: "0", max: "100", step: "1", value: String(STRONGEST * 100) });
      slider.addEventListener("input", () => {
        this.root.style.setProperty("--cv-opacity", String(slider.valueAsNumber / 100));
      });
    }

    buildScale(scale) {
      const canvas = make("canvas", "", scale);
      canvas.width = 256;
      canvas.height = 1;
      canvas.setAttribute("aria-hidden", "true");
      const context = canvas.getContext("2d");
      context.putImageData(new ImageData(new Uint8ClampedArray(TABLE), 256, 1), 0, 0);
      const ends = make("p", "", scale);
      make("span", "", ends, "1×");
      make("span", "", ends, "attention of a cell, in multiples of its even share");
      this.scaleEnd = make("span", "", ends);
    }

    buildOthers(others) {
      const title = make("p", "cv-title", others, "Other readings");
      const list = make("div", "", others);
      list.setAttribute("role", "radiogroup");
      list.setAttribute("aria-label", title.textContent);
      this.others = this.readings.map((reading, i) => {
        const choice = button("cv-other", list);
        choice.setAttribute("role", "radio");
        make("span", "", choice, reading.text || "no words");
        make("span", "cv-score", choice, reading.score.toFixed(2).replace("-", "−"));
        choice.title = "the mean log-probability of its words";
        choice.addEventListener("click", () => this.choose(i));
        choice.addEventListener("focus", () => this.choose(i));
        return choice;
      });
      rove(list, this.others);
    }

    buildAbout(about) {
      const [rows, columns] = this.data.grid;
      if (this.data.name) make("bdi", "cv-name", about, this.data.name);
      make("bdi", "", about, this.data.model);
      make("span", "", about, `${rows} × ${columns} cells`);
    }

    /** Show another of the captions. */
    choose(index) {
      if (this.reading === this.readings[index]) return;
      this.stop();
      this.chosen = this.hovered = null;
      this.reading = this.readings[index];
      this.image.alt = this.reading.text;
      this.values = this.dark;
      this.buildSentence();
      if (this.compact) return this.show();
      this.scaleEnd.textContent = times(this.reading.top);
      (this.others || []).forEach((other, i) => {
        other.setAttribute("aria-checked", String(i === index));
        other.tabIndex = i === index ? 0 : -1;
      });
      this.playButton.disabled = !this.reading.words.length;
      this.buildStrip();
      return this.show();
    }

    buildSentence() {
      const fresh = make("div", "cv-words");
      let end = 0;
      this.words = this.reading.words.map(({ word, probability }, i) => {
        const at = this.reading.text.indexOf(word, end);
        const glued = at === end && at > 0; // "the dog's": a clitic stands close to its word
        if (at >= 0) end = at + word.length;
        const item = button(glued ? "cv-word cv-glued" : "cv-word", fresh, `${word}, ${percent(probability)}`);
        make("span", "cv-text", item, word);
        const bar = make("span", "cv-bar", item);
        bar.style.setProperty("--cv-share", String(probability));
        if (!this.compact) make("span", "cv-percent", item, percent(probability));
        return this.listen(item, i);
      });
      if (!this.words.length) make("span", "cv-none", fresh, "no words");
      if (!this.reading.finished && this.words.length) make("span", "cv-none", fresh, "…");
      rove(fresh, this.words);
      this.sentence.replaceChildren(fresh);
    }

    buildStrip() {
      const { size } = this.data;
      const scale = Math.min(THUMBNAIL.width / size[0], THUMBNAIL.height / size[1]);
      const [width, height] = size.map((side) => Math.max(1, Math.round(side * scale)));
      const fresh = make("div", "cv-thumbnails");
      this.thumbnails = this.reading.words.map(({ word, probability }, i) => {
        const item = button("cv-thumbnail", fresh, `${word}, ${percent(probability)}`);
        const frame = make("span", "cv-frame", item);
        frame.style.width = `${width}px`;
        frame.style.height = `${height}px`;
        const image = make("img", "", frame);
        image.alt = "";
        image.src = this.data.image;
        const canvas = make("canvas", "cv-map", frame);
        [canvas.width, canvas.height] = [width, height];
        make("span", "cv-text", item, word);
        return this.listen(item, i);
      });
      rove(fresh, this.thumbnails);
      this.strip.replaceChildren(fresh);
      this.paintStrip();
    }

    paintStrip() {
      (this.thumbnails || []).forEach((item, i) => {
        const canvas = item.querySelector("canvas");
        paint(canvas, this.reading.glows[i], this.data, this.smooth);
      });
    }

    /** Mouse, touch and keys on a word, be it in the caption or in the strip. */
    listen(item, i) {
      let before = null;
      item.addEventListener("pointerenter", (event) => {
        if (event.pointerType === "touch") return;
        this.stop();
        this.hovered = i;
        this.show();
      });
      item.addEventListener("pointerleave", () => {
        this.hovered = null;
        this.show();
      });
      item.addEventListener("pointerdown", () => (before = this.chosen));
      item.addEventListener("focus", () => this.pick(i));
      item.addEventListener("click", (event) => {
        if (event.detail === 0) before = this.chosen; // by key
        this.pick(before === i ? null : i);
        if (before === i) this.hovered = null;
        this.show();
      });
      item.addEventListener("keydown", (event) => {
        if (event.key === "Escape" && this.chosen !== null) {
          event.stopPropagation();
          event.preventDefault(); // a dialog around it stays open
          this.pick(null);
        }
      });
      return item;
    }

    pick(word) {
      this.stop();
      this.chosen = word;
      this.show();
    }

    /** Words by how much they looked at the point of the picture under the mouse. */
    lookBack(event) {
      let strengths = null;
      if (event && event.pointerType !== "touch" && this.chosen === null) {
        const box = this.picture.getBoundingClientRect();
        const [rows, columns] = this.data.grid;
        const [left, upper, right, lower] = this.data.extent;
        const x = ((event.clientX - box.left) / box.width) * this.data.size[0];
        const y = ((event.clientY - box.top) / box.height) * this.data.size[1];
        const column = Math.floor(((x - left) / (right - left)) * columns);
        const row = Math.floor(((y - upper) / (lower - upper)) * rows);
        if (column >= 0 && column < columns && row >= 0 && row < rows) {
          strengths = this.reading.glows.map((glow) => glow[row * columns + column]);
        }
      }
      this.words.forEach((word, i) => word.style.setProperty("--cv-look", String(strengths ? strengths[i] : 0)));
    }

    /** Bring the page in line with the word that is hovered or chosen. */
    show() {
      const now = this.hovered ?? this.chosen;
      for (const items of [this.words, this.thumbnails || []]) {
        items.forEach((item, i) => {
          item.classList.toggle("cv-now", i === now);
          item.setAttribute("aria-pressed", String(i === this.chosen));
        });
      }
      this.tell(now);
      if (now !== null) this.bringIntoStrip(now);
      this.fade(now === null ? this.dark : this.reading.glows[now]);
    }

    tell(now) {
      if (this.told === now && this.toldOf === this.reading) return;
      [this.told, this.toldOf] = [now, this.reading];
      this.status.replaceChildren();
      this.status.classList.toggle("cv-hint", now === null);
      if (now === null) {
        const how = asked("(hover: none)") ? "Tap a word" : "Point at a word";
        if (this.words.length && !this.compact) this.status.textContent = `${how} to see where the model looked.`;
        return;
      }
      const { word, probability } = this.reading.words[now];
      const { times: most, where } = peak(this.reading.maps[now], this.data);
      make("b", "", this.status, word);
      this.status.append(`, ${percent(probability)} sure. `);
      this.status.append(most < 1.05 ? "Looked evenly at all of it." : `Looked most ${where}: ${times(most)} its even share.`);
    }

    bringIntoStrip(now) {
      const item = this.thumbnails && this.thumbnails[now];
      if (!item) return;
      const [start, end] = [item.offsetLeft - this.strip.offsetLeft, item.offsetWidth];
      const { scrollLeft, clientWidth } = this.strip;
      if (start < scrollLeft) this.strip.scrollLeft = start - 24;
      else if (start + end > scrollLeft + clientWidth) this.strip.scrollLeft = start + end - clientWidth + 24;
    }

    /** From the map that is seen to another. */
    fade(target) {
      cancelAnimationFrame(this.frame);
      if (asked("(prefers-reduced-motion: reduce)")) return this.lay(target);
      const from = this.values;
      let began = null;
      const step = (time) => {
        began ??= time;
        const share = Math.min(1, (time - began) / FADE);
        const eased = share * (2 - share);
        this.lay(share === 1 ? target : target.map((value, i) => from[i] + (value - from[i]) * eased));
        if (share < 1) this.frame = requestAnimationFrame(step);
      };
      this.frame = requestAnimationFrame(step);
      return undefined;
    }

    lay(values) {
      this.values = values;
      paint(this.canvas, values, this.data, this.smooth);
    }

    /** Smoothly interpolated, or the cells as they are. */
    draw(smooth) {
      this.smooth = smooth;
      this.how.forEach((choice, i) => choice.setAttribute("aria-pressed", String(smooth === (i === 0))));
      this.fit();
      this.paintStrip();
    }

    /** Give the canvas the pixels of the screen that it covers. */
    fit() {
      const box = this.picture.getBoundingClientRect();
      const wanted = window.devicePixelRatio || 1;
      this.canvas.classList.toggle("cv-cells", !this.smooth);
      const scale = this.smooth ? Math.min(wanted, SMOOTH_PIXELS / Math.max(box.width, box.height, 1)) : wanted;
      this.canvas.width = Math.max(1, Math.round(box.width * scale));
      this.canvas.height = Math.max(1, Math.round(box.height * scale));
      this.lay(this.values);
    }

    play() {
      const next = () => {
        const word = this.chosen === null ? 0 : this.chosen + 1;
        if (word >= this.words.length) {
          this.stop();
          this.pick(null);
          return;
        }
        this.chosen = word;
        this.show();
      };
      if (this.chosen === this.words.length - 1) this.chosen = null;
      this.hovered = null;
      this.timer = setInterval(next, asked("(prefers-reduced-motion: reduce)") ? 2 * PACE : PACE);
      this.playIcon.setAttribute("d", PAUSE);
      this.playLabel.textContent = "Pause";
      next();
    }

    stop() {
      if (!this.timer) return;
      clearInterval(this.timer);
      this.timer = null;
      this.playIcon.setAttribute("d", PLAY);
      this.playLabel.textContent = "Play";
    }

    destroy() {
      this.stop();
      cancelAnimationFrame(this.frame);
      this.watcher.disconnect();
      this.root.remove();
    }
  }

  function mount(element, data) {
    const viewer = new Viewer(element, data);
    return { destroy: () => viewer.destroy() };
  }

  /** Small viewers in a grid, each built when it comes near the screen; enlarged, one fills a dialog. */
  function gallery(element, datas) {
    const how = asked("(hover: none)") ? "Tap a word" : "Point at a word";
    const lead = make("p", "cv-lead", null, `${how} to see where the model looked; enlarge a picture to see all its words.`);
    const list = make("ul", "cv-gallery");
    const viewers = [];
    const waiting = new Map();
    const watcher = new IntersectionObserver(
      (entries) => {
        for (const { isIntersecting, target } of entries) {
          if (!isIntersecting) continue;
          watcher.unobserve(target);
          const data = waiting.get(target);
          target.className = "";
          target.style.aspectRatio = "";
          viewers.push(new Viewer(target, data, { compact: true, enlarge: () => viewers.push(enlarged(element, data)) }));
        }
      },
      { rootMargin: "600px" },
    );
    for (const data of datas) {
      const card = make("li", "cv-card", list);
      const place = make("div", "cv-waiting", card);
      place.style.aspectRatio = `${data.size[0]} / ${data.size[1]}`;
      if (data.name) make("bdi", "cv-name", card, data.name);
      waiting.set(place, data);
    }
    element.replaceChildren(lead, list);
    waiting.forEach((_, place) => watcher.observe(place));
    const destroy = () => {
      watcher.disconnect();
      viewers.forEach((viewer) => viewer.destroy());
      lead.remove();
      list.remove();
    };
    return { destroy };
  }

  function enlarged(element, data) {
    const dialog = make("dialog", "cv-dialog", element);
    dialog.setAttribute("aria-label", data.captions[0].text);
    const close = button("cv-close", dialog, "Close");
    icon(close, CLOSE);
    const viewer = new Viewer(make("div", "", dialog), data);
    const destroy = () => {
      viewer.destroy();
      dialog.remove();
    };
    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("close", destroy);
    dialog.showModal();
    return { destroy };
  }

  window.CaptionViewer = { mount, gallery };

  // A document of captioner.show.page holds its data in script elements.
  const here = document.querySelector("main.cv-here");
  if (here) {
    const blocks = here.querySelectorAll('script[type="application/json"]');
    const datas = Array.from(blocks, (block) => JSON.parse(block.textContent));
    document.body.classList.toggle("cv-several", datas.length > 1);
    if (datas.length > 1) gallery(here, datas);
    else mount(here, datas[0]);
  }
})();
