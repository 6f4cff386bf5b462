/* Pictures that come in, and a card with its caption for each: what the server's page and the page of an exported folder
   share. Everything that comes from outside (file names, captions, problems) is put into the page as text.

   CaptionPictures.start({ caption, ask, download, settings, atATime }) takes pictures that are chosen, dropped or pasted:

     caption(file, fields, { signal, tell })        resolves to { viewer, line }: what the viewer shows, and a line of JSON;
                                                    `tell(state, share)` shows how far it is
     download(file, fields, format, { signal })     resolves to a blob of another format than JSON
     ask(file, question, { signal })                resolves to what the viewer shows of an answer; without it a card has no
                                                    box for questions
     read(file, fields, text, { signal })           resolves as caption() does, with a caption that was edited; without it
                                                    captions cannot be edited
     settings()                                     the fields of a picture's caption
     atATime                                        pictures that are captioned side by side

   It returns { take(files), askAgain() }. */
(function () {
  "use strict";

  const READ_AFTER = 350; // milliseconds after the last key
  const find = (id) => document.getElementById(id);
  const results = new Set();
  const queue = [];
  let page = null;
  let running = 0;

  function say(text) {
    find("said").textContent = text;
  }

  function notice(text) {
    find("notice").textContent = text;
    find("notice").hidden = !text;
    if (text) say(text);
  }

  /** What went wrong, {title, detail}, and whether a second try may help. */
  class Failure extends Error {
    constructor(title, detail, { again = false, wait = null } = {}) {
      super(detail);
      Object.assign(this, { title, detail, again, wait });
    }
  }

  /** A picture on the page: its file, its state, and its caption once there is one. */
  class Result {
    constructor(file) {
      this.file = file;
      this.element = find("result").content.firstElementChild.cloneNode(true);
      const part = (selector) => this.element.querySelector(selector);
      Object.assign(this, {
        waiting: part(".waiting"),
        state: part(".state"),
        progress: part("progress"),
        failed: part(".failed"),
        place: part(".viewer"),
        downloads: part(".downloads"),
        editor: part(".editor"),
        question: part("form.question"), // only where questions are answered
        answers: part(".answers"),
      });
      this.answered = [];
      this.gone = new AbortController(); // of what new settings do not stop
      this.question?.addEventListener("submit", (event) => {
        event.preventDefault();
        this.askQuestion();
      });
      this.text = null; // the caption as it was edited; null for the model's own
      if (this.editor) this.listenToEditor();
      part("h2 bdi").textContent = file.name;
      part("h2").title = file.name; // where there is no room for all of it
      this.progress.setAttribute("aria-label", `Progress of ${file.name}`);
      this.failed.querySelector(".again").addEventListener("click", () => {
        this.ask();
        this.focus();
      });
      const remove = part(".remove");
      remove.setAttribute("aria-label", `Remove ${file.name}`);
      remove.addEventListener("click", () => this.remove());
      for (const button of this.downloads.querySelectorAll("button")) {
        button.setAttribute("aria-label", `Download ${button.textContent} of ${file.name}`);
        button.addEventListener("click", () => this.download(button));
      }
      this.preview = URL.createObjectURL(file);
      const image = part(".waiting img");
      image.addEventListener("error", () => image.remove()); // a format that browsers do not show, or no picture
      image.src = this.preview;
      find("results").prepend(this.element);
      results.add(this);
      document.body.classList.add("has-results");
      this.ask();
    }

    /** Queue the picture for its caption, with the settings as they are now. */
    ask() {
      clearTimeout(this.later);
      this.stop?.abort();
      this.stop = new AbortController();
      this.fields = page.settings();
      this.text = null;
      if (this.editor) this.editor.querySelector("textarea").value = this.own ?? "";
      this.show("waiting");
      this.tell("Waiting");
      const { signal } = this.stop;
      queue.push({ signal, run: () => this.caption(signal) });
      work();
    }

    /** As the settings are now: the model's caption, or what the model reads of the one that was typed. */
    askAgain() {
      const typed = this.line && this.editor ? oneLine(this.editor.querySelector("textarea").value) : "";
      if (!typed || typed === this.own) return this.ask();
      clearTimeout(this.later);
      this.fields = page.settings();
      return this.read(typed, true);
    }

    tell(state, share = null) {
      this.state.textContent = state;
      if (share === null) this.progress.removeAttribute("value");
      else this.progress.value = share;
    }

    async caption(signal) {
      try {
        const tell = (state, share) => this.tell(state, share);
        const found = await page.caption(this.file, this.fields, { signal, tell });
        if (signal.aborted) return;
        this.own = found.line.caption;
        this.mount(found);
        if (this.editor) this.fillEditor(this.own);
        say(`${this.file.name}: ${found.line.caption}`);
      } catch (failure) {
        if (signal.aborted) return;
        this.fail(failure instanceof Failure ? failure : new Failure("Not shown", String(failure.message)));
      }
    }

    mount({ viewer, line }) {
      this.line = line;
      this.viewer?.destroy();
      this.show("viewer");
      this.viewer = window.CaptionViewer.mount(this.place, { ...viewer, image: viewer.image ?? this.preview });
    }

    // Editing: what is typed is read by the model, a moment after the last key.

    listenToEditor() {
      const input = this.editor.querySelector("textarea");
      input.setAttribute("aria-label", `Caption of ${this.file.name}`);
      const read = (wait) => {
        clearTimeout(this.later);
        this.later = setTimeout(() => this.read(input.value), wait);
      };
      input.addEventListener("input", () => read(READ_AFTER));
      input.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" || event.isComposing) return;
        event.preventDefault(); // a caption is one line
        read(0);
      });
      this.editor.querySelector(".restore").addEventListener("click", () => {
        this.ask();
        this.focus();
      });
    }

    fillEditor(text) {
      this.editor.querySelector("textarea").value = text;
      this.tellEdited("");
    }

    tellEdited(text) {
      this.editor.querySelector(".edited").textContent = text;
      this.editor.querySelector(".restore").hidden = this.text === null;
    }

    async read(typed, again = false) {
      this.reading?.abort();
      const text = oneLine(typed);
      if (!text) return this.tellEdited("A caption needs words.");
      if (!again && text === (this.text ?? this.own)) return this.tellEdited("");
      const { signal } = (this.reading = new AbortController());
      this.stop.signal.addEventListener("abort", () => this.reading.abort(), { signal });
      this.tellEdited("Reading …");
      try {
        const found = await page.read(this.file, this.fields, text, { signal });
        if (signal.aborted) return undefined;
        this.text = text === this.own ? null : text;
        this.mount(found);
        const unknown = found.line.words.filter((word) => word.unknown).map(({ word }) => `“${word}”`);
        this.tellEdited(unknown.length ? `The model does not know ${[...new Set(unknown)].join(", ")}.` : "Read by the model.");
      } catch (failure) {
        if (!signal.aborted) this.tellEdited(String(failure.message));
      }
      return undefined;
    }

    fail({ title, detail: sentence, again }) {
      const name = `${this.file.name}: `; // the card and what is read out say it already
      const detail = sentence.startsWith(name) ? sentence.slice(name.length) : sentence;
      this.failed.querySelector(".title").textContent = title;
      this.failed.querySelector(".detail").textContent = detail;
      this.failed.querySelector(".again").hidden = !again;
      this.line = null;
      this.viewer?.destroy();
      this.viewer = null;
      this.show("failed");
      say(`${this.file.name}: ${title}. ${detail}`);
    }

    /** Send the question, and show its answer above those before. */
    async askQuestion() {
      const input = this.question.elements.question;
      const asked = input.value.trim();
      if (!asked || this.question.getAttribute("aria-busy") === "true") return;
      this.question.setAttribute("aria-busy", "true");
      try {
        const viewer = await page.ask(this.file, asked, { signal: this.gone.signal });
        const place = document.createElement("div");
        this.answers.prepend(place);
        this.answered.push(window.CaptionViewer.mount(place, { ...viewer, image: viewer.image ?? this.preview }));
        if (input.value.trim() === asked) input.value = ""; // else the next one is being typed
        notice("");
        say(`${asked} ${viewer.captions[0].text}`);
      } catch (failure) {
        if (failure instanceof Failure) notice(`${this.file.name}: ${failure.title}. ${failure.detail}`);
      } finally {
        this.question.removeAttribute("aria-busy");
      }
    }

    show(what) {
      const stale = what === "waiting" && Boolean(this.line); // a caption of other settings stays meanwhile
      this.element.classList.toggle("stale", stale);
      this.element.setAttribute("aria-busy", String(what === "waiting"));
      this.waiting.hidden = what !== "waiting";
      this.failed.hidden = what !== "failed";
      this.place.hidden = what !== "viewer" && !stale;
      this.downloads.hidden = what !== "viewer";
      if (this.question) this.question.hidden = !page.ask || what === "failed";
      if (this.editor) this.editor.hidden = what !== "viewer";
    }

    async download(button) {
      if (button.getAttribute("aria-busy") === "true") return;
      const format = button.dataset.format;
      const stem = this.file.name.replace(/\.[^.]*$/, "") || "caption";
      try {
        button.setAttribute("aria-busy", "true");
        const fields = this.text === null ? this.fields : { ...this.fields, text: this.text };
        const made = { json: () => JSON.stringify(this.line), txt: () => this.line.caption }[format];
        const blob = made
          ? new Blob([made() + "\n"], { type: format === "json" ? "application/json" : "text/plain;charset=utf-8" })
          : await page.download(this.file, fields, format, { signal: this.gone.signal });
        save(blob, `${stem}.${format}`);
        notice("");
      } catch (failure) {
        if (failure instanceof Failure) notice(`${this.file.name}: ${failure.title}. ${failure.detail}`);
      } finally {
        button.removeAttribute("aria-busy");
      }
    }

    /** A button that goes leaves the focus with its card. */
    focus() {
      const heading = this.element.querySelector("h2");
      heading.tabIndex = -1;
      heading.focus();
    }

    remove() {
      const next = this.element.nextElementSibling || this.element.previousElementSibling;
      clearTimeout(this.later);
      this.stop.abort();
      this.gone.abort();
      this.viewer?.destroy();
      this.answered.forEach((viewer) => viewer.destroy());
      URL.revokeObjectURL(this.preview);
      this.element.remove();
      results.delete(this);
      document.body.classList.toggle("has-results", results.size > 0);
      say(`${this.file.name} removed`);
      (next ? next.querySelector(".remove") : find("files")).focus();
    }
  }

  const oneLine = (text) => text.trim().replace(/\s+/g, " ");
  /** Whether text goes into a field: what is dropped or pasted there is the field's. */
  const isField = (target) => Boolean(target.closest?.("textarea, input[type=text]"));

  function save(blob, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }

  /** Run what waits, a few at a time. */
  async function work() {
    if (running === page.atATime) return;
    running++;
    while (queue.length) {
      const { signal, run } = queue.shift();
      if (!signal.aborted) await run();
    }
    running--;
  }

  function take(files) {
    notice("");
    for (const file of files) new Result(file);
  }

  // Choose, drop or paste.

  function start(parts) {
    page = parts;

    find("files").addEventListener("change", (event) => {
      take([...event.target.files]);
      event.target.value = ""; // so that the same file can be chosen again
    });

    let depth = 0; // enter and leave come for every element on the way
    const carriesFiles = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
    const dragging = () => document.body.classList.toggle("dragging", depth > 0);
    window.addEventListener("dragenter", (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      depth++;
      dragging();
    });
    window.addEventListener("dragleave", (event) => {
      if (!carriesFiles(event)) return;
      depth = Math.max(0, depth - 1);
      dragging();
    });
    window.addEventListener("dragover", (event) => {
      if (isField(event.target) && !carriesFiles(event)) return;
      event.preventDefault(); // also for other things than files, for which the browser would leave the page
    });
    window.addEventListener("drop", (event) => {
      if (isField(event.target) && !carriesFiles(event)) return;
      event.preventDefault();
      depth = 0;
      dragging();
      const files = [...event.dataTransfer.files];
      if (files.length) take(files);
      else notice("That was no picture: drop files, or save the picture first.");
    });

    window.addEventListener("paste", (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      const isText = isField(event.target) && event.clipboardData.types.includes("text/plain"); // of an office, with its image
      if (!files.length || isText) return;
      event.preventDefault();
      take(files);
    });

    const askAgain = () => [...results].reverse().forEach((result) => result.askAgain());
    return { take, askAgain };
  }

  window.CaptionPictures = { start, say, notice, Failure };
})();
