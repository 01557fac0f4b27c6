// A strip that stays at its end: after strip.js, whose ``render`` it uses.

function renderTranscript({ model, el }) {
  const close = render({ model, el });
  const strip = el.querySelector(".lk-strip");
  strip.setAttribute("aria-label", "Conversation: arrow keys move from token to token");
  let atEnd = true;
  const scroll = () => (strip.scrollTop = strip.scrollHeight);

  function receive(message) {
    if (message.type === "end") atEnd = true;
    if (atEnd && message.type !== "card") scroll();
  }

  strip.addEventListener("scroll", () => {
    atEnd = strip.scrollHeight - strip.scrollTop - strip.clientHeight < 24;
  });
  model.on("msg:custom", receive);
  requestAnimationFrame(scroll); // it has no height before it is in the page
  return () => {
    model.off("msg:custom", receive);
    close();
  };
}

export default { render: renderTranscript };
