/* The server's page: pictures go to /v1/captions one by one, and come back as captions in the viewer.

   Everything that comes from outside (file names, captions, problems) is put into the page as text. Picture and
   caption stay in this page alone: to download one as page or figure, its picture is sent once more. */
(function () {
  "use strict";

  const AT_A_TIME = 2; // requests
  const MOST_TRIES = 6; // when the queue is full
  const find = (id) => document.getElementById(id);
  const limits = { max_upload: Infinity };
  const results = new Set();
  const queue = [];
  let running = 0;

  const sleep = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

  function say(text) {
    find("said").textContent = text;
  }

  function notice(text) {
    find("notice").textContent = text;
    find("notice").hidden = !text;
    if (text) say(text);
  }

  /** What went wrong, as the server reports it: {title, detail}, and whether a second try may help. */
  class Failure extends Error {
    constructor(title, detail, { again = false, wait = null } = {}) {
      super(detail);
      Object.assign(this, { title, detail, again, wait });
    }
  }

  function failureOf(request) {
    let problem = {};
    try {
      problem = JSON.parse(request.responseText);
    } catch {
      // no problem object: the status is all there is
    }
    const wait = Number.parseInt(request.getResponseHeader("Retry-After"), 10);
    return new Failure(problem.title || `Error ${request.status}`, problem.detail || "The server did not say why.", {
      again: request.status >= 500 || request.status === 408,
      wait: request.status === 503 && wait >= 0 ? wait : null,
    });
  }

  /** Send a picture; returns the answer as text or blob. `signal` stops it, `progress` receives the share sent so far. */
  function send(file, fields, { type = "text", signal, progress = () => {} } = {}) {
    return new Promise((done, fail) => {
      const form = new FormData();
      for (const [name, value] of Object.entries(fields)) form.append(name, value);
      form.append("file", file, file.name);
      const request = new XMLHttpRequest(); // fetch does not report the progress of an upload
      request.open("POST", "/v1/captions");
      if (type === "blob") request.responseType = "arraybuffer";
      request.upload.addEventListener("progress", (event) => progress(event.loaded / event.total));
      request.upload.addEventListener("load", () => progress(1));
      request.addEventListener("load", async () => {
        if (request.status === 200) {
          const kind = request.getResponseHeader("Content-Type");
          done(type === "blob" ? new Blob([request.response], { type: kind }) : request.responseText);
        } else if (type === "blob") {
          const responseText = new TextDecoder().decode(request.response);
          const { status } = request;
          fail(failureOf({ responseText, status, getResponseHeader: (name) => request.getResponseHeader(name) }));
        } else {
          fail(failureOf(request));
        }
      });
      request.addEventListener("error", () =>
        fail(new Failure("Not sent", "The server does not answer, or the file cannot be read.", { again: true })),
      );
      request.addEventListener("abort", () => fail(new DOMException("stopped", "AbortError")));
      signal?.addEventListener("abort", () => request.abort());
      request.send(form);
    });
  }

  /** As `send`, but waits and tries again while the server's queue is full. */
  async function sendPatiently(file, fields, { waiting = () => {}, ...options } = {}) {
    for (let tries = 1; ; tries++) {
      try {
        return await send(file, fields, options);
      } catch (failure) {
        if (!(failure instanceof Failure) || failure.wait === null || tries === MOST_TRIES) throw failure;
        waiting();
        await sleep(failure.wait + Math.random());
        if (options.signal?.aborted) throw new DOMException("stopped", "AbortError");
      }
    }
  }

  function settings() {
    const beam = Number(find("beam").value);
    const fields = { beam: String(beam), n_best: String(Math.min(beam, Number(find("n-best").value))) };
    if (find("model").value) fields.model = find("model").value;
    return fields;
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
      });
      part("h2 bdi").textContent = file.name;
      part("h2").title = file.name; // where there is no room for all of it
      this.progress.setAttribute("aria-label", `Progress of ${file.name}`);
      this.failed.querySelector(".again").addEventListener("click", () => this.ask());
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
      this.stop?.abort();
      this.stop = new AbortController();
      this.fields = settings();
      this.show("waiting");
      this.tell("Waiting");
      const { signal } = this.stop;
      queue.push({ signal, run: () => this.caption(signal) });
      work();
    }

    tell(state, share = null) {
      this.state.textContent = state;
      if (share === null) this.progress.removeAttribute("value");
      else this.progress.value = share;
    }

    async caption(signal) {
      const size = this.file.size;
      try {
        if (size > limits.max_upload) {
          const [has, may] = [size, limits.max_upload].map((bytes) => Math.ceil(bytes / 1e5) / 10);
          throw new Failure("Too large", `This file has ${has} MB, and the server takes ${may} MB.`);
        }
        const text = await sendPatiently(this.file, { ...this.fields, viewer: "true" }, {
          signal,
          progress: (share) =>
            share < 1 ? this.tell(`Sending, ${Math.round(100 * share)} %`, share) : this.tell("Captioning"),
          waiting: () => this.tell("The server is busy: waiting for a place"),
        });
        if (signal.aborted) return;
        const { viewer, ...line } = JSON.parse(text).captions[0];
        this.line = line;
        this.viewer?.destroy();
        this.show("viewer");
        this.viewer = window.CaptionViewer.mount(this.place, viewer);
        say(`${this.file.name}: ${line.caption}`);
      } catch (failure) {
        if (signal.aborted) return;
        this.fail(failure instanceof Failure ? failure : new Failure("Not shown", String(failure.message)));
      }
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

    show(what) {
      const stale = what === "waiting" && Boolean(this.line); // a caption of other settings stays meanwhile
      this.element.classList.toggle("stale", stale);
      this.element.setAttribute("aria-busy", String(what === "waiting"));
      this.waiting.hidden = what !== "waiting";
      this.failed.hidden = what !== "failed";
      this.place.hidden = what !== "viewer" && !stale;
      this.downloads.hidden = what !== "viewer";
    }

    async download(button) {
      if (button.getAttribute("aria-busy") === "true") return;
      const format = button.dataset.format;
      const stem = this.file.name.replace(/\.[^.]*$/, "") || "caption";
      try {
        button.setAttribute("aria-busy", "true");
        const blob =
          format === "json"
            ? new Blob([JSON.stringify(this.line) + "\n"], { type: "application/json" })
            : await sendPatiently(this.file, { ...this.fields, format }, { type: "blob", signal: this.stop.signal });
        save(blob, `${stem}.${format}`);
        notice("");
      } catch (failure) {
        if (failure instanceof Failure) notice(`${this.file.name}: ${failure.title}. ${failure.detail}`);
      } finally {
        button.removeAttribute("aria-busy");
      }
    }

    remove() {
      const next = this.element.nextElementSibling || this.element.previousElementSibling;
      this.stop.abort();
      this.viewer?.destroy();
      URL.revokeObjectURL(this.preview);
      this.element.remove();
      results.delete(this);
      document.body.classList.toggle("has-results", results.size > 0);
      say(`${this.file.name} removed`);
      (next ? next.querySelector(".remove") : find("files")).focus();
    }
  }

  function save(blob, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }

  /** Run what waits, a few at a time. */
  async function work() {
    if (running === AT_A_TIME) return;
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

  // Choose, drop, paste, or try an example.

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
    event.preventDefault(); // also for other things than files, for which the browser would leave the page
  });
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    dragging();
    const files = [...event.dataTransfer.files];
    if (files.length) take(files);
    else notice("That was no picture: drop files, or save the picture first.");
  });

  window.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    take(files);
  });

  for (const button of document.querySelectorAll("[data-example]")) {
    button.addEventListener("click", async () => {
      const number = Number(button.dataset.example);
      try {
        const answer = await fetch(`/examples/${number}.png`);
        if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
        take([new File([await answer.blob()], `example ${number + 1}.png`, { type: "image/png" })]);
      } catch (error) {
        notice(`The example cannot be loaded: ${error.message}`);
      }
    });
  }

  // Settings.

  let changed = null;
  function change() {
    find("beam-value").textContent = find("beam").value;
    clearTimeout(changed);
    changed = setTimeout(() => [...results].reverse().forEach((result) => result.ask()), 350);
  }
  find("settings").addEventListener("input", change);
  find("settings").addEventListener("submit", (event) => event.preventDefault());
  find("model").addEventListener("change", () => {
    const width = find("model").selectedOptions[0].dataset.beam;
    if (width) find("beam").value = width; // the model's own default
    find("beam-value").textContent = find("beam").value;
  });

  async function start() {
    const answer = await fetch("/v1/models");
    const { models, limits: found, version } = await answer.json();
    Object.assign(limits, found);
    for (const { name, decoding } of models) {
      const option = new Option(name, name);
      if (decoding?.width) option.dataset.beam = Math.min(10, decoding.width);
      find("model").append(option);
    }
    const width = find("model").selectedOptions[0]?.dataset.beam;
    if (width) find("beam").value = find("beam-value").textContent = width;
    for (const id of ["model", "beam", "n-best"]) find(id).disabled = false;
    find("limits").textContent += ` Up to ${limits.max_upload / 1e6} MB each.`;
    find("version").textContent = `captioner ${version}`;
  }

  start().catch(() => notice("The server does not answer: is it still running?"));
})();
