// The strip of tokens: a pipe. Python has drawn every token (and escaped it); here they are appended, and Python is told
// which one is pointed at (for its card), which one is selected, and which line of a card was chosen.

const CARD_DELAY = 60; // milliseconds: sweeping over a line must not ask for every card on the way

function element(className, parent) {
  const made = document.createElement("div");
  made.className = className;
  parent.append(made);
  return made;
}

function render({ model, el }) {
  el.dataset.lmSuppressShortcuts = "true"; // arrow keys are for the tokens here, not for the notebook
  const strip = element("lk lk-strip lk-live", el);
  strip.setAttribute("role", "group");
  strip.setAttribute("aria-label", "Generated tokens: arrow keys move, the selected one is shown stage by stage");
  const card = element("lk lk-card", el);
  card.popover = "manual"; // the top layer: no box around the widget can cut it off
  let version = model.get("version");
  let cards = new Map();
  let shown = null; // the token whose card is open
  let pinned = false; // whether it stays open, to choose from
  let restoring = false; // the focus only comes back to where it was
  let timer = 0;

  const lines = () => [...card.querySelectorAll("tr:not(.lk-h)")];
  const token = (index) => strip.querySelector(`[data-i="${index}"]`);
  const lastToken = () => strip.lastElementChild?.closest("[data-i]");
  const index = (node) => Number(node.dataset.i);

  function place() {
    const at = shown.getBoundingClientRect();
    const { width, height } = card.getBoundingClientRect();
    const below = at.bottom + 4 + height < window.innerHeight;
    card.style.left = `${Math.max(4, Math.min(at.left, window.innerWidth - width - 8))}px`;
    card.style.top = `${below ? at.bottom + 4 : Math.max(4, at.top - height - 4)}px`;
  }

  function fill(html) {
    const numbers = document.createElement("div");
    numbers.textContent = shown.dataset.title;
    card.replaceChildren(numbers);
    card.insertAdjacentHTML("beforeend", html ?? "");
    if (pinned) offer();
    place();
  }

  function offer() {
    for (const line of lines()) {
      line.setAttribute("role", "button");
      line.tabIndex = -1;
    }
    if (pinned === "keys") (lines().find((line) => !line.matches(".lk-y")) ?? lines()[0])?.focus();
  }

  // Open the card to choose from, by "mouse" or by "keys".
  function pin(node, by) {
    if (!node || !model.get("chooses")) return;
    open(node);
    pinned = by;
    card.classList.add("lk-choose");
    offer();
  }

  function choose(line) {
    const node = shown;
    model.send({ type: "choose", index: index(node), line: lines().indexOf(line), version });
    leave(node);
  }

  function leave(node) {
    restoring = true;
    node.focus({ preventScroll: true });
    restoring = false;
    close();
  }

  function open(node) {
    if (node === shown) return;
    close();
    shown = node;
    // The card says more than the tooltip, which would cover it.
    if (node.title) node.dataset.title = node.title;
    node.removeAttribute("title");
    card.showPopover?.();
    fill(cards.get(index(node)));
    if (!cards.has(index(node))) {
      timer = setTimeout(() => model.send({ type: "card", index: index(node), version }), CARD_DELAY);
    }
  }

  function close() {
    clearTimeout(timer);
    shown = null;
    pinned = false;
    card.classList.remove("lk-choose");
    if (card.matches(":popover-open")) card.hidePopover();
  }

  function mark() {
    strip.querySelector(".lk-s")?.classList.remove("lk-s");
    for (const node of strip.querySelectorAll("[tabindex]")) node.removeAttribute("tabindex");
    const node = token(model.get("selected")) ?? lastToken();
    node?.classList.add("lk-s");
    node?.setAttribute("tabindex", "0"); // one stop for the tab key; arrows go on from there
  }

  function select(node) {
    if (!node) return;
    if (node !== shown) close();
    model.set("selected", index(node));
    model.save_changes();
    mark();
    node.focus({ preventScroll: false });
  }

  function reset(html) {
    const focused = strip.contains(document.activeElement);
    close();
    cards = new Map();
    strip.innerHTML = html;
    mark();
    restoring = true;
    if (focused) strip.querySelector("[tabindex='0']")?.focus({ preventScroll: true });
    restoring = false;
  }

  function append(html) {
    const atEnd = strip.scrollHeight - strip.scrollTop - strip.clientHeight < 24;
    strip.insertAdjacentHTML("beforeend", html);
    if (atEnd) strip.scrollTop = strip.scrollHeight;
    if (!token(model.get("selected"))?.classList.contains("lk-s")) mark();
  }

  function receive(message) {
    if (message.type === "reset") {
      version = message.version;
      reset(message.html);
    } else if (message.type === "append" && message.version === version) {
      append(message.html);
    } else if (message.type === "card" && message.version === version) {
      cards.set(message.index, message.html);
      if (shown && index(shown) === message.index) fill(message.html);
    }
  }

  const pointed = (event) => event.target.closest?.("[data-i]");
  strip.addEventListener("mouseover", (event) => pinned || (pointed(event) ? open(pointed(event)) : close()));
  strip.addEventListener("mouseleave", () => pinned || close());
  strip.addEventListener("focusin", (event) => restoring || pinned || (pointed(event) && open(pointed(event))));
  el.addEventListener("focusout", (event) => card.contains(event.relatedTarget) || close());
  strip.addEventListener("click", (event) => {
    const again = pinned && pointed(event) === shown;
    select(pointed(event));
    if (again) close();
    else pin(pointed(event), "mouse");
  });
  strip.addEventListener("keydown", (event) => {
    const here = pointed(event);
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 };
    if (event.key === "Escape") close();
    else if (event.key === "Home") select(token(0));
    else if (event.key === "End") select(lastToken());
    else if (here && steps[event.key]) select(token(index(here) + steps[event.key]));
    else if (here && (event.key === "Enter" || event.key === " ")) {
      select(here);
      pin(here, "keys");
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });

  card.addEventListener("mousedown", (event) => event.preventDefault()); // the focus stays, and with it the card
  card.addEventListener("click", (event) => {
    const line = event.target.closest("tr:not(.lk-h)");
    if (line) choose(line);
  });
  card.addEventListener("keydown", (event) => {
    const here = lines().indexOf(document.activeElement);
    const steps = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key === "Escape") leave(shown);
    else if (event.key === "Enter" || event.key === " ") choose(lines()[here]);
    else if (steps[event.key]) lines()[here + steps[event.key]]?.focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  const follow = () => shown && place();
  window.addEventListener("scroll", follow, { capture: true, passive: true });

  model.on("msg:custom", receive);
  model.on("change:selected", mark);
  reset(model.get("html"));
  model.send({ type: "ready" });
  return () => {
    model.off("msg:custom", receive);
    model.off("change:selected", mark);
    window.removeEventListener("scroll", follow, { capture: true });
    clearTimeout(timer);
  };
}

export default { render };
