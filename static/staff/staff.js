// Icons are words in a font of pictures: a screen reader would read "unfold more" where a person sees two arrows. A button
// that is nothing but an icon is called by what it does.
document.addEventListener("DOMContentLoaded", () => {
  const deeds = { search: "Search", more_vert: "Actions", more_horiz: "Actions", filter_list: "Filters", close: "Close" };
  const tidy = (root) => root.querySelectorAll(".material-symbols-outlined").forEach((icon) => {
    icon.setAttribute("aria-hidden", "true");
    const control = icon.closest("a, button");
    if (!control || control.title || control.hasAttribute("aria-label")) return;
    const words = [...control.querySelectorAll(".material-symbols-outlined")].reduce(
      (text, each) => text.replace(each.textContent, ""), control.textContent);
    const name = icon.textContent.trim();
    if (!words.trim()) control.setAttribute("aria-label", deeds[name] ?? name.replaceAll("_", " "));
  });
  tidy(document);
  document.addEventListener("htmx:afterSwap", (event) => tidy(event.target));
});

// The page that shows a new key: copy it, and let nothing bring it back.
document.addEventListener("DOMContentLoaded", () => {
  const page = document.querySelector("[data-new-key]");
  if (!page) return;

  // Reloading asks for the key's own page, which does not show it, instead of sending the form again.
  history.replaceState(null, "", page.dataset.after);
  // A page kept in memory for "back" must not keep the key.
  window.addEventListener("pagehide", () => { document.getElementById("new-key").textContent = ""; });
  window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

});

// Buttons that copy a text of the page.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const text = document.getElementById(button.dataset.copy);
  let said = "Copied";
  try {
    await navigator.clipboard.writeText(text.textContent);
  } catch {
    // Without HTTPS there is no clipboard: select the text for the person to copy.
    getSelection().selectAllChildren(text);
    said = "Selected: press Ctrl+C";
  }
  button.querySelector("[data-copy-label]").textContent = said;
  // A screen reader is not told that a button is called otherwise now.
  const aloud = button.parentElement.querySelector("[data-copy-said]");
  if (aloud) aloud.textContent = said;
});

// Choosing among many: what is typed narrows the list at once, and what was chosen stays chosen while it is hidden.
document.addEventListener("DOMContentLoaded", () => {
  const form = document.querySelector("[data-choose]");
  if (!form) return;

  const search = document.querySelector("[data-narrow]");
  const choices = [...form.querySelectorAll("[data-words]")];
  const many = (number, words) => `${number} ${words[number === 1 ? 0 : 1]}`;
  const count = () => {
    const chosen = form.querySelectorAll("input:checked:not(:disabled)").length;
    form.querySelector("[data-choose-count]").textContent = chosen ? many(chosen, ["thing chosen", "things chosen"]) : "";
  };
  const narrow = () => {
    const words = search.elements.q.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const choice of choices) {
      choice.hidden = !words.every((word) => choice.dataset.words.includes(word));
      shown += !choice.hidden;
    }
    for (const group of form.querySelectorAll("[data-narrow-group]")) {
      group.hidden = !group.querySelector("[data-words]:not([hidden])");
    }
    search.querySelector("[data-narrow-count]").textContent = words.length ? `${many(shown, ["thing has", "things have"])} these words.` : "";
  };
  form.addEventListener("change", count);
  count();
  // Where not everything is on the page, only the server can search.
  if (search.dataset.narrow !== "here") return;
  search.addEventListener("input", narrow);
  search.addEventListener("submit", (event) => event.preventDefault());
  narrow();
});

// Charts: unfold's script draws them once, in the colours of that moment. Give them those of the theme, and again when it changes.
window.addEventListener("load", () => {
  const canvases = document.querySelectorAll("canvas.chart");
  if (!canvases.length) return;

  const paint = () => {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    for (const canvas of canvases) {
      const chart = Chart.getChart(canvas);
      if (!chart) continue;
      for (const series of chart.data.datasets.filter((each) => each.themed)) {
        series.borderColor = series.backgroundColor = series.hoverBackgroundColor = color(series.themed);
      }
      for (const scale of Object.values(chart.options.scales)) {
        scale.ticks = { ...scale.ticks, color: color("--gh-faint") };
        scale.grid = { ...scale.grid, color: color("--gh-line") };
      }
      chart.update("none");
    }
  };

  // After the listeners of this event that draw, whichever script comes first.
  setTimeout(() => {
    paint();
    new MutationObserver(paint).observe(document.documentElement, { attributeFilter: ["class"] });
  });
});

// Unfold hides the page until Alpine has begun, and what is hidden takes no focus.
document.addEventListener("alpine:initialized", () => requestAnimationFrame(() => {
  if (document.activeElement === document.body) document.querySelector("[autofocus]")?.focus();
}));

// A choice among many is a list with a search field, made by select2, which names neither and says too little of what it
// opens: a screen reader is told the field's own label.
window.addEventListener("load", () => window.django?.jQuery?.(() => {
  for (const select of document.querySelectorAll("select.admin-autocomplete")) {
    const label = select.labels[0];
    const shown = select.nextElementSibling?.querySelector("[role=combobox]");
    if (!label || !shown) continue;
    label.id ||= `${select.id}-label`;
    shown.setAttribute("aria-labelledby", `${label.id} ${shown.getAttribute("aria-labelledby") ?? ""}`.trim());
    for (const name of ["role", "aria-readonly"]) shown.firstElementChild.removeAttribute(name);
    django.jQuery(select).on("select2:open", () => {
      shown.setAttribute("aria-controls", shown.getAttribute("aria-owns"));
      document.querySelector(".select2-container--open .select2-search__field")
        ?.setAttribute("aria-label", `Search: ${label.textContent.trim()}`);
    });
  }
}));
