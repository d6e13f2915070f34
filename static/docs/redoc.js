// What Redoc makes for itself is adapted to the rules of our pages: its styles bear the page's nonce, and the logo that
// lies on another host is not fetched, for our pages ask nobody but us, not even to be refused.
{
  const nonce = document.currentScript.nonce;
  const create = document.createElement.bind(document);
  document.createElement = (name, options) => {
    const element = create(name, options);
    if (element instanceof HTMLStyleElement) element.nonce = nonce;
    if (element instanceof HTMLImageElement) {
      const set = element.setAttribute.bind(element);
      const isOurs = (value) => new URL(value, location).origin === location.origin || value.startsWith("data:");
      const refuse = () => setTimeout(() => element.dispatchEvent(new Event("error"))); // then Redoc takes it away
      element.setAttribute = (key, value) => (key !== "src" || isOurs(value) ? set(key, value) : refuse());
      Object.defineProperty(element, "src", { set(value) { this.setAttribute("src", value); } });
    }
    return element;
  };
}
