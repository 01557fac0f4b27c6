// A view whose elements with data-pick can be picked: Python has drawn and escaped it; here it is shown, and Python is
// told which element is pointed at and which one is picked.

const POINT_DELAY = 60; // milliseconds: sweeping over a grid must not ask for every cell on the way

function render({ model, el }) {
  el.dataset.lmSuppressShortcuts = "true"; // arrow keys are for the elements here, not for the notebook
  el.classList.add("lk-picker");
  let timer = 0;
  let replacing = false;

  const all = () => [...el.querySelectorAll("[data-pick]")];
  const named = (name) => all().filter((node) => node.dataset.pick === name);
  const pointed = (event) => event.target.closest?.("[data-pick]");

  function stop(node) {
    // One stop for the tab key; arrows go on from there.
    for (const other of el.querySelectorAll("[data-pick][tabindex]")) other.setAttribute("tabindex", "-1");
    node?.setAttribute("tabindex", "0");
  }

  function mark() {
    for (const node of el.querySelectorAll(".lk-s")) {
      node.classList.remove("lk-s");
      node.removeAttribute("aria-current");
    }
    const marked = named(model.get("picked"));
    for (const node of marked) {
      node.classList.add("lk-s");
      node.setAttribute("aria-current", "true");
    }
    stop(marked[0] ?? all()[0]);
  }

  function show() {
    const focus = el.contains(document.activeElement) ? document.activeElement.dataset.pick : null;
    const scrolled = [...el.children].map((node) => [node.scrollLeft, node.scrollTop]);
    replacing = true;
    el.innerHTML = model.get("html");
    const selector = model.get("selector");
    if (selector) el.querySelectorAll(selector).forEach((node, i) => (node.dataset.pick = i));
    mark();
    [...el.children].forEach((node, i) => scrolled[i] && node.scrollTo(...scrolled[i]));
    if (focus !== null) go(named(focus)[0] ?? el.querySelector("[tabindex='0']"));
    replacing = false;
  }

  function go(node) {
    if (!node) return;
    stop(node);
    node.focus({ preventScroll: replacing });
  }

  function pick(node) {
    model.set("picked", node.dataset.pick);
    model.save_changes();
    mark();
    go(node);
  }

  function point(name) {
    clearTimeout(timer);
    if (replacing) return;
    timer = setTimeout(() => {
      if (model.get("pointed") === name) return;
      model.set("pointed", name);
      model.save_changes();
    }, POINT_DELAY);
  }

  // The nearest element of the nearest row above or below.
  function vertical(here, down) {
    const at = here.getBoundingClientRect();
    const middle = (box) => (box.left + box.right) / 2;
    const far = (box) => (down ? box.top - at.bottom : at.top - box.bottom);
    const boxes = all().map((node) => [node, node.getBoundingClientRect()]);
    const beyond = boxes.filter(([, box]) => far(box) >= -2 && (down ? box.top > at.top : box.top < at.top));
    if (!beyond.length) return null;
    const row = Math.min(...beyond.map(([, box]) => far(box))) + 2;
    const away = ([, box]) => Math.abs(middle(box) - middle(at));
    return beyond.filter(([, box]) => far(box) <= row).reduce((a, b) => (away(b) < away(a) ? b : a))[0];
  }

  function target(key, here) {
    const nodes = all();
    const i = nodes.indexOf(here);
    switch (key) {
      case "ArrowRight": return nodes[i + 1];
      case "ArrowLeft": return nodes[i - 1];
      case "ArrowDown": return vertical(here, true);
      case "ArrowUp": return vertical(here, false);
      case "Home": return nodes[0];
      case "End": return nodes.at(-1);
    }
  }

  const handlers = {
    mouseover: (event) => point(pointed(event)?.dataset.pick ?? ""),
    mouseleave: () => point(""),
    focusin: (event) => pointed(event) && point(pointed(event).dataset.pick),
    focusout: () => point(""),
    click: (event) => pointed(event) && pick(pointed(event)),
    keydown: (event) => {
      const here = pointed(event);
      if (!here) return;
      if (event.key === "Enter" || event.key === " ") pick(here);
      else if (/^(Arrow|Home$|End$)/.test(event.key)) go(target(event.key, here));
      else return;
      event.preventDefault();
      event.stopPropagation();
    },
  };
  for (const [name, handler] of Object.entries(handlers)) el.addEventListener(name, handler);
  model.on("change:html", show);
  model.on("change:picked", mark);
  show();
  return () => {
    model.off("change:html", show);
    model.off("change:picked", mark);
    clearTimeout(timer);
  };
}

export default { render };
