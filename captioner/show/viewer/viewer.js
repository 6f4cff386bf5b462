/* One picture, its caption as words, and with each word the map of where the model looked. */

const FADE = 160; // milliseconds from one map to the next
const PACE = 1100; // milliseconds a word while playing
const MOSTLY = 0.5; // a word with so much of its attention off the picture points at nothing there
const SMOOTH_PIXELS = 640; // an interpolated map needs no more along its longer side
const THUMBNAIL = { width: 132, height: 88 };

/** What is added to the name of a word that points at nothing in the picture. */
function placeless(offGrid) {
  return offGrid >= MOSTLY ? ", points at nothing in the picture" : "";
}

/** Where a word begins in a sentence, which joins some to those before; -1 where it is not as it was said. */
function beginning(text, word, start) {
  for (let at = text.indexOf(word, start); at >= 0; at = text.indexOf(word, at + 1)) {
    if (at === start || !/[\p{L}\p{N}]/u.test(text[at - 1])) return at;
  }
  return -1;
}

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
    this.ratio = shapeOf(data);
    this.root.style.setProperty("--cv-ratio", String(this.ratio));
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
      const open = button("cv-enlarge", stage, `Enlarge ${this.data.name || this.readings[0].text}`);
      icon(open, ENLARGE);
      open.addEventListener("click", enlarge);
    }
    const side = make("div", "cv-side", main);
    if (this.data.question) this.buildQuestion(make("div", "cv-question", side));
    this.sentence = make("div", "cv-sentence", side);
    this.sentence.setAttribute("role", "toolbar");
    const of = this.data.name ? ` of ${this.data.name}` : "";
    this.sentence.setAttribute("aria-label", this.data.question ? `The answer${of}` : `The caption${of}, word by word`);
    this.status = make("p", "cv-status", side);
    this.status.setAttribute("role", "status");
    if (this.compact) return;
    this.buildTools(make("div", "cv-tools", side));
    this.buildScale(make("div", "cv-scale", side));
    if (this.readings.length > 1) this.buildOthers(make("div", "cv-others", side));
    if (this.data.question?.others.length) this.buildOtherAnswers(make("div", "cv-others", side));
    this.buildAbout(make("p", "cv-about", side));
    this.strip = make("div", "cv-strip", this.root);
    this.strip.setAttribute("role", "toolbar");
    this.strip.setAttribute("aria-label", `The maps of all words${of}`);
  }

  /** The question's words, each as strong as its weight. */
  buildQuestion(place) {
    const { words } = this.data.question;
    const most = Math.max(...words.map(({ weight }) => weight));
    const line = make("p", "cv-asked", place);
    for (const { word, weight, known } of words) {
      const item = make("span", known === false ? "cv-asked-word cv-unknown" : "cv-asked-word", line);
      item.style.setProperty("--cv-weight", String(weight / most));
      make("span", "cv-text", item, word);
      make("span", "cv-percent", item, known === false ? "unknown" : percent(weight));
      line.append(" ");
    }
  }

  buildOtherAnswers(place) {
    make("p", "cv-title", place, "Other answers");
    const list = make("ol", "cv-answers", place);
    list.setAttribute("aria-label", "Other answers");
    list.start = 2;
    for (const { answer, probability } of this.data.question.others) {
      const item = make("li", "", list);
      make("span", "", item, answer);
      make("span", "cv-score", item, percent(probability));
    }
  }

  buildTools(tools) {
    this.playButton = button("cv-play", tools);
    this.playButton.hidden = Boolean(this.data.question);
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
    make("span", "", ends, `${(MAP_OF[this.data.explain] ?? MAP_OF.attention).scale}, in multiples of its even share`);
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
    this.image.alt = this.reading.text || "no words";
    this.values = this.dark;
    this.buildSentence();
    if (this.data.question) this.chosen = 0; // an answer has one map, which shows at once
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
    const plain = (of) => of.toLowerCase().replaceAll("’", "'"); // as the tokeniser has it
    const text = plain(this.reading.text);
    let end = 0;
    this.words = this.reading.words.map(({ word, probability, off_grid: offGrid, gain, given, unknown }, i) => {
      const at = beginning(text, plain(word), end);
      const glued = at === end && at > 0; // "the dog's": a clitic stands close to its word
      if (at >= 0) end = at + word.length;
      const sure = unknown ? "unknown to the model" : percent(probability);
      const item = button(glued ? "cv-word cv-glued" : "cv-word", fresh, `${word}, ${sure}${placeless(offGrid)}`);
      item.classList.toggle("cv-off-grid", offGrid >= MOSTLY);
      item.classList.toggle("cv-given", given === true);
      item.classList.toggle("cv-unknown", unknown === true);
      make("span", "cv-text", item, word);
      const bar = make("span", "cv-bar", item);
      bar.style.setProperty("--cv-share", String(probability));
      if (!this.compact) make("span", "cv-percent", item, unknown ? "unknown" : percent(probability));
      if (!this.compact && gain !== undefined) make("span", "cv-gain", item, likelier(gain));
      return this.listen(item, i);
    });
    if (!this.words.length) make("span", "cv-none", fresh, "no words");
    if (!this.reading.finished && this.words.length) make("span", "cv-none", fresh, "…");
    rove(fresh, this.words);
    this.sentence.replaceChildren(fresh);
  }

  buildStrip() {
    const tall = Math.min(THUMBNAIL.width / this.ratio, THUMBNAIL.height);
    const [width, height] = [tall * this.ratio, tall].map((side) => Math.max(1, Math.round(side)));
    if (this.data.question) return this.strip.remove(); // one map, and it is on the picture
    const fresh = make("div", "cv-thumbnails");
    this.thumbnails = this.reading.words.map(({ word, probability, off_grid: offGrid }, i) => {
      const item = button("cv-thumbnail", fresh, `${word}, ${percent(probability)}${placeless(offGrid)}`);
      item.classList.toggle("cv-off-grid", offGrid >= MOSTLY);
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
    return this.paintStrip();
  }

  paintStrip() {
    (this.thumbnails || []).forEach((item, i) => {
      const canvas = item.querySelector("canvas");
      paint(canvas, this.reading.glows[i], this.data, this.smooth);
    });
  }

  /** Mouse, touch and keys on a word, in the caption or in the strip. */
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
    const { word, probability, off_grid: offGrid, gain, given, unknown } = this.reading.words[now];
    const { times: most, where } = peak(this.reading.maps[now], this.data);
    make("b", "", this.status, word);
    if (unknown) this.status.append(": the model does not know this word, and read a blank in its place. ");
    else this.status.append(`, ${percent(probability)} ${given ? "likely; it was given" : "sure"}. `);
    const said = MAP_OF[this.data.explain] ?? MAP_OF.attention;
    if (offGrid >= MOSTLY) this.status.append("It points at nothing in the picture.");
    else this.status.append(most < 1.05 ? said.evenly : `${said.most} ${where}: ${times(most)} its even share.`);
    if (offGrid > 0) make("span", "cv-mattered", this.status, ` ${percent(1 - offGrid)} of its attention is on the picture.`);
    if (gain !== undefined) make("span", "cv-mattered", this.status, ` ${mattered(gain)}`);
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
