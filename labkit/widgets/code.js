// A line of code to take away: click selects it, the button copies it.
function render({ model, el }) {
  const code = document.createElement("pre");
  const button = document.createElement("button");
  code.tabIndex = 0;
  button.className = "jupyter-button lk-copy";
  const select = () => window.getSelection().selectAllChildren(code);
  const paint = () => {
    code.textContent = model.get("code");
    button.textContent = "Copy";
  };
  code.addEventListener("focus", select);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(model.get("code"));
    } catch {
      select(); // no clipboard without https: the old way
      document.execCommand("copy");
    }
    button.textContent = "Copied";
  });
  model.on("change:code", paint);
  paint();
  el.classList.add("lk-code");
  el.append(code, button);
  return () => model.off("change:code", paint);
}

export default { render };
