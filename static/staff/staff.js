// The page that shows a new key: copy it, and let nothing bring it back.
document.addEventListener("DOMContentLoaded", () => {
  const page = document.querySelector("[data-new-key]");
  if (!page) return;

  // Reloading asks for the key's own page, which does not show it, instead of sending the form again.
  history.replaceState(null, "", page.dataset.after);
  // A page kept in memory for "back" must not keep the key.
  window.addEventListener("pagehide", () => { document.getElementById("new-key").textContent = ""; });
  window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

  page.querySelector("[data-copy]").addEventListener("click", async (event) => {
    const text = document.getElementById("new-key");
    try {
      await navigator.clipboard.writeText(text.textContent);
      event.currentTarget?.blur();
      page.querySelector("[data-copy-label]").textContent = "Copied";
    } catch {
      // Without HTTPS there is no clipboard: select the key for the person to copy.
      getSelection().selectAllChildren(text);
    }
  });
});
