// One line that says what the control does that is pointed at or has the focus. ipywidgets shows tooltips for some of its
// controls and none by keyboard; this line, and a tooltip, are there for all of them.

const PREFIX = "lk-help-";

function render({ model, el }) {
  el.classList.add("lk", "lk-help");
  el.setAttribute("aria-live", "polite");

  function explain(event) {
    const root = el.closest(".lk-playground");
    const control = event.target.closest?.(`[class*="${PREFIX}"]`);
    if (!root?.contains(event.target)) return;
    const name = [...(control?.classList ?? [])].find((given) => given.startsWith(PREFIX));
    const sentence = model.get("sentences")[name?.slice(PREFIX.length)];
    el.textContent = sentence ?? "";
    if (!sentence) return;
    control.title = sentence;
    event.target.setAttribute("aria-description", sentence);
  }

  const events = ["mouseover", "focusin"];
  for (const name of events) document.addEventListener(name, explain);
  return () => events.forEach((name) => document.removeEventListener(name, explain));
}

export default { render };
