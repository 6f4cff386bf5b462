/* The page of captioner review. The program keeps all state: each decision and each draft is sent before the page goes on,
   and is sent again until the program has written it. */
(function () {
  "use strict";

  const AFTER_TYPING = 350; // milliseconds after the last key
  const BEFORE_RETRY = 1500; // milliseconds
  const find = (id) => document.getElementById(id);
  const text = find("text");
  const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

  const faults = {}; // sentences, by what is at fault
  let count = 0;
  let index = 0;
  let item = null; // the picture that is shown, as the program describes it
  let viewer = null;
  let reading = null; // stops a reading that is under way
  let typed = null; // the timer after the last key
  let saved = ""; // the text that the program has
  let moving = false; // a decision is on its way
  let writing = Promise.resolve(); // what is written is written in the order of the decisions

  const now = () => text.value.trim().replace(/\s+/g, " ");
  const say = (words) => (find("said").textContent = words);

  /** What is wrong with the program, the picture or its saving; each is cleared by itself, whichever ends first. */
  function notice(of, words) {
    faults[of] = words;
    const all = Object.values(faults).filter(Boolean).join(" ");
    find("notice").textContent = all;
    find("notice").hidden = !all;
  }

  /** Ask the program until it answers; an answer that is an error is raised with its detail. */
  async function ask(path, options = {}) {
    const headers = options.body ? { "Content-Type": "application/json" } : {};
    for (;;) {
      let answer = null;
      try {
        answer = await fetch(path, { headers, ...options });
      } catch (error) {
        if (error.name === "AbortError") throw error;
        notice("program", "The program does not answer. Start it again with the same command: your text stays here, and is saved then.");
        await sleep(BEFORE_RETRY);
        continue;
      }
      notice("program", "");
      if (answer.ok) return answer.json();
      const problem = await answer.json().catch(() => ({}));
      throw new Error(problem.detail || `The program answers ${answer.status}.`);
    }
  }

  function show({ pictures, done, edited, flagged }) {
    find("progress").max = Math.max(1, pictures);
    find("progress").value = done;
    find("counts").textContent = `${done} of ${pictures} done, ${edited} edited, ${flagged} flagged`;
    document.title = `${done}/${pictures} review`;
  }

  function mark(status) {
    item.status = status;
    find("status").textContent = status;
    find("status").dataset.status = status;
    find("status").hidden = !status;
    find("restore").hidden = !item.original || now() === item.original;
  }

  async function go(to) {
    index = to;
    item = null;
    reading?.abort();
    document.querySelector(".card").setAttribute("aria-busy", "true");
    find("place").textContent = `${to + 1} of ${count}`;
    say("");
    let found;
    try {
      found = await ask(`/api/pictures/${to}`);
    } catch (error) {
      if (to === index) {
        notice("picture", error.message);
        document.querySelector(".card").setAttribute("aria-busy", "false");
      }
      return;
    }
    if (to !== index) return;
    notice("picture", "");
    item = found;
    find("name").textContent = found.name;
    find("problem").textContent = found.problem ?? "";
    find("problem").hidden = !found.problem;
    text.value = saved = found.caption;
    viewer?.destroy();
    viewer = found.viewer ? window.CaptionViewer.mount(find("viewer"), found.viewer) : null;
    mark(found.status);
    document.querySelector(".card").setAttribute("aria-busy", "false");
    find("announced").textContent = `${to + 1} of ${count}, ${found.name}: ${found.problem ?? found.caption}`;
    if (found.viewer && found.caption !== found.original) read();
    if (found.next_open !== null && found.next_open !== to) ask(`/api/pictures/${found.next_open}`).catch(() => {}); // made ready
  }

  async function read() {
    reading?.abort();
    const { signal } = (reading = new AbortController());
    const words = now();
    if (!words || !item?.viewer) return say(words ? "" : "A caption needs words.");
    try {
      const found = await ask(`/api/pictures/${index}/reading`, { method: "POST", body: JSON.stringify({ key: item.key, text: words }), signal });
      if (signal.aborted) return undefined;
      viewer?.destroy();
      viewer = window.CaptionViewer.mount(find("viewer"), found.viewer);
      const unknown = found.unknown.map((word) => `“${word}”`).join(", ");
      say(unknown ? `The model does not know ${unknown}.` : "Read by the model.");
    } catch (error) {
      if (!signal.aborted) say(error.message);
    }
    return undefined;
  }

  /** Write a decision, after those before it; true once it is on the disk. */
  function write(status) {
    const words = now();
    const of = { index, key: item.key };
    return (writing = writing.then(() => send(of, status, words)));
  }

  async function send(of, status, words) {
    const put = { method: "PUT", body: JSON.stringify({ key: of.key, status, caption: words }), keepalive: true };
    try {
      const { progress, next_open: open } = await ask(`/api/pictures/${of.index}`, put);
      show(progress);
      if (of.key === item?.key) {
        saved = words;
        item.next_open = open;
        mark(status);
      }
      notice("saving", "");
      return true;
    } catch (error) {
      notice("saving", error.message);
      return false;
    }
  }

  /** What becomes of a text that is typed: a draft, but a decision about the picture stays one. */
  function undecided() {
    if (!now() || !["accepted", "edited", "flagged"].includes(item.status)) return "draft";
    if (item.status === "flagged") return "flagged";
    return now() === item.original ? "accepted" : "edited";
  }

  /** What was typed and is not saved yet. */
  async function keep() {
    clearTimeout(typed);
    typed = null;
    if (!item) return true; // what stands there is still the text of the picture before
    return now() === saved || (await write(undecided()));
  }

  async function move(step) {
    if (moving) return;
    moving = true;
    try {
      const to = await step();
      if (to !== null && to !== undefined) await go(to);
    } finally {
      moving = false;
    }
  }

  const beside = (by) => async () => {
    if (!(await keep())) return null; // the text stays until it is on the disk
    return Math.max(0, Math.min(count - 1, index + by));
  };

  const decide = (status) => async () => {
    clearTimeout(typed);
    if (!item) return null;
    const chosen = status === "accepted" && now() !== item.original ? "edited" : status;
    const typing = document.activeElement === text;
    text.blur(); // a key that is pressed meanwhile belongs to no picture
    text.readOnly = true;
    const isWritten = await write(chosen);
    text.readOnly = false;
    if (!isWritten) {
      if (typing) text.focus();
      return null;
    }
    if (item.next_open === null) say("Every picture is done.");
    return item.next_open;
  };

  const open = async () => {
    if (!item || !(await keep())) return null;
    if (item.next_open === null) say("Every picture is done.");
    return item.next_open;
  };

  function edit() {
    text.focus();
    text.setSelectionRange(text.value.length, text.value.length);
  }

  text.addEventListener("input", () => {
    clearTimeout(typed);
    typed = setTimeout(async () => {
      typed = null;
      read();
      if (now()) await keep();
    }, AFTER_TYPING);
  });
  text.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter") {
      event.preventDefault();
      move(decide("accepted"));
    } else if (event.key === "Escape") {
      text.blur();
    }
  });
  window.addEventListener("pagehide", () => item && now() && keep());

  find("restore").addEventListener("click", () => {
    text.value = item.original;
    text.dispatchEvent(new Event("input"));
  });

  const actions = {
    accept: () => move(decide("accepted")),
    flag: () => move(decide("flagged")),
    next: () => move(beside(1)),
    previous: () => move(beside(-1)),
    open: () => move(open),
    edit,
  };
  for (const [id, action] of Object.entries(actions)) find(id).addEventListener("click", action);

  const keys = { Enter: "accept", a: "accept", e: "edit", f: "flag", n: "next", ArrowRight: "next", p: "previous", ArrowLeft: "previous", u: "open" };
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey || event.target === text) return;
    if (event.target.closest?.("input[type=range]") && event.key.startsWith("Arrow")) return; // the slider's own
    if (event.key === "Enter" && event.target.closest?.("button, a")) return; // the button's own
    const action = keys[event.key] ?? keys[event.key.toLowerCase()];
    if (event.key.length === 1 && !find("letters").checked) return;
    if (!action || event.repeat) return;
    event.preventDefault();
    actions[action]();
  });

  // Whoever speaks to the machine may not want single letters to decide.
  try {
    find("letters").checked = localStorage.getItem("letters") !== "off";
    find("letters").addEventListener("change", () => localStorage.setItem("letters", find("letters").checked ? "on" : "off"));
  } catch {
    // a browser that keeps nothing: the choice is this page's
  }

  async function start() {
    const { output, model, progress, start: first } = await ask("/api/review");
    count = progress.pictures;
    show(progress);
    find("output").textContent = `Edits go to ${output}; captions by the model ${model}.`;
    await go(first);
  }

  start().catch((error) => notice("picture", error.message));
})();
