// One line that says what the control does that is pointed at or has the focus. ipywidgets shows tooltips for some of its
// controls and none by keyboard; this line, and a tooltip, are there for all of them.

// And it says when the kernel is gone, since then nothing else would.

const PREFIX = "lk-help-";
const GONE = ["restarting", "autorestarting", "terminating", "dead", "disconnected"];
const LOST = "The kernel is gone. What you typed is still here; run the cell again to go on.";

function render({ model, el }) {
  el.classList.add("lk", "lk-help");
  el.setAttribute("aria-live", "polite");

  function explain(event) {
    if (el.classList.contains("lk-lost")) return;
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

  function lost() {
    el.classList.add("lk-lost");
    el.textContent = LOST;
  }

  const kernel = model.widget_manager?.kernel; // not every front end has it
  const onStatus = (_, status) => GONE.includes(status) && lost();
  const signals = [kernel?.statusChanged, kernel?.connectionStatusChanged].filter(Boolean);
  for (const signal of signals) signal.connect(onStatus);
  const onComm = () => el.classList.contains("jupyter-widgets-disconnected") && lost();
  model.on("comm_live_update", onComm);
  const events = ["mouseover", "focusin"];
  for (const name of events) document.addEventListener(name, explain);
  return () => {
    for (const name of events) document.removeEventListener(name, explain);
    for (const signal of signals) signal.disconnect(onStatus);
    model.off("comm_live_update", onComm);
  };
}

export default { render };
