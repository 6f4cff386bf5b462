/* What a page may ask for.

   CaptionViewer.mount(element, data)      builds a viewer inside an element; what it returns has destroy()
   CaptionViewer.gallery(element, [data])  small ones in a grid, each of which opens into a whole one

   `data` is what captioner.show.page.payload makes. Nothing is loaded, evaluated or parsed as HTML. */

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
  const build = (target) => {
    watcher.unobserve(target);
    const data = waiting.get(target);
    waiting.delete(target);
    target.className = "";
    target.style.aspectRatio = "";
    viewers.push(new Viewer(target, data, { compact: true, enlarge: () => enlarged(element, data) }));
  };
  const near = (entries) => entries.forEach(({ isIntersecting, target }) => isIntersecting && build(target));
  const watcher = new IntersectionObserver(near, { rootMargin: "600px" });
  const printed = () => [...waiting.keys()].forEach(build);
  window.addEventListener("beforeprint", printed);
  for (const data of datas) {
    const card = make("li", "cv-card", list);
    if (data.title) make("h2", "cv-view", card, data.title);
    const place = make("div", "cv-waiting", card);
    make("p", "", place, data.captions[0].text); // for those who search the page
    place.style.aspectRatio = String(shapeOf(data));
    const line = data.name || data.confidence !== undefined ? make("p", "cv-line", card) : null;
    if (data.name) make("bdi", "cv-name", line, data.name);
    if (data.confidence !== undefined) make("span", "cv-confidence", line, `${percent(data.confidence)} sure`);
    if (data.needs_review) make("span", "cv-review", line, "needs review");
    waiting.set(place, data);
  }
  element.replaceChildren(lead, list);
  waiting.forEach((_, place) => watcher.observe(place));
  const destroy = () => {
    window.removeEventListener("beforeprint", printed);
    watcher.disconnect();
    element.querySelectorAll(".cv-dialog").forEach((dialog) => dialog.close());
    viewers.forEach((viewer) => viewer.destroy());
    lead.remove();
    list.remove();
  };
  return { destroy };
}

function enlarged(element, data) {
  const dialog = make("dialog", "cv-dialog", element);
  dialog.setAttribute("aria-label", data.captions[0].text || data.name || "no words");
  const close = button("cv-close", dialog, "Close");
  icon(close, CLOSE);
  const viewer = new Viewer(make("div", "", dialog), data);
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => {
    viewer.destroy();
    dialog.remove();
  });
  dialog.showModal();
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
