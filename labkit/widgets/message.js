// The box that messages are typed into. What is typed leaves it only when Python has taken it: whatever goes wrong, it is
// still there.

const SYNC_DELAY = 150; // milliseconds: Python need not see every letter
const NO_ANSWER = 5000; // milliseconds: then the kernel is busy with something else, or gone

function render({ model, el }) {
  el.dataset.lmSuppressShortcuts = "true"; // letters are for the box here, not for the notebook
  el.classList.add("lk", "lk-message");
  const box = document.createElement("textarea");
  const button = document.createElement("button");
  const note = document.createElement("div");
  note.className = "lk-note";
  note.hidden = true;
  note.setAttribute("role", "status");
  box.rows = 2;
  box.setAttribute("aria-label", "message");
  box.placeholder = "Message: Enter sends, Shift+Enter begins a new line";
  button.className = "jupyter-button mod-primary lk-send";
  button.textContent = "Send";
  el.append(box, button, note);
  let sent = null; // on its way: not yet taken by Python
  let syncing = 0;
  let waiting = 0;

  function sync() {
    clearTimeout(syncing);
    syncing = 0;
    if (model.get("value") === box.value) return;
    model.set("value", box.value);
    model.save_changes();
  }

  function send() {
    if (!box.value.trim() || (sent !== null && note.hidden)) return;
    clearTimeout(waiting);
    note.hidden = true;
    sync();
    sent = box.value;
    waiting = setTimeout(() => {
      note.hidden = false;
      note.textContent = "No answer from the kernel yet: it is busy, or gone. What you typed is kept.";
    }, NO_ANSWER);
    model.send({ type: "send", text: sent });
  }

  function receive(message) {
    clearTimeout(waiting);
    note.hidden = true;
    if (message.type === "taken" && sent !== null && box.value.startsWith(sent)) {
      box.value = box.value.slice(sent.length); // what was typed since then stays
    } else if (message.type === "back" && !box.value.startsWith(message.text)) {
      box.value = box.value.trim() ? `${message.text}\n${box.value}` : message.text;
    }
    sent = null;
    sync();
    if (message.type === "back") box.focus();
  }

  function paint() {
    if (syncing || model.get("value") === box.value) return; // what is being typed is newer
    if (sent === null) box.value = model.get("value");
  }

  function keydown(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    } else if (event.key === "ArrowUp" && !box.value) {
      event.preventDefault();
      model.send({ type: "recall" });
    } else if (event.key === "Escape") {
      model.send({ type: "escape" });
    }
    event.stopPropagation();
  }

  box.addEventListener("input", () => {
    clearTimeout(syncing);
    syncing = setTimeout(sync, SYNC_DELAY);
  });
  box.addEventListener("blur", sync);
  box.addEventListener("keydown", keydown);
  button.addEventListener("click", send);
  model.on("msg:custom", receive);
  model.on("change:value", paint);
  paint();
  return () => {
    sync();
    clearTimeout(waiting);
    model.off("msg:custom", receive);
    model.off("change:value", paint);
  };
}

export default { render };
