"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const viewer = byId("viewer");
  const image = document.createElement("img");
  const caption = byId("viewer-caption");
  const zooms = Array.from(document.querySelectorAll("button.zoom"));
  let place = 0;
  viewer.prepend(image);

  function show(index) {
    place = (index + zooms.length) % zooms.length;
    const small = zooms[place].querySelector("img");
    image.src = small.src;
    image.alt = small.alt;
    image.className = small.className;
    caption.textContent = small.alt;
  }

  zooms.forEach((button, index) => button.addEventListener("click", () => {
    show(index);
    viewer.showModal();
  }));
  byId("viewer-previous").addEventListener("click", () => show(place - 1));
  byId("viewer-next").addEventListener("click", () => show(place + 1));
  byId("viewer-close").addEventListener("click", (event) => {
    event.preventDefault();
    viewer.close();
  });
  viewer.addEventListener("click", (event) => {
    if (event.target === viewer) viewer.close();
  });
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") show(place - 1);
    if (event.key === "ArrowRight") show(place + 1);
  });
  viewer.addEventListener("close", () => zooms[place].focus());

  const theme = byId("theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const root = document.documentElement;
    const chosen = root.dataset.theme;
    const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  function select(text) {
    const range = document.createRange();
    range.selectNodeContents(text);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
  }

  document.querySelectorAll("button.copy").forEach((button) => {
    const label = button.textContent;
    button.hidden = false;
    button.addEventListener("click", async () => {
      const text = byId(button.dataset.copies);
      try {
        await navigator.clipboard.writeText(text.textContent);
        button.textContent = "Copied";
      } catch {
        select(text);
        button.textContent = document.execCommand("copy") ? "Copied" : "Selected: copy it now";
      }
      setTimeout(() => { button.textContent = label; }, 2000);
    });
  });

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = Array.from(document.querySelectorAll("details:not([open])"));
    opened.forEach((each) => { each.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((each) => { each.open = false; }));
})();
